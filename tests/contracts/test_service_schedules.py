"""The contract of the service for schedules, over every kind of house."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dtq.core.queue_state import Rules
from dtq.engines.memory import MemoryEngine
from dtq.errors import InvalidValue, KeyConflict, ScheduleExists, StoreFull, UnknownSchedule
from dtq.model import values
from dtq.model.options import Function, FunctionKind
from dtq.model.schedules import CatchUp, Overlap, Rule, Schedule, ScheduleView
from dtq.model.states import State
from dtq.testing import FailingEngine, ManualClock
from tests.contracts.service_scene import House, spec, until


def schedule(name: str = "often", **parts: object) -> Schedule:
    given = {"rule": Rule(every_s=3600.0), "spec": spec(), "arguments": b"call"}
    return Schedule(name=name, **{**given, **parts})  # type: ignore[arg-type]


def soon(house: House, name: str, batches: int) -> ScheduleView:
    """The schedule, when it has made so many submissions."""
    client = house.client()

    def made() -> ScheduleView | None:
        view = client.service.schedule(name)
        return view if view.made >= batches else None

    found = until(f"{batches} submissions of {name}", made)
    assert found is not None
    return found


def test_schedule_is_shown_as_it_was_defined(house: House) -> None:
    # Given schedules of each kind of rule
    client = house.client()
    given = [
        schedule("cron", rule=Rule(cron="0 3 * * *", tz="Europe/Prague", until=4e9), overlap=Overlap.SKIP),
        schedule("every", spec=spec("work:sweep", queue="mail", max_retries=0), catch_up=CatchUp.ALL),
        schedule("once", rule=Rule(at=4e9, jitter_s=5.0), overlap=Overlap.REPLACE),
    ]
    for each in given:
        assert client.service.set_schedule(each, False, False) == "added"
    # When they are listed, then each is what was given, with its next due times
    found = client.service.schedules("")
    assert [view.schedule for view in found] == given
    assert [len(view.upcoming) for view in found] == [3, 3, 1]
    first, second, _ = found[1].upcoming
    assert second - first == 3600
    assert first == pytest.approx(found[1].added_at + 3600, abs=0.01)
    assert {(view.made, view.last, view.last_due, view.last_batch, view.paused) for view in found} == {
        (0, None, None, 0, False)
    }
    # And likewise one by one, and after a restart.
    assert client.service.schedules("cron") == found[1:]
    assert client.service.schedule("every") == found[1]
    house.restart()
    assert house.client().service.schedules("") == found


def test_due_time_has_its_call_run_and_says_how_that_ended(house: House) -> None:
    client, hand = house.client(), house.worker(queues=("mail",))
    client.service.set_schedule(schedule(rule=Rule(every_s=0.2), spec=spec(queue="mail")), False, False)
    grant = hand.fetch_one()
    assert grant.arguments.endswith(b"call")
    view = client.service.batch(grant.batch)
    assert view.key is not None
    assert view.key.startswith("schedule/often/")
    client.service.pause_schedule("often", True)
    hand.succeed(grant)
    until("the batch to be finished", lambda: client.service.batch(grant.batch).finished_at)
    shown = client.service.schedule("often")
    assert (shown.paused, shown.upcoming) == (True, ())
    assert shown.last is not None
    if shown.made == 1:
        assert shown.last_batch == grant.batch
        assert (shown.last.counts.succeeded, shown.last_due) == (1, float(view.key.rpartition("/")[2]))


def test_same_definition_again_changes_nothing_and_another_one_needs_to_be_asked_for(house: House) -> None:
    client = house.client()
    assert client.service.set_schedule(schedule(), False, False) == "added"
    before = client.service.schedule("often")
    assert client.service.set_schedule(schedule(), False, False) == "unchanged"
    other = schedule(rule=Rule(every_s=60.0))
    with pytest.raises(ScheduleExists):
        client.service.set_schedule(other, False, False)
    assert client.service.schedule("often") == before
    assert client.service.set_schedule(other, True, False) == "changed"
    assert client.service.schedule("often").schedule == other


def test_dry_run_says_what_would_be_done(house: House) -> None:
    client = house.client()
    assert client.service.set_schedule(schedule(), False, True) == "added"
    assert client.service.schedules("") == []
    client.service.set_schedule(schedule(), False, False)
    assert client.service.set_schedule(schedule(arguments=b"other"), True, True) == "changed"
    assert client.service.set_schedule(schedule(), True, True) == "unchanged"
    assert client.service.schedule("often").schedule == schedule()


def test_run_that_is_asked_for_is_one_beside_the_due_times(house: House) -> None:
    client = house.client()
    client.service.set_schedule(schedule(), False, False)
    before = client.service.schedule("often")
    number = client.service.run_schedule("often")
    shown = client.service.schedule("often")
    assert (shown.last_batch, shown.made, shown.upcoming) == (number, 1, before.upcoming)
    assert client.service.batch(number).key == f"schedule/often/run/{number}"
    assert client.service.run_schedule("often") != number
    assert client.states(number, 1) == [State.PENDING]


def test_removed_schedule_leaves_what_it_has_submitted(house: House) -> None:
    client = house.client()
    client.service.set_schedule(schedule(), False, False)
    number = client.service.run_schedule("often")
    client.service.remove_schedule("often")
    assert client.service.schedules("") == []
    assert client.states(number, 1) == [State.PENDING]
    for verb in (client.service.schedule, client.service.remove_schedule, client.service.run_schedule):
        with pytest.raises(UnknownSchedule, match="often"):
            verb("often")
    with pytest.raises(UnknownSchedule, match="often"):
        client.service.pause_schedule("often", True)
    house.restart()
    assert house.client().service.schedules("") == []


def test_steering_survives_a_restart(house: House) -> None:
    client = house.client()
    client.service.set_schedule(schedule(), False, False)
    client.service.pause_schedule("often", True)
    number = client.service.run_schedule("often")
    house.restart()
    shown = house.client().service.schedule("often")
    assert (shown.paused, shown.last_batch, shown.made) == (True, number, 1)
    house.client().service.pause_schedule("often", False)
    assert len(house.client().service.schedule("often").upcoming) == 3


def test_replaced_run_is_stopped_where_it_runs(house: House) -> None:
    client, hand = house.client(), house.worker()
    client.service.set_schedule(schedule(rule=Rule(every_s=0.5), overlap=Overlap.REPLACE), False, False)
    grant = hand.fetch_one()
    orders = hand.fetch_orders(wait_s=20.0)
    assert [cancellation.token for cancellation in orders.cancel] == [grant.token]
    client.service.remove_schedule("often")


@pytest.mark.parametrize(
    "parts",
    [
        {"rule": Rule(cron="61 * * * *")},
        {"rule": Rule(cron="* * * * *", tz="Europe/Nowhere")},
        {"arguments": values.MARK + b"something"},
        {"spec": replace(spec(), function=Function(kind=FunctionKind.VALUE, name="f", body=values.MARK + b"x"))},
    ],
)
def test_schedule_that_cannot_be_is_refused(house: House, parts: dict[str, object]) -> None:
    client = house.client()
    for dry_run in (True, False):
        with pytest.raises(InvalidValue):
            client.service.set_schedule(schedule(**parts), False, dry_run)
    assert client.service.schedules("") == []


def test_by_value_function_is_not_sent_to_who_looks(house: House) -> None:
    client, hand = house.client(), house.worker()
    function = Function(kind=FunctionKind.VALUE, name="f", body=b"pickle")
    client.service.set_schedule(schedule(spec=replace(spec(), function=function)), False, False)
    client.service.run_schedule("often")
    shown = client.service.schedule("often")
    assert shown.schedule.spec.function.body == b""
    assert shown.last is not None
    assert shown.last.spec.function.body == b""
    assert hand.service.spec(hand.fetch_one().spec).function.body == b"pickle"


def test_key_of_a_due_time_is_nobody_elses(house: House) -> None:
    client = house.client()
    client.service.set_schedule(schedule(), False, False)
    number = client.service.run_schedule("often")
    (receipt,) = client.receipts(client.submission(key=f"schedule/often/run/{number}"), function="work:other")
    assert receipt.code == KeyConflict.code


def test_many_schedules_are_listed_in_pieces(tmp_path: Path) -> None:
    house = House("memory", tmp_path, max_message=64 << 10)
    try:
        client = house.client()
        names = [f"s{number:03}" for number in range(120)]
        for name in names:
            client.service.set_schedule(schedule(name, arguments=b"x" * 1000), False, False)
        found: list[ScheduleView] = []
        while piece := client.service.schedules(found[-1].schedule.name if found else ""):
            assert len(piece) < 20
            found += piece
        assert [view.schedule.name for view in found] == names
    finally:
        house.close()


def test_full_queue_is_told_and_made_up_for(tmp_path: Path) -> None:
    house = House("memory", tmp_path, rules=Rules(max_tasks=1))
    try:
        client, hand = house.client(), house.worker()
        client.submit()
        client.service.set_schedule(schedule(rule=Rule(every_s=0.3), overlap=Overlap.SKIP), False, False)
        until("the schedule to be stuck", lambda: client.service.schedule("often").trouble)
        hand.succeed(hand.fetch_one())
        assert soon(house, "often", 1).trouble == ""
    finally:
        house.close()


def test_full_disk_loses_no_due_time(tmp_path: Path) -> None:
    # Given a schedule, and a disk that is full
    engine = FailingEngine(MemoryEngine())
    house = House("memory", tmp_path, engine=lambda: engine)
    clock = house.coordinator.clock = ManualClock(house.coordinator.clock.now())
    try:
        client = house.client()
        client.service.set_schedule(schedule(rule=Rule(every_s=60.0)), False, False)
        engine.fail(1_000_000, StoreFull("test", "the disk"))
        with pytest.raises(StoreFull):
            client.submit()
        assert house.coordinator.committer.trouble is not None
        # When due times come
        for _ in range(3):
            clock.advance(61)
            house.coordinator.tick()
        assert len(house.coordinator.machine.queue_state.batches) == 0
        # Then they are made when there is room again
        engine.fail(0)
        until("the disk to be written again", lambda: house.coordinator.committer.trouble is None)
        clock.advance(1)
        house.coordinator.tick()
        assert house.client().service.schedule("often").made == 3
    finally:
        house.close()
