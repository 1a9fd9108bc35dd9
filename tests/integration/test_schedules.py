"""Schedules in real processes: each due time makes one submission, over kills and clocks that are set."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from dtq.client.sync import Client
from dtq.model.schedules import CatchUp, Rule, Schedule
from dtq.model.service import Service
from dtq.model.states import State
from tests.cluster import Cluster, until
from tests.faults.test_time import WallClock
from tests.producer import spec_of

EVERY_S = 0.25
COUNT = 16
KILLS = 3


def keys(service: Service, name: str) -> list[str]:
    """The keys of all batches of a schedule, in the order of their acceptance."""
    found = []
    for number in range(1, service.stats().submitted + 1):
        key = service.batch(number).key
        if key is not None and key.startswith(f"schedule/{name}/"):
            found.append(key)
    return found


def await_made(service: Service, count: int) -> None:
    until(lambda: service.schedule("often").made >= count, f"{count} due times to come")


def test_due_times_each_make_one_submission_over_kills_of_the_coordinator(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        coordinator = cluster.coordinator()
        service = cluster.service()
        began = round(time.time(), 3)
        rule = Rule(every_s=EVERY_S, until=began + EVERY_S * (COUNT + 0.5))
        spec = spec_of("add")
        service.set_schedule(
            Schedule(name="often", rule=rule, spec=spec, arguments=b"x", catch_up=CatchUp.ALL), False, False
        )
        added_at = service.schedule("often").added_at
        # When the coordinator is killed again and again while due times come
        for number in range(KILLS):
            await_made(service, 2 * number + 1)
            coordinator.kill()
            coordinator = cluster.coordinator()
            service = cluster.service()
        # Then each due time until the end has made one submission, those while nobody was there too
        view = until(lambda: service.schedule("often") if not service.schedule("often").upcoming else None, "the end")
        assert view is not None
        assert rule.until is not None
        expected = [round(added_at + EVERY_S * n, 3) for n in range(1, COUNT + 1)]
        expected = [due for due in expected if due <= rule.until]
        assert len(expected) >= COUNT - 1
        assert [float(key.rpartition("/")[2]) for key in keys(service, "often")] == expected
        assert view.made == len(expected)


def test_program_schedules_a_function_and_sees_how_it_ends(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.coordinator()
        cluster.worker(slots=1)
        with Client(cluster.address, authkey_file=cluster.key_file) as client:
            assert client.schedules.add("sum", {"every": 0.2}, "work:add", 2, 3, options={"priority": 1}) == "added"
            until(lambda: client.schedules.get("sum").last_batch, "a due time to come")
            client.schedules.pause("sum")
            view = client.schedules.get("sum")
            handle = client.get(view.last_batch)
            assert handle.result(20) == 5
            assert client.schedules.run("sum").result(20) == 5
            shown = client.schedules.list()
            assert [(v.schedule.name, v.paused, v.made) for v in shown] == [("sum", True, view.made + 1)]
            client.schedules.resume("sum")
            client.schedules.remove("sum")
            assert client.schedules.list() == []


def test_clock_that_is_set_brings_what_is_due_by_it_and_nothing_twice(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        wall = WallClock(cluster)
        cluster.coordinator()
        service = cluster.service()
        now = time.time()
        service.set_schedule(
            Schedule(name="hourly", rule=Rule(every_s=3600.0), spec=spec_of("add"), arguments=b"x"), False, False
        )
        with Client(cluster.address, authkey_file=cluster.key_file) as client:
            handle = client.submit("work:add", 1, at=datetime.fromtimestamp(now + 1800, UTC))
            assert handle.status().state is State.SCHEDULED
            # When somebody sets the clock two hours ahead, back, and there again
            wall.set(2 * 3600 + 60)
            until(lambda: service.schedule("hourly").made, "the due time that has come")
            until(lambda: handle.status().state is State.PENDING, "what was submitted for a moment")
            assert service.schedule("hourly").made == 1  # the last of two that went by
            wall.set(0)
            soon = datetime.fromtimestamp(now + 3 * 3600, UTC)
            client.submit("work:add", 1, at=soon).accepted(20)  # with which the clock is looked at
            wall.set(2 * 3600 + 120)
            client.submit("work:add", 1, at=soon).accepted(20)
            later = client.submit("work:add", 1, at=datetime.fromtimestamp(now + 2 * 3600 + 122, UTC))
            until(lambda: later.status().state is State.PENDING, "the clock to be looked at again")
            # Then nothing has come twice.
            assert service.schedule("hourly").made == 1
