"""Submits ended tasks once more: the same functions, arguments and terms, as new batches.

Arguments are read from the store a piece at a time, and never leave the coordinator; values that they name are kept by
the new rows. The new batches of one *load* are accepted under one hold of the lock and made durable in one commit, all
or none. A selection with more tasks than a load has takes several; finished loads stay done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from dtq.coordinator import queries
from dtq.coordinator.awaiting import Parents, after_of, waited_for
from dtq.coordinator.service import Coordinator
from dtq.coordinator.sessions import SessionState
from dtq.coordinator.submitting import under_way
from dtq.coordinator.vetting import Vetting
from dtq.core import operators
from dtq.core.batches import Batch
from dtq.core.changes import ArgumentPage, Parent
from dtq.engines.base import EndedRun, StoredBatch
from dtq.errors import DtqError, NotEnded, NotRepeatable, ValueGone
from dtq.model import pages, values
from dtq.model.ids import TaskId
from dtq.model.inputs import elements_call
from dtq.model.messages import Conditions, Hello, Role, Submission
from dtq.model.options import Spec, bare
from dtq.model.snapshots import Rerun, RerunReport, Selection
from dtq.model.states import State
from dtq.model.weight import first_within
from dtq.records import dataclass, replace

#: Most tasks and bytes of arguments in one load.
_TASKS: Final = 65_536
_BYTES: Final = 16 << 20
#: Ended runs that are read at a time.
_PAGE: Final = 5_000
#: Bytes of arguments that are read at a time.
_READ: Final = 4 << 20


@dataclass(slots=True)
class _Piece:
    """A piece of a new batch.

    Attributes:
        stored: the earlier batch.
        submission: the piece.
        spec: the function and the terms.
    """

    stored: StoredBatch
    submission: Submission
    spec: Spec


def rerun(c: Coordinator, selection: Selection) -> RerunReport:
    """Submit ended tasks once more; see `Service.rerun`."""
    c.flush()
    _check_ids(c, selection)
    work = _Rerun(c)
    try:
        for number in _numbers(c, selection):
            _rerun_batch(c, selection, number, work)
        work.finish()
    except BaseException:
        work.give_up()
        raise
    made = [Rerun(earlier=old, batch=batch.number, tasks=batch.size) for old, batch in work.made]
    told = tuple(first_within(made, c.setup.answer_bytes))
    return RerunReport(tasks=sum([each.tasks for each in made]), batches=told, more=len(told) < len(made))


def _rerun_batch(c: Coordinator, selection: Selection, number: int, work: _Rerun) -> None:
    """Submit the selected tasks of one batch once more."""
    ids = tuple([at for at in selection.ids if at[0] == number]) or ((number, -1),)
    runs = _merged(_ended(c, replace(selection, ids=ids)), {index for _, index in ids})
    try:
        for piece in _pieces(c, runs):
            work.add(piece)
    except NotRepeatable:
        if selection.ids or c.engine.batches([number]):
            raise
        work.drop(number)  # it has expired since the filters matched it


# -- the selected tasks -------------------------------------------------------------------------------------------


def _ended(c: Coordinator, selection: Selection) -> Iterator[EndedRun]:
    """The matching ended runs, latest first; tasks that end meanwhile are not among them."""
    selection = replace(selection, limit=_PAGE, after=None)
    while runs := c.engine.ended(selection, c.clock.now()):
        yield from runs
        last = runs[-1]
        selection = replace(selection, after=(last.state.value, last.ended_at, last.batch.row.batch, last.lo))


def _numbers(c: Coordinator, selection: Selection) -> list[int]:
    """The batches with matching tasks, in the order of their submission."""
    if selection.ids:
        return sorted({number for number, _ in selection.ids})
    return sorted({run.batch.row.batch for run in _ended(c, selection)})


def _merged(runs: Iterable[EndedRun], indexes: set[int]) -> list[EndedRun]:
    """The runs of one batch in rising order, cut to the selected tasks."""
    found = sorted(runs, key=lambda run: run.lo)
    if -1 in indexes:
        return found
    wanted = sorted(indexes)
    return [replace(run, lo=index, hi=index + 1) for run in found for index in wanted if run.lo <= index < run.hi]


def _check_ids(c: Coordinator, selection: Selection) -> None:
    """Make sure that each id is that of an ended task, or of a batch with such tasks.

    Raises:
        NotEnded: it is not; the error has its state.
        ResultExpired: it is no longer kept.
        UnknownId: it was never accepted.
    """
    if not selection.ids:
        return
    found: set[tuple[int, int]] = set()
    named: dict[int, set[int]] = {}
    for number, index in selection.ids:
        named.setdefault(number, set()).add(index)
    for run in _ended(c, selection):
        number = run.batch.row.batch
        found |= {(number, index) for index in named.get(number, ()) if index < 0 or run.lo <= index < run.hi}
    for number, index in selection.ids:
        if (number, index) not in found:
            raise NotEnded(*_standing(c, number, index))


def _standing(c: Coordinator, number: int, index: int) -> tuple[str, str]:
    """The id of a task or batch that the selection does not match, and its state, or its tasks' states."""
    if index >= 0:
        view = queries.task(c, number, index)
        left_out = ", and left out by the filter" if view.state.final else ""
        return str(view.id), view.state.value + left_out
    counts = queries.batch(c, number).counts
    if counts.total == 1:
        return _standing(c, number, 0)
    said = [f"{count} {state.value}" for state in State if (count := getattr(counts, state.value))]
    return str(number), ", ".join(said) or "without a task"


