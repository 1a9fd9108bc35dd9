"""dtq: a distributed task queue without a broker."""

__version__ = "0.1.0"
