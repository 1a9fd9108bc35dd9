"""Downloads of arguments to a worker on another machine than its coordinator.

Worker, below the supervisor. A lease whose arguments are values is given to a slot when copies of them are here
(`copies`). One thread fetches them, a few pieces at a time, from several values in turn, so that a small value does not
wait for a large one. It holds pieces in memory, never a value.

The slot, which reads a value next, checks its checksum.

A missing value is left out: the slot does not find it either, and reports that for the task that needs it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Final

from dtq.errors import DtqError
from dtq.model.values import Value
from dtq.values.wire import WINDOW, Incoming, WireStream, WireValues
from dtq.worker.copies import Copies, Key, key_of
from dtq.worker.valueline import ValueLine

log = logging.getLogger("dtq.worker")

#: Longest wait of a lease for room for its arguments before it is given back, in seconds.
NO_ROOM_S: Final = 1.0
#: Values fetched in turns; the others wait until one of them is complete.
AT_ONCE: Final = 16
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class _Load:
    """A value that is being fetched.

    Args:
        value: the value.
        path: its file.
    """

    def __init__(self, value: Value, path: str) -> None:
        self.value = value
        #: Whether room was cleared for it after a full disk.
        self.cleared = False
        self._path = path
        self._file = -1
        self._stream: WireStream | None = None
        #: Whether it is complete.
        self.whole = False
        #: Why its download has stopped.
        self.problem: DtqError | OSError | None = None

    @property
    def begun(self) -> bool:
        """Whether it has a file."""
        return self._file >= 0

    def ask(self, values: WireValues, buffer: memoryview, most: int) -> list[Incoming]:
        """The next pieces to be fetched.

        Args:
            values: its source.
            buffer: returns memory for a piece.
            most: approximate bound of their number.

        Raises:
            OSError: its file cannot be made.
        """
        if self._stream is None:
            self._file = os.open(self._path, _NEW, 0o600)
            self._stream = values.pieces(self.value)
        return self._stream.ask(repeat(buffer, most))

    def arrived(self, piece: memoryview) -> None:
        """Write the next of these pieces.

        Raises:
            ValueGone: the value is no longer kept.
            OSError: it cannot be written.
        """
        assert self._stream is not None
        if self._stream.arrived(piece):
            while piece:
                piece = piece[os.write(self._file, piece) :]
        self.whole = self._stream.whole

    def close(self) -> None:
        """Stop; its pieces so far stay."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._stream = -1, None

    def abandon(self) -> None:
        """Stop, and remove its pieces."""
        self.whole = False
        if self.begun:
            self.close()
            with suppress(OSError):
                os.unlink(self._path)


