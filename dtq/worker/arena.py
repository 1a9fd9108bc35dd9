"""Results that a slot has made and not sent yet, in memory that outlives the slot.

Worker, used at both ends of a slot's pipe; it lies behind the slot's `position` in one file. The slot writes each
result here as it is made and sends them together; where its process ends before that, however it does, the supervisor
takes from here what was not sent. So a crash costs its neighbours in the lease nothing.

Layout: a head (lease, index of its first task here, when that began, how many of the first have been sent), one length
a result, the results. A length is written last, and so says that its result is there.

A task can write into this memory, too. The supervisor takes from it what fits the lease, and nothing where the slot
broke the protocol otherwise.
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
#: Where in memory the results are.
DATA_AT: Final = _LENGTHS_AT + PAGE_BLOBS * _LENGTH
#: What stands for a length where there is no result.
_NONE: Final = 0xFFFF_FFFF
_CLEAR: Final = b"\xff" * (PAGE_BLOBS * _LENGTH)
#: How many bytes of results there is room for.
CAPACITY: Final = 1 << 20
#: How large the memory of a position with an arena behind it is.
SIZE: Final = DATA_AT + CAPACITY


class Left(NamedTuple):
    """What a slot has made and not sent.

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
        memory: that of a position, of `SIZE` bytes; it is the position's to close, after this.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.lengths = memoryview(memory)[_LENGTHS_AT:DATA_AT].cast("I")
        self._token = 0
        self._lo = 0
        #: How many results are here, and where in memory the next one goes.
        self.count = 0
        self.end = DATA_AT
        #: Whether descriptions of values may be among them.
        self.described = False
        #: How many of the first ones were sent, and where in memory the next one to be sent is.
        self._sent = 0
        self._sent_to = DATA_AT
        self.clear(0, 0, 0.0)

    # -- in the slot ----------------------------------------------------------------------------------------------

    def clear(self, token: int, lo: int, since: float) -> None:
        """All that is here has been sent; the results of a lease follow, from a task on.

        Args:
            token: the lease.
            lo: index of the task.
            since: when it began, ``time.monotonic()``.
        """
        # First these: at no moment may old results, or what a task wrote here, seem to be those of later tasks.
        self.memory[_LENGTHS_AT:DATA_AT] = _CLEAR
        _HEAD.pack_into(self.memory, _HEAD_AT, token, lo, since, 0)
        self._token, self._lo = token, lo
        self.count = self._sent = 0
        self.end = self._sent_to = DATA_AT
        self.described = False

    @property
    def unsent(self) -> int:
        """How many results are here that were not sent."""
        return self.count - self._sent

    @property
    def next(self) -> int:
        """Index of the task after the last result."""
        return self._lo + self.count

    def page(self) -> tuple[int, bytes, tuple[int, int]]:
        """What was not sent, as a page: index of its first task, the page, and what to tell `sent`."""
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
        """What `page` gave has been sent. Any thread, not two at once."""
        count, self._sent_to = upto
        self._sent = count
        _SENT.pack_into(self.memory, _SENT_AT, count)

    # -- at the supervisor ----------------------------------------------------------------------------------------

    def has_made(self, token: int, index: int) -> bool:
        """Whether the slot says that it has made the result of a task, or sent it."""
        mine, lo, _, _ = _HEAD.unpack_from(self.memory, _HEAD_AT)
        at = index - lo
        return bool(mine == token and (at < 0 or (at < PAGE_BLOBS and self.lengths[at] != _NONE)))

    def left(self) -> Left:
        """What the slot has made and not sent. Its process has ended."""
        token, lo, since, sent = _HEAD.unpack_from(self.memory, _HEAD_AT)
        lengths = self.lengths.tolist()
        count = next((at for at, length in enumerate(lengths) if length == _NONE), PAGE_BLOBS)
        ends = list(accumulate(lengths[:count], initial=0))
        if not 0 <= sent <= count or ends[-1] > CAPACITY:
            return Left(0, 0, [], 0.0)
        data = self.memory[DATA_AT : DATA_AT + ends[-1]]
        return Left(token, lo + sent, [data[begin:end] for begin, end in pairwise(ends[sent:])], since)

    def close(self) -> None:
        """Let go of the memory."""
        self.lengths.release()
