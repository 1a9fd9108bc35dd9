"""Schedules in the core: each due time makes one submission, whatever happens to the coordinator and its clock."""

from __future__ import annotations

import sys
from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from dtq.coordinator.cron import CronCalendar
from dtq.core import schedules
from dtq.core.changes import BatchRow, DefinitionRow, Stored
from dtq.core.machine import Machine
from dtq.core.queue_state import Rules
from dtq.core.recurrences import NoCalendar
from dtq.core.schedules import moment_name
from dtq.errors import CronMissing, InvalidValue, SchedulesFull, UnknownSchedule
from dtq.model.options import Function, FunctionKind
from dtq.model.schedules import CatchUp, Overlap, Rule, Schedule
from dtq.model.states import State
from tests.driver import Driver, spec


@pytest.fixture
def machine() -> Driver:
    return Driver()


def dues(machine: Driver, name: str = "often") -> list[float]:
    """The due times that have made a submission, counted from the driver's beginning."""
    found = [key.rpartition("/") for key in machine.user_keys()]
    return [float(due) - 1_000_000 for head, _, due in found if head == f"schedule/{name}"]


# -- when ---------------------------------------------------------------------------------------------------------


def test_period_comes_again_and_again_from_its_definition_on(machine: Driver) -> None:
    machine.tick(0.25)
    machine.schedule(every_s=90)
    machine.tick(89.9)
    assert dues(machine) == []
    machine.tick(0.1)
    assert dues(machine) == [90.25]
    for _ in range(3):
        machine.tick(90)
    assert dues(machine) == [90.25, 180.25, 270.25, 360.25]


def test_moment_comes_once_and_the_schedule_is_over_then(machine: Driver) -> None:
    entry = machine.schedule(at=1_000_060.5)
    machine.tick(60)
    assert dues(machine) == []
    machine.tick(1)
    machine.tick(1000)
    assert dues(machine) == [60.5]
    assert (entry.next_at, machine.machine.schedules.upcoming(entry)) == (None, ())


def test_cron_expression_comes_in_its_zone(machine: Driver) -> None:
    machine.schedule("utc", cron="0 12 * * *")
    machine.schedule("prague", cron="0 12 * * *", tz="Europe/Prague")
    for _ in range(25):
        machine.tick(3600)
    # 1,000,000 is the 12th of January 1970, 13:46:40 UTC
    assert dues(machine, "utc") == [79_999 + 1]
    assert dues(machine, "prague") == [76_400]


def test_end_is_the_last_due_time_at_most(machine: Driver) -> None:
    entry = machine.schedule(every_s=10, until=1_000_020.0)
    for _ in range(5):
        machine.tick(10)
    assert dues(machine) == [10, 20]
    assert entry.next_at is None


def test_jitter_delays_each_due_time_by_its_own_and_always_the_same(machine: Driver) -> None:
    entry = machine.schedule(every_s=100, jitter_s=50, catch_up=CatchUp.ALL)
    delays = [entry.moment_of(1_000_000.0 + due) - (1_000_000.0 + due) for due in range(100, 10_000, 100)]
    assert delays == [entry.moment_of(1_000_000.0 + due) - (1_000_000.0 + due) for due in range(100, 10_000, 100)]
    assert 0 <= min(delays) < 10 < 40 < max(delays) <= 50
    assert len(set(delays)) == len(delays)
    machine.tick(100 + delays[0] - 0.01)
    assert dues(machine) == []
    machine.tick(0.02)
    assert dues(machine) == [100]


def test_run_has_the_key_the_call_and_the_terms_of_its_schedule(machine: Driver) -> None:
    machine.schedule("shop/daily", at=1_000_001.5, function="work:sell", arguments=b"all", options={"queue": "mail"})
    machine.tick(1.5)
    (batch,) = machine.machine.queue_state.batches.values()
    assert batch.key == "schedule/shop/daily/1000001.5"
    assert batch.entry.spec == spec("work:sell", queue="mail")
    assert (batch.size, batch.complete, batch.followed) == (1, True, False)


