"""Checks of how tasks ended: nothing lost, nothing twice, nothing untrue, nothing that nobody ordered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dtq.model.snapshots import TaskView
from dtq.model.states import Outcome, State
from soak_rig.explain import Faults
from soak_rig.lineage import Lineage
from soak_rig.records import Execution, Final, Records, Submitted
from soak_rig.tasks import checksum
from soak_rig.verdict import Violation

#: Misdeeds that end the task's own process.
CRASHES = ("segv", "exit", "kill")


def check_ends(records: Records, faults: Faults, lineage: Lineage) -> Iterator[Violation]:
    """Every acknowledged task is in one final state, and that is true; every result is right."""
    for submitted, index, tag in records.tasks():
        if submitted.acked_at is None:
            continue
        if len(submitted.ids) != submitted.order.size:
            yield Violation("lost", submitted.acked_at, f"{tag}: only {len(submitted.ids)} tasks have ids")
            continue
        id = submitted.ids[index]
        final = records.finals.get(id)
        if final is None:
            if id not in records.operator.purged:
                yield Violation("lost", submitted.acked_at, f"{name(id)} ({tag}) is nowhere; {_ran(records, tag)}")
            continue
        yield from check_final(records, submitted, index, tag, final, lineage)


def check_final(
    records: Records, submitted: Submitted, index: int, tag: str, final: Final, lineage: Lineage
) -> Iterator[Violation]:
    """A final state is true."""
    id = submitted.ids[index]
    executions = records.executions.get(tag, [])
    at = executions[-1].start if executions else submitted.tried_at
    if final.state is State.SUCCEEDED:
        why = _why_not_right(tag, final.value, executions)
        if why:
            yield Violation("wrong result", at, f"{name(id)} ({tag}) gave {str(final.value)[:200]}: {why}")
    elif final.state is State.CANCELLED:
        asked = any(which in (-1, index) for _, which in submitted.cancels)
        if not (lineage.excuses(submitted, final.why) if final.why else asked):
            why = f"for {final.why!r}, which is not so" if final.why else "but nobody cancelled it"
            yield Violation("untrue state", at, f"{name(id)} ({tag}) is cancelled, {why}")
    else:
        view = records.views.get(id)
        why = "there is no record of it" if view is None else _why_not_dead(submitted, index, view, executions)
        if why:
            yield Violation("untrue state", at, f"{name(id)} ({tag}) is dead: {why}")


def _why_not_right(tag: str, value: Any, executions: list[Execution]) -> str:
    if not isinstance(value, tuple) or len(value) != 4:
        return "that is no result of the soak's"
    theirs, check, attempt, pid = value
    if theirs != tag or check != checksum(tag):
        return "that is another task's"
    if not any(e.attempt == attempt and e.pid == pid and e.end is not None and not e.failed for e in executions):
        return "no such execution ended"
    return ""


def _why_not_dead(submitted: Submitted, index: int, view: TaskView, executions: list[Execution]) -> str:
    """Why a task should not be a dead letter; "" where it should."""
    options = submitted.order.options
    if not view.history:
        return "it has no history"
    last = view.history[-1]
    if last.outcome is Outcome.CRASHED:
        if view.crashes != options["max_crashes"]:
            return f"after {view.crashes} crashes of {options['max_crashes']}"
        return ""
    limit = options.get("max_retries", 3)
    if view.failures != limit + 1:
        return f"after {view.failures} failures, with {limit} retries"
    return ""


def check_known(records: Records, faults: Faults) -> Iterator[Violation]:
    """What was executed or stored was submitted, and accepted once; a coordinator that is killed may have granted tasks
    that were not on disk yet, nor acknowledged."""
    names: dict[str, Submitted] = {}
    for submitted, index, tag in records.tasks():
        names[tag] = submitted
        wanted = submitted.ids[index : index + 1]
        ran = [run for run in records.executions.get(tag, ()) if run.id in wanted or not faults.was_unwritten(run)]
        ids = {run.id for run in ran} | set(wanted)
        if len(ids) > 1:
            at = submitted.acked_at or submitted.tried_at
            yield Violation("unexpected", at, f"{tag} is {len(ids)} tasks: {', '.join(map(name, sorted(ids)))}")
        if submitted.refused and ids:
            why = f"{tag} was refused ({submitted.refused}), but is {', '.join(map(name, ids))}"
            yield Violation("unexpected", submitted.tried_at, why)
    for tag, executions in records.executions.items():
        if tag not in names:
            yield Violation("unexpected", executions[0].start, f"{tag} was executed, and never submitted")
    known = {id[0] for submitted in records.submitted.values() for id in submitted.ids}
    known |= {execution.id[0] for executions in records.executions.values() for execution in executions}
    for number, view in records.batches.items():
        scheduled = view.key is not None and view.key.startswith("schedule/")
        if number not in known and view.size and not scheduled:
            yield Violation("unexpected", 0.0, f"batch {number} ({view.size} tasks) was never submitted")


def check_seen(records: Records, lineage: Lineage) -> Iterator[Violation]:
    """Nobody saw a task in two final states, and what was seen is what is there at the end."""
    revived = records.operator.revived
    for batch, index, first, second in records.follower.flips:
        if first.letter == "d" and any(first.at - 5.0 <= at <= second.at for at in revived.get((batch, index), ())):
            continue
        if first.letter == "c" and lineage.is_restored((batch, index)):
            continue
        what = f"{batch}.{index} was seen {first.letter} at {first.at:.3f} and {second.letter} at {second.at:.3f}"
        yield Violation("settled twice", second.at, what)
    for id, seen in records.follower.seen.items():
        final = records.finals.get(id)
        if final is None:
            if id not in records.operator.purged:
                yield Violation("lost", seen.at, f"{name(id)} was seen to end ({seen.letter}), and is gone")
        elif seen.letter != final.state.value[0] and not _may_change(seen.letter, id, records, lineage):
            what = f"{name(id)} was seen {seen.letter} at {seen.at:.3f}, and is {final.state.value} at the end"
            yield Violation("settled twice", seen.at, what)
    yield from _check_told(records, lineage)


def _may_change(letter: str, id: tuple[int, int], records: Records, lineage: Lineage) -> bool:
    """Whether a task that was told to have ended so may have ended in another way since."""
    if letter == "c":
        return lineage.is_restored(id)
    return letter == "d" and (id in records.operator.revived)


def _check_told(records: Records, lineage: Lineage) -> Iterator[Violation]:
    """What producers were told by their handles is what is there at the end."""
    for submitted in records.submitted.values():
        for id, letter in zip(submitted.ids, submitted.letters, strict=False):
            final = records.finals.get(id)
            if letter == "g" or final is None:
                # A dead letter that is put back while its submitter asks for it is told as "no longer kept".
                back = id in records.operator.revived or lineage.is_restored(id)
                if id not in records.operator.purged and (letter != "g" or not back):
                    what = f"{name(id)} of {submitted.producer} was told {letter!r}, the queue has {final}"
                    yield Violation("lost", submitted.acked_at or 0.0, what)
            elif letter != final.state.value[0] and not _may_change(letter, id, records, lineage):
                what = f"{submitted.producer} was told {letter!r} of {name(id)}, which is {final.state.value}"
                yield Violation("settled twice", submitted.acked_at or 0.0, what)


def check_stats(records: Records) -> Iterator[Violation]:
    """The queue's counts are those of its tasks."""
    counts = records.stats.counts
    for state in (State.SUCCEEDED, State.DEAD, State.CANCELLED):
        really = sum(final.state is state for final in records.finals.values())
        said = getattr(counts, state.value)
        if really != said:
            yield Violation("stats", 0.0, f"{said} tasks {state.value} by stats, {really} by their results")
    if counts.unfinished:
        yield Violation("stats", 0.0, f"{counts.unfinished} tasks are unfinished by stats")
    gone = sum(view.size for view in records.batches.values()) - len(records.finals)
    certain = sum(records.operator.purged.values())
    if not certain <= gone <= len(records.operator.purged):
        yield Violation(
            "stats", 0.0, f"{gone} tasks have no end, {certain} to {len(records.operator.purged)} were purged"
        )
    accepted = sum(view.size for view in records.batches.values())
    if records.stats.submitted != accepted:
        yield Violation("stats", 0.0, f"{records.stats.submitted} were submitted by stats, the batches have {accepted}")


def name(id: tuple[int, int]) -> str:
    """A task's id, for people."""
    return f"{id[0]}.{id[1]}"


def _ran(records: Records, tag: str) -> str:
    executions = records.executions.get(tag, [])
    return f"executed {len(executions)} times" + "".join(f", on {e.worker} at {e.start:.3f}" for e in executions)
