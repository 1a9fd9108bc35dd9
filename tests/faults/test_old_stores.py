"""Stores as earlier versions of the schema left them open, and go on.

``python -m tests.faults.test_old_stores`` writes the fixture of the present schema. That is done once, when a schema is
new; afterwards its files stay as they are, so that they are what a user of that version has.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Final

import pytest

from dtq.core import invariants, queues, views
from dtq.core.changes import DefinitionRow, ExpiryRow, HoldRow, OwnExpired, Stored
from dtq.core.machine import Machine
from dtq.core.queue_state import Rules
from dtq.core.restoring import restore
from dtq.engines import schema
from dtq.engines.sqlite import SqliteEngine
from dtq.model.messages import Conditions, Unique
from dtq.model.resources import needs
from dtq.model.schedules import CatchUp, Overlap
from dtq.model.snapshots import Selection
from dtq.model.states import State
from dtq.model.values import Value, named
from dtq.values.local import LocalValues
from tests.contracts.engine_rows import SESSION, hold, stored
from tests.contracts.service_scene import House
from tests.driver import Driver
from tests.integration.store_scene import everything

FIXTURES: Final = Path(__file__).parents[1] / "fixtures"
BATCHES: Final = 9
VERSIONS: Final = range(1, schema.SCHEMA + 1)


def live(engine: SqliteEngine) -> Driver:
    """A life that leaves rows of every kind, states of every kind, and options that are not the usual ones."""
    driver = Driver()
    driver.store = engine  # type: ignore[assignment]  # in place of the memory
    driver.attach("w1", 1)
    unusual: dict[str, Any] = {"priority": 2, "max_retries": 7, "timeout_s": 60.0, "queue": "night", "jitter": True}
    # 1: one succeeded, one failed and waits to be tried again, one runs when the coordinator ends
    driver.submit(3)
    driver.succeed(driver.lease_one(), printed=b"caf\xe9\n")
    driver.fail(driver.lease_one(), message="nö", printed="nö\n".encode())
    driver.lease_one()
    driver.drain()
    # 2: many, in pages, some of them done
    number = driver.submit(1024, function="shop:order", complete=False, **unusual)
    driver.submit(976, function="shop:order", batch=number, offset=1024, **unusual)
    driver.attach("w2", 1)
    while driver.batch(number).counts.succeeded < 100:
        for lease in driver.lease("w2"):
            driver.succeed(lease, seconds=0.001 * (lease.hi - lease.lo))
    # 3: cancelled as a whole, and kept for a time of its own; 4: dead after two crashes
    driver.cancel(driver.submit(5, key="nightly", keep_results_s=30 * 86_400.0))
    dead = driver.submit(1, priority=1, max_retries=0, max_crashes=2)
    for worker in ("w3", "w4"):
        driver.attach(worker, 1)
        driver.crash(next(lease for lease in driver.lease(worker) if lease.batch.number == dead))
        driver.drain()
    assert driver.state(dead) is State.DEAD
    # 5: delayed; 6: not all of it is there yet
    driver.submit(4, delay_s=9000.0)
    driver.submit(1, complete=False)
    # 7: waits for a part of another one, and for all of one; 8: waits for units and limits, with a key that is its own
    # for a while; 9: due at a moment
    driver.submit(2, after=((1, 1, 2, True), (5, 0, 0, False)), run_anyway=True)
    unique = Conditions(unique=Unique.UNFINISHED, expires_s=1e6)
    driver.submit(2, key="gpu", conditions=unique, limits=("tenant-7", "api"), needs=needs({"gpu": 1}, 2, ("fast",)))
    driver.submit(1, conditions=Conditions(at=2e9))
    # What operators have defined
    driver.limit("api", concurrency=3, starts=100, per_s=60.0, burst=5)
    driver.limit("tenant-*", concurrency=0)
    driver.steer("night", weight=3)
    driver.steer("mail", paused=True, draining=True)
    driver.schedule("nightly", cron="0 3 * * *", tz="Europe/Prague", jitter_s=30.0, overlap=Overlap.SKIP)
    sweep = driver.schedule("sweep", every_s=90.0, until=3e9, catch_up=CatchUp.ALL, options={"queue": "night"})
    driver.machine.schedules.pause(sweep, driver.clock.wall(), paused=True)
    driver.drain()
    return driver


def plain(value: Any) -> Any:
    """As JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return {name: plain(each) for name, each in value.items()} if isinstance(value, dict) else value


def held_values(engine: SqliteEngine) -> list[Value]:
    """The values that clients have put."""
    return [value for row in engine.restore() if isinstance(row, HoldRow) for value in named(row.description)]


def put(engine: SqliteEngine) -> str:
    """Have a client put a value, which is what is returned."""
    values = LocalValues(engine.place)
    draft = values.draft()
    draft.write(b"a value" * 20)
    engine.commit(stored(hold(SESSION, b"digest", draft.finish(), until=1e12)))
    values.close()
    return (b"a value" * 20).hex()