def test_function_sent_by_value_comes_back_from_the_store(machine: Driver) -> None:
    function = Function(kind=FunctionKind.VALUE, name="<lambda>", body=b"\x00pickle")
    schedule = Schedule(
        name="by value", rule=Rule(every_s=5), spec=spec(function, never_retry=("a", "b")), arguments=b"\xff"
    )
    machine.machine.schedules.define(schedule, machine.clock.wall())
    machine.drain()
    machine.restart()
    assert machine.machine.schedules.get("by value").schedule == schedule


# -- once ---------------------------------------------------------------------------------------------------------


def test_batch_and_next_due_time_are_in_one_commit(machine: Driver) -> None:
    machine.schedule(every_s=10)
    machine.drain()
    machine.tick(10)
    rows = [change.row for change in machine.drain() if isinstance(change, Stored)]
    assert [row.key for row in rows if isinstance(row, BatchRow)] == ["schedule/often/1000010"]
    (defined,) = [row for row in rows if isinstance(row, DefinitionRow)]
    assert '"next_at":1000020.0' in defined.body


@pytest.mark.parametrize("stored", [False, True])
def test_due_time_makes_one_submission_when_the_coordinator_is_killed_around_it(machine: Driver, stored: bool) -> None:
    machine.schedule(every_s=10, catch_up=CatchUp.ALL)
    machine.drain()
    for _ in range(20):
        machine.tick(5)
        if stored:
            machine.drain()
        machine.restart()
        machine.tick()
    assert dues(machine) == [10 * n for n in range(1, 11)]


def test_clock_set_back_brings_no_due_time_again(machine: Driver) -> None:
    machine.schedule(every_s=10)
    for _ in range(3):
        machine.tick(10)
    machine.clock.set_wall(1_000_005.0)
    for _ in range(4):
        machine.tick(10)  # up to 45
    assert dues(machine) == [10, 20, 30, 40]


def test_clock_set_ahead_brings_what_it_has_left_out_once(machine: Driver) -> None:
    machine.schedule("all", every_s=10, catch_up=CatchUp.ALL)
    machine.schedule("last", every_s=10, catch_up=CatchUp.LAST)
    machine.schedule("none", every_s=10, catch_up=CatchUp.NONE)
    machine.clock.set_wall(1_000_051.0)
    machine.tick()
    assert dues(machine, "all") == [10, 20, 30, 40, 50]
    assert dues(machine, "last") == [50]
    assert dues(machine, "none") == [50]  # a second ago: in time
    machine.clock.set_wall(1_000_000.0)
    for _ in range(6):
        machine.tick(10)
    assert dues(machine, "all") == [10, 20, 30, 40, 50, 60]
    assert dues(machine, "last") == dues(machine, "none") == [50, 60]


def test_name_that_is_used_again_finds_its_due_time_taken_by_a_live_batch(machine: Driver) -> None:
    machine.schedule(every_s=10)
    machine.tick(10)
    machine.machine.schedules.remove(machine.machine.schedules.get("often"))
    machine.clock.set_wall(1_000_000.0)
    entry = machine.schedule(every_s=10, function="work:other")
    machine.tick(10)
    assert dues(machine) == [10]
    assert (entry.made, entry.last_batch, entry.next_at) == (0, 1, 1_000_020.0)


def test_clock_set_back_while_it_is_paused_brings_no_due_time_again(machine: Driver) -> None:
    entry = machine.schedule(every_s=10)
    machine.tick(10)
    machine.cancel(1)  # or its key would be known
    machine.machine.schedules.pause(entry, machine.clock.wall(), paused=True)
    machine.set_wall(1_000_000.0)
    machine.machine.schedules.pause(entry, machine.clock.wall(), paused=False)
    machine.tick(10)
    assert (dues(machine), entry.next_at) == ([10], 1_000_020.0)