class Downloads:
    """Fetches values.

    Args:
        values: their source.
        line: the source's connection.
        copies: their destination.
        lock: the supervisor's; held for the calls that are marked so.
        on_ready: called with it when a lease has all values that exist.
        on_no_room: likewise, when a lease's values have no room.
    """

    def __init__(
        self,
        values: WireValues,
        line: ValueLine,
        copies: Copies,
        lock: threading.Lock,
        on_ready: Callable[[int], None],
        on_no_room: Callable[[int], None],
    ) -> None:
        self._values = values
        self._line = line
        self._copies = copies
        self._lock = lock
        self._news = threading.Condition(lock)
        self._on_ready = on_ready
        self._on_no_room = on_no_room
        #: The values that each lease waits for.
        self._missing: dict[int, set[Key]] = {}
        self._loads: deque[_Load] = deque()
        #: All of those, and the thread's current ones.
        self._loading: set[Key] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="dtq-download", daemon=True)
        self._thread.start()

    # -- with the lock --------------------------------------------------------------------------------------------

    def fetch(self, token: int, values: Sequence[Value], shared: Sequence[Value] = ()) -> bool:
        """Fetch a lease's values until `let_go`.

        Args:
            token: the lease's.
            values: the arguments of its tasks.
            shared: what these refer to.

        Returns:
            Whether they are here already.
        """
        missing = self._copies.need(token, values, shared)
        if not missing:
            return True
        self._missing[token] = {key_of(value) for value in missing}
        for value in missing:
            if key_of(value) not in self._loading:
                self._loading.add(key_of(value))
                self._loads.append(_Load(value, self._copies.part_of(value)))
        self._news.notify_all()
        return False

    def let_go(self, token: int) -> None:
        """End of a lease: values that are fetched for it alone are not needed."""
        self._missing.pop(token, None)
        if self._copies.let_go(token):
            self._news.notify_all()

    def _over(self, load: _Load, *, here: bool) -> None:
        key = key_of(load.value)
        self._loading.discard(key)
        if here:
            self._copies.add(load.value)
        for token in [token for token, keys in self._missing.items() if key in keys]:
            self._missing[token].discard(key)
            if not self._missing[token]:
                del self._missing[token]
                self._on_ready(token)

    def _without_room(self, load: _Load) -> None:
        key = key_of(load.value)
        self._loading.discard(key)
        for token in [token for token, keys in self._missing.items() if key in keys]:
            del self._missing[token]
            self._on_no_room(token)

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        buffer = memoryview(bytearray(1))
        while loads := self._next():
            if len(buffer) < self._line.chunk:
                buffer = memoryview(bytearray(self._line.chunk))
            try:
                self._fetch(loads, buffer)
            except DtqError as error:
                for load in loads:
                    load.problem = load.problem or error
            except Exception as error:
                log.exception("values could not be fetched")
                for load in loads:
                    load.problem = load.problem or DtqError(str(error))
            self._settle(loads)

    def _next(self) -> list[_Load]:
        """The values whose next pieces to fetch; none at the end."""
        while True:
            loads: list[_Load] = []
            unneeded: list[_Load] = []
            with self._lock:
                while not (self._loads or self._closed or self._copies.untidy):
                    self._news.wait()
                if self._closed:
                    return []
                while self._loads and len(loads) < WINDOW:
                    load = self._loads.popleft()
                    if not self._copies.is_needed(load.value):
                        self._loading.discard(key_of(load.value))
                        unneeded.append(load)
                        continue
                    if not load.begun:
                        self._copies.make_room(load.value.length)
                    loads.append(load)
            self._copies.sweep()
            for load in unneeded:
                load.abandon()
            if loads:
                return loads

    def _fetch(self, loads: list[_Load], buffer: memoryview) -> None:
        """Fetch some pieces of each.

        Raises:
            DtqError: no piece can be fetched.
        """
        asked: list[tuple[_Load, Incoming]] = []
        for load in loads:
            load.problem = None
            try:
                asked += [(load, piece) for piece in load.ask(self._values, buffer, WINDOW // len(loads))]
            except OSError as error:
                load.problem = error

        def arrived(nth: int, refusal: DtqError | None) -> None:
            load, (_, _, piece) = asked[nth]
            if load.problem is not None:
                return
            load.problem = refusal
            if refusal is None:
                try:
                    load.arrived(piece)
                except (DtqError, OSError) as error:
                    load.problem = error

        self._line.read_values([piece for _, piece in asked], arrived)

    def _settle(self, loads: list[_Load]) -> None:
        """Handle the results for the values whose pieces were fetched."""
        going: list[_Load] = []
        for load in loads:
            try:
                if load.problem is None and load.whole:
                    load.close()
                    self._copies.finish(load.value)
            except OSError as error:
                load.problem = error
            if load.problem is None and not load.whole:
                going.append(load)
                continue
            if load.problem is not None:
                load.abandon()
            self._end(load)
        with self._lock:
            for place, load in enumerate(going):
                self._loads.insert(AT_ONCE - len(loads) + place, load)

    def _end(self, load: _Load) -> None:
        """Handle a value that is complete, or missing."""
        if isinstance(load.problem, OSError) and not isinstance(load.problem, DtqError):
            self._on_full(load, load.problem)
            return
        if load.problem is not None:
            if self._closed:
                return
            log.warning("a large argument of a task is not available: %s", load.problem)
        with self._lock:
            self._over(load, here=load.problem is None)

    def _on_full(self, load: _Load, error: OSError) -> None:
        """Try once more without unneeded copies, and then give back leases whose values have no room here."""
        again, load.cleared = not load.cleared, True
        if not again:
            log.warning("a large argument of a task has no room here, its lease is given back: %s", error)
            self._line.pause(NO_ROOM_S)
        with self._lock:
            if again:
                self._copies.make_room(0, 0)
                self._loads.append(load)
            else:
                self._without_room(load)

    def close(self) -> None:
        """End, with a call that is under way. Not with the lock."""
        with self._lock:
            self._closed = True
            self._news.notify_all()
        self._values.close()
        self._thread.join(5.0)
        for load in self._loads:
            load.abandon()
