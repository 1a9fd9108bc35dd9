"""Clients: submit, wait, map; and the encoding of functions, calls and results, for both ends."""
