"""ResultBuffer results of a slot, in memory that outlives the slot.

Worker, used at both ends of a slot's pipe; it lies behind the slot's `position` in one file. The slot writes each
result here as it is made and sends them together; if its process ends before that, however it does, the supervisor
takes the unsent results from here. So a crash costs its neighbours in the lease nothing.

Layout: a head (lease, index of its first task here, when that began, number of results sent), one length a result, the
results. A length is written last, and so marks its result as complete.

A task can write into this memory, too. The supervisor takes only results that fit the lease, and none if the slot broke
the protocol otherwise.
"""

from __future__ import annotations

import mmap
import struct
import sys
from array import array
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from dtq.model import pages
from dtq.model.pages import PAGE_BLOBS
from dtq.worker.position import SIZE as POSITION

_HEAD: Final = struct.Struct("=qqdq")
_HEAD_AT: Final = POSITION
_SENT: Final = struct.Struct("=q")
_SENT_AT: Final = _HEAD_AT + 24
_LENGTHS_AT: Final = _HEAD_AT + 64
_LENGTH: Final = 4
#: Offset of the results.
DATA_AT: Final = _LENGTHS_AT + PAGE_BLOBS * _LENGTH
#: Stands for the length of a missing result.
_NONE: Final = 0xFFFF_FFFF
_CLEAR: Final = b"\xff" * (PAGE_BLOBS * _LENGTH)
#: Room for results, in bytes.
CAPACITY: Final = 1 << 20
#: Size of the memory of a position with an arena behind it.
SIZE: Final = DATA_AT + CAPACITY


class Left(NamedTuple):
    """A slot's unsent results.

    Attributes:
        token: the lease.
        lo: index of the task of the first result.
        results: the results.
        since: when the first of those tasks began, ``time.monotonic()`` of the slot.
    """

    token: int
    lo: int
    results: list[bytes]
    since: float


class Arena:
    """The shared memory.

    Args:
        memory: that of a position, of `SIZE` bytes; the position closes it, after this.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.lengths = memoryview(memory)[_LENGTHS_AT:DATA_AT].cast("I")
        self._token = 0
        self._lo = 0
        #: Number of results, and offset for the next one.
        self.count = 0
        self.end = DATA_AT
        #: Whether descriptions of values may be among them.
        self.described = False
        #: Number of sent results, and offset of the first unsent one.
        self._sent = 0
        self._sent_to = DATA_AT
        self.clear(0, 0, 0.0)

    # -- in the slot ----------------------------------------------------------------------------------------------

    def clear(self, token: int, lo: int, since: float) -> None:
        """Start anew, after everything was sent: the results of a lease follow, from a task on.

        Args:
            token: the lease.
            lo: index of the task.
            since: when it began, ``time.monotonic()``.
        """
        # The lengths first: at no moment may old results, or bytes that a task wrote here, seem to be those of later
        # tasks.
        self.memory[_LENGTHS_AT:DATA_AT] = _CLEAR
        _HEAD.pack_into(self.memory, _HEAD_AT, token, lo, since, 0)
        self._token, self._lo = token, lo
        self.count = self._sent = 0
        self.end = self._sent_to = DATA_AT
        self.described = False

    @property
    def unsent(self) -> int:
        """Number of unsent results."""
        return self.count - self._sent

    @property
    def next(self) -> int:
        """Index of the task after the last result."""
        return self._lo + self.count

    def page(self) -> tuple[int, bytes, tuple[int, int]]:
        """The unsent results as a page: index of the first task, the page, and the argument for `sent`."""
        sent, count = self._sent, self.count
        raw = self.memory[_LENGTHS_AT + sent * _LENGTH : _LENGTHS_AT + count * _LENGTH]
        lengths = array("I", raw)
        end = self._sent_to + sum(lengths)
        if self.described:
            ends = accumulate(lengths, initial=self._sent_to)
            page = pages.pack([self.memory[begin:stop] for begin, stop in pairwise(ends)], described=True)
            return self._lo + sent, page, (count, end)
        if sys.byteorder == "big":
            lengths.byteswap()
            raw = lengths.tobytes()
        with memoryview(self.memory) as memory, memory[self._sent_to : end] as body:  # or each would be copied twice
            page = b"".join(((count - sent).to_bytes(4, "big"), raw, body))
        return self._lo + sent, page, (count, end)

    def sent(self, upto: tuple[int, int]) -> None:
        """Note that the results of `page` have been sent. Any thread, not two at once."""
        count, self._sent_to = upto
        self._sent = count
        _SENT.pack_into(self.memory, _SENT_AT, count)

    # -- at the supervisor ----------------------------------------------------------------------------------------

    def has_made(self, token: int, index: int) -> bool:
        """Whether the slot claims to have made, or sent, the result of a task."""
        mine, lo, _, _ = _HEAD.unpack_from(self.memory, _HEAD_AT)
        at = index - lo
        return bool(mine == token and (at < 0 or (at < PAGE_BLOBS and self.lengths[at] != _NONE)))

    def left(self) -> Left:
        """The slot's unsent results, after its process has ended."""
        token, lo, since, sent = _HEAD.unpack_from(self.memory, _HEAD_AT)
        lengths = self.lengths.tolist()
        count = next((at for at, length in enumerate(lengths) if length == _NONE), PAGE_BLOBS)
        ends = list(accumulate(lengths[:count], initial=0))
        if not 0 <= sent <= count or ends[-1] > CAPACITY:
            return Left(0, 0, [], 0.0)
        data = self.memory[DATA_AT : DATA_AT + ends[-1]]
        return Left(token, lo + sent, [data[begin:end] for begin, end in pairwise(ends[sent:])], since)

    def close(self) -> None:
        """Release the memory."""
        self.lengths.release()
