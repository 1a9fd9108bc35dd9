"""Restarts of a worker's fork server: after its end, and when it has imported code that has changed since.

Worker, below the supervisor, in its loop. Slots are forked from the server if there is one. A server that dies several
times before it is ready is given up: slots are then started as processes of their own, which takes longer.
"""

from __future__ import annotations

import logging
import selectors
from collections.abc import Iterable
from typing import Final

from dtq.worker.child import Child
from dtq.worker.forking import ForkServer, reap_strangers
from dtq.worker.reports import Ready, Unusable
from dtq.worker.terms import SlotTerms

log = logging.getLogger("dtq.worker")

#: Times in a row that a fork server may die before it is ready, until slots go without.
MOST_STILLBORN_FORKS: Final = 3


class ForkRestarts:
    """Keeps a fork server.

    Args:
        terms: settings of slots.
        forks: the server, which is owned from now on; None for none, now and later.
        selector: the loop's.
    """

    def __init__(self, terms: SlotTerms, forks: ForkServer | None, selector: selectors.BaseSelector) -> None:
        #: The server at the moment; None if slots go without.
        self.current = forks
        self._terms = terms
        self._selector = selector
        #: Times in a row that a server has died before it was ready.
        self._stillborn = 0
        #: Whether the server may have imported code that has changed since.
        self._outdated = False

    @property
    def starting(self) -> bool:
        """Whether there is a server which is not ready yet."""
        return self.current is not None and self.current.starting

    def listen(self) -> None:
        """Listen to the server."""
        if self.current is not None:
            self._selector.register(self.current, selectors.EVENT_READ, self.current)

    def hear(self, forks: ForkServer) -> Unusable | None:
        """Handle a server's message, or its end.

        Returns:
            The report that it cannot import what every slot needs; None for anything else.
        """
        starting = forks.starting
        report = forks.hear()
        if isinstance(report, Unusable):
            return report
        if isinstance(report, Ready):
            self._stillborn = 0
        elif forks is self.current:
            log.warning("the fork server (pid %d) is gone; another is started", forks.pid)
            self._stillborn += starting
            self._replace()
        return None

    def note_changed_code(self, child: Child) -> None:
        """Note that a slot has imported code that has changed since; perhaps the server had, before the slot."""
        self._outdated = self._outdated or (bool(self._terms.preload) and child.origin is self.current)

    def renew(self) -> None:
        """Replace the server if it may have imported code that has changed since."""
        if self._outdated:
            self._outdated = False
            self._replace()

    def reap_strangers(self, known: Iterable[int]) -> None:
        """Collect the ends of processes that came to this one when their parents had ended: forks do that.

        Args:
            known: processes of the worker whose ends are collected elsewhere.
        """
        if self.current is not None:
            reap_strangers({*known, self.current.pid})

    def close(self) -> None:
        """End the server."""
        if self.current is not None:
            self.current.close()

    def _replace(self) -> None:
        """Start another server; without one, slots are started as processes of their own."""
        if self.current is None:
            return
        self._selector.unregister(self.current)
        self.current.close()
        self.current = None
        if self._stillborn >= MOST_STILLBORN_FORKS:
            log.error("the fork server has died %d times at its start; slots go without", self._stillborn)
            return
        try:
            self.current = ForkServer(self._terms)
        except OSError as error:
            log.error("no fork server can be started (%s); slots go without", error)
            return
        self._selector.register(self.current, selectors.EVENT_READ, self.current)