def test_run_of_a_due_time_that_comes_again_by_another_rule_is_not_replaced_by_itself(machine: Driver) -> None:
    machine.schedule(every_s=10, overlap=Overlap.REPLACE)
    machine.tick(10)
    machine.set_wall(999_990.0)
    machine.schedule(every_s=20, overlap=Overlap.REPLACE)
    machine.tick(20)
    assert (dues(machine), machine.state(1)) == ([10], State.PENDING)


# -- late ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("catch_up", "made"), [(CatchUp.NONE, []), (CatchUp.LAST, [600]), (CatchUp.ALL, [60 * n for n in range(1, 11)])]
)
def test_due_times_while_nobody_was_there(machine: Driver, catch_up: CatchUp, made: list[float]) -> None:
    machine.schedule(every_s=60, catch_up=catch_up)
    machine.drain()
    machine.clock.advance(630)
    machine.restart()
    machine.tick()
    assert dues(machine) == made
    machine.tick(30)
    assert dues(machine) == [*made, 660]


def test_due_times_of_a_slow_moment_are_all_made(machine: Driver) -> None:
    machine.schedule(every_s=1, catch_up=CatchUp.NONE)
    machine.tick(8)
    assert dues(machine) == list(range(1, 9))


def test_what_is_more_than_one_tick_makes_goes_on_in_the_next(machine: Driver) -> None:
    machine.schedule(every_s=1, catch_up=CatchUp.ALL)
    machine.tick(300)
    assert dues(machine) == list(range(1, 301))


