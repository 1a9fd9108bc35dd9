"""The store on a file system that fails: at every call once, by death between any two, by a power cut.

Rows 17, 40, 41, 42 and 45 of the catalogue of faults. What a short life of a store does to its files is some 1,000
calls; each test takes eight of them, ``DTQ_FAULTS_ALL=1`` has it take all. Damage of many kinds is in
``tests/integration/test_sqlite_damage.py``.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dtq.engines import reserve
from dtq.engines.sqlite import SqliteEngine
from dtq.errors import StoreError
from tests.faults import shim, shim_scene
from tests.faults.powercut import after_power_cut
from tests.integration.store_scene import flip, last_batch

ALL = "DTQ_FAULTS_ALL" in os.environ
MEMORY = "/dev/shm"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory, where there is one: thousands of syncs to a disk take long."""
    with tempfile.TemporaryDirectory(prefix="dtq-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as directory:
        yield Path(directory)


@pytest.fixture(autouse=True)
def small_reserves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reserves that are quickly made."""
    monkeypatch.setattr(reserve, "_BASE", 2**16)


def rounds(tmp_path: Path, **terms: object) -> None:
    said = shim.run_scene(tmp_path / "life" / "dtq.db", rounds=0 if ALL else 8, **terms)
    assert said["calls"] > 500
    assert said["rounds"] >= 8
    assert said["wrong"] == []


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("error", "length"), [("EIO", 1), ("ENOSPC", 3)])
def test_call_that_fails_leaves_nothing_behind_and_works_again(tmp_path: Path, error: str, length: int) -> None:
    """Row 40: every open, write, sync, truncation, allocation, rename and removal fails in turn."""
    rounds(tmp_path, do="fail", error=error, length=length, start=random.Random(error).randrange(10))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("every", range(2, 30) if ALL else [13])
def test_engine_keeps_its_contract_on_a_failing_disk(tmp_path: Path, every: int) -> None:
    """Row 40: the whole contract suite of engines, now and then a call fails, and what it was for is done again."""
    suite = Path(__file__).parents[1] / "contracts" / "test_engine.py"
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tmp_path / 'base'}",
        str(suite),
    ]
    environment = {"LD_PRELOAD": str(shim.built()), "DTQ_SHIM_NAME": "/dtq.db", "DTQ_SHIM_EVERY": str(every)}
    done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "passed" in done.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["die", "tear", "fail and die"])
def test_process_killed_between_any_two_calls_has_what_it_acknowledged(tmp_path: Path, how: str) -> None:
    """Row 17: SIGKILL between any two calls, in the middle of a write, or after a call that failed: no torn state."""
    rounds(tmp_path, do=how, start=random.Random(how).randrange(10))


def write_down(store: Path, log: Path) -> None:
    """A life with all its calls written down; it ends with a kill, so the last commits are in the log still."""
    store.parent.mkdir()
    assert shim.run_scene(store, do="write down", log=str(log)) == {"ended": -signal.SIGKILL}


# -- power cuts ---------------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_power_cut_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Row 45: what was synced is there, of what was not any part; torn between sectors, in any order."""
    log = tmp_path / "log"
    store = tmp_path / "life" / "dtq.db"
    write_down(store, log)
    calls = list(shim.noted(log))
    said = [*shim_scene.references(tmp_path / "reference"), {}]
    draw = random.Random(45)
    seen = set()
    for number in range(2000 if ALL else 120):
        path = tmp_path / "after" / str(number) / "dtq.db"
        cut = draw.randrange(len(calls)) if number else len(calls)
        acknowledged = sum(call.kind == "M" for call in calls[:cut])

        after_power_cut(calls[:cut], store, path, draw)

        engine = SqliteEngine(path)
        opening = engine.open()
        found = last_batch(engine, shim_scene.COMMITS)
        now = shim_scene.said_by(engine)
        engine.close()
        assert opening.losses == (), f"cut after call {cut} in round {number}"
        assert found in (acknowledged, acknowledged + 1), f"cut after call {cut} in round {number}"
        assert now == said[found], f"cut after call {cut} in round {number}"
        seen.add((found, found - acknowledged))
        shutil.rmtree(path.parent)
    assert {found for found, _ in seen} == set(range(shim_scene.COMMITS + 1))
    assert {more for _, more in seen} == {0, 1}  # some that nobody was told of had got through


# -- damage -------------------------------------------------------------------------------------------------------


def test_bits_flipped_in_a_hundred_places_are_all_detected(tmp_path: Path) -> None:
    """Row 42: one bit flipped in 100 random places of file, log and values: detected, or it made no difference."""
    log, store = tmp_path / "log", tmp_path / "life" / "dtq.db"
    write_down(store, log)
    said = shim_scene.references(tmp_path / "reference")[-1]
    draw = random.Random(42)
    outcomes = []
    for number in range(100):
        path = tmp_path / str(number) / "dtq.db"
        path.parent.mkdir()
        for suffix in ("", "-wal", ".mark"):
            shutil.copyfile(f"{store}{suffix}", f"{path}{suffix}")
        shutil.copytree(f"{store}.values", f"{path}.values")
        damaged = draw.choice([path, Path(f"{path}-wal"), *sorted(Path(f"{path}.values").iterdir())])
        bit = draw.randrange(8 * damaged.stat().st_size)
        flip(damaged, bit)

        what = detected(path, said)

        assert what, f"bit {bit} of {damaged.name} was flipped, and something else is said without a word"
        outcomes.append(what)
        shutil.rmtree(path.parent)
    assert len(outcomes) == 100
    assert outcomes.count("said") > 20, outcomes


def detected(path: Path, expected: dict[str, Any]) -> str:
    """Whether damage was said, or did no harm; empty if neither."""
    engine = SqliteEngine(path, durability="os")
    try:
        opening = engine.open()
        now = shim_scene.said_by(engine)
    except StoreError:
        return "said"
    finally:
        engine.close()
    if opening.losses:
        return "said"
    return "no harm" if now == expected else ""