def covers(now: Any, then: Any) -> bool:
    """Whether what is said now has everything that was said then; fields that are new since do not matter."""
    if isinstance(then, dict):
        return isinstance(now, dict) and all(name in now and covers(now[name], then[name]) for name in then)
    if isinstance(then, list):
        return isinstance(now, list) and len(now) == len(then) and all(map(covers, now, then))
    return bool(now == then)


def copied(version: int, directory: Path) -> Path:
    for file in FIXTURES.glob(f"store_v{version}.db*"):
        if file.is_dir():
            shutil.copytree(file, directory / file.name)
        else:
            shutil.copyfile(file, directory / file.name)
    return directory / f"store_v{version}.db"


def _standing(machine: Machine) -> Iterator[tuple[str, str]]:
    """The definitions that a machine goes by."""
    yield from (("limit", view.limit.name) for view in views.limits(machine, 1000.0))
    yield from (("queue", queue) for queue in queues.steered(machine.queue_state))
    yield from (("schedule", entry.schedule.name) for entry in machine.schedules)


@pytest.mark.parametrize("version", VERSIONS)
def test_store_of_an_earlier_version_says_what_it_said_then(tmp_path: Path, version: int) -> None:
    path = copied(version, tmp_path)
    then = json.loads((FIXTURES / f"store_v{version}.json").read_text())

    engine = SqliteEngine(path)
    opened = engine.open()
    now = plain(everything(engine, BATCHES))
    machine = restore(opened.epoch, Rules(), opened.totals, engine.restore(), 1000.0)
    defined = [plain(row) for row in engine.restore() if isinstance(row, DefinitionRow)]
    held = [bytes(memoryview(LocalValues(engine.place).fetch(value))).hex() for value in held_values(engine)]
    engine.close()

    assert opened.losses == ()
    assert covers(plain(opened.totals), then["totals"])
    for what, said in then["said"].items():
        assert covers(now[what], said), what
    invariants.check(machine)
    assert covers(plain(machine.queue_state.tally.counts()), then["counts"])
    assert list(machine.queue_state.expiries) == then.get("expiries", [])
    assert held == then.get("held", [])
    assert defined == then.get("defined", [])
    assert {(row["kind"], row["name"]) for row in defined} == {*_standing(machine)}


@pytest.mark.parametrize("version", VERSIONS)
def test_coordinator_goes_on_with_a_store_of_an_earlier_version(tmp_path: Path, version: int) -> None:
    # Given a coordinator on it
    path = copied(version, tmp_path)
    house = House("sqlite", tmp_path, engine=lambda: SqliteEngine(path, durability="os"))
    try:
        # When a worker takes the most urgent of what waits, and an operator puts back what is dead
        client, hand = house.client(), house.worker()
        grant = hand.fetch_one()
        hand.succeed(grant)
        assert client.service.retry_dead(Selection(ids=((4, 0),))) == 1

        # Then
        assert grant.batch == 2
        assert client.service.task(2, grant.lo).state is State.SUCCEEDED
        assert client.service.task(4, 0).state in (State.PENDING, State.RUNNING)
        house.restart()
        assert house.opened.losses == ()
        invariants.check(house.coordinator.machine)
    finally:
        house.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_store_of_an_earlier_version_that_has_lost_something_is_used_and_found_whole(
    tmp_path: Path, version: int
) -> None:
    # Given a store whose mark is missing
    path = copied(version, tmp_path)
    Path(f"{path}.mark").unlink()
    engine = SqliteEngine(path)
    assert engine.open().losses

    # When a batch with a time of its own is stored there
    row = engine.batches([3])[0].row
    engine.commit([Stored(dataclasses.replace(row, expires_at=2000.0))])
    engine.close()

    # Then the next start finds the tables and the batch as those of the present version
    engine = SqliteEngine(path)
    assert engine.open().losses == ()
    assert ExpiryRow(at=2000.0) in list(engine.restore())
    engine.commit([OwnExpired(2000.0)])
    assert engine.batches([3]) == []
    engine.close()


def write(directory: Path) -> None:
    """Write the fixture of the present schema."""
    path = directory / f"store_v{schema.SCHEMA}.db"
    engine = SqliteEngine(path)
    engine.open()
    queue_state = live(engine).machine.queue_state
    counts, expiries = plain(queue_state.tally.counts()), list(queue_state.expiries)
    held = [put(engine)]
    said = plain(everything(engine, BATCHES))
    defined = [plain(row) for row in engine.restore() if isinstance(row, DefinitionRow)]
    engine.close()
    engine = SqliteEngine(path)
    totals = plain(engine.open().totals)
    engine.close()
    for beside in (".lock", ".reserve"):
        Path(f"{path}{beside}").unlink()
    text = json.dumps(
        {
            "totals": totals,
            "counts": counts,
            "expiries": expiries,
            "held": held,
            "defined": defined,
            "said": said,
        },
        indent=1,
        ensure_ascii=False,
    )
    path.with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    write(FIXTURES)
