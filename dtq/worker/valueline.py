"""A worker's connection for values: a call is repeated until the coordinator answers, also with a lack of room.

Worker, on another machine than its coordinator. Heartbeats and reports have connections of their own, so neither waits
for values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from dtq.errors import DtqError, SessionUnknown, StoreFull, WrongKey
from dtq.model.messages import Welcome
from dtq.transport.backoff import Backoff
from dtq.values.wire import Arrived, Incoming, Outgoing, Remainder, chunk_of, write_firmly

R = TypeVar("R")

#: Bytes of a call before the coordinator has said how many it may have.
_FIRST_CHUNK: Final = 1 << 14


class ValueCalls(Protocol):
    """A connection to the coordinator, as `transport.Proxy` is one."""

    def write_value(self, segment: int, offset: int, data: bytes) -> None:
        """See `Service.write_value`."""
        ...

    def read_value(self, segment: int, offset: int, length: int) -> bytes:
        """See `Service.read_value`."""
        ...

    def reconnect(self) -> None:
        """Begin the next call with a new connection and hello."""
        ...

    def close(self) -> None:
        """End a call that is under way, from any thread; no more calls."""
        ...


class ValueLine:
    """See `values.wire.ValueService`.

    Args:
        calls: the connection.
    """

    def __init__(self, calls: ValueCalls) -> None:
        self._calls = calls
        self._closing = threading.Event()
        #: See `ValueService`.
        self.chunk = _FIRST_CHUNK
        self.epoch = 0

    def on_welcome(self, welcome: Welcome) -> None:
        """Note the answer to hello."""
        self.chunk = chunk_of(welcome.max_message)
        self.epoch = welcome.epoch

    def write_values(self, pieces: Sequence[Outgoing]) -> list[DtqError | None]:
        """See `ValueService`."""
        return self._call(lambda: write_firmly(self._calls, pieces, _passes))

    def read_values(self, pieces: Sequence[Incoming], arrived: Arrived) -> None:
        """See `ValueService`."""
        remainder = Remainder(pieces, arrived, _passes)
        self._call(lambda: remainder.read(self._calls))

    def _call(self, call: Callable[[], R]) -> R:
        backoff = Backoff()
        while True:
            try:
                return call()
            except DtqError as error:
                if self._closing.is_set() or not _passes(error):
                    raise
                if isinstance(error, SessionUnknown):
                    self._calls.reconnect()
                self._closing.wait(backoff.next_s())

    def close(self) -> None:
        """See `ValueService`."""
        self._closing.set()
        self._calls.close()

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until it is closed."""
        self._closing.wait(seconds)


def _passes(error: DtqError) -> bool:
    """Whether the call should be repeated. If there is no room, other values may find some."""
    # As for reports: after a first acceptance, a refusal of the key comes from another program.
    return (error.retryable or isinstance(error, WrongKey)) and not isinstance(error, StoreFull)
