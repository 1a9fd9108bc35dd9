"""Functions by value are forgotten by coordinator, worker and slots when they are needed no more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dtq import Client
from tests.cluster import Cluster

#: Bytes of one function, and how many there are: far more together than may be kept.
SIZE = 1_000_000
COUNT = 80
#: How much more memory each process may have in the end, in bytes.
MORE = 48 << 20


def plain(number: int) -> Callable[[], int]:
    blob = number.to_bytes(8, "big") + os.urandom(SIZE)
    return lambda: int.from_bytes(blob[:8], "big")


def recursive(number: int) -> Callable[[], int]:
    """One that is part of a cycle, so that counting references does not free it."""
    blob = number.to_bytes(8, "big") + os.urandom(SIZE)

    def own(again: bool = True) -> int:
        return own(False) if again else int.from_bytes(blob[:8], "big")

    return own


def resident(cluster_pids: list[int]) -> dict[int, int]:
    processes = [psutil.Process(pid) for pid in cluster_pids]
    processes += [child for process in processes for child in process.children(recursive=True)]
    return {process.pid: process.memory_info().rss for process in processes}


@pytest.mark.parametrize(("made", "memory"), [(plain, False), (recursive, True)], ids=["file", "memory"])
def test_functions_by_value_leave_no_memory_behind(
    tmp_path: Path, made: Callable[[int], Callable[[], int]], memory: bool
) -> None:
    with Cluster(tmp_path, memory=memory) as cluster:
        pids = [cluster.coordinator("--durability", "none").pid, cluster.worker(slots=1).pid]
        with Client(cluster.address, authkey_file=cluster.key_file) as client:
            assert client.submit(made(7)).result(30) == 7
            before = resident(pids)
            for lo in range(0, COUNT, 10):
                handles = [client.submit(made(number)) for number in range(lo, lo + 10)]
                assert [handle.result(30) for handle in handles] == list(range(lo, lo + 10))
        after = resident(pids)
    assert after.keys() == before.keys(), "no slot was replaced"
    grown = {pid: (after[pid] - before[pid]) >> 20 for pid in before}
    assert max(grown.values()) < MORE >> 20, grown
