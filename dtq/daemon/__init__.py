"""Composition roots: each process is assembled here."""
