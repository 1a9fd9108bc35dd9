"""A fork server that serves the workers of many tests, one after the other: each slot is ready at once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dtq.worker.forking import ForkServer
from dtq.worker.terms import SlotTerms
from tests.cluster import until

_PR_SET_CHILD_SUBREAPER: Final = 36


class Kept(ForkServer):
    """One that outlives the worker of a test."""

    def close(self) -> None:
        """Go on."""

    def end(self) -> None:
        """End."""
        super().close()


@contextmanager
def fork_server(terms: SlotTerms) -> Iterator[ForkServer]:
    """One that is ready; this process is a parent of orphans meanwhile, as a worker is."""
    made = Kept(terms)
    try:
        until(made.hear, "the fork server to be ready")
        yield made
    finally:
        made.end()
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