# -- the pieces ---------------------------------------------------------------------------------------------------


def _pieces(c: Coordinator, runs: list[EndedRun]) -> Iterator[_Piece]:
    """The pieces of the batch that repeats these tasks of one batch.

    Raises:
        NotRepeatable: the arguments of a task are no longer kept.
        StoreError: they cannot be read.
    """
    if not runs:
        return
    stored = runs[0].batch
    total = sum([run.hi - run.lo for run in runs])
    flow = stored.row.flow
    conditions = None
    if flow is not None and (flow.after or flow.run_anyway):
        conditions = Conditions(after=_still_known(c, flow.after), run_anyway=flow.run_anyway)
    options = stored.spec.options
    offset = 0
    for blobs, items in _calls(c, stored, runs):
        yield _Piece(
            stored=stored,
            spec=bare(stored.spec),
            submission=Submission(
                spec=0,
                number=0,
                arguments=pages.pack(blobs, described=True),
                offset=offset,
                complete=offset + len(blobs) == total,
                follow=False,
                conditions=conditions,
                limits=options.limits,
                label=options.label,
                items=tuple(items),
            ),
        )
        offset += len(blobs)


def _still_known(c: Coordinator, after: tuple[Parent, ...]) -> tuple[Parent, ...]:
    """The parents without those that only had to end, and are no longer kept."""
    kept = {stored.row.batch for stored in c.engine.batches([number for number, *_ in after])}
    return tuple([parent for parent in after if parent[3] or parent[0] in kept])


def _calls(
    c: Coordinator, stored: StoredBatch, runs: list[EndedRun]
) -> Iterator[tuple[list[bytes], list[tuple[int, tuple[Parent, ...]]]]]:
    """The calls of tasks of one batch, and their own parents by their place; as many at a time as a piece has."""
    blobs: list[bytes] = []
    items: list[tuple[int, tuple[Parent, ...]]] = []
    size = 0
    for run in runs:
        own = _own_parents(stored, run)
        for index, blob in _arguments(c, stored, run):
            parents = own(index)
            if parents:
                items.append((len(blobs), parents))
            blobs.append(blob)
            size += len(blob)
            if len(blobs) == pages.PAGE_BLOBS or size >= _READ:
                yield blobs, items
                blobs, items, size = [], [], 0
    if blobs:
        yield blobs, items


def _own_parents(stored: StoredBatch, run: EndedRun) -> Callable[[int], tuple[Parent, ...]]:
    """A function that returns what one task of a run was given or waited for by itself, by its index.

    Raises:
        NotRepeatable: that is no longer known.
    """
    flow, row = stored.row.flow, run.task
    if flow is None:
        return lambda index: ()
    if flow.given and row is None and run.state is State.SUCCEEDED:
        raise _gone(stored, run.lo, "the results of others that it was given are no longer known")
    each, own = flow.each, () if row is None else row.after
    return lambda index: (*[(number, index, index + 1, True) for number, _, _ in each], *own)


def _arguments(c: Coordinator, stored: StoredBatch, run: EndedRun) -> Iterator[tuple[int, bytes]]:
    """The indexes and calls of a run of tasks."""
    flow = stored.row.flow
    if flow is not None and flow.each:
        call = elements_call([is_json for _, _, is_json in flow.each])
        yield from ((index, call) for index in range(run.lo, run.hi))
        return
    at = run.lo
    while at < run.hi:
        first = at
        for page in c.engine.pages(ArgumentPage, stored.row.batch, at, run.hi, room=_READ):
            if page.lo <= at:
                end = min(run.hi, page.hi)
                yield from enumerate(pages.unpack(pages.cut(page.data, at - page.lo, end - page.lo)), at)
                at = end
        if at == first:
            raise _gone(stored, at, "its arguments are no longer kept")


