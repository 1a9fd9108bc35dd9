"""Checks of how tasks were executed: not more often than faults explain, not too early, not after a cancel, and
nobody charged for what he did not do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from dtq.model.snapshots import Attempt
from dtq.model.states import Outcome
from soak_rig.ends import CRASHES, name
from soak_rig.explain import EPSILON_S, GRANT_S, Faults, overlaps, place
from soak_rig.records import Execution, Records, Submitted
from soak_rig.verdict import Violation

#: How long after a cancel was acknowledged a task may still start: what the slot has in its pipe is taken back by then.
CANCEL_S = 1.0


def own_doing(submitted: Submitted, index: int, execution: Execution, again_at: float) -> str:
    """Why an execution was followed by another by the task's own doing; "" where it was not."""
    how = submitted.order.hows.get(index)
    if execution.failed:
        return "failed by itself"
    if execution.end is None and isinstance(how, list) and how[0] in CRASHES:
        return "crashed by itself"
    limit = submitted.order.options.get("timeout")
    if execution.end is None and limit is not None and again_at - execution.start >= limit:
        return "time limit"
    return ""


def check_repeats(records: Records, faults: Faults, why: Counter[str]) -> Iterator[Violation]:
    """Each execution beyond the first of a task has its reason; reasons are counted."""
    for submitted, index, tag in records.tasks():
        executions = records.executions.get(tag, [])
        for one, again in pairwise(executions):
            reason = own_doing(submitted, index, one, again.start) or _revived(records, one, again)
            reason = reason or faults.why_again(one, again) or _slot_of_another(records, faults, one, submitted)
            why[reason or "(nothing)"] += 1
            if not reason:
                end = "never ended" if one.end is None else f"until {one.end:.3f}"
                what = (
                    f"{name(one.id)} ({tag}) ran on {one.worker} (slot {one.pid}, attempt {one.attempt}) from"
                    f" {one.start:.3f} {end}, then on {again.worker} (attempt {again.attempt}) at {again.start:.3f}"
                )
                yield Violation("repeated", again.start, what)


def _revived(records: Records, one: Execution, again: Execution) -> str:
    times = records.operator.revived.get(one.id, ())
    return "put back" if any(one.start <= at <= again.start for at in times) else ""


def _slot_of_another(records: Records, faults: Faults, one: Execution, submitted: Submitted) -> str:
    """A slot is killed for a task that is cancelled while another one of its chunk runs or waits to be reported."""
    return "cancelled beside" if one.end is None and submitted.cancels else ""


def check_times(records: Records, faults: Faults) -> Iterator[Violation]:
    """Nothing starts before it is due, nor after its cancellation was acknowledged."""
    for submitted, index, tag in records.tasks():
        executions = records.executions.get(tag, [])
        if not executions:
            continue
        due = submitted.tried_at + submitted.order.delay_s - EPSILON_S
        if executions[0].start < due:
            early = due - executions[0].start
            yield Violation(
                "early", executions[0].start, f"{name(executions[0].id)} ({tag}) started {early:.3f} s early"
            )
        yield from _check_backoff(records, faults, submitted, tag, executions)
        for at, which in submitted.cancelled:
            if which not in (-1, index):
                continue
            for execution in executions:
                if execution.start > at + CANCEL_S and not overlaps(
                    faults.disturbed[place(execution.worker)], at, execution.start
                ):
                    what = f"{name(execution.id)} ({tag}) started {execution.start - at:.3f} s after it was cancelled"
                    yield Violation("after cancel", execution.start, what)


def _check_backoff(
    records: Records, faults: Faults, submitted: Submitted, tag: str, executions: list[Execution]
) -> Iterator[Violation]:
    pause = submitted.order.options.get("retry_delay")
    if pause is None:
        return
    pause = pause / 2 if submitted.order.options.get("jitter") else pause
    for one, again in pairwise(executions):
        if not one.failed or one.end is None or again.attempt != one.attempt + 1 or _revived(records, one, again):
            continue
        if overlaps(faults.given_up[place(one.worker)], one.start, again.start):
            continue  # its lease had been taken back: nobody was told of the failure
        if again.start < one.end + pause - EPSILON_S:
            what = f"{name(one.id)} ({tag}) was tried again {again.start - one.end:.3f} s after it failed, not {pause}"
            yield Violation("early", again.start, what)


