"""The outbox: single submissions of all threads, and the maps that are being fed, until the sender takes them.

Client, between the callers and the sender's thread. The sender takes everything that has gathered during its last call,
so a lone submission leaves at once and a flood travels in large calls, neighbours of one kind as one batch. Both are
bounded: `put` waits while the outbox is full.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Final, NamedTuple

from dtq.client.batch_uploads import BatchUpload, Held
from dtq.client.following import Wake
from dtq.client.handle import Group, TaskHandle
from dtq.client.marks import CommitMarker
from dtq.client.terms import Attribution
from dtq.client.thread_wakeup import ThreadWakeup
from dtq.errors import DtqError
from dtq.model import pages
from dtq.model.fields import MAX_SUBMISSIONS
from dtq.model.messages import Conditions, Submission
from dtq.model.options import Spec
from dtq.model.weight import weight
from dtq.records import replace

#: Most submissions, and bytes of them, that wait to be sent.
MAX_WAITING: Final = 20_000
MAX_WAITING_BYTES: Final = 32 << 20
#: Bounds of one call, if the coordinator accepts as much: single submissions, bytes of arguments.
CALL_SUBMISSIONS: Final = 4_096
CALL_BYTES: Final = 4 << 20
#: Approximate bytes of a call for each submission, and task, beside arguments, functions, options and keys.
_OVERHEAD: Final = 256
_BLOB_OVERHEAD: Final = 4
#: And for each parent.
_PARENT_OVERHEAD: Final = 32
#: A call that has only items of maps with large values begins this long after the one before, in seconds. Such an item
#: takes so long to make that otherwise a call would have one or two, and cost more than they do.
_GATHER_S: Final = 0.002
#: Stands for a refused task among parents: no call has so many submissions.
NOWHERE: Final = -MAX_SUBMISSIONS


#: A parent, and whether the call is given its result.
Awaited = tuple[TaskHandle[Any] | tuple[int, int, int], bool]


class Item(NamedTuple):
    """A waiting single submission."""

    handle: TaskHandle[Any]
    spec: Spec
    blob: bytes
    #: Bytes of its arguments, values included; and whether they are a description.
    weight: int
    described: bool
    delay_s: float
    key: str | None
    #: Rare terms.
    conditions: Conditions | None = None
    #: Its parents: a handle, or tasks ``[lo, hi)`` of a batch, where hi is 0 for all of it; and whether the call is
    #: given the results, in this order.
    parents: tuple[Awaited, ...] = ()
    #: Its limits and label.
    attribution: Attribution | None = None


#: The fields that agree in all items of one submission, beside their spec.
_BESIDE: Final = slice(Item._fields.index("delay_s"), None)

#: Gets a receipt: a lone task, several that travel as one batch, or a map.
Receiver = TaskHandle[Any] | Group | BatchUpload


class Call(NamedTuple):
    """One call of `Service.submit`, with the receivers of its receipts, and maps that turned out to have no items."""

    specs: list[Spec]
    submissions: list[Submission]
    receivers: list[Receiver]
    empty: list[BatchUpload]
    #: Arguments that are not sent, because their submission was given up.
    dropped: list[bytes]
    #: The handles of the parents of tasks in the call.
    kept: list[Held]


class Outbox:
    """All submissions that wait to be sent.

    Args:
        wait_s: longest wait of a call for room in a full queue, in seconds; 0 to be refused at once.

    Attributes:
        closed: why no more submissions are accepted; None while they are.
    """

    def __init__(self, wait_s: float = 0.0) -> None:
        self._wait_s = wait_s
        self._max_piece = pages.PAGE_BLOBS
        self.closed: DtqError | None = None
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._items: deque[Item] = deque()
        #: Number of them taken out so far.
        self._taken = 0
        self._marks: list[CommitMarker] = []
        self._bytes = 0
        self._feeds: list[BatchUpload] = []
        self._numbers = count(1)
        self._feeds_first = False
        self._idle = False
        #: Whether the sender waits for more items of maps, and when it last began a call, ``time.monotonic()``.
        self._gathering = False
        self._gathered_at = -math.inf
        self._hopeful: list[Wake] = []
        self._wakeup = ThreadWakeup()
        #: The function that was weighed last, and its weight.
        self._weighed: tuple[Spec | None, int] = (None, 0)

    # -- callers --------------------------------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Send a submission; waits while too many wait already.

        Raises:
            DtqError: the outbox is closed.
        """
        size = item.weight
        with self._lock:
            while self._full(size) and self.closed is None:
                self._room.wait()
            if self.closed is not None:
                raise self.closed
            self._items.append(item)
            self._bytes += size
        if self._idle:
            self._wakeup.ring()

    def offer(self, item: Item, room: Wake | None = None) -> bool:
        """As `put`, for callers that must not wait.

        Args:
            item: the submission.
            room: callback, once, when there may be room again; by any thread.

        Returns:
            Whether it was taken.

        Raises:
            DtqError: the outbox is closed.
        """
        size = item.weight
        with self._lock:
            if self.closed is not None:
                raise self.closed
            if self._full(size):
                if room is not None:
                    self._hopeful.append(room)
                return False
            self._items.append(item)
            self._bytes += size
        if self._idle:
            self._wakeup.ring()
        return True

    def _full(self, size: int) -> bool:
        return len(self._items) >= MAX_WAITING or (self._bytes > 0 and self._bytes + size > MAX_WAITING_BYTES)

    def _tell_hopeful(self) -> None:
        """Call back the callers whose offers were rejected. Not under the lock."""
        with self._lock:
            hopeful, self._hopeful = self._hopeful, []
        for wake in hopeful:
            wake()

    def add(self, feed: BatchUpload) -> None:
        """Send a map while it is fed.

        Raises:
            DtqError: the outbox is closed.
        """
        with self._lock:
            if self.closed is not None:
                raise self.closed
            self._feeds.append(feed)
        self.hurry()

    @property
    def idle(self) -> bool:
        """Whether the sender waits."""
        return self._idle

    @property
    def awaits_items(self) -> bool:
        """Whether the sender waits, and must be woken when items are put into a feed."""
        return self._idle and not self._gathering

    @property
    def settled(self) -> bool:
        """Whether all earlier submissions are sent and answered, and no map has items to come."""
        waits = bool(self._items) or any(feed.ready() or not feed.full for feed in list(self._feeds))
        return not waits and self._idle  # in this order: the sender is idle again only after the answer

    def mark(self) -> CommitMarker | None:
        """A mark behind all submissions that are not accepted or refused yet; None if there are none."""
        with self._lock:
            feeds = [(feed, feed.put) for feed in list(self._feeds) if not feed.sealed and feed.sent < feed.put]
            if not (self._items or feeds) and self._idle:  # in this order, as in `settled`
                return None
            mark = CommitMarker(self._taken + len(self._items), feeds)
        self.watch(mark)
        return mark

    def watch(self, mark: CommitMarker) -> None:
        """Make the sender check a mark after each call."""
        mark.again()
        with self._lock:
            self._marks.append(mark)
        self.hurry()  # it may have become idle meanwhile, and would not look

    def hurry(self) -> None:
        """Wake the sender for another look; from anywhere, also in the middle of garbage collection."""
        self._wakeup.ring()

    def close(self, error: DtqError) -> None:
        """Accept no more submissions; those here are still sent."""
        with self._lock:
            self.closed = self.closed or error
            self._room.notify_all()
        for feed in list(self._feeds):
            feed.over = True
            feed.room.ring()
        self._tell_hopeful()
        self.hurry()

    # -- the sender -----------------------------------------------------------------------------------------------

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait until there is a submission to send, or another condition holds."""
        self._idle = True
        try:
            while not (self._items or any(feed.ready() for feed in self._feeds) or until()):
                self._wakeup.wait()
            self._gathering = True
            while (left_s := self._gathered_at + _GATHER_S - time.monotonic()) > 0 and self._may_gather(until):
                self._wakeup.wait(left_s)
            self._gathered_at = time.monotonic()
        finally:
            self._idle = self._gathering = False

    def _may_gather(self, until: Callable[[], bool]) -> bool:
        """Whether the next call can wait for more items of maps."""
        if self._items or until():
            return False
        return all(feed.grows for feed in self._feeds if feed.ready())

    def call_over(self, *, full: bool = False) -> None:
        """Note that the taken submissions are accepted or refused, unless the queue is full."""
        if self._marks:
            with self._lock:
                self._marks = [mark for mark in self._marks if not mark.look(self._taken, full=full)]

    @property
    def is_marked(self) -> bool:
        """Whether a caller waits at a mark."""
        return bool(self._marks)

    def end(self) -> None:
        """Nothing is sent any more: wake all waiters."""
        with self._lock:
            marks, self._marks = self._marks, []
        for mark in marks:
            mark.end()

    def gather(self, max_message: int, max_piece: int = pages.PAGE_BLOBS) -> Call:
        """Take out the submissions of one call.

        Args:
            max_message: largest message in bytes.
            max_piece: most tasks of one submission.
        """
        self._max_piece = max_piece
        call = Call([], [], [], [], [], [])
        places: dict[int, int] = {}
        left = min(CALL_BYTES, max_message // 2)
        self._feeds_first = not self._feeds_first  # neither kind can keep the other from ever being sent
        if self._feeds_first:
            left = self._gather_feeds(left, call, places)
        left = self._gather_items(left, call, places)
        if not self._feeds_first:
            self._gather_feeds(left, call, places)
        return call

    def _gather_items(self, left: int, call: Call, places: dict[int, int]) -> int:
        """Add single submissions to a call; the bytes that are left of it."""
        taken, described = self._take_items(left, alone=not call.submissions)
        #: The place of each in the call, by the identity of its handle: place and index. Needed only if one depends on
        #: another.
        made: dict[int, tuple[int, int]] | None = {} if any([item.parents for item in taken]) else None
        for items in _runs(taken, self._max_piece):
            first = items[0]
            size = sum([len(item.blob) + _BLOB_OVERHEAD for item in items])
            left -= self._weight(first.spec, places) + size
            left -= 0 if first.key is None else weight(first.key)
            left -= 0 if first.attribution is None else sum(map(weight, first.attribution))
            submission = Submission(
                spec=self._place(first.spec, call, places),
                number=next(self._numbers),
                arguments=pages.pack([item.blob for item in items], described=described),
                delay_s=first.delay_s,
                key=first.key,
                wait_s=self._wait_s,
                conditions=self._conditions(first, call, made) if first.parents else first.conditions,
                limits=() if first.attribution is None else first.attribution.limits,
                label="" if first.attribution is None else first.attribution.label,
            )
            if made is not None:
                place = len(call.submissions)
                made.update((id(item.handle), (place, index)) for index, item in enumerate(items))
            call.submissions.append(submission)
            call.receivers.append(first.handle if len(items) == 1 else Group([item.handle for item in items], size))
        return left

    @staticmethod
    def _conditions(item: Item, call: Call, made: dict[int, tuple[int, int]] | None) -> Conditions:
        """The conditions of a submission with parents: by their numbers, or by their places in the call."""
        after: list[tuple[int, int, int, bool]] = []
        for parent, is_value in item.parents:
            if isinstance(parent, tuple):
                after.append((*parent, is_value))
                continue
            call.kept.append(parent)
            place, index = (made or {}).get(id(parent), (-1, 0))
            if parent._batch:
                index = max(0, parent._index)
                after.append((parent._batch, index, index + 1, is_value))
            elif place >= 0:
                after.append((place - len(call.submissions), index, index + 1, is_value))
            else:  # it was refused
                after.append((NOWHERE, 0, 1, is_value))
        return replace(item.conditions or Conditions(), after=tuple(after))

    def _take_items(self, most_bytes: int, *, alone: bool) -> tuple[list[Item], bool]:
        """Take out the submissions that fit; if the call is otherwise empty, the first item, whatever its size. And
        whether there are descriptions among them.
        """
        taken: list[Item] = []
        described = False
        seen: dict[int, int] = {}
        with self._lock:
            items = self._items
            while items and len(taken) < CALL_SUBMISSIONS:
                spec = items[0].spec
                most_bytes -= _share(items[0], taken[-1] if taken else None)
                if id(spec) not in seen:
                    most_bytes -= self._weight(spec, seen)
                    seen[id(spec)] = 0
                if most_bytes < 0 and (taken or not alone):
                    break
                taken.append(item := items.popleft())
                self._taken += 1
                self._bytes -= item.weight
                described = described or item.described
            if taken:
                self._room.notify_all()
        if self._hopeful:
            self._tell_hopeful()
        return taken, described

    def _gather_feeds(self, left: int, call: Call, places: dict[int, int]) -> int:
        """Add pieces of maps to a call, of each in turn; the bytes that are left of it."""
        for feed in list(self._feeds):
            if left <= 0:
                break
            left -= self._gather_feed(feed, left, call, places)
            with self._lock:  # for readers that must see all
                self._feeds.remove(feed)
                if not feed.sealed:
                    self._feeds.append(feed)
            if feed.sealed and not feed.sent:
                call.empty.append(feed)
        return left

    def _gather_feed(self, feed: BatchUpload, most_bytes: int, call: Call, places: dict[int, int]) -> int:
        size = self._weight(feed.spec, places)
        if feed.stopped and feed.described:
            call.dropped.extend(feed.blobs)
        for offset, page, last in feed.pieces(most_bytes - size, self._max_piece, alone=not call.submissions):
            own = feed.own_of(offset, pages.count(page))
            size += len(page) + _OVERHEAD + _PARENT_OVERHEAD * sum([len(waits.parents) for _, waits in own])
            for _, waits in own:
                call.kept.extend(waits.handles)
            submission = Submission(
                spec=self._place(feed.spec, call, places),
                number=next(self._numbers),
                arguments=page,
                batch=feed.batch.number or None,
                offset=offset,
                complete=last,
                delay_s=feed.delay_s,
                key=feed.key,
                follow=feed.follow,
                wait_s=self._wait_s,
                conditions=feed.conditions,
                items=tuple([(place, waits.parents) for place, waits in own]),
            )
            call.submissions.append(submission)
            call.receivers.append(feed)
        return size

    def _weight(self, spec: Spec, places: dict[int, int]) -> int:
        """Bytes of a submission beside its arguments; many if its function travels by value, and is new."""
        if id(spec) in places:
            return _OVERHEAD
        latest, size = self._weighed
        if latest is not spec:
            size = _OVERHEAD + weight(spec)
            self._weighed = spec, size
        return size

    @staticmethod
    def _place(spec: Spec, call: Call, places: dict[int, int]) -> int:
        place = places.get(id(spec))
        if place is None:
            place = places[id(spec)] = len(call.specs)
            call.specs.append(spec)
        return place

    def empty_after_fork(self) -> list[Receiver]:
        """As `empty`, if a thread that does not exist here may hold the lock."""
        return [*[item.handle for item in self._items], *self._feeds]

    def empty(self) -> list[Receiver]:
        """Take out everything, unsent; the receivers."""
        with self._lock:
            left: list[Receiver] = [item.handle for item in self._items]
            self._items.clear()
            self._bytes = 0
            left += self._feeds
            self._feeds.clear()
            self._room.notify_all()
        return left

    @property
    def is_empty(self) -> bool:
        """Whether no submission waits."""
        return not self._items and not self._feeds


def _share(item: Item, before: Item | None) -> int:
    """Bytes that an item adds to a call, without its function and options: it may be a submission of its own."""
    size = len(item.blob) + _BLOB_OVERHEAD
    if item.parents:
        size += len(item.parents) * _PARENT_OVERHEAD
    if item.key is not None:
        size += weight(item.key)
    if before is not None and before.spec is item.spec and before[_BESIDE] == item[_BESIDE] and item.key is None:
        return size
    return size + _OVERHEAD + (0 if item.attribution is None else sum(map(weight, item.attribution)))


def _runs(items: list[Item], most: int) -> Iterator[list[Item]]:
    """Items that may travel as one batch: neighbours with one function and options, so that their order stays."""
    run: list[Item] = []
    spec: Spec | None = None
    beside: Any = ()
    for item in items:
        if item.spec is not spec or item[_BESIDE] != beside or item.key is not None or len(run) >= most:
            if run:
                yield run
            run, spec, beside = [], item.spec, item[_BESIDE]
        run.append(item)
    if run:
        yield run