def test_at_most_the_latest_ten_thousand_are_made_up_for(machine: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    from dtq.core import scheduling

    monkeypatch.setattr(scheduling, "MOST_CAUGHT_UP", 100)
    machine.schedule("period", every_s=1, catch_up=CatchUp.ALL)
    machine.schedule("cron", cron="* * * * * *", catch_up=CatchUp.ALL)
    machine.drain()
    machine.clock.advance(20_000.5)
    machine.restart()
    machine.tick()
    assert dues(machine, "period") == dues(machine, "cron") == list(range(19_901, 20_001))


# -- overlap ------------------------------------------------------------------------------------------------------


def test_run_that_has_not_ended_keeps_others_from_being_made_where_they_are_skipped(machine: Driver) -> None:
    entry = machine.schedule(every_s=10, overlap=Overlap.SKIP)
    machine.attach()
    for _ in range(3):
        machine.tick(10)
    assert (dues(machine), entry.skipped) == ([10], 2)
    machine.succeed(machine.lease_one())
    machine.tick(10)
    assert (dues(machine), entry.skipped, entry.made) == ([10, 40], 2, 2)


def test_run_that_has_not_ended_is_cancelled_where_it_is_replaced(machine: Driver) -> None:
    machine.schedule(every_s=10, overlap=Overlap.REPLACE)
    machine.attach()
    machine.tick(10)
    lease = machine.lease_one()
    machine.tick(10)
    assert [d.index for d in machine.machine.cancelling("w1")] == [0]
    machine.tick(10)
    assert [machine.state(batch) for batch in (1, 2, 3)] == [State.RUNNING, State.CANCELLED, State.PENDING]
    assert machine.batch(2).reason == "it was replaced by 3"
    machine.fail(lease)
    assert machine.state(1) is State.CANCELLED


def test_runs_queue_by_default(machine: Driver) -> None:
    machine.schedule(every_s=10)
    for _ in range(3):
        machine.tick(10)
    assert machine.count(State.PENDING) == 3


# -- no room ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catch_up", list(CatchUp))
def test_due_times_that_find_the_queue_full_are_made_when_there_is_room(catch_up: CatchUp) -> None:
    machine = Driver(max_tasks=1, lease_s=1000.0)
    machine.attach()
    blocking = machine.submit()
    entry = machine.schedule(every_s=30, catch_up=catch_up)
    for _ in range(3):
        machine.tick(30)
    assert dues(machine) == []
    assert "1 task" in entry.trouble
    machine.succeed(machine.lease_one())
    assert not machine.is_live(blocking)
    for _ in range(3):
        machine.tick(1)
        machine.succeed(machine.lease_one())
    machine.tick(1)
    assert (dues(machine), entry.trouble) == ([30, 60, 90], "")


def test_full_queue_is_no_busy_loop() -> None:
    machine = Driver(max_tasks=1)
    machine.submit()
    machine.schedule(every_s=10)
    machine.tick(10)
    assert machine.machine.schedules.next_at() is None
    assert machine.machine.schedules.put_off_until() == machine.now + 1


@pytest.mark.parametrize(
    ("catch_up", "made"),
    [(CatchUp.NONE, [30, 150]), (CatchUp.LAST, [30, 120, 150]), (CatchUp.ALL, [30, 60, 90, 120, 150])],
)
def test_due_times_of_a_queue_that_is_drained_are_missed(machine: Driver, catch_up: CatchUp, made: list[float]) -> None:
    # Given a schedule that has made a run, and whose queue is drained while three due times come
    entry = machine.schedule(every_s=30, catch_up=catch_up)
    machine.tick(30)
    machine.steer("default", draining=True)
    for _ in range(65):
        machine.tick(1)
    assert "drained" in entry.trouble
    for _ in range(50):
        machine.tick(1)
    assert dues(machine) == [30]
    machine.restored()

    # When it is resumed
    machine.steer("default", draining=False)
    machine.tick(1)
    assert entry.trouble == ""
    machine.tick(4)

    # Then what has been missed is for its rule to say
    assert dues(machine) == made


# -- steering -----------------------------------------------------------------------------------------------------


def test_due_times_go_by_while_it_is_paused(machine: Driver) -> None:
    entry = machine.schedule(every_s=10, catch_up=CatchUp.ALL)
    held = machine.machine.schedules
    held.pause(entry, machine.clock.wall(), paused=True)
    machine.tick(25)
    assert (dues(machine), held.upcoming(entry)) == ([], ())
    held.pause(entry, machine.clock.wall(), paused=False)
    assert held.upcoming(entry) == (1_000_030.0, 1_000_040.0, 1_000_050.0)
    machine.tick(5)
    assert dues(machine) == [30]


def test_change_of_what_is_called_leaves_the_next_due_time(machine: Driver) -> None:
    machine.schedule(every_s=10)
    machine.tick(14)
    entry = machine.schedule(every_s=10, function="work:other")
    assert (entry.next_at, entry.made) == (1_000_020.0, 1)
    machine.tick(6)
    assert machine.live(2).entry.spec.function.name == "work:other"


def test_change_of_the_rule_begins_anew_and_remembers_what_was_made(machine: Driver) -> None:
    machine.schedule(every_s=10)
    machine.tick(14)
    entry = machine.schedule(every_s=7)
    assert (entry.next_at, entry.made, entry.last_batch) == (1_000_021.0, 1, 1)
    machine.tick(7)
    assert dues(machine) == [10, 21]


def test_removed_one_makes_nothing_more(machine: Driver) -> None:
    entry = machine.schedule(every_s=10)
    machine.drain()
    machine.machine.schedules.remove(entry)
    machine.drain()
    machine.restart()
    machine.tick(100)
    assert (dues(machine), len(machine.machine.schedules)) == ([], 0)
    with pytest.raises(UnknownSchedule, match="often"):
        machine.machine.schedules.get("often")


def test_what_is_restored_is_what_was_there(machine: Driver) -> None:
    machine.schedule("one", every_s=10, overlap=Overlap.SKIP, jitter_s=3)
    paused = machine.schedule("two", cron="*/5 * * * *", tz="Asia/Tokyo", until=2e9)
    machine.schedule("three", at=1_000_500.0, catch_up=CatchUp.NONE)
    machine.machine.schedules.pause(paused, machine.clock.wall(), paused=True)
    machine.tick(13)
    again = machine.restored()
    assert list(again.schedules.rows()) == list(machine.machine.schedules.rows())
    assert again.schedules.next_at() == machine.machine.schedules.next_at()


def test_row_of_the_first_version_is_understood(machine: Driver) -> None:
    # As it was written when there were no options but these
    body = (
        '{"rule":{"cron":"","tz":"UTC","every_s":10.0,"at":null,"jitter_s":0.0,"until":null},'
        '"spec":{"kind":"import","name":"work:shop","body":"","options":{"priority":2,"max_retries":3,"max_crashes":3,'
        '"timeout_s":null,"queue":"default","retry_delay_s":null,"jitter":false,"never_retry":["OSError"],"depth":0,'
        '"keep_results_s":null}},"arguments":"Y2FsbA==","overlap":"skip","catch_up":"all","added_at":1000000.0,'
        '"paused":false,"next_at":1000010.0,"last_due":null,"last_batch":0,"made":4,"skipped":1}'
    )
    machine.machine.schedules.restore(DefinitionRow(kind="schedule", name="often", body=body))
    entry = machine.machine.schedules.get("often")
    assert entry.schedule == Schedule(
        name="often",
        rule=Rule(every_s=10.0),
        spec=spec(priority=2, never_retry=("OSError",)),
        arguments=b"call",
        overlap=Overlap.SKIP,
        catch_up=CatchUp.ALL,
    )
    assert (entry.made, entry.skipped, entry.next_at) == (4, 1, 1_000_010.0)


def test_there_are_only_so_many(machine: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "MOST", 2)
    machine.schedule("one", every_s=10)
    machine.schedule("two", every_s=10)
    with pytest.raises(SchedulesFull):
        machine.schedule("three", every_s=10)
    machine.schedule("two", every_s=20)


def test_calls_are_only_so_large_together(machine: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "MOST_BYTES", 100)
    machine.schedule("one", every_s=10, arguments=bytes(60))
    with pytest.raises(SchedulesFull, match="60 bytes"):
        machine.schedule("two", every_s=10, arguments=bytes(41))
    machine.drain()
    machine.restart()
    with pytest.raises(SchedulesFull):
        machine.schedule("one", every_s=10, arguments=bytes(101))
    machine.schedule("one", every_s=20, arguments=bytes(50))
    machine.schedule("two", every_s=10, arguments=bytes(50))
    machine.machine.schedules.remove(machine.machine.schedules.get("one"))
    machine.schedule("two", every_s=10, arguments=bytes(100))


# -- what cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule", [{}, {"every_s": 5.0, "at": 1.0}, {"cron": "* * * * *", "every_s": 5.0}, {"every_s": 0.01}]
)
def test_rule_is_one_rule(rule: dict[str, object]) -> None:
    with pytest.raises(InvalidValue):
        Rule(**rule)  # type: ignore[arg-type]