def _gone(stored: StoredBatch, index: int, why: str) -> NotRepeatable:
    row = stored.row
    return NotRepeatable(str(TaskId(row.batch, index, row.complete and row.size == 1)), why)


# -- acceptance ---------------------------------------------------------------------------------------------------


class _Rerun:
    """Accepts pieces, load by load.

    Args:
        c: the coordinator.
    """

    def __init__(self, c: Coordinator) -> None:
        self._c = c
        self._load: list[_Piece] = []
        self._tasks = self._bytes = 0
        #: The new batches, each with the number of the earlier one.
        self.made: list[tuple[int, Batch]] = []
        #: The last one, if not all of its pieces have been accepted.
        self._open: Batch | None = None

    def add(self, piece: _Piece) -> None:
        """Add a piece; accepts the load if it is large enough.

        Raises:
            DtqError: the load is refused. Nothing of it is left.
        """
        self._load.append(piece)
        self._tasks += pages.count(piece.submission.arguments)
        self._bytes += len(piece.submission.arguments)
        if self._tasks >= _TASKS or self._bytes >= _BYTES:
            self.finish()

    def drop(self, number: int) -> None:
        """Leave out what repeats a batch; the latest that was added."""
        left = [piece for piece in self._load if piece.stored.row.batch != number]
        self._tasks -= sum([pages.count(piece.submission.arguments) for piece in self._load[len(left) :]])
        self._bytes -= sum([len(piece.submission.arguments) for piece in self._load[len(left) :]])
        self._load = left
        if self._open is not None and self.made[-1][0] == number:
            self.give_up()
            self.made.pop()

    def finish(self) -> None:
        """Accept the load, durably.

        Raises:
            DtqError: it is refused. Nothing of it is left.
        """
        c, load = self._c, self._load
        self._load, self._tasks, self._bytes = [], 0, 0
        if not load:
            return
        vetting = Vetting(c, SessionState(Hello(session="", role=Role.CLIENT), c.clock.now(), 0))
        try:
            for piece in load:
                body = piece.spec.function.body
                named = [*pages.named(piece.submission.arguments), *_named(body)]
                if named:
                    _keep(vetting, piece.stored, named)
            self._accept(load)
        finally:
            vetting.close()

    def _accept(self, load: list[_Piece]) -> None:
        c = self._c
        awaited, over = waited_for(piece.submission for piece in load)
        parents = Parents(c)
        with parents.locked(awaited, over) if awaited or over else c.lock:
            c.refuse_if_stopping()
            c.committer.refuse_if_in_trouble()
            now = c.clock.now()
            made: dict[int, Batch] = {}
            try:
                for piece in load:
                    self._submit(piece, parents, made, now)
            except DtqError:
                for batch in made.values():
                    c.machine.withdraw(batch, now)
                c.cache.forget(set(made))
                self.made = [each for each in self.made if each[1].number not in made]
                if self._open is not None and self._open.number in made:
                    self._open = None
                raise
            ticket = under_way(c, made, now)
        c.committer.settle(ticket)

    def _submit(self, piece: _Piece, parents: Parents, made: dict[int, Batch], now: float) -> None:
        """Accept one piece. Under the lock."""
        c, submission = self._c, piece.submission
        if self._open is not None:
            submission = replace(submission, batch=self._open.number, conditions=None)
        waits = submission.items or (submission.conditions is not None and submission.conditions.after)
        after = partial(after_of, parents, 0, submission, (), made) if waits else None
        batch, page = c.machine.submit(piece.spec, submission, "", now, after=after)
        if self._open is None:
            made[batch.number] = batch
            self.made.append((piece.stored.row.batch, batch))
        if page is not None:
            c.cache.add([page])
        self._open = None if submission.complete else batch

    def give_up(self) -> None:
        """Cancel a batch of which earlier loads have accepted some pieces."""
        c, batch = self._c, self._open
        self._open = None
        if batch is None:
            return
        with c.lock:
            if c.machine.queue_state.batches.get(batch.number) is batch:
                operators.cancel_batch(c.machine, batch, c.clock.now(), why=operators.CUT_SHORT)
                c.tell_cancelled()
            ticket = c.committer.ticket()
        c.committer.settle(ticket)


def _keep(vetting: Vetting, stored: StoredBatch, named: list[values.Value]) -> None:
    """Keep the values that calls name, until the new rows that name them are on disk.

    Raises:
        NotRepeatable: one is gone.
    """
    try:
        vetting.check(named)
    except ValueGone:
        raise NotRepeatable(str(stored.row.batch), "one of its large arguments is no longer kept") from None


def _named(body: bytes) -> tuple[values.Value, ...]:
    """The values that a function's body names, if it is a description."""
    return values.named(body) if values.is_description(body) else ()
