"""Lines of waiting tasks, and the choice of the next one.

Rules:

1. Tasks that wait in one queue, and have the same needs (`core.needs`; nearly all have none), form a *line*. A line is
   served in its order: by urgency, then first in, first out.
2. Inside a line, tasks with the same limits form one *group*, a heap of runs; tasks without limits (nearly all) are in
   the line's own heap. A group is *open*, or *parked* at a bucket (`core.limits`) that permits no start now. A grant
   looks at open groups only, so parked tasks hold up nobody and cost nothing, whatever their number.
3. A group is parked when it comes up while one of its buckets is shut; or when it begins to wait while a group of its
   line that comes before it is open at the same bucket. At every bucket with room, one group of each line is open that
   comes before all groups parked there. So no group is forgotten, none overtakes, and no event releases a crowd:
   whenever the open group is served, parked elsewhere or used up, the next one is opened.
4. A more urgent line is always served first. Lines of equal urgency take turns, by their weights: the lease of k tasks
   costs k / weight, and the line that has paid least is next (start-time fair queueing). A line that gets work anew
   starts level with the others. Workers that serve other queues share them out among themselves. Lines of one queue
   have one account, and are served as if they were one. A turn of tiny tasks goes on for a few of them.
5. A line may be paused: it takes tasks, and hands out none.

A run that comes up may be stale (cancelled, taken twice); the queue's state tells whether it is true (`true_top`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from dtq.core.batches import SpecEntry
from dtq.core.heap import Place, Run, RunHeap, Tops
from dtq.core.limits import Bucket, Limits
from dtq.core.needs import Need

#: Most lines whose shares are remembered for one set of workers, and most such sets.
_MOST_SHARES: Final = 4_096
_MOST_SETS: Final = 256
#: Most tasks of one turn, and most seconds by their specs' estimates: tasks that take next to nothing are leased one by
#: one in small batches, and a look at all lines for each would cost more than they do.
_TURN: Final = 32
_TURN_S: Final = 0.002
#: Before every possible place.
_FRONT: Final = (float("-inf"), 0.0, 0, 0)


class Group(RunHeap):
    """Tasks of one line with the same limits."""

    __slots__ = ("buckets", "limits", "line", "parked", "version")

    def __init__(self, line: Line, limits: tuple[str, ...]) -> None:
        super().__init__()
        self.line = line
        self.limits = limits
        #: The buckets of those of its limits that bound anything.
        self.buckets: tuple[Bucket, ...] = ()
        #: The `Limits.version` of these buckets.
        self.version = -1
        #: The bucket at which it waits; None if it is open.
        self.parked: Bucket | None = None

    @property
    def paced(self) -> bool:
        """Whether a rate bounds it: its leases are starts."""
        return any([bucket.rule is not None and bucket.rule.interval_s is not None for bucket in self.buckets])

    @property
    def has_plenty(self) -> bool:
        """Whether its limits allow at least as much more as is leased; or anything, where nothing is."""
        return all([bucket.has_plenty for bucket in self.buckets])

    def most(self, most: int) -> int:
        """Most tasks of one lease, out of this many."""
        for bucket in self.buckets:
            rule = bucket.rule
            if rule is not None:
                if rule.interval_s is not None:
                    return 1
                if rule.concurrency is not None:
                    most = min(most, rule.concurrency - bucket.used)
        return most


class Standing:
    """The groups of one line that count against one bucket."""

    __slots__ = ("open", "parked")

    def __init__(self) -> None:
        self.open: set[Group] = set()
        self.parked: Tops[tuple[str, ...]] = Tops()


class Line:
    """Waiting tasks of one queue with the same needs."""

    __slots__ = ("groups", "name", "need", "open", "paused", "plain", "queue")

    def __init__(self, name: str, queue: str, need: Need | None, *, paused: bool) -> None:
        #: Its name: the queue, for tasks without needs.
        self.name = name
        self.queue = queue
        self.need = need
        self.paused = paused
        #: Tasks without limits.
        self.plain = RunHeap()
        #: All other tasks, by their limits; None if there never were any.
        self.groups: dict[tuple[str, ...], Group] | None = None
        #: The open groups, by their first run.
        self.open: Tops[tuple[str, ...]] = Tops()

    def is_empty(self) -> bool:
        """Whether no task waits in it."""
        return not self.plain and not self.groups

    def open_heaps(self) -> Iterator[RunHeap]:
        """Its heaps from which tasks may be handed out, as far as is known."""
        yield self.plain
        yield from (group for group in (self.groups or {}).values() if group.parked is None)

    def heaps(self) -> Iterator[RunHeap]:
        """All of its heaps."""
        yield self.plain
        yield from (self.groups or {}).values()


class Kind:
    """The lines with one need."""

    __slots__ = ("lines", "need", "tops")

    def __init__(self, need: Need) -> None:
        self.need = need
        #: Number of these lines.
        self.lines = 0
        #: Each line by its urgency, its queue's paid cost among workers that serve all queues, and its first run.
        self.tops: Tops[str] = Tops()


class Share:
    """The accounts of lines among the workers that serve the same queues."""

    __slots__ = ("_paid", "_virtual")

    def __init__(self) -> None:
        #: By urgency, the paid cost of the last served line before that service.
        self._virtual: dict[int, float] = {}
        #: By queue and urgency, its paid cost.
        self._paid: dict[tuple[str, int], float] = {}

    def paid(self, queue: str, urgency: int) -> float:
        """The paid cost of a line as it counts: an absent line has saved up nothing."""
        return max(self._paid.get((queue, urgency), 0.0), self._virtual.get(urgency, 0.0))

    def charge(self, queue: str, urgency: int, cost: float) -> None:
        """Charge a line for a grant."""
        paid = self.paid(queue, urgency)
        self._virtual[urgency] = paid
        self._paid[queue, urgency] = paid + cost
        if len(self._paid) > _MOST_SHARES:
            self._paid = {at: p for at, p in self._paid.items() if p > self._virtual.get(at[1], 0.0)}
            while len(self._paid) > _MOST_SHARES // 2:
                del self._paid[next(iter(self._paid))]


class Lines:
    """All lines.

    Args:
        true_top: returns the first true run of a heap, and throws stale ones before it away.
        limits: the limits.
    """

    def __init__(self, true_top: Callable[[RunHeap], Run | None], limits: Limits) -> None:
        self._true_top = true_top
        self.limits = limits
        self._lines: dict[str, Line] = {}
        #: Whether several lines exist: only then is anything shared out.
        self.several = False
        #: Number of arrivals of tasks that a worker may be given.
        self.pushed = 0
        #: The paused queues, and the weights that are not 1.
        self.paused: set[str] = set()
        self.weights: dict[str, int] = {}
        #: By name, the needs of waiting tasks; empty if none has any.
        self.needed: dict[str, Kind] = {}
        #: Number of times that tasks with a need have left the lines, or were barred from grants: resources kept for
        #: them are free for others.
        self.left = 0
        #: With several lines, those without a need: each by its urgency, its paid cost among workers that serve all
        #: queues, and its first run.
        self._tops: Tops[str] = Tops()
        #: By the queues that workers serve.
        self._shares: dict[tuple[str, ...], Share] = {}
        self._share = Share()
        #: The line whose turn it still is among workers that serve all queues, its urgency, and its tasks that have not
        #: been paid for.
        self._turn: tuple[Line, int, int] | None = None

    def __iter__(self) -> Iterator[Line]:
        return iter(list(self._lines.values()))

    def get(self, name: str) -> Line | None:
        """The line of that name; None if no task waits in it."""
        return self._lines.get(name)

    def needs(self) -> list[Need]:
        """The needs of waiting tasks."""
        return [kind.need for kind in self.needed.values()]

    def _of(self, queue: str) -> list[Line]:
        """All lines of a queue."""
        names = [queue, *(kind.need.line(queue) for kind in self.needed.values())]
        return [self._lines[name] for name in names if name in self._lines]

    # -- beginning to wait ----------------------------------------------------------------------------------------

    def push(self, entry: SpecEntry, run: Run, limits: tuple[str, ...] = ()) -> None:
        """Add waiting tasks."""
        line = self._lines.get(entry.line)
        if line is None:
            line = self._begin(entry)
        if limits:
            self._push_limited(line, limits, run)
            return
        if not line.paused:
            self.pushed += 1
        line.plain.push(run)
        if self.several or line.need is not None:
            self._came(line, run)

    def absorb(self, entry: SpecEntry, heap: RunHeap, limits: tuple[str, ...]) -> None:
        """Add many runs of one queue and the same limits; the given heap is not used after that."""
        if limits:
            for run in heap.runs():
                self.push(entry, run, limits)
            return
        line = self._lines.get(entry.line) or self._begin(entry)
        top = heap.top()
        self.pushed += len(heap)
        line.plain.absorb(heap)
        if (self.several or line.need is not None) and top is not None:
            self._came(line, top)

    def remove(self, batches: Collection[int], queues: Iterable[str]) -> None:
        """Take all runs of some batches out of the lines of some queues: the caller is about to put them elsewhere."""
        for line in [line for queue in queues for line in self._of(queue)]:
            for heap in line.heaps():
                heap.without(batches)

    def _begin(self, entry: SpecEntry) -> Line:
        line = Line(entry.line, entry.queue, entry.need, paused=entry.queue in self.paused)
        self._lines[line.name] = line
        if line.need is not None:
            kind = self.needed.setdefault(line.need.name, Kind(line.need))
            kind.lines += 1
        if len(self._lines) == 2:
            self.several = True
            for name, other in self._lines.items():
                if other.need is None:
                    self._tops.pushed(name, _FRONT)
        return line

    def _end(self, line: Line) -> None:
        if self._turn is not None and self._turn[0] is line:
            self._end_turn()
        del self._lines[line.name]
        self._tops.discard(line.name)
        if line.need is not None:
            kind = self.needed[line.need.name]
            kind.tops.discard(line.name)
            kind.lines -= 1
            if not kind.lines:
                del self.needed[line.need.name]
        if self.several and len(self._lines) < 2:
            self.several = False
            self._tops.clear()

    def _came(self, line: Line, run: Run) -> None:
        """Announce new tasks in a line that stands among others, or has a need."""
        tops = self.front_of(line)
        known = tops.place_of(line.name)
        if known is not None and (known[0] < run.rank or (known[0] == run.rank and known[2] < run.batch)):
            return  # a line's paid cost only grows
        place = (run.rank, self._share.paid(line.queue, run.rank), run.batch, run.lo)
        tops.pushed(line.name, place)

    def front_of(self, line: Line) -> Tops[str]:
        """The order in which a line comes up that stands among others, or has a need."""
        return self._tops if line.need is None else self.needed[line.need.name].tops

    def _push_limited(self, line: Line, limits: tuple[str, ...], run: Run) -> None:
        if line.groups is None:
            line.groups = {}
        group = line.groups.get(limits)
        if group is None:
            group = line.groups[limits] = Group(line, limits)
            group.push(run)
            self._look_up(group)
            behind = self._behind(group, run)
            if behind is None:
                self._open(group)
            else:
                self._park(group, behind, run)
            return
        top = group.top()
        group.push(run)
        if group.parked is None:
            self.pushed += 1
            if top is None or run < top:
                line.open.pushed(limits, run[:3])
                if self.several or line.need is not None:
                    self._came(line, run)
        elif top is None or run < top:
            standing = group.parked.standings[line.name]
            standing.parked.pushed(limits, run[:3])
            self._replenish(group.parked, line)

    @staticmethod
    def _behind(group: Group, run: Run) -> Bucket | None:
        """A bucket at which another group of the line that comes before this one is open."""
        for bucket in group.buckets:
            standing = bucket.standings.get(group.line.name)
            if standing is not None and _is_before(standing, run):
                return bucket
        return None

    # -- open and parked ------------------------------------------------------------------------------------------

    def _look_up(self, group: Group) -> None:
        """Find the buckets of a group that is neither open nor parked."""
        if group.version == self.limits.version:
            return
        before = group.buckets
        found = (self.limits.bucket(name) for name in group.limits)
        # A bucket without a limit counts as long as groups are parked at it: they are let go one after another.
        group.buckets = tuple(b for b in found if b is not None and (b.rule is not None or b.standings))
        group.version = self.limits.version
        for bucket in group.buckets:
            bucket.groups += 1
        for bucket in before:
            bucket.groups -= 1
            self.limits.forget_if_idle(bucket, 0.0)

    def _open(self, group: Group) -> None:
        """Open a group that is neither open nor parked."""
        self._look_up(group)
        line = group.line
        group.parked = None
        for bucket in group.buckets:
            self._standing(bucket, line).open.add(group)
        top = group.top()
        if top is not None:
            self.pushed += 1
            line.open.pushed(group.limits, top[:3])
            if self.several or line.need is not None:
                self._came(line, top)

    def _close(self, group: Group) -> None:
        """Make a group neither open nor parked; its entry in the line's, or the bucket's, order is removed already."""
        if group.parked is not None:
            self._tidy(group.parked, group.line)
            group.parked = None
            return
        for bucket in group.buckets:
            standing = bucket.standings.get(group.line.name)
            if standing is not None:
                standing.open.discard(group)
                self._tidy(bucket, group.line)

    def _park(self, group: Group, bucket: Bucket, run: Run) -> None:
        """Park a group that is neither open nor parked at a bucket."""
        group.parked = bucket
        self._standing(bucket, group.line).parked.pushed(group.limits, run[:3])

    def _end_group(self, group: Group, now: float) -> None:
        """Remove an empty group that is neither open nor parked."""
        assert group.line.groups is not None
        del group.line.groups[group.limits]
        for bucket in group.buckets:
            bucket.groups -= 1
            self.limits.forget_if_idle(bucket, now)

    @staticmethod
    def _standing(bucket: Bucket, line: Line) -> Standing:
        standing = bucket.standings.get(line.name)
        if standing is None:
            standing = bucket.standings[line.name] = Standing()
        return standing

    @staticmethod
    def _tidy(bucket: Bucket, line: Line) -> None:
        standing = bucket.standings.get(line.name)
        if standing is not None and not standing.open and not standing.parked:
            del bucket.standings[line.name]

    def _replenish(self, bucket: Bucket, line: Line, now: float = 0.0) -> None:
        """Open the first of a line's groups that are parked at a bucket, unless a group that comes before is open
        there.
        """
        standing = bucket.standings.get(line.name)
        while standing is not None and (first := standing.parked.peek()) is not None:
            assert line.groups is not None
            group = line.groups[first[1]]
            run = self._true_top(group)
            at: Place | None = run[:3] if run is not None else None
            if at is not None and at != first[0]:
                standing.parked.moved(at)
                continue
            if run is not None and _is_before(standing, run):
                return
            standing.parked.remove_first()
            self._close(group)
            if run is not None:
                self._open(group)
                return
            self._end_group(group, now)
            standing = bucket.standings.get(line.name)

    def _next(self, line: Line, buckets: Iterable[Bucket], now: float) -> None:
        """After an open group lost its first place at its buckets: the next group of each may go, now or later.

        It may be parked behind the lost one, and so at a bucket whose next look nobody has planned.
        """
        for bucket in buckets:
            standing = bucket.standings.get(line.name)
            if standing is None or not standing.parked:
                continue
            if bucket.shut(now):
                self.limits.look_again(bucket, now)
            else:
                self._replenish(bucket, line, now)

    # -- granting -------------------------------------------------------------------------------------------------

    def first(self, queues: tuple[str, ...], now: float) -> RunHeap | None:
        """The heap with the next run for a worker, which is true; None if there is none. For use if no waiting task has
        a need.

        Args:
            queues: the worker's queues; empty for all.
            now: the time.
        """
        if queues:
            return self._first_among(queues, now)
        if self._turn is not None:
            heap = self._go_on(self._turn[0], self._turn[1], now)
            if heap is not None:
                return heap
        heap = self._first_in(self._tops, now) if self.several else None
        return self._alone(now) if heap is None else heap  # all others may have ended meanwhile

    def _go_on(self, line: Line, rank: int, now: float) -> RunHeap | None:
        """The next heap of the line whose turn it is; None if its turn is over."""
        first = self._tops.peek()
        if first is not None and first[0][0] >= rank:  # no line is more urgent
            heap = self._first_of(line, now)
            run = None if heap is None else heap.top()
            if run is not None and run.rank == rank and self._turn is not None:
                return heap
        self._end_turn()
        return None

    def _end_turn(self) -> None:
        """The line whose turn it was pays, and goes to the place of its next one."""
        if self._turn is not None:
            line, rank, count = self._turn
            self._turn = None
            self._share.charge(line.queue, rank, count / self.weights.get(line.queue, 1))
            self._give_turn(line)

    def _alone(self, now: float) -> RunHeap | None:
        """The next heap of the only line; None with several lines, or none."""
        if not self.several:
            for line in self._lines.values():
                return self._first_of(line, now)
        return None

    def _first_in(self, tops: Tops[str], now: float) -> RunHeap | None:
        """The first heap of several lines in their common order."""
        while (first := tops.peek()) is not None:
            place, name = first
            line = self._lines.get(name)
            heap = None if line is None else self._first_of(line, now)
            run = None if heap is None else heap.top()
            now_first = tops.peek()
            is_first = now_first is not None and now_first[1] == name
            if line is None or run is None:
                if is_first:
                    tops.remove_first()
                continue
            true: Place = (run.rank, self._share.paid(line.queue, run.rank), run.batch, run.lo)
            if true == place or now_first is None:
                return heap
            if is_first:
                tops.moved(true)
        return None

    def first_of(
        self, queues: tuple[str, ...], kinds: Iterable[Need | None], now: float
    ) -> tuple[Need | None, RunHeap] | None:
        """The next run for a worker among tasks with some needs; None if there is none.

        Args:
            queues: the worker's queues; empty for all.
            kinds: the needs; None for tasks without needs.
            now: the time.

        Returns:
            The run's need, and the heap with the run, which is true.
        """
        share = self._share_of(queues) if queues else self._share
        best: tuple[int, float, Run] | None = None
        found: tuple[Need | None, RunHeap] | None = None
        for need in kinds:
            for queue, heap in self._firsts(queues, need, now):
                run = heap.top()
                if run is not None and (best is None or (run.rank, share.paid(queue, run.rank), run) < best):
                    best, found = (run.rank, share.paid(queue, run.rank), run), (need, heap)
        return found

    def _firsts(self, queues: tuple[str, ...], need: Need | None, now: float) -> Iterator[tuple[str, RunHeap]]:
        """The candidate heaps of one kind; each with its queue."""
        names = [queue if need is None else need.line(queue) for queue in queues]
        if not queues:
            kind = None if need is None else self.needed.get(need.name)
            tops = self._tops if need is None else None if kind is None else kind.tops
            if need is None and not self.several:
                names = [name for name, line in self._lines.items() if line.need is None]
            elif tops is not None and self._first_in(tops, now) is not None and (top := tops.peek()) is not None:
                names = [top[1]]
        for name in names:
            line = self._lines.get(name)
            heap = None if line is None else self._first_of(line, now)
            if line is not None and heap is not None:
                yield line.queue, heap

    def _first_among(self, queues: tuple[str, ...], now: float) -> RunHeap | None:
        found: list[tuple[str, RunHeap, Run]] = []
        for name in queues:
            line = self._lines.get(name)
            heap = None if line is None else self._first_of(line, now)
            run = None if heap is None else heap.top()
            if heap is not None and run is not None:
                found.append((name, heap, run))
        if len(found) < 2:
            return found[0][1] if found else None
        share = self._share_of(queues)
        return min(found, key=lambda each: (each[2].rank, share.paid(each[0], each[2].rank), each[2]))[1]

    def _first_of(self, line: Line, now: float) -> RunHeap | None:
        """The next heap of a line; None if no task of it may be handed out."""
        if line.paused:
            return None
        run = self._true_top(line.plain)
        if not line.groups:
            if run is None:
                self._end(line)
                return None
            return line.plain
        group = self._first_open(line, now)
        top = None if group is None else group.top()
        if run is None or (top is not None and top < run):
            if group is None and line.is_empty():
                self._end(line)
            return group
        return line.plain

    def _first_open(self, line: Line, now: float) -> Group | None:
        """The first open group of a line whose tasks may be handed out; groups before it are parked."""
        groups = line.groups
        assert groups is not None
        while (first := line.open.peek()) is not None:
            group = groups[first[1]]
            run = self._true_top(group)
            if run is None:
                self._used_up(group, now)
                continue
            at: Place = run[:3]
            if at != first[0]:
                line.open.moved(at)
                self._next(line, group.buckets, now)
                continue
            if group.version != self.limits.version:
                self._close(group)
                self._look_up(group)
                for bucket in group.buckets:
                    self._standing(bucket, line).open.add(group)
            shut = None
            for bucket in group.buckets:
                if bucket.shut(now):
                    shut = bucket
                    break
            if shut is None:
                return group
            line.open.remove_first()
            self._close(group)
            self._park(group, shut, run)
            self.limits.look_again(shut, now)
            self._next(line, group.buckets, now)
        return None

    def took(self, heap: RunHeap, entry: SpecEntry, queues: tuple[str, ...], count: int, now: float) -> None:
        """Account for this many tasks of a heap (`first`) that were leased to a worker that serves some queues, or all
        (none).
        """
        if isinstance(heap, Group):
            for bucket in heap.buckets:
                bucket.take(count, now)
            self._put_off(heap, now)
        if self.needed:
            self.left += 1
        if not self.several:
            return
        if queues or entry.need is not None:
            self.charge(entry, queues, count)
        else:
            self._took_in_turn(entry, count)

    def _took_in_turn(self, entry: SpecEntry, count: int) -> None:
        line = self._lines[entry.line]
        if self._turn is not None:
            if self._turn[0] is line and self._turn[1] == entry.urgency:
                count += self._turn[2]
            else:
                self._end_turn()
        self._turn = line, entry.urgency, count
        each_s = entry.expected_s()
        if each_s is None or count >= _TURN or count * each_s >= _TURN_S:
            self._end_turn()

    def _put_off(self, group: Group, now: float) -> None:
        """Move an open group that has lost its first tasks to the place of its next ones, or remove it, so that its
        line need not find that out when it comes up.
        """
        line = group.line
        first, top = line.open.peek(), group.top()
        if first is None or first[1] != group.limits:
            return
        if top is None:
            self._used_up(group, now)
        elif top[:3] != first[0]:
            line.open.moved(top[:3])
            self._next(line, group.buckets, now)

    def _used_up(self, group: Group, now: float) -> None:
        """Remove an empty group, which is the first of the open ones of its line."""
        group.line.open.remove_first()
        self._close(group)
        self._end_group(group, now)
        self._next(group.line, group.buckets, now)

    def _give_turn(self, line: Line) -> None:
        """Move the line that was served to the place of its next turn: other lines come up at once."""
        first = self._tops.peek()
        if first is None or first[1] != line.name:
            return
        front, run = line.open.peek(), line.plain.top()
        at: Place | None = None if run is None else run[:3]
        if front is not None and (at is None or front[0] < at):
            at = front[0]
        if at is None:
            return  # the line ends when it comes up
        place = (at[0], self._share.paid(line.queue, int(at[0])), at[1], at[2])
        if place > first[0]:
            self._tops.moved(place)

    def charge(self, entry: SpecEntry, queues: tuple[str, ...], count: int) -> None:
        """Have a line pay for this many tasks, if there are several lines; see `took`."""
        if len(queues) != 1:
            share = self._share_of(queues) if queues else self._share
            share.charge(entry.queue, entry.urgency, count / self.weights.get(entry.queue, 1))

    def gave_back(self, limits: tuple[str, ...], count: int) -> None:
        """Account for this many tasks with limits whose lease is over."""
        for name in limits:
            bucket = self.limits.buckets.get(name)
            if bucket is None:
                continue
            full = bucket.full
            bucket.used -= count
            if full and bucket.standings:
                self._all_next(bucket)
            elif bucket.used == 0 and not bucket.groups:
                self.limits.forget_if_idle(bucket, 0.0)

    def _share_of(self, queues: tuple[str, ...]) -> Share:
        share = self._shares.get(queues)
        if share is None:
            if len(self._shares) >= _MOST_SETS:
                del self._shares[next(iter(self._shares))]
            share = self._shares[queues] = Share()
        return share

    # -- events ---------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let groups go whose rate has room again."""
        for bucket in self.limits.due(now):
            if bucket.shut(now):
                self.limits.look_again(bucket, now)
            else:
                self._all_next(bucket)

    def limits_changed(self) -> None:
        """Look at all tasks that wait for a limit, after limits were added, removed or changed."""
        for bucket in list(self.limits.buckets.values()):
            self._all_next(bucket)
        self.pushed += 1

    def waiting_at(self, bucket: Bucket, waiting: Callable[[Run], int]) -> int:
        """Number of tasks that wait at a bucket."""
        count = 0
        for name, standing in bucket.standings.items():
            groups = self._lines[name].groups or {}
            count += sum(groups[limits].count(waiting) for limits in standing.parked.names())
            count += sum(group.count(waiting) for group in standing.open)
        return count

    def _all_next(self, bucket: Bucket) -> None:
        for name in list(bucket.standings):
            self._replenish(bucket, self._lines[name])

    def pause(self, queue: str) -> None:
        """Hand out no tasks of a queue."""
        self.paused.add(queue)
        self.left += 1
        for line in self._of(queue):
            line.paused = True

    def resume(self, queue: str) -> None:
        """Hand out tasks of a queue again."""
        self.paused.discard(queue)
        for line in self._of(queue):
            if line.paused:
                line.paused = False
                self.pushed += 1
                if self.several or line.need is not None:
                    self.front_of(line).pushed(line.name, _FRONT)

    def refresh(self, queue: str) -> None:
        """Look at the front of a queue again, after its waiting tasks were moved about."""
        self.pushed += 1
        for line in self._of(queue):
            if self.several or line.need is not None:
                self.front_of(line).pushed(line.name, _FRONT)


def _is_before(standing: Standing, run: Run) -> bool:
    """Whether an open group of a standing comes before a run."""
    return any((top := group.top()) is not None and top < run for group in standing.open)
