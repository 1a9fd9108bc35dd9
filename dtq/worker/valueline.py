"""A worker's connection for values: calls that are made again until the coordinator answers. That it has no room is an
answer.

Worker, on another machine than its coordinator. Heartbeats and reports have connections of their own, so nothing waits
for what travels here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from dtq.errors import DtqError, SessionUnknown, StoreFull, WrongKey
from dtq.model.messages import Welcome
from dtq.transport.backoff import Backoff
from dtq.values.wire import chunk_of, read_into, write_parts

R = TypeVar("R")

#: How many bytes a call carries before the coordinator has said how many it may.
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
        """It has said hello."""
        self.chunk = chunk_of(welcome.max_message)
        self.epoch = welcome.epoch

    def write_value(self, segment: int, offset: int, parts: Sequence[memoryview]) -> None:
        """See `ValueService`."""
        self._call(lambda: write_parts(self._calls, segment, offset, parts))

    def read_value(self, segment: int, offset: int, place: memoryview) -> None:
        """See `ValueService`."""
        self._call(lambda: read_into(self._calls, segment, offset, place))

    def _call(self, call: Callable[[], R]) -> R:
        backoff = Backoff()
        while True:
            try:
                return call()
            except DtqError as error:
                # As for reports: once it was let in, a refusal of the key is somebody else's.
                if self._closing.is_set() or not (error.retryable or isinstance(error, WrongKey)):
                    raise
                if isinstance(error, StoreFull):
                    raise  # others may find room
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
