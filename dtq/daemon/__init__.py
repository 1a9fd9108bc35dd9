"""Composition roots: where the processes are put together."""
