"""Operators' calls that change tasks: cancel, put dead letters back, purge them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from dtq.coordinator import queries
from dtq.coordinator.awaiting import Kin, Parents, after_of_row, family, was_lost
from dtq.coordinator.holders import holders
from dtq.coordinator.service import Coordinator
from dtq.core import operators, reviving, views
from dtq.core.batches import SpecEntry
from dtq.core.changes import BatchRow, TaskRow
from dtq.core.uniqueness import Holder, holder_of, succeeded_by
from dtq.engines.base import EndedRun, StoredBatch
from dtq.errors import KeyTaken, NotDead, ParentUnknown, StoreError, WholeBatchOnly
from dtq.model.ids import TaskId
from dtq.model.snapshots import CancelReport, Selection, TaskView
from dtq.model.states import State
from dtq.records import replace

#: Targets cancelled before other calls have their turn at the lock.
_AT_ONCE: Final = 2_000
#: The states of waiting tasks.
_WAITING: Final = (State.PENDING, State.SCHEDULED, State.BLOCKED)
#: Dead letters read, and written, at a time.
_PAGE: Final = 500
#: Dead letters by their batches.
DeadOf = list[tuple[StoredBatch, list[TaskRow]]]
#: Applies a verb to dead letters; returns how many it applied to, and those whose batches must be read anew.
Verb = Callable[[Coordinator, DeadOf], tuple[int, DeadOf]]


def cancel(c: Coordinator, selection: Selection) -> CancelReport:
    """Stop tasks, durably.

    Raises:
        UnknownId: one of the selected ids was never accepted; nothing was cancelled.
        StoreError: the cancel cannot be made durable at the moment; it holds while this coordinator runs.
    """
    sizes = _sizes(c, selection)
    specs = queries.wanted_specs(c, selection)
    with c.lock:
        targets = _targets(c, selection, specs, c.clock.now())
    done: Counter[str] = Counter()
    for start in range(0, len(targets), _AT_ONCE):
        with c.lock:
            for number, index in targets[start : start + _AT_ONCE]:
                done.update(_cancel(c, number, index, selection.state, sizes))
            c.tell_cancelled()
            if c.machine.queue_state.keeping:
                c.dispatch(c.clock.now())
            ticket = c.committer.ticket()
        c.committer.settle(ticket)
    return CancelReport(cancelled=done["cancelled"], stopping=done["stopping"], finished=done["finished"])


def _cancel(c: Coordinator, number: int, index: int, only: State | None, sizes: dict[int, int]) -> dict[str, int]:
    """Cancel one target; the numbers of affected tasks. Under the lock."""
    now = c.clock.now()
    batch = c.machine.queue_state.batches.get(number)
    if batch is None:
        return {"finished": sizes.get(number, 0) if index < 0 else 1}
    if index < 0:
        ended = batch.ended if only is None else 0
        cancelled, stopping = operators.cancel_batch(c.machine, batch, now, only)
        return {"cancelled": cancelled, "stopping": stopping, "finished": ended}
    state = operators.cancel_task(c.machine, batch, index, now, only)
    if state is None:
        return {"finished": int(only is None)}
    return {"stopping" if state is State.RUNNING else "cancelled": 1}


def _sizes(c: Coordinator, selection: Selection) -> dict[int, int]:
    """The size of each named batch.

    Raises:
        UnknownId: one of the selected ids was never accepted.
    """
    named = {number for number, _ in selection.ids}
    with c.lock:
        batches = c.machine.queue_state.batches
        sizes = {number: batches[number].size for number in named if number in batches}
    if len(sizes) < len(named):
        with contextlib.suppress(StoreError):
            c.flush()
        sizes |= {stored.row.batch: stored.row.size for stored in c.engine.batches(sorted(named - sizes.keys()))}
    for number, index in selection.ids:
        if index >= sizes.get(number, -1):
            c.committer.refuse_if_stuck()
            raise queries.nowhere(c, number, index, known=number in sizes)
    return sizes


def _targets(c: Coordinator, selection: Selection, specs: set[SpecEntry], now: float) -> list[tuple[int, int]]:
    """The targets of a cancel: ``(batch, index)``, index -1 for a whole batch; without duplicates. Under the lock."""
    whole = {number for number, index in selection.ids if index < 0}
    named = [at for at in dict.fromkeys(selection.ids) if at[1] < 0 or at[0] not in whole]
    if named and selection == Selection(ids=selection.ids, state=selection.state, limit=selection.limit):
        return named
    by_spec = not selection.by_attempt and selection.older_than_s is None
    if by_spec and selection.state is None and not named:
        return [(batch.number, -1) for batch in views.batches(c.machine, selection, specs)]
    found = views.live_tasks(c.machine, replace(selection, limit=0), now, specs)
    if by_spec and len(whole) == len(named):  # all tasks of a batch match, or none
        return list(dict.fromkeys((view.batch, -1) for view in found))
    wanted = set(named)
    return [
        (view.batch, index)
        for view in found
        for index in range(view.index, view.index + view.count)
        if not wanted or (view.batch, index) in wanted or (view.batch, -1) in wanted
    ]


def reprioritize(c: Coordinator, selection: Selection, priority: int) -> int:
    """Change the priority of waiting tasks, durably; see `Service.reprioritize`."""
    _sizes(c, selection)
    specs = queries.wanted_specs(c, selection)
    count = 0
    with c.operators:
        with c.lock:
            numbers = _batches_that_wait(c, selection, specs, c.clock.now())
        for start in range(0, len(numbers), _AT_ONCE):
            with c.lock:
                found = (c.machine.queue_state.batches.get(number) for number in numbers[start : start + _AT_ONCE])
                count += operators.reprioritize(c.machine, [batch for batch in found if batch is not None], priority)
                c.dispatch(c.clock.now())
                ticket = c.committer.ticket()
            c.committer.settle(ticket)
    return count


def _batches_that_wait(c: Coordinator, selection: Selection, specs: set[SpecEntry], now: float) -> list[int]:
    """The batches with a matching task that waits. Under the lock.

    Raises:
        WholeBatchOnly: only some of a batch's waiting tasks are named.
    """
    some: dict[int, set[int]] = {}
    for number, index in selection.ids:
        if index >= 0:
            some.setdefault(number, set()).add(index)
    whole = {number for number, index in selection.ids if index < 0}
    for number, indexes in some.items():
        batch = c.machine.queue_state.batches.get(number)
        if number in whole or batch is None:
            continue
        if operators.waiting_in(batch) > sum(view.count for view in _waiting(c, batch.number, indexes, specs, now)):
            raise WholeBatchOnly(str(TaskId(number, min(indexes))))
    wanted = [state for state in _WAITING if selection.state in (None, state)]
    found = [
        view.batch
        for state in wanted
        for view in views.live_tasks(c.machine, replace(selection, limit=0, state=state), now, specs)
        if not view.held
    ]
    return list(dict.fromkeys(found))


def _waiting(c: Coordinator, number: int, indexes: set[int], specs: set[SpecEntry], now: float) -> list[TaskView]:
    """The waiting ones of some tasks of a batch, as runs that are named as a whole."""
    return [
        view
        for state in _WAITING
        for view in views.live_tasks(c.machine, Selection(ids=((number, -1),), state=state, limit=0), now, specs)
        if not view.held and indexes.issuperset(range(view.index, view.index + view.count))
    ]


def retry_dead(c: Coordinator, selection: Selection) -> int:
    """Put dead letters back, durably.

    Returns:
        Their number.

    Raises:
        NotDead: one of the selected ids is not a dead letter; nothing was put back.
        KeyTaken: a later batch, which has not ended, has the key of a dead letter; nothing was put back.
        StoreError: the change cannot be made durable at the moment.
    """

    try:
        return _with_the_dead(c, selection, _put_back, _refuse_succeeded)
    finally:
        with c.lock:
            c.machine.queue_state.let_go()
            c.dispatch(c.clock.now())


def purge_dead(c: Coordinator, selection: Selection) -> int:
    """Purge dead letters, durably.

    Returns:
        Their number.

    Raises:
        NotDead: one of the selected ids is not a dead letter; nothing was purged.
        StoreError: the change cannot be made durable at the moment.
    """
    return _with_the_dead(c, selection, _purge)


def _purge(c: Coordinator, todo: DeadOf) -> tuple[int, DeadOf]:
    with c.lock:
        found, again = _still(c, todo)
        return sum([operators.purge(c.machine, stored.row, tasks) for stored, tasks in found]), again


def _put_back(c: Coordinator, todo: DeadOf) -> tuple[int, DeadOf]:
    """Put dead letters back, with the tasks that their death had cancelled."""
    kin = family(c, {stored.row.batch: [task.index for task in tasks] for stored, tasks in todo})
    lost = [each for each in kin.values() if was_lost(each.stored)]
    back = {(task.batch, task.index) for _, tasks in todo for task in tasks}
    parents = Parents(c, back)
    wanted = [parent for each in lost for parent in after_of_row(each.stored)]
    wanted += [parent for each in kin.values() for task in each.tasks for parent in each.parents_of(task)]
    over = [number for each in lost for number in each.over]
    keyed = [each.stored for each in kin.values() if each.stored.row.user_key]
    ready = parents.locked(list(dict.fromkeys(wanted)), over) if wanted or over else c.lock
    with holders(c, keyed) as latest, ready:
        now = c.clock.now()
        found, again = _still(c, todo)
        found = [(stored, tasks) for stored, tasks in found if _successor(c, stored.row) is None]
        count = 0
        for stored, tasks in found:
            own = kin[stored.row.batch].children if stored.row.batch in kin else ()
            count += operators.revive(c.machine, stored.row, stored.spec, tasks, now, held=True, children=own)
        for each in kin.values():
            parents.back |= _bring_back(c, each, parents, _successor_of(each, latest), now)
    return count, again


def _successor_of(kin: Kin, latest: Callable[[BatchRow], Holder | None]) -> str:
    """The reason why a batch stays cancelled whose key another one has; "" if none has."""
    row = kin.stored.row
    successor = succeeded_by(row, latest(row)) if row.user_key else None
    return "" if successor is None else f"batch {successor} was submitted with its key {row.key!r} since"


def _bring_back(c: Coordinator, kin: Kin, parents: Parents, succeeded: str, now: float) -> set[tuple[int, int]]:
    """Bring back the tasks of a batch that the end of others had cancelled, unless something else keeps them from that.
    Under the lock.

    Args:
        c: the coordinator.
        kin: the batch.
        parents: the facts about what it waits for.
        succeeded: the reason why it stays cancelled as its key has another batch; "" if none has.
        now: the time.

    Returns:
        The tasks; index -1 is all of the batch.
    """
    row, spec, queue_state = kin.stored.row, kin.stored.spec, c.machine.queue_state
    if was_lost(kin.stored):
        why, gone = "", []
        with contextlib.suppress(ParentUnknown):  # it fails when it needs a result that is gone
            why = parents.standing(after_of_row(kin.stored))
            if row.flow is not None and not row.flow.run_anyway:
                gone = [each for number in kin.over for each in parents.over(number)[1]]
        why = succeeded or why
        made = reviving.bring_back(queue_state, row, spec, why, now, sorted(gone), kin.children)
        return set() if made is None else {(row.batch, -1)}
    if succeeded and row.batch not in queue_state.batches:
        return set()
    lost: dict[int, str] = {}
    for task in kin.tasks:
        with contextlib.suppress(ParentUnknown):
            lost[task.index] = parents.standing(kin.parents_of(task))
    lost = {index: why for index, why in lost.items() if why}
    done = reviving.bring_back_items(queue_state, row, spec, kin.tasks, lost, now, kin.children)
    return {(row.batch, index) for index in done}


def _successor(c: Coordinator, row: BatchRow) -> int | None:
    """The live batch that has taken the place of an ended one; None for none. Under the lock."""
    queue_state = c.machine.queue_state
    number = queue_state.keys.get(row.key) if row.user_key and row.batch not in queue_state.batches else None
    return None if number is None else succeeded_by(row, holder_of(queue_state.batches[number]))


def _still(c: Coordinator, todo: DeadOf) -> tuple[DeadOf, DeadOf]:
    """Dead letters whose batches are unchanged since they were read, and the others, whose batches have finished since.
    Under the lock.
    """
    live = c.machine.queue_state.batches
    again = [
        (stored, tasks) for stored, tasks in todo if stored.row.finished_at is None and stored.row.batch not in live
    ]
    gone = {stored.row.batch for stored, _ in again}
    return [each for each in todo if each[0].row.batch not in gone], again


def _refuse_succeeded(c: Coordinator, selection: Selection) -> None:
    """Make sure that no named batch has a live successor."""
    named = sorted({number for number, _ in selection.ids})
    for stored in c.engine.batches(named) if named else ():
        with c.lock:
            successor = _successor(c, stored.row)
        if successor is not None:
            raise KeyTaken(stored.row.key, successor)


def _with_the_dead(
    c: Coordinator, selection: Selection, verb: Verb, check: Callable[[Coordinator, Selection], None] | None = None
) -> int:
    """Apply a verb to all matching dead letters, a page at a time: other calls have their turn between, and finished
    pages stay done if the coordinator is killed.
    """
    count = 0
    with c.operators:
        c.flush()
        _check_ids(c, selection)
        if check is not None:
            check(c, selection)
        for runs in _pages(c, selection):
            count += _with_some(c, _by_batch(runs), verb)
            with c.lock:
                ticket = c.committer.ticket()
            c.committer.settle(ticket)
    return count


def _with_some(c: Coordinator, todo: DeadOf, verb: Verb) -> int:
    count = 0
    while todo:
        done, again = verb(c, todo)
        count += done
        if again:
            c.flush()
        todo = [(c.engine.batches([stored.row.batch])[0], tasks) for stored, tasks in again]
    return count


def _pages(c: Coordinator, selection: Selection) -> Iterator[list[EndedRun]]:
    """The matching dead letters, some at a time, latest first; tasks that die meanwhile are not among them."""
    selection = replace(selection, limit=_PAGE)
    while runs := queries.dead_runs(c, selection):
        yield runs
        last = runs[-1]
        selection = replace(selection, after=(State.DEAD.value, last.ended_at, last.batch.row.batch, last.lo))


def _check_ids(c: Coordinator, selection: Selection) -> None:
    """Make sure that each id is that of a dead letter.

    Raises:
        NotDead: an id is not; the error has the task's state.
        ResultExpired: the task is no longer kept.
        UnknownId: it was never accepted.
    """
    if not selection.ids:
        return
    missing = set(selection.ids)
    for runs in _pages(c, selection):
        for run in runs:
            missing -= {(run.batch.row.batch, run.lo), (run.batch.row.batch, -1)}
    for number, index in selection.ids:
        if (number, index) in missing:
            raise NotDead(*_standing(c, number, index))


def _standing(c: Coordinator, number: int, index: int) -> tuple[str, str]:
    """The id of a task or batch that is not a dead letter, and its state, or its tasks' states."""
    if index >= 0:
        view = queries.task(c, number, index)
        left_out = "a dead letter that the filter leaves out"
        return str(view.id), left_out if view.state is State.DEAD else view.state.value
    counts = queries.batch(c, number).counts
    if counts.total == 1:
        return _standing(c, number, 0)
    found = [f"{count} {state.value}" for state in State if (count := getattr(counts, state.value))]
    return str(number), ", ".join(found) or "without a task"


def _by_batch(runs: list[EndedRun]) -> DeadOf:
    by_batch: dict[int, tuple[StoredBatch, list[TaskRow]]] = {}
    for run in runs:
        if run.task is not None:
            by_batch.setdefault(run.batch.row.batch, (run.batch, []))[1].append(run.task)
    return list(by_batch.values())
