"""Arguments on their way to a worker on another machine than its coordinator.

Worker, below the supervisor. A lease whose arguments are values is given to a slot when copies of them are here
(`copies`). One thread fetches them, a few pieces at a time, of several values where there are several, so that a small
value does not wait for a large one. It holds a piece in memory, never a value.

Whether they are what was written the slot finds out, which reads them next.

A value that is not to be had is left out: the slot does not find it either, and says so for the task that needs it.
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

#: How long to wait before a lease is given back for whose arguments there is no room here, in seconds.
NO_ROOM_S: Final = 1.0
#: How many values are fetched in turns; the others wait until one of them is there.
AT_ONCE: Final = 16
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class _Load:
    """A value that is being fetched.

    Args:
        value: the value.
        path: the file that it goes to.
    """

    def __init__(self, value: Value, path: str) -> None:
        self.value = value
        #: Whether room was made for it once more, as there was none.
        self.cleared = False
        self._path = path
        self._file = -1
        self._stream: WireStream | None = None
        #: Whether all of it is there.
        self.whole = False
        #: Why it is not fetched any further.
        self.problem: DtqError | OSError | None = None

    @property
    def begun(self) -> bool:
        """Whether it has a file."""
        return self._file >= 0

    def ask(self, values: WireValues, buffer: memoryview, most: int) -> list[Incoming]:
        """The next pieces to be fetched.

        Args:
            values: where it is.
            buffer: where each goes.
            most: how many there may be, about.

        Raises:
            OSError: there can be no file for it.
        """
        if self._stream is None:
            self._file = os.open(self._path, _NEW, 0o600)
            self._stream = values.pieces(self.value)
        return self._stream.ask(repeat(buffer, most))

    def arrived(self, piece: memoryview) -> None:
        """The next of these is there.

        Raises:
            ValueGone: it is no longer kept.
            OSError: it cannot be written.
        """
        assert self._stream is not None
        if self._stream.arrived(piece):
            while piece:
                piece = piece[os.write(self._file, piece) :]
        self.whole = self._stream.whole

    def close(self) -> None:
        """It is over; what there is of it stays."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._stream = -1, None

    def abandon(self) -> None:
        """It is over, and what there is of it goes."""
        self.whole = False
        if self.begun:
            self.close()
            with suppress(OSError):
                os.unlink(self._path)


class Downloads:
    """Fetches values.

    Args:
        values: where they are.
        line: the connection of that.
        copies: where they go.
        lock: the supervisor's; what says so is called with it.
        on_ready: called with it when a lease has all that is to be had.
        on_no_room: likewise, when there is no room for what a lease needs.
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
        #: What each lease waits for.
        self._missing: dict[int, set[Key]] = {}
        self._loads: deque[_Load] = deque()
        #: All of those, and the one that the thread is at.
        self._loading: set[Key] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="dtq-download", daemon=True)
        self._thread.start()

    # -- with the lock --------------------------------------------------------------------------------------------

    def fetch(self, token: int, values: Sequence[Value]) -> bool:
        """Have values here for a lease until `let_go`; whether they are."""
        missing = self._copies.need(token, values)
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
        """A lease needs nothing any more, and what is fetched for it alone is not needed."""
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
            except Exception as error:
                if not self._closed:
                    log.exception("values could not be fetched")
                for load in loads:
                    load.problem = load.problem or DtqError(str(error))
            self._settle(loads)

    def _next(self) -> list[_Load]:
        """The values of which to fetch the next pieces; none at the end."""
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
            DtqError: none can be had.
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
        """See what has become of values of which pieces were to be fetched."""
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
        """A value is whole, or is not to be had."""
        if isinstance(load.problem, OSError) and not isinstance(load.problem, DtqError):
            self._on_full(load, load.problem)
            return
        if load.problem is not None:
            if self._closed:
                return
            log.warning("a large argument of a task cannot be had: %s", load.problem)
        with self._lock:
            self._over(load, here=load.problem is None)

    def _on_full(self, load: _Load, error: OSError) -> None:
        """Try once more without what nobody needs, and then give back what cannot be had here."""
        again, load.cleared = not load.cleared, True
        if not again:
            log.warning("a large argument of a task finds no room here, its lease is given back: %s", error)
            self._line.pause(NO_ROOM_S)
        with self._lock:
            if again:
                self._copies.make_room(0, 0)
                self._loads.append(load)
            else:
                self._without_room(load)

    def close(self) -> None:
        """End, also a call that is under way. Not with the lock."""
        with self._lock:
            self._closed = True
            self._news.notify_all()
        self._values.close()
        self._thread.join(5.0)
        for load in self._loads:
            load.abandon()
