"""The engine without a file: all rows in dictionaries, gone with the process.

For ``--memory`` and for tests. It keeps the whole contract, except that rows do not survive the process; closing and
opening it again is a restart that loses nothing.
"""

from __future__ import annotations

import logging
import secrets
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from dtq.core.changes import (
    ArgumentPage,
    ArgumentsForgotten,
    AttemptRow,
    BatchesRead,
    BatchRow,
    BatchWithdrawn,
    Change,
    DefinitionEnded,
    DefinitionRow,
    EdgeRow,
    Expired,
    ExpiryRow,
    HoldEnded,
    HoldRow,
    LeaseEnded,
    LeaseRow,
    OutputPage,
    OwnExpired,
    Read,
    ResultPage,
    Row,
    SpecRow,
    Stored,
    TaskForgotten,
    TaskRow,
    Totals,
)
from dtq.engines.base import Committed, EndedRun, Opened, Page, StoredBatch, fill, recall, stored_batch
from dtq.engines.by_end import ByEnd, End
from dtq.engines.places import OwnPlace
from dtq.engines.segments import Segments
from dtq.engines.selection_filter import SelectionFilter, cut_tail, latest_first
from dtq.engines.uses import DESCRIBED, Uses, named_by
from dtq.errors import StoreError
from dtq.model.latest import LatestByKey
from dtq.model.pages import PAGE_BLOBS
from dtq.model.snapshots import Attempt, Selection
from dtq.model.states import FINAL, State
from dtq.model.values import Value
from dtq.records import replace
from dtq.values.place import MAX_VALUE, Place

_log = logging.getLogger("dtq.engines")

_by_lo = attrgetter("lo")
_by_attempt = attrgetter("lo", "attempt")
#: Behind the last task of any batch.
_ALL: Final = 1 << 62


