"""The values of an in-process queue, put or too large for a page: the real store, made at its first use.

Testing, below the in-process queue. Most tests have no such values: for these no directory is made.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterable
from typing import BinaryIO, Final

from dtq.coordinator.service import Coordinator
from dtq.coordinator.values import PeerValues
from dtq.errors import ValueGone
from dtq.model import pages
from dtq.model.messages import Submission, ValuesOffer
from dtq.model.values import Value, describe
from dtq.values.base import Buffer, Draft
from dtq.values.local import LocalValues
from dtq.values.place import MAX_VALUE

#: The offer to clients: they write and read values by calls, which make the place for them.
OFFER: Final = ValuesOffer(max_value=MAX_VALUE, checked=False)
#: Holder of submitted values, for tests that look at them after their tasks have run: no session has this name.
_RECORD: Final = "what was submitted"


class QueueValues:
    """Values of a queue, as its worker and its record of submissions read them; see `Values`. Results are no values.

    Args:
        coordinator: the queue's, started without a place for values.
    """

    #: Results stay in their pages, whatever their size.
    least = sys.maxsize

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._lock = threading.Lock()
        self._files: LocalValues | None = None

    def begin(self) -> None:
        """Make a place for values, if the engine has one. Twice does no harm."""
        c = self._coordinator
        with self._lock:
            if c.values is None and (place := c.engine.place) is not None:
                self._files = LocalValues(place)
                c.values = PeerValues(place, c.engine.holds, by_reference=False)

    def keep(self, submissions: Iterable[Submission]) -> None:
        """Keep the values of submissions as long as the queue, as the record of them is."""
        described = [given for given in submissions if pages.has_descriptions(given.arguments)]
        if not described:
            return
        named = dict.fromkeys(value for given in described for value in pages.named(given.arguments))
        c = self._coordinator
        with c.lock:
            for value in named:
                digest = hashlib.sha256(repr(value).encode()).digest()
                c.machine.queue_state.holds.hold(_RECORD, digest, describe([value]), 0.0)

    def _opened(self, length: int) -> LocalValues:
        if self._files is None:
            raise ValueGone(length)
        return self._files

    def draft(self) -> Draft:
        """See `Values`."""
        return self._opened(0).draft()

    def settled(self, values: Iterable[Value]) -> None:
        """See `Values`."""
        if self._files is not None:
            self._files.settled(values)

    def stream(self, value: Value) -> BinaryIO:
        """See `Values`."""
        return self._opened(value.length).stream(value)

    def fetch(self, value: Value) -> Buffer:
        """See `Values`."""
        return self._opened(value.length).fetch(value)

    def close(self) -> None:
        """See `Values`."""
        if self._files is not None:
            self._files.close()