# -- blame ------------------------------------------------------------------------------------------------------------


def check_blame(records: Records, faults: Faults, why: Counter[str]) -> Iterator[Violation]:
    """Each attempt that a task is charged with was its own: it ran, and that is how it ended."""
    tags = {id: tag for s, index, tag in records.tasks() for id in s.ids[index : index + 1]}
    owners = {id: (s, index) for s in records.submitted.values() for index, id in enumerate(s.ids)}
    for id, view in records.views.items():
        if id not in tags:
            continue  # of an unknown outcome: there is nothing that it could be compared with
        by_attempt: dict[int, list[Execution]] = {}
        for execution in records.executions.get(tags[id], []):
            by_attempt.setdefault(execution.attempt, []).append(execution)
        for attempt in view.history:
            runs = by_attempt.get(attempt.number, [])
            reason = _blame(records, faults, owners[id], attempt, runs)
            why[f"{attempt.outcome.value}: {reason or '(nothing)'}"] += 1
            if not reason:
                at = attempt.ended_at - records.clock_offset
                since = attempt.started_at - records.clock_offset
                what = (
                    f"{name(id)} ({tags[id]}), attempt {attempt.number} on {attempt.worker} {since:.3f} to {at:.3f}"
                    f" {attempt.outcome.value}: {attempt.failure.message[:100]!r}; ledger: {runs}"
                )
                yield Violation("innocent blamed", at, what)


def _blame(
    records: Records, faults: Faults, owner: tuple[Submitted, int], attempt: Attempt, runs: list[Execution]
) -> str:
    """Why a task was charged with an attempt, as far as the ledgers agree; "" where they do not."""
    submitted, index = owner
    begin, end = attempt.started_at - records.clock_offset, attempt.ended_at - records.clock_offset
    runs = [run for run in runs if run.worker == attempt.worker]
    if attempt.outcome is Outcome.FAILED:
        return "it raised" if any(run.failed for run in runs) else ""
    if attempt.outcome is Outcome.TIMED_OUT:
        limit = submitted.order.options.get("timeout", float("inf"))
        over = [run for run in runs if (end if run.end is None else run.end) - run.start >= limit - EPSILON_S]
        return "its time limit" if over else ""
    if attempt.outcome is Outcome.CANCELLED:
        if submitted.cancels:
            return "cancelled"
        return "handed back after it had started" if runs else ""  # an attempt is a start, and nobody is blamed
    if attempt.failure.signal is None and attempt.failure.exit_code is None:
        return _worker_lost(faults, attempt, runs, begin, end)
    return _slot_lost(faults, submitted.order.hows.get(index), attempt, runs, end)


def _worker_lost(faults: Faults, attempt: Attempt, runs: list[Execution], begin: float, end: float) -> str:
    killed = faults.worker_kills.get(attempt.worker)
    lost = killed is not None and killed <= end
    if not lost and not overlaps(faults.given_up[place(attempt.worker)], begin - GRANT_S, end):
        return ""
    if runs:
        return "it ran on a lost worker"
    # Granted, not started: allowed only where the grant was on its way when the worker died or fell silent.
    if killed is not None and begin > killed - GRANT_S:
        return "it was on its way to a killed worker"
    if overlaps(faults.disturbed[place(attempt.worker)], begin - GRANT_S, begin + GRANT_S):
        return "it was on its way to a silent worker"
    if overlaps(faults.coordinator_away, begin, end):
        return "it waited on a worker that was lost with the coordinator away"
    return ""


def _slot_lost(faults: Faults, how: object, attempt: Attempt, runs: list[Execution], end: float) -> str:
    if not runs:
        kills = [at for (worker, _), at in faults.slot_kills.items() if worker == attempt.worker]
        return "its slot was killed as it started" if any(abs(end - at) < GRANT_S for at in kills) else ""
    run = runs[-1]
    if isinstance(how, list) and how[0] in CRASHES and run.end is None:
        return "it crashed"
    killed = faults.slot_kills.get((run.worker, run.pid))
    if killed is not None and run.start <= killed + EPSILON_S and (run.end is None or killed <= run.end + EPSILON_S):
        return "its slot was killed"
    return ""
