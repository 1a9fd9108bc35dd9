"""A client's access to large values: in the coordinator's files where the client can reach them, else by calls.

Client, below the client core. The client tests for access when it connects, and again after a restart of the
coordinator. Calls for values have connections of their own, one each way, so nothing else waits behind them.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, Final, TypeVar

from dtq.client.links import AWAY, Link, Session
from dtq.errors import DtqError, ValueGone
from dtq.model import pages, values
from dtq.model.messages import ValuesOffer
from dtq.model.service import Service
from dtq.model.values import Value
from dtq.transport import Backoff
from dtq.values.base import Buffer, Draft, Values
from dtq.values.local import LocalValues
from dtq.values.wire import Arrived, Incoming, Outgoing, Remainder, WireValues, chunk_of, write_firmly

R = TypeVar("R")

#: A value of this many bytes or more in a file is mapped instead of read.
MAP_FROM: Final = 16 << 20
#: Most bytes that an event loop reads from a file itself: less than a thread would cost.
_AT_ONCE: Final = 1 << 20
#: The noun in errors about large values.
_WHAT: Final = "a task's call"


class ValueLine:
    """See `ValueService`.

    Args:
        session: the client's.
        closed: why the client is closed; None while it is not.
        ending: set when it is closed.
        timeout_s: longest wait of a read for a coordinator that is away, in seconds. Writes wait until it is back.
    """

    def __init__(
        self, session: Session, closed: Callable[[], DtqError | None], ending: threading.Event, timeout_s: float
    ) -> None:
        self._session = session
        self._closed = closed
        self._ending = ending
        self._timeout_s = timeout_s
        self._link: Link = session.link()

    @property
    def chunk(self) -> int:
        """See `ValueService`."""
        return chunk_of(self._session.max_message)

    @property
    def epoch(self) -> int:
        """See `ValueService`."""
        return self._link.epoch

    def write_values(self, pieces: Sequence[Outgoing]) -> list[DtqError | None]:
        """See `ValueService`."""
        return self._call(lambda service: write_firmly(service, pieces, _passes), None)

    def read_values(self, pieces: Sequence[Incoming], arrived: Arrived) -> None:
        """See `ValueService`."""
        self._call(Remainder(pieces, arrived, _passes).read, self._timeout_s)

    def _call(self, ask: Callable[[Service], R], timeout_s: float | None) -> R:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        backoff = Backoff()
        while True:
            closed = self._closed()
            if closed is not None:
                self._link.close()
                raise closed
            try:
                self._link.connect()
                return ask(self._link.service)
            except AWAY as error:
                left_s = math.inf if deadline is None else deadline - time.monotonic()
                if left_s <= 0:
                    raise
                self._session.lost(error)
                self._ending.wait(min(backoff.next_s(), left_s))

    def close(self) -> None:
        """See `ValueService`."""
        self._link.close()


def _passes(error: DtqError) -> bool:
    return isinstance(error, AWAY)


class HubValues:
    """See `Values`.

    Args:
        session: the client's.
        up: makes the calls that write.
        down: makes those that read.
    """

    def __init__(self, session: Session, up: ValueLine, down: ValueLine) -> None:
        self._session = session
        self._up = up
        self._down = down
        self._lock = threading.Lock()
        self._offer: ValuesOffer | None = None
        self._now: Values | None = None
        #: Earlier ones, which may have unsettled values.
        self._before: list[Values] = []

    @property
    def local(self) -> bool:
        """Whether values lie in files that this process can access."""
        return isinstance(self._current(), LocalValues)

    def _current(self) -> Values:
        offer = self._session.values
        if offer is not self._offer or self._now is None:
            with self._lock:
                if offer is not None and (offer is not self._offer or self._now is None):
                    self._begin(offer)
        if self._now is None:
            raise ValueGone(0)
        return self._now

    def _begin(self, offer: ValuesOffer) -> None:
        """Follow this offer from now on; no effect if nothing has changed."""
        now = self._now
        place = self._session.place_of_values
        new: Values
        if place is not None:
            if isinstance(now, LocalValues) and now.place == place:
                self._offer = offer
                return
            new = LocalValues(place, MAP_FROM, _WHAT)
        else:
            if isinstance(now, WireValues) and (now.max_value, now.checked) == (offer.max_value, offer.checked):
                self._offer = offer
                return
            new = WireValues(self._up, max_value=offer.max_value, checked=offer.checked, what=_WHAT, reading=self._down)
        if now is not None:
            self._before.append(now)
        self._now, self._offer = new, offer

    @property
    def least(self) -> int:
        """See `Values`."""
        return self._current().least

    def draft(self) -> Draft:
        """See `Values`."""
        return self._current().draft()

    def settled(self, values: Iterable[Value]) -> None:
        """See `Values`."""
        done = list(values)
        for which in (self._now, *self._before):
            if which is not None:
                which.settled(done)

    def stream(self, value: Value) -> BinaryIO:
        """See `Values`."""
        return self._current().stream(value)

    def fetch(self, value: Value) -> Buffer:
        """See `Values`."""
        return self._current().fetch(value)

    def close(self) -> None:
        """See `Values`. Files can still be read."""
        for which in (self._now, *self._before):
            if which is not None:
                which.close()
        self._up.close()
        self._down.close()

    # -- pages ------------------------------------------------------------------------------------------------------

    def settle(self, page: bytes) -> None:
        """Note that the values of our page belong to the queue, or are not needed."""
        if pages.has_descriptions(page):
            self.settle_blobs(pages.unpack(page))

    def settle_blobs(self, blobs: Iterable[bytes]) -> None:
        """Likewise, for blobs."""
        own = [value for blob in blobs if values.is_description(blob) and (value := values.content(blob)) is not None]
        if own:
            self.settled(own)

    def slow(self, blob: bytes) -> bool:
        """Whether reading a blob's value takes so long that an event loop leaves it to a thread."""
        return values.is_description(blob) and (values.weight(blob) >= _AT_ONCE or not self.local)

    def page_slow(self, page: bytes) -> bool:
        """Likewise, for a whole page."""
        return pages.has_descriptions(page) and (pages.weight(page) >= _AT_ONCE or not self.local)