class MemoryEngine:
    """Keeps rows in memory, and values in directories of its own, which end with it.

    Args:
        max_value: largest value in bytes.
        epoch: number of the run before its first one, below 2**30. No file keeps the number of earlier runs: a process
            whose workers may have served an earlier coordinator draws it at random, so that their old leases are not
            taken for leases of this run.
    """

    def __init__(self, *, max_value: int = MAX_VALUE, epoch: int = 0) -> None:
        self._max_value = max_value
        #: Made on first use: few tests have values.
        self._own: OwnPlace | None = None
        self._segments: Segments | None = None
        self._uses = Uses()
        self._keeps_values = True
        #: Held by a commit and by every reader, so that readers see whole commits.
        self._lock = threading.Lock()
        self._open = False
        self._epoch = epoch
        self._identity = secrets.token_bytes(8)
        self._totals = Totals()
        self._specs: dict[int, SpecRow] = {}
        #: By spec, the batches that may need its function again: the others need its name only.
        self._callers: dict[int, set[int]] = {}
        #: Specs that had callers before the current commit.
        self._unused: set[int] = set()
        self._batches: dict[int, BatchRow] = {}
        #: Highest number of a batch so far, and whether batches came in rising order.
        self._last = 0
        self._rising = True
        self._keys = LatestByKey()
        #: Finished batches with a time of their own, by its end; some batches may no longer have one, or keep dead
        #: letters only.
        self._expiring: dict[float, set[int]] = {}
        self._tasks: dict[int, dict[int, TaskRow]] = {}
        self._attempts: dict[int, dict[int, dict[int, Attempt]]] = {}
        self._leases: dict[int, LeaseRow] = {}
        self._holds: dict[tuple[str, bytes], HoldRow] = {}
        self._definitions: dict[tuple[str, str], DefinitionRow] = {}
        #: By batch, its children; and its parents, past ones included.
        self._children: dict[int, set[int]] = {}
        self._parents: dict[int, list[int]] = {}
        #: The pages of each batch in rising order.
        self._arguments: dict[int, list[ArgumentPage]] = {}
        self._results: dict[int, list[ResultPage]] = {}
        #: The pages of output, in the order of their first tasks and attempts.
        self._output: dict[int, list[OutputPage]] = {}
        #: All ended tasks that have a row, and all pages of results: dead letters are few among many.
        self._by_end = {state: ByEnd() for state in FINAL}
        #: Batches that may have a tail that was cancelled before it started (`cut_tail`).
        self._cut: set[int] = set()
        self._pages: dict[type, Any] = {
            ArgumentPage: self._arguments,
            ResultPage: self._results,
            OutputPage: self._output,
        }
        self._apply: dict[type, Callable[[Any], object]] = {
            LeaseEnded: lambda change: self._leases.pop(change.token, None),
            HoldEnded: lambda change: self._on_hold_ended((change.session, change.digest)),
            DefinitionEnded: lambda change: self._definitions.pop((change.kind, change.name), None),
            TaskForgotten: self._on_task_forgotten,
            BatchWithdrawn: lambda change: self._drop(change.batch),
            ArgumentsForgotten: lambda change: self._forget_arguments(change.batch, self._dead(change.batch)),
            Expired: self._on_expired,
            OwnExpired: self._on_own_expired,
            Read: self._on_read,
            BatchesRead: lambda change: self._no_longer(change.batches),
        }
        self._store: dict[type, Callable[[Any], object]] = {
            SpecRow: self._on_spec,
            BatchRow: self._on_batch,
            TaskRow: self._on_task,
            AttemptRow: self._on_attempt,
            LeaseRow: lambda row: self._leases.__setitem__(row.token, row),
            HoldRow: self._on_hold,
            DefinitionRow: lambda row: self._definitions.__setitem__((row.kind, row.name), row),
            EdgeRow: self._on_edge,
            ArgumentPage: self._on_arguments,
            ResultPage: self._on_results,
            OutputPage: self._on_output,
            Totals: lambda row: setattr(self, "_totals", row),
        }

    @property
    def place(self) -> Place | None:
        """See `Engine.place`."""
        with self._reading():
            if self._own is None and self._keeps_values:
                try:
                    self._own = OwnPlace(self._max_value)
                    self._segments = Segments(self._own.place, "in memory", sync=False, used=self._ranges)
                except OSError as error:
                    self._keeps_values = False
                    _log.warning("large values are kept in memory, as there is no directory for them: %s", error)
            return None if self._own is None else self._own.place

    def open(self) -> Opened:
        """See `Engine.open`. An engine that was closed may be opened again."""
        with self._lock:
            if self._open:
                raise StoreError("in memory", "it is already open")
            self._open = True
            self._epoch += 1
            return Opened(epoch=self._epoch, store=self._identity, totals=self._totals)

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._open = False

    def restore(self) -> Iterable[Row]:
        """See `Engine.restore`."""
        with self._reading():
            rows: list[Row] = []
            specs: set[int] = set()
            live = [row for row in self._batches.values() if row.finished_at is None and row.spec in self._specs]
            for batch in sorted(live, key=attrgetter("batch")):
                if batch.spec not in specs:
                    specs.add(batch.spec)
                    rows.append(self._specs[batch.spec])
                rows.append(batch)
            for batch in sorted(live, key=attrgetter("batch")):
                tasks = self._tasks.get(batch.batch, {})
                rows += [t for _, t in sorted(tasks.items()) if not t.state.final or t.index >= batch.next]
            rows += [lease for _, lease in sorted(self._leases.items())]
            rows += [hold for _, hold in sorted(self._holds.items())]
            rows += [definition for _, definition in sorted(self._definitions.items())]
            moments = {row.expires_at for row in self._batches.values() if row.expires_at is not None}
            rows += [ExpiryRow(at=at) for at in sorted(moments)]
            return rows

    def commit(self, changes: Sequence[Change], *, insist: bool = False) -> Committed:
        """See `Engine.commit`. There is always room."""
        steps = [
            (self._store[type(change.row)], change.row)
            if type(change) is Stored
            else (self._apply[type(change)], change)
            for change in changes
        ]  # all of them before the first is applied, so that a wrong one leaves nothing applied
        with self._reading():
            for apply, what in steps:
                apply(what)
            self._strip()
        segments = self._segments
        if segments is None:
            return Committed()
        return self._give_back(segments)

    def sync(self, values: Sequence[Value]) -> None:
        """See `Engine.sync`: nothing here is to outlast the process."""

    def pages(self, kind: type[Page], batch: int, lo: int, hi: int, room: int | None = None) -> list[Page]:
        """See `Engine.pages`."""
        with self._reading():
            return fill(_overlapping(self._pages[kind].get(batch, []), lo, hi), room)

    def batches(self, numbers: Sequence[int] = (), keys: Sequence[str] = (), most: int = 1) -> list[StoredBatch]:
        """See `Engine.batches`."""
        with self._reading():
            wanted = set(numbers)
            for key in keys:
                wanted.update(self._keys.all(key)[:most])
            found = [self._stored(number) for number in sorted(wanted)]
            return [batch for batch in found if batch is not None]

    def newest(self, before: int, most: int) -> list[StoredBatch]:
        """See `Engine.newest`."""
        with self._reading():
            if not self._rising:
                self._batches = dict(sorted(self._batches.items()))
                self._rising = True
            below = (number for number in reversed(self._batches) if number < before)
            found = (self._stored(number) for number in below)
            return list(islice((batch for batch in found if batch is not None), most))

    def ended(self, selection: Selection, now: float) -> list[EndedRun]:
        """See `Engine.ended`."""
        selector = SelectionFilter(selection, now)
        with self._reading():
            if selector.batches is None:
                streams: list[Iterable[EndedRun]] = [self._all_runs(state, selector) for state in selector.states]
                if State.CANCELLED in selector.states:
                    streams.append(sorted(self._tails(self._cut, selector), key=latest_first, reverse=True))
                return list(selector.first(merge(*streams, key=latest_first, reverse=True)))
            runs = [run for number in selector.batches for run in self._runs(number, selector)]
            return list(selector.first(sorted(runs, key=latest_first, reverse=True)))

    def children(self, parents: Sequence[int]) -> list[int]:
        """See `Engine.children`."""
        with self._reading():
            return sorted({child for parent in parents for child in self._children.get(parent, ())})

    def holds(self, values: Sequence[Value]) -> bool:
        """See `Engine.holds`."""
        if self._segments is not None:
            self._segments.asked(value.segment for value in values)
        with self._reading():
            return all(map(self._uses.has, values))

    def attempts(self, batch: int, index: int, *, first: int = 0, room: int | None = None) -> list[Attempt]:
        """See `Engine.attempts`."""
        with self._reading():
            kept = [attempt for _, attempt in sorted(self._attempts.get(batch, {}).get(index, {}).items())]
        return recall(kept[first:] if first < 0 else [a for a in kept if a.number >= first], room)

    # -- values ---------------------------------------------------------------------------------------------------

    def _give_back(self, segments: Segments) -> Committed:
        """Give back some of the room of unused values."""
        uses = self._uses
        if uses.named:
            try:
                segments.ensure(uses.named)
            except StoreError as error:  # the changes stay applied
                _log.error("%s", error)
            uses.named = []
        if uses.freed:
            segments.freed(uses.freed)
            uses.freed = set()
        if segments.unfinished:
            segments.step()
        return Committed(unfinished=segments.unfinished, again_s=segments.again_s)

    def _ranges(self, segment: int) -> list[tuple[int, int]]:
        with self._lock:
            return self._uses.ranges(segment)

    # -- inside the lock ------------------------------------------------------------------------------------------

    def _reading(self) -> threading.Lock:
        if not self._open:
            raise StoreError("in memory", "it is not open")
        return self._lock

    def _stored(self, number: int) -> StoredBatch | None:
        row = self._batches.get(number)
        spec = None if row is None else self._specs.get(row.spec)
        return None if row is None or spec is None else stored_batch(row, spec.spec)

    def _all_runs(self, state: State, selector: SelectionFilter) -> Iterator[EndedRun]:
        """Ended tasks in one state, latest first and only as far as requested; without tails."""
        if state is State.SUCCEEDED and selector.by_attempt:
            return
        known: dict[int, StoredBatch | None] = {}
        for _, number, lo, is_task in self._by_end[state].latest_first(selector.below):
            if number not in known:
                known[number] = self._wanted(number, selector)
            batch = known[number]
            if batch is not None:
                yield _task_run(batch, self._tasks[number][lo]) if is_task else _page_run(batch, self._page(number, lo))

    def _runs(self, number: int, selector: SelectionFilter) -> Iterator[EndedRun]:
        """Ended tasks of one batch."""
        batch = self._wanted(number, selector)
        if batch is not None:
            yield from (_page_run(batch, page) for page in self._results.get(number, []))
            yield from (_task_run(batch, task) for task in self._tasks.get(number, {}).values() if task.state.final)
            yield from self._tails([number], selector)

    def _tails(self, numbers: Iterable[int], selector: SelectionFilter) -> Iterator[EndedRun]:
        for number in numbers:
            batch = self._wanted(number, selector)
            tail = None if batch is None else cut_tail(batch, selector.now)
            if tail is not None:
                yield tail

    def _wanted(self, number: int, selector: SelectionFilter) -> StoredBatch | None:
        batch = self._stored(number)
        wanted = batch is not None and selector.wants_spec(batch.spec) and selector.wants_label(batch.row.label)
        return batch if wanted else None

    def _page(self, number: int, lo: int) -> ResultPage:
        found = self._results[number]
        return found[bisect_left(found, lo, key=_by_lo)]

    def _on_task(self, row: TaskRow) -> None:
        tasks = self._tasks.setdefault(row.batch, {})
        before = tasks.get(row.index)
        if before is not None and before.state.final:
            self._by_end[before.state].remove(_task_end(before))
        tasks[row.index] = row
        self._await_expiry(self._batches.get(row.batch))
        if row.state.final:
            self._by_end[row.state].add(_task_end(row))

    def _gone(self, rows: Iterable[SpecRow | ArgumentPage | ResultPage | HoldRow]) -> None:
        """Handle removed rows that may name values."""
        if self._uses:
            for row in rows:
                self._uses.remove(named_by(row))

    def _on_spec(self, row: SpecRow) -> None:
        before = self._specs.get(row.number)
        if before is not None:
            self._gone((before,))
        self._specs[row.number] = row
        self._uses.add(named_by(row))

    def _on_hold(self, row: HoldRow) -> None:
        self._on_hold_ended((row.session, row.digest))
        self._holds[row.session, row.digest] = row
        self._uses.add(named_by(row))

    def _on_hold_ended(self, key: tuple[str, bytes]) -> None:
        before = self._holds.pop(key, None)
        if before is not None:
            self._gone((before,))

    def _on_arguments(self, row: ArgumentPage) -> None:
        before = _put(self._arguments.setdefault(row.batch, []), row)
        if before is not None:
            self._gone((before,))
        if row.data >= DESCRIBED:
            self._uses.add(named_by(row))

    def _on_results(self, row: ResultPage) -> None:
        before = _put(self._results.setdefault(row.batch, []), row)
        if before is not None:
            self._by_end[State.SUCCEEDED].remove(_page_end(before))
            self._gone((before,))
        self._by_end[State.SUCCEEDED].add(_page_end(row))
        if row.data >= DESCRIBED:
            self._uses.add(named_by(row))

    def _on_output(self, row: OutputPage) -> None:
        pages = self._output.setdefault(row.batch, [])
        place = bisect_left(pages, _by_attempt(row), key=_by_attempt)
        same = place < len(pages) and _by_attempt(pages[place]) == _by_attempt(row)
        pages[place : place + same] = [row]

    def _forget_output(self, batch: int, lo: int, hi: int, dead: Iterable[int] = ()) -> None:
        """Remove the pages of output wholly in ``[lo, hi)`` that hold none of the dead letters."""
        pages = self._output.get(batch)
        if pages is not None:
            indexes = sorted(dead)
            kept = [page for page in pages if page.lo < lo or page.hi > hi or _any_in(page, indexes)]
            if kept:
                self._output[batch] = kept
            else:
                del self._output[batch]

    def _forget_results(self, batch: int) -> None:
        pages = self._results.pop(batch, ())
        for page in pages:
            self._by_end[State.SUCCEEDED].remove(_page_end(page))
        self._gone(pages)

    def _forget_tasks(self, tasks: Iterable[TaskRow]) -> None:
        for task in tasks:
            if task.state.final:
                self._by_end[task.state].remove(_task_end(task))

    def _on_batch(self, row: BatchRow) -> None:
        before = self._batches.get(row.batch)
        if before is not None and before.key != row.key:
            self._forget_key(before)
        if row.batch > self._last:
            self._last = row.batch
        elif before is None:
            self._rising = False
        self._batches[row.batch] = row
        if row.cut is not None:
            self._cut.add(row.batch)
        self._keys.add(row.key, row.batch)
        self._await_expiry(row)
        if before is not None and before.spec != row.spec:
            self._let_go(before)
        if row.finished_at is None or row.dead or row.user_key:
            self._callers.setdefault(row.spec, set()).add(row.batch)
        else:
            self._let_go(row)

    def _let_go(self, row: BatchRow) -> None:
        """Note that a batch does not need its spec's function any more."""
        callers = self._callers.get(row.spec)
        if callers is not None:
            callers.discard(row.batch)
            if not callers:
                del self._callers[row.spec]
                self._unused.add(row.spec)

    def _strip(self) -> None:
        """Drop the bodies of functions that no batch may need again, and keep their names: bodies may be large."""
        for number in self._unused - self._callers.keys():
            kept = self._specs.get(number)
            if kept is not None and kept.spec.function.body:
                self._gone((kept,))
                nothing_but_its_name = replace(kept.spec.function, body=b"")
                self._specs[number] = replace(kept, spec=replace(kept.spec, function=nothing_but_its_name))
        self._unused.clear()

    def _on_attempt(self, row: AttemptRow) -> None:
        self._attempts.setdefault(row.batch, {}).setdefault(row.index, {})[row.attempt.number] = row.attempt

    def _on_task_forgotten(self, change: TaskForgotten) -> None:
        task = self._tasks.get(change.batch, {}).pop(change.index, None)
        if task is not None:
            self._forget_tasks((task,))
            self._await_expiry(self._batches.get(change.batch))
        if change.history:
            self._attempts.get(change.batch, {}).pop(change.index, None)
            self._forget_output(change.batch, change.index, change.index + 1)

    def _on_expired(self, change: Expired) -> None:
        old = [
            row.batch
            for row in self._batches.values()
            if row.finished_at is not None and row.expires_at is None and row.finished_at < change.before
        ]
        if change.spared:
            spared = set(change.spared)
            old = [number for number in old if number not in spared]
        self._no_longer(old)
        used = {row.spec for row in self._batches.values()}
        self._gone(row for number, row in self._specs.items() if number not in used)
        self._specs = {number: row for number, row in self._specs.items() if number in used}

    def _await_expiry(self, row: BatchRow | None) -> None:
        """QueueState a batch for the end of its own time: it is new, or its dead letters may be gone."""
        if row is not None and row.expires_at is not None:
            self._expiring.setdefault(row.expires_at, set()).add(row.batch)

    def _on_own_expired(self, change: OwnExpired) -> None:
        spared = set(change.spared)
        for at in [at for at in self._expiring if at <= change.at]:
            numbers = self._expiring.pop(at)
            if left := numbers & spared:
                self._expiring[at] = left
                numbers -= left
            self._no_longer(n for n in numbers if n in self._batches and self._batches[n].expires_at == at)

    def _no_longer(self, batches: Iterable[int]) -> None:
        """Remove finished batches, except their dead letters."""
        for batch in batches:
            row = self._batches.get(batch)
            if row is None or row.finished_at is None:
                continue
            dead = self._dead(batch)
            if dead:
                self._trim(batch, dead)
            else:
                self._drop(batch)

    def _on_read(self, change: Read) -> None:
        lo, hi = change.lo, change.hi
        if change.batch in self._output:
            self._forget_output(change.batch, lo, hi, self._dead(change.batch))
        if (results := self._results.get(change.batch)) is not None:
            first, end = bisect_left(results, lo, key=_by_lo), bisect_left(results, hi, key=_by_lo)
            gone = [page for page in results[first:end] if page.hi <= hi]
            for page in gone:
                self._by_end[State.SUCCEEDED].remove(_page_end(page))
            self._gone(gone)
            results[first:end] = [page for page in results[first:end] if page.hi > hi]
        if (arguments := self._arguments.get(change.batch)) is not None:
            first, end = bisect_left(arguments, lo, key=_by_lo), bisect_left(arguments, hi, key=_by_lo)
            dead = sorted(self._dead(change.batch)) if first < end else []
            within = arguments[first:end]
            self._gone(page for page in within if page.hi <= hi and not _any_in(page, dead))
            arguments[first:end] = [page for page in within if page.hi > hi or _any_in(page, dead)]

    def _trim(self, batch: int, dead: dict[int, TaskRow]) -> None:
        self._forget_results(batch)
        self._forget_output(batch, 0, _ALL, dead)
        self._drop_leases(batch)
        self._forget_tasks(task for index, task in self._tasks.get(batch, {}).items() if index not in dead)
        self._tasks[batch] = dead
        attempts = self._attempts.get(batch, {})
        self._attempts[batch] = {index: kept for index, kept in attempts.items() if index in dead}
        self._forget_arguments(batch, dead)

    def _dead(self, batch: int) -> dict[int, TaskRow]:
        return {index: task for index, task in self._tasks.get(batch, {}).items() if task.state is State.DEAD}

    def _forget_arguments(self, batch: int, dead: dict[int, TaskRow]) -> None:
        indexes = sorted(dead)
        pages = self._arguments.get(batch, [])
        self._gone(page for page in pages if not _any_in(page, indexes))
        self._arguments[batch] = [page for page in pages if _any_in(page, indexes)]

    def _drop(self, batch: int) -> None:
        row = self._batches.pop(batch, None)
        if row is not None:
            self._forget_key(row)
            self._let_go(row)
        self._cut.discard(batch)
        self._forget_tasks(self._tasks.pop(batch, {}).values())
        self._attempts.pop(batch, None)
        self._gone(self._arguments.pop(batch, ()))
        self._output.pop(batch, None)
        self._forget_results(batch)
        self._drop_leases(batch)
        for parent in self._parents.pop(batch, ()):
            self._children[parent].discard(batch)
            if not self._children[parent]:
                del self._children[parent]

    def _on_edge(self, row: EdgeRow) -> None:
        children = self._children.setdefault(row.parent, set())
        if row.child not in children:
            children.add(row.child)
            self._parents.setdefault(row.child, []).append(row.parent)

    def _drop_leases(self, batch: int) -> None:
        for token in [token for token, lease in self._leases.items() if lease.batch == batch]:
            del self._leases[token]

    def _forget_key(self, row: BatchRow) -> None:
        self._keys.discard(row.key, row.batch)


