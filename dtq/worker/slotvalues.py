"""Large arguments and results of a slot: values in segments that the slot itself reads and writes.

Worker, in the slot's process. The queue has only a description of a value, so a large result costs the pipe to the
supervisor nothing. Large arguments are mapped: into memory of the task's own, which it may write to, and which is freed
with the last reference to it.

A task that has run for hours does not fail because of a full disk: its result goes with the others, as far as messages
allow, or else waits for room. Its time limit goes on.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from mmap import mmap
from time import sleep
from typing import Any, BinaryIO, Final

from dtq.client import large_payloads
from dtq.client.payloads import PICKLE, EncodeResult
from dtq.errors import StoreError, StoreFull, StoreUnwritable, TooLarge
from dtq.model.values import MOST_WITHOUT_ROOM, Value, is_description
from dtq.values.base import Buffer, Draft
from dtq.values.local import LocalValues
from dtq.values.place import Place
from dtq.worker.forks import end_child

#: Values of this many bytes or more are mapped, not read.
MAP_FROM: Final = 1 << 20
#: Pause before the next try on a full disk, in seconds: first, and longest.
PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
_RESULT: Final = "the result"


class SlotValues:
    """See `Values`; also for slots without a place for them.

    Args:
        own: see `forks.own_page`: a process that a task has forked writes nothing.
        max_result: longest result in bytes that is no value.
        on_described: called when a result has become a value.
        on_full: called once for each result that waits for room, with the reason.
    """

    def __init__(
        self, own: mmap, max_result: int, on_described: Callable[[], None], on_full: Callable[[str], None]
    ) -> None:
        self._own = own
        self._max_result = max_result
        #: Longest result that goes as it is if it has no room: for a few of these the coordinator has set some aside.
        self._most_inline = min(max_result, MOST_WITHOUT_ROOM)
        self._on_described = on_described
        self._on_full = on_full
        self._local: LocalValues | None = None
        #: Longest result that goes as it is.
        self.most = max_result
        self._sleep = sleep  # a user's test that patches the time module does not reach it here

    def move(self, place: Place | None) -> None:
        """Set the place of values from now on; None for none. The supervisor holds values that were written
        elsewhere.
        """
        if self._local is not None:
            self._local.close()
        self._local = None if place is None else LocalValues(place, MAP_FROM, _RESULT)
        self.most = self._max_result if place is None else min(self._max_result, place.least - 1)

    @property
    def present(self) -> bool:
        """Whether there is a place for values."""
        return self._local is not None

    @property
    def _here(self) -> LocalValues:
        if self._local is None:
            raise StoreUnwritable("values", "there is no place for them")
        return self._local

    # -- results --------------------------------------------------------------------------------------------------

    def encode(self, encode: EncodeResult, result: Any) -> bytes:
        """A result that is likely to be large, as a blob or a description.

        Args:
            encode: the encoder, see `payloads.result_encoder`.
            result: the result.

        Raises:
            TooLarge: the result is larger than values or messages may be.
            DtqError: the result cannot be encoded, or written.
        """

        most = self._most_inline

        def inline() -> bytes | None:
            if not _fits(result, most):
                return None
            blob = encode(result)
            return blob if len(blob) <= most else None

        blob = self._persist(lambda: encode(result, self, True), inline)
        if len(blob) > self._max_result:
            raise TooLarge(_RESULT, len(blob), self._max_result)
        return blob

    def keep(self, blob: bytes) -> bytes:
        """The stand-in for a result that is longer than `most`; errors as above."""
        if self._local is None or len(blob) < self._local.least:
            raise TooLarge(_RESULT, len(blob), self._max_result)
        fits = len(blob) <= self._most_inline
        return self._persist(lambda: large_payloads.written(blob, self), lambda: blob if fits else None)

    def _persist(self, write: Callable[[], bytes], inline: Callable[[], bytes | None]) -> bytes:
        pause_s, told, tried = PAUSE_S, False, False
        while True:
            try:
                blob = write()
            except StoreError as error:
                if not isinstance(error, StoreFull) and not tried:  # another segment may have room
                    tried = True
                    continue
                if (kept := inline()) is not None:
                    return kept
                if not isinstance(error, StoreFull):
                    raise
                if not told:
                    told = True
                    self._on_full(str(error))
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if is_description(blob):
                self._on_described()
            return blob

    # -- as `Values` ----------------------------------------------------------------------------------------------

    @property
    def least(self) -> int:
        """See `Values`."""
        return self._here.least

    def draft(self) -> Draft:
        """See `Values`."""
        if not self._own[0]:
            end_child(None)
        return self._here.draft()

    def settled(self, values: Iterable[Value]) -> None:
        """See `Values`."""
        if self._local is not None:
            self._local.settled(values)

    def stream(self, value: Value) -> BinaryIO:
        """See `Values`."""
        return self._here.stream(value)

    def fetch(self, value: Value) -> Buffer:
        """See `Values`."""
        return self._here.fetch(value)

    def close(self) -> None:
        """See `Values`."""
        self.move(None)


class _Measure:
    """A file that accepts this many bytes, and keeps none.

    Args:
        most: their number.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    def write(self, data: Any, /) -> int:
        """As of a file."""
        size = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise OverflowError
        return size


def _fits(result: Any, most: int) -> bool:
    """Whether the pickle of a result fits into this many bytes; found without having it in memory."""
    try:
        pickle.Pickler(_Measure(most), PICKLE).dump(result)
    except OverflowError:
        return False
    except Exception:  # noqa: BLE001 - pickling runs the result's own code; whoever encodes it says what is wrong
        return True
    return True