def test_schedule_keeps_only_small_calls() -> None:
    with pytest.raises(InvalidValue, match="65,536 bytes"):
        Schedule(name="large", rule=Rule(every_s=5), spec=spec(), arguments=bytes(65_537))


@pytest.mark.parametrize("cron", ["", "* * * *", "61 * * * *", "0 0 30 2 *", "every day", "* * * * * * *"])
def test_cron_expression_that_is_none_is_refused_with_the_form(cron: str) -> None:
    with pytest.raises(InvalidValue, match="cron expression"):
        CronCalendar().recurrence(cron, "UTC")


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "../etc/passwd", "", "Europe"])
def test_time_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(InvalidValue, match="time zone"):
        CronCalendar().recurrence("* * * * *", zone)


def test_machine_without_a_calendar_says_which_extra_it_lacks() -> None:
    machine = Machine(1, Rules(), Driver()._totals)
    schedule = Schedule(name="x", rule=Rule(cron="* * * * *"), spec=spec(), arguments=b"")
    with pytest.raises(CronMissing, match=r"dtq\[cron\]"):
        machine.schedules.define(schedule, 0.0)


def test_coordinator_without_cronsim_says_which_extra_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(CronMissing, match=r"pip install 'dtq\[cron\]'"):
        CronCalendar().recurrence("* * * * *", "UTC")


