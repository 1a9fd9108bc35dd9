"""Clients: submit, wait, map; how functions, calls and results travel, for both ends."""
