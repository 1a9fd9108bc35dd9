"""An executor's large calls and results, as files and over the connection: futures, maps, and what its end leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import psutil
import pytest

import dtq
from tests.cluster import DEADLINE_S, TASKS, until
from tests.tasks import work

np = pytest.importorskip("numpy")


@pytest.fixture(scope="module", params=["yes", "no"])
def executor(request: pytest.FixtureRequest) -> Iterator[dtq.Executor]:
    """With a cluster of its own; by reference or not."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DTQ_BY_REFERENCE", request.param)
        with dtq.Executor.local(2, paths=[TASKS]) as executor:
            yield executor


@pytest.mark.parametrize("size", [100_000, 10_000_000])
def test_arrays_come_back(executor: dtq.Executor, size: int) -> None:
    arrays = [np.frombuffer(os.urandom(size), np.uint8).copy() for _ in range(4)]

    futures = [executor.submit(work.echo, array) for array in arrays]
    wait(futures, DEADLINE_S)
    for array, future in zip(arrays, futures, strict=True):
        found = future.result(0)
        assert (found == array).all()
        found[0] ^= 1
    assert all((one == other).all() for one, other in zip(executor.map(work.echo, arrays), arrays, strict=True))


def test_what_was_read_is_let_go(executor: dtq.Executor) -> None:
    """Values too: a loop of days does not fill the disk."""
    cluster = executor._completer.cluster
    assert cluster is not None
    coordinator = psutil.Process(cluster.pids["coordinator"])
    places = {Path(file).parent for file in _open_files(coordinator) if "dtq-values-" in file}

    def used() -> int:
        return sum(path.stat().st_blocks * 512 for place in places for path in place.glob("*.values"))

    # When many large values have gone there and back
    assert places
    for _ in range(8):
        assert len(executor.submit(work.echo, os.urandom(20_000_000)).result(DEADLINE_S)) == 20_000_000

    # Then most of them are gone
    until(lambda: used() < 200_000_000, "values to be let go", used)


def _open_files(process: psutil.Process) -> list[str]:
    return [os.readlink(f"/proc/{process.pid}/fd/{name}") for name in os.listdir(f"/proc/{process.pid}/fd")]


def test_a_map_is_read_after_the_end_of_its_executor() -> None:
    # Given a map of large results that nobody has read when the executor ends, and its cluster with it
    data = [os.urandom(3_000_000) for _ in range(6)]
    with dtq.Executor.local(1, paths=[TASKS]) as executor:
        results = executor.map(work.echo, data)

    # Then they are here
    assert list(results) == data
