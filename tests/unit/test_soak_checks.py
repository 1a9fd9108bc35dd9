"""The soak's checker: it finds each broken promise in a made-up run, and nothing in one that kept them all."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts"))  # where the soak stands; no package of dtq's

from soak_rig.bounds import check_bounds
from soak_rig.director import Chronicle, Done
from soak_rig.ends import check_ends, check_known, check_seen, check_stats
from soak_rig.explain import Faults
from soak_rig.lineage import Lineage, check_lineage
from soak_rig.onlookers import Seen
from soak_rig.orders import Order
from soak_rig.plan import KINDS, LEASE_S, PAUSE_S, schedule
from soak_rig.precedence import check_precedence
from soak_rig.records import Execution, Final, Records, Submitted
from soak_rig.runs import check_blame, check_repeats, check_times
from soak_rig.tasks import checksum
from soak_rig.timetable import EVERY_S, KEYS, Timetable, check_due_times

from dtq.model.messages import Failure
from dtq.model.options import Function, Options, Spec
from dtq.model.schedules import Rule, Schedule, ScheduleView
from dtq.model.snapshots import Attempt, BatchView, Counts, Stats, TaskView
from dtq.model.states import Outcome, State

TAG = "p1-1.1.0"
ID = (1, 0)
OPTIONS = {"priority": 5, "queue": "default", "max_crashes": 20}
SPEC = Spec(function=Function(name="m:f"), options=Options())


@dataclass
class Onlookers:
    """What follower and operator saw: nothing."""

    seen: dict[Any, Any] = field(default_factory=dict)
    flips: list[Any] = field(default_factory=list)
    revived: dict[Any, Any] = field(default_factory=dict)
    purged: dict[Any, Any] = field(default_factory=dict)


def stats(**counts: int) -> Stats:
    return Stats(
        counts=Counts(**counts), submitted=1, retries=0, refused=0, dead_letters=0, queues=(), workers=(), clients=0,
        epoch=1, started_at=0.0, now=0.0, pid=1, version="", python="", store="", durability="", highest_first=False,
    )  # fmt: skip


def ran(start: float = 11.0, end: float | None = 11.1, **other: Any) -> Execution:
    values = {"id": ID, "attempt": 1, "worker": "w1-1", "pid": 7, **other}
    return Execution(start=start, end=end, **values)


def submit(records: Records, serial: int, id: tuple[int, int], acked_at: float = 10.1, **order: Any) -> Submitted:
    """An order of one task."""
    drawn = Order(**{"serial": serial, "kind": "tiny", "function": "tiny", "size": 1, "options": OPTIONS, **order})
    submitted = Submitted("p1-1", drawn, acked_at - 0.1, acked_at, [id])
    records.submitted["p1-1", serial] = submitted
    return submitted


@pytest.fixture
def records() -> Records:
    """A run in which one task was submitted, executed once, and succeeded."""
    onlookers: Any = Onlookers()
    records = Records(Chronicle(), onlookers, onlookers, stats(succeeded=1))
    submit(records, 1, ID)
    records.executions[TAG].append(ran())
    records.finals[ID] = Final(State.SUCCEEDED, (TAG, checksum(TAG), 1, 7))
    counts = Counts(succeeded=1)
    records.batches[1] = BatchView(batch=1, size=1, complete=True, spec=SPEC, counts=counts, submitted_at=10.0)
    return records


def only(records: Records) -> Submitted:
    return records.submitted["p1-1", 1]


def kinds(records: Records, *faults: Done) -> set[str]:
    """What all checks find."""
    records.chronicle.faults[:] = faults
    done = Faults(records)
    lineage = Lineage(records)
    why: Counter[str] = Counter()
    checks: Iterable[Any] = (
        *check_ends(records, done, lineage),
        *check_known(records, done),
        *check_seen(records, lineage),
        *check_lineage(records, lineage),
        *check_bounds(records, done),
        *check_stats(records),
        *check_repeats(records, done, why),
        *check_times(records, done),
        *check_blame(records, done, why),
        *check_precedence(records, done),
    )
    return {violation.kind for violation in checks}


def fault(kind: str, begin: float, end: float, target: str = "w1", who: str = "w1-1", **other: Any) -> Done:
    return Done(kind=kind, target=target, who=who, begin=begin, end=end, **other)


def dead(records: Records, attempt: Attempt, **view: int) -> None:
    """The task is dead after an attempt."""
    records.finals[ID] = Final(State.DEAD)
    records.stats = stats(dead=1)
    records.views[ID] = TaskView(
        batch=1, index=0, state=State.DEAD, spec=SPEC, submitted_at=0.0, history=(attempt,), **view
    )


def crash(worker: str = "w1-1", **failure: Any) -> Attempt:
    return Attempt(
        number=1, outcome=Outcome.CRASHED, started_at=11.0, ended_at=11.2, worker=worker, failure=Failure(**failure)
    )


def test_run_that_kept_all_promises_has_no_violations(records: Records) -> None:
    assert kinds(records) == set()


def test_acknowledged_task_that_is_nowhere_is_lost(records: Records) -> None:
    del records.finals[ID]
    assert "lost" in kinds(records)


@pytest.mark.parametrize(
    "value", [None, (TAG, 0, 1, 7), ("p1-1.1.1", checksum("p1-1.1.1"), 1, 7), (TAG, checksum(TAG), 2, 7)]
)
def test_result_of_anything_but_an_execution_of_the_task_is_wrong(records: Records, value: object) -> None:
    records.finals[ID] = Final(State.SUCCEEDED, value)
    assert kinds(records) == {"wrong result"}


def test_cancelled_task_that_nobody_cancelled_is_untrue(records: Records) -> None:
    records.finals[ID] = Final(State.CANCELLED)
    records.stats = stats(cancelled=1)
    assert kinds(records) == {"untrue state"}
    only(records).cancels.append((10.5, -1))
    assert kinds(records) == set()


def test_dead_task_that_has_crashes_left_is_untrue(records: Records) -> None:
    records.executions[TAG] = [ran(end=None)]
    killed = fault("kill slot", 11.1, 11.1, pid=7)
    dead(records, crash(signal=9), crashes=1)
    assert kinds(records, killed) == {"untrue state"}
    dead(records, crash(signal=9), crashes=20)
    assert kinds(records, killed) == set()


def test_one_submission_that_became_two_tasks_is_unexpected(records: Records) -> None:
    records.executions[TAG].append(ran(id=(2, 0), start=11.0))
    assert "unexpected" in kinds(records)


def test_execution_of_what_nobody_submitted_is_unexpected(records: Records) -> None:
    records.executions["p9-1.1.0"].append(ran(id=(2, 0)))
    assert kinds(records) == {"unexpected"}


def test_task_seen_in_two_final_states_is_settled_twice(records: Records) -> None:
    records.follower.flips.append((1, 0, Seen(11.2, "c", 0), Seen(11.3, "s", 1)))
    assert kinds(records) == {"settled twice"}
    records.follower.flips.clear()
    records.follower.seen[ID] = Seen(11.2, "d", 0)
    assert kinds(records) == {"settled twice"}
    records.operator.revived[ID] = [11.25]
    assert kinds(records) == set()


def test_count_that_disagrees_is_found(records: Records) -> None:
    records.stats = stats(succeeded=2)
    assert kinds(records) == {"stats"}


@pytest.mark.parametrize(
    ("done", "explained"),
    [
        (None, False),
        (fault("kill worker", 11.05, 11.06), True),
        (fault("kill worker", 10.5, 10.6), False),
        (fault("kill worker", 13.0, 13.1), False),
        (fault("kill worker", 11.05, 11.06, target="w2", who="w2-1"), False),
        (fault("kill worker", 11.05, 11.06, who="w1-2"), False),
        (fault("kill slot", 11.05, 11.05, pid=7), True),
        (fault("kill slot", 11.05, 11.05, pid=8), False),
        (fault("stop worker", 10.5, 12.0), False),
        (fault("stop worker", 10.5, 10.5 + LEASE_S), True),
        (fault("drain worker", 11.05, 11.2), False),
        (fault("end worker", 11.05, 11.2), True),
        (fault("stop coordinator", 10.5, 14.0, target="coordinator", who="coordinator-1"), False),
        (fault("kill coordinator", 11.2, 11.3, target="coordinator", who="coordinator-1", back=12.0), True),
        (fault("kill coordinator", 11.9, 12.0, target="coordinator", who="coordinator-1", back=13.0), False),
    ],
)
def test_second_execution_needs_a_fault_that_explains_it(records: Records, done: Done | None, explained: bool) -> None:
    records.executions[TAG].append(ran(start=18.0, end=18.1, attempt=2, worker="w2-1"))
    assert kinds(records, *([done] if done else [])) == (set() if explained else {"repeated"})


def test_start_before_the_delay_is_over_is_early(records: Records) -> None:
    submit(records, 1, ID, delay_s=5.0)
    assert kinds(records) == {"early"}


def test_retry_before_its_backoff_is_early_unless_nobody_was_told_of_the_failure(records: Records) -> None:
    submit(records, 1, ID, options={**OPTIONS, "retry_delay": 1.0})
    records.executions[TAG] = [ran(failed=True), ran(start=11.5, end=11.6, attempt=2, worker="w2-1")]
    records.finals[ID] = Final(State.SUCCEEDED, (TAG, checksum(TAG), 2, 7))
    assert kinds(records) == {"early"}
    assert kinds(records, fault("stop worker", 11.1 - LEASE_S, 11.1)) == set()


def test_start_after_an_acknowledged_cancel_is_found(records: Records) -> None:
    only(records).cancels.append((9.0, -1))
    only(records).cancelled.append((9.1, -1))
    assert kinds(records) == {"after cancel"}


def test_charge_for_an_attempt_that_never_ran_blames_an_innocent(records: Records) -> None:
    records.executions[TAG] = [ran(attempt=2)]
    records.finals[ID] = Final(State.SUCCEEDED, (TAG, checksum(TAG), 2, 7))
    view = {"state": State.SUCCEEDED, "spec": SPEC, "submitted_at": 0.0, "history": (crash(message="lost"),)}
    records.views[ID] = TaskView(batch=1, index=0, **view)
    assert kinds(records) == {"innocent blamed"}
    assert kinds(records, fault("kill worker", 10.9, 10.9)) == set()


def test_unimportant_task_that_overtakes_an_urgent_one_is_an_inversion(records: Records) -> None:
    # Given a task that ran while a more urgent one waited from 5.0 to 15.0
    submit(records, 2, (2, 0), acked_at=5.0, options={**OPTIONS, "priority": 1})
    urgent = "p1-1.2.0"
    records.executions[urgent].append(ran(id=(2, 0), start=15.0, end=15.1))
    records.finals[2, 0] = Final(State.SUCCEEDED, (urgent, checksum(urgent), 1, 7))
    records.batches[2] = records.batches[1]
    records.stats = stats(succeeded=2)
    assert "inversion" in kinds(records)
    # When the worker that ran it was stopped before, what was on the way to it is nobody's fault
    assert "inversion" not in kinds(records, fault("stop worker", 9.0, 10.5))


def broken(records: Records, *faults: Done) -> set[str]:
    """The promises that several tasks break; their counts aside."""
    return kinds(records, *faults) - {"stats"}


def bear(records: Records, start: float | None = 12.0, **order: Any) -> None:
    """A second task, which waits for the first, and starts then."""
    child, tag = (2, 0), "p1-1.2.0"
    submit(records, 2, child, **{"after": [(1, -1)], **order})
    records.batches[2] = records.batches[1]
    if start is None:
        records.finals[child] = Final(State.CANCELLED, why="parent 1 is dead")
        return
    records.executions[tag] = [ran(id=child, start=start, end=start + 0.1)]
    records.finals[child] = Final(State.SUCCEEDED, (tag, checksum(tag), 1, 7))


def test_child_that_starts_before_the_end_of_its_parent_is_found(records: Records) -> None:
    bear(records)
    assert broken(records) == set()
    bear(records, start=11.02)
    assert broken(records) == {"before parents"}


def test_child_of_a_parent_without_a_result_starts_only_where_it_may(records: Records) -> None:
    dead(records, crash(signal=9), crashes=20)
    records.executions[TAG] = [ran(end=None)]
    killed = fault("kill slot", 11.1, 11.1, pid=7)
    bear(records)
    assert broken(records, killed) == {"before parents"}
    bear(records, run_anyway=True)
    assert broken(records, killed) == set()


def test_child_is_cancelled_only_where_a_parent_has_no_result(records: Records) -> None:
    bear(records, start=None)
    assert broken(records) == {"untrue state"}
    dead(records, crash(signal=9), crashes=20)
    records.executions[TAG] = [ran(end=None)]
    killed = fault("kill slot", 11.1, 11.1, pid=7)
    assert broken(records, killed) == set()
    # and not otherwise than it says
    records.finals[2, 0].why = "parent 7 is dead"
    assert broken(records, killed) == {"untrue state"}


def test_child_may_be_seen_cancelled_and_to_succeed_where_its_parent_was_put_back(records: Records) -> None:
    bear(records)
    records.follower.seen[2, 0] = Seen(11.0, "c", 0)
    assert broken(records) == {"settled twice"}
    records.operator.revived[ID] = [11.5]
    assert broken(records) == set()


def beside(records: Records, name: str, *starts: float, lasts: float = 1.0) -> None:
    """Tasks that count against a limit and start then, each in a slot of its own."""
    for serial, start in enumerate(starts, 2):
        id, tag = (serial, 0), f"p1-1.{serial}.0"
        submit(records, serial, id, options={**OPTIONS, "limits": [name]})
        records.batches[serial] = records.batches[1]
        records.executions[tag] = [ran(id=id, start=start, end=start + lasts, pid=serial)]
        records.finals[id] = Final(State.SUCCEEDED, (tag, checksum(tag), 1, serial))


def test_more_at_once_than_a_limit_allows_is_found(records: Records) -> None:
    beside(records, "pair", 20.0, 20.5, 21.2)
    assert broken(records) == set()
    beside(records, "pair", 20.0, 20.5, 20.9)
    assert broken(records) == {"limits"}
    # but one on a worker whose leases were taken back does not count
    assert broken(records, fault("stop worker", 19.0, 19.0 + LEASE_S)) == set()


def test_more_starts_than_a_rate_allows_are_found(records: Records) -> None:
    beside(records, "paced", *(20.0 + 0.05 * number for number in range(40)), lasts=0.01)
    assert broken(records) == set()
    beside(records, "paced", *(20.0 + 0.02 * number for number in range(40)), lasts=0.01)
    assert broken(records) == {"limits"}


def due_times(records: Records, *dues: float, made: int) -> list[str]:
    """What is wrong with the due times of a schedule that was paused after three of them."""
    given = Schedule(name="soak", rule=Rule(every_s=EVERY_S), spec=SPEC, arguments=b"")
    timetable = Timetable.__new__(Timetable)
    timetable.paused_at = 101.6
    timetable.view = ScheduleView(
        schedule=given, added_at=100.0, paused=True, upcoming=(), last_due=None, last_batch=0, last=None, made=made,
        skipped=0, trouble="",
    )  # fmt: skip
    for number, due in enumerate(dues, 10):
        records.batches[number] = replace(records.batches[1], key=f"{KEYS}{due:g}")
    return [violation.what for violation in check_due_times(records, timetable)]


def test_due_times_make_one_submission_each(records: Records) -> None:
    assert due_times(records, 100.5, 101.0, 101.5, made=3) == []
    # What comes between the last look and the pause may come
    assert due_times(records, 100.5, 101.0, 101.5, 102.0, made=4) == []


def test_due_time_that_is_missed_or_comes_twice_is_found(records: Records) -> None:
    assert due_times(records, 100.5, 101.5, 102.0, made=3) == ["the due time 101.0 has made no submission"]
    records.batches = {1: records.batches[1]}
    found = due_times(records, 100.5, 101.0, 101.0, 101.5, made=4)
    assert found == ["the due time 101.0 has made 2 submissions"]
    records.batches = {1: records.batches[1]}
    assert due_times(records, made=0)


def test_schedule_is_the_seeds_has_every_kind_and_a_fault_every_two_seconds() -> None:
    plan = schedule(7, 120.0)
    assert plan == schedule(7, 120.0)
    assert plan != schedule(8, 120.0)
    assert {fault.kind for fault in plan} == {kind for kind, *_ in KINDS}
    assert len(plan) >= 120.0 / PAUSE_S[1]