@pytest.mark.parametrize(
    ("word", "expression"), [("@hourly", "0 * * * *"), ("@Daily", "0 0 * * *"), ("@weekly", "0 0 * * 0")]
)
def test_words_stand_for_expressions(word: str, expression: str) -> None:
    one, other = (CronCalendar().recurrence(text, "UTC").later(1_000_000.0) for text in (word, expression))
    assert list(islice(one, 5)) == list(islice(other, 5))


def test_cron_schedule_of_a_store_waits_where_no_calendar_is(machine: Driver) -> None:
    machine.schedule("cron", cron="* * * * *")
    machine.schedule("often", every_s=60)
    machine.drain()
    machine.calendar = NoCalendar()  # type: ignore[assignment]
    machine.restart()
    machine.tick(60)
    assert dues(machine, "often") == [60]
    entry = machine.machine.schedules.get("cron")
    assert "dtq[cron]" in entry.trouble
    assert machine.machine.schedules.upcoming(entry) == (1_000_020.0,)
    machine.drain()
    machine.calendar = CronCalendar()
    machine.restart()
    machine.tick(10)
    assert dues(machine, "cron") == [20]


# -- daylight saving ----------------------------------------------------------------------------------------------


def local(cron: str, begin: str, count: int = 3) -> list[str]:
    """The next due times after a moment in Prague, found one by one and in a row."""
    zone = ZoneInfo("Europe/Prague")
    recurrence = CronCalendar().recurrence(cron, "Europe/Prague")
    given = datetime.fromisoformat(begin)
    moment = (given if given.tzinfo else given.replace(tzinfo=zone)).timestamp()
    in_a_row = list(islice(recurrence.later(moment), count))
    one_by_one: list[float] = []
    for _ in range(count):
        one_by_one.append(next(recurrence.later(one_by_one[-1] if one_by_one else moment)))
    assert in_a_row == one_by_one
    return [datetime.fromtimestamp(due, zone).isoformat(timespec="minutes")[5:] for due in in_a_row]


def test_hour_that_does_not_exist_moves_what_is_daily_to_the_minute_after_it() -> None:
    assert local("30 2 * * *", "2026-03-28T12:00", 2) == ["03-29T03:00+02:00", "03-30T02:30+02:00"]
    assert local("0,30 2 * * *", "2026-03-29T00:00", 2) == ["03-29T03:00+02:00", "03-30T02:00+02:00"]


def test_hour_that_does_not_exist_is_left_out_by_what_comes_all_day() -> None:
    found = local("*/30 * * * *", "2026-03-29T01:15")
    assert found == ["03-29T01:30+01:00", "03-29T03:00+02:00", "03-29T03:30+02:00"]


def test_hour_that_comes_twice_has_what_is_daily_once() -> None:
    assert local("30 2 * * *", "2026-10-24T12:00", 2) == ["10-25T02:30+02:00", "10-26T02:30+01:00"]
    # Also for who asks in the second of the two hours.
    assert local("30 2 * * *", "2026-10-25T02:15+01:00", 1) == ["10-26T02:30+01:00"]


def test_hour_that_comes_twice_has_what_comes_all_day_twice() -> None:
    found = local("*/30 * * * *", "2026-10-25T01:45", 5)
    assert found == [
        "10-25T02:00+02:00",
        "10-25T02:30+02:00",
        "10-25T02:00+01:00",
        "10-25T02:30+01:00",
        "10-25T03:00+01:00",
    ]


@pytest.mark.parametrize(
    ("moment", "name"),
    [(1_796_112_000.0, "1796112000"), (0.1, "0.1"), (1_796_112_000.25, "1796112000.25"), (100.0, "100")],
)
def test_due_time_in_a_key_is_seconds_to_the_millisecond(moment: float, name: str) -> None:
    assert moment_name(moment) == name