def _put(pages: list[Any], page: ArgumentPage | ResultPage) -> Any:
    """Put a page at its place; return the page that was there."""
    if not pages or pages[-1].lo < page.lo:
        pages.append(page)
        return None
    place = bisect_left(pages, page.lo, key=_by_lo)
    if pages[place].lo == page.lo:
        before, pages[place] = pages[place], page
        return before
    pages.insert(place, page)
    return None


def _any_in(page: ArgumentPage | OutputPage, indexes: list[int]) -> bool:
    """Whether one of the tasks with these indexes, in rising order, has its arguments or output in a page."""
    return bisect_left(indexes, page.lo) < bisect_left(indexes, page.hi)


def _task_end(task: TaskRow) -> End:
    return task.ended_at or 0.0, task.batch, task.index, True


def _page_end(page: ResultPage) -> End:
    return page.ended_at, page.batch, page.lo, False


def _task_run(batch: StoredBatch, task: TaskRow) -> EndedRun:
    lo, ended_at = task.index, task.ended_at or 0.0
    return EndedRun(batch=batch, lo=lo, hi=lo + 1, state=task.state, ended_at=ended_at, task=task)


def _page_run(batch: StoredBatch, page: ResultPage) -> EndedRun:
    lo, hi, ended_at = page.lo, page.hi, page.ended_at
    return EndedRun(
        batch=batch,
        lo=lo,
        hi=hi,
        state=State.SUCCEEDED,
        ended_at=ended_at,
        worker=page.worker,
        seconds=page.seconds,
        peak_memory=page.peak_memory,
    )


def _overlapping(pages: list[Any], lo: int, hi: int) -> list[Any]:
    first = bisect_right(pages, lo - PAGE_BLOBS, key=_by_lo)
    return [page for page in pages[first : bisect_left(pages, hi, key=_by_lo)] if page.hi > lo]
