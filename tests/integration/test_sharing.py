"""What is put, and what comes again with each call: it lies once, slots map it, and it goes when nobody needs it."""

from __future__ import annotations

import asyncio
import functools
import gc
import glob
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import dtq
from dtq.client import watcher
from dtq.client.local import LocalCluster
from dtq.errors import CannotPickle, InvalidValue
from tests.cluster import TASKS, until
from tests.tasks import value_work as work

COUNT = 250_000
ARRAY = np.arange(COUNT, dtype=np.float64)
SIZE = ARRAY.nbytes


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2, paths=[TASKS]) as cluster:
        yield cluster


@pytest.fixture(params=["by reference", "by wire"])
def client(cluster: LocalCluster, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("DTQ_BY_REFERENCE", "1" if request.param == "by reference" else "0")
    monkeypatch.setattr(watcher, "WAIT_S", 0.2)  # clients soon ask for news again, and so tell what they let go
    with dtq.Client(cluster.address, authkey_file=cluster.authkey_file) as client:
        yield client


def kept(client: dtq.Client) -> int:
    """How many bytes of values the coordinator has."""
    client.stats()  # so that it is connected
    offer = client._core.session.values
    assert offer is not None
    return sum(_size(path) for where in offer.directories for path in glob.glob(f"{where}/*.values"))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def test_a_reference_stands_for_its_value_in_any_number_of_calls(client: dtq.Client) -> None:
    # Given an array that was put
    reference = client.put(ARRAY)

    # When many calls have it in their arguments, some beside others and in something else
    totals = list(client.map(work.total_with, [reference] * 50, range(50)))
    nested = client.submit(work.echo, {"a": [reference, 1]}).result(30)

    # Then each has the array, whatever the others have written to theirs
    assert totals == [float(ARRAY.sum()) + n for n in range(50)]
    assert np.array_equal(nested["a"][0], ARRAY)
    assert set(client.map(work.first_and_write, [reference] * 20)) == {0.0}


def test_what_was_put_goes_with_its_last_reference(client: dtq.Client) -> None:
    # Given something that was put twice, which lies once
    data = os.urandom(4_000_000)
    before = kept(client)
    first, second = client.put(data), client.put(data)
    assert first.size == second.size >= len(data)
    assert len(data) <= kept(client) < before + 2 * len(data)

    # When a task that needs it is submitted, and both references go
    handle = client.submit(work.echo, first, delay=1.0)
    handle.accepted()
    first.release()
    del second
    gc.collect()

    # Then the task has it still, and afterwards it goes
    assert handle.result(30) == data
    client.wait([client.submit(work.echo, None)])


def test_a_value_that_is_only_put_goes_at_once(client: dtq.Client) -> None:
    # Given a value in a segment that its client does not write to any more
    reference = client.put(os.urandom(70_000_000))
    assert kept(client) >= 70_000_000  # and what earlier tests have left, which goes at any moment

    # When the reference goes, and the client writes again, Then so does it
    reference.release()
    client.put(b"something else")
    until(lambda: kept(client) < 70_000_000, "it is gone")


@pytest.mark.parametrize(
    "calls",
    [
        lambda client: client.map(functools.partial(work.total_with, ARRAY), range(30)),
        lambda client: client.map(lambda n: float(ARRAY.sum()) + n, range(30)),
        lambda client: client.map(work.total_with, [ARRAY] * 30, range(30)),
        lambda client: [h.result(30) for h in [client.submit(work.total_with, ARRAY, n) for n in range(30)]],
    ],
    ids=["partial", "closure", "map", "submit"],
)
def test_what_comes_again_with_each_call_lies_once(client: dtq.Client, calls: Callable[[Any], Any]) -> None:
    before = kept(client)
    peak = 0
    found = []
    for total in calls(client):
        found.append(total)
        peak = max(peak, kept(client) - before)

    assert found == [float(ARRAY.sum()) + n for n in range(30)]
    assert peak < 2 * SIZE


def test_arrays_of_a_functions_first_call_are_mapped_too(client: dtq.Client) -> None:
    # Given arrays beside something that is no array
    arrays = [ARRAY + 1, {"more": ARRAY + 2}]

    # When a function has them that had no large call before
    found = client.submit(lambda a, b: [(x.flags.writeable, x.ctypes.data % 64, x[1]) for x in (a, b["more"])], *arrays)

    # Then they are aligned, as they lie beside the pickle, and the task may write to them
    assert found.result(30) == [(True, 0, 2.0), (True, 0, 3.0)]


def test_a_buffer_that_is_filled_anew_is_what_it_is_then(client: dtq.Client) -> None:
    buffer = np.zeros(COUNT)

    def filled() -> Iterator[Any]:
        for n in range(6):
            buffer[:] = n
            yield buffer

    assert list(client.map(work.total_with, filled())) == [float(COUNT * n) for n in range(6)]


def test_executors_and_event_loops_put_too(cluster: LocalCluster) -> None:
    with dtq.Executor(cluster.address, authkey_file=cluster.authkey_file) as executor:
        reference = executor.put(ARRAY)
        assert list(executor.map(work.total_with, [reference] * 3, range(3)))[1] == float(ARRAY.sum()) + 1

    async def put() -> float:
        async with dtq.AsyncClient(cluster.address, authkey_file=cluster.authkey_file) as client:
            reference = await client.put(ARRAY, ttl=60)
            handle = await client.submit(work.total_with, reference)
            partial = await client.submit(functools.partial(work.total_with, ARRAY), 1)
            total: float = await handle.result() + await partial.result()
            return total

    assert asyncio.run(put()) == 2 * float(ARRAY.sum()) + 1


def test_what_cannot_be_put_says_so(client: dtq.Client) -> None:
    with pytest.raises(CannotPickle, match="the value"):
        client.put(threading.Lock())
    with pytest.raises(InvalidValue, match="ttl"):
        client.put(1, ttl=-1)


def test_slots_map_what_was_put(client: dtq.Client) -> None:
    # Given an array that was put, and tasks in both slots
    reference = client.put(ARRAY)
    mapped = list(client.map(work.mapped_files, [reference] * 20, range(20)))

    # Then all have mapped one and the same file, beside those of functions that they keep
    assert set.intersection(*map(set, mapped))
