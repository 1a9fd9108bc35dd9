"""Filling a queue that nobody serves, from a process of its own, whose memory is told."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from dtq import Client, TaskHandle
from rig.scene import Scene
from rig.work import noop

#: How a queue can be filled: all as one map; each submitted by itself, neighbours travelling as one batch; the same
#: with options that differ from neighbour to neighbour, so that each is a batch of its own; so that they differ in the
#: limit that they count against, of `NAMES` in turn, and in their queue, of `QUEUES`; in the first of these only.
KINDS: Final = ("map", "submit", "batches", "names", "parked")
NAMES: Final = 10_000
QUEUES: Final = 100
#: How many handles a program that submits without end keeps.
_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What it took.

    Attributes:
        seconds: from the first submission to the last receipt.
        client_mb: most memory of the submitting process.
        coordinator_mb: memory of the coordinator when all was accepted, the submitter still connected.
    """

    seconds: float
    client_mb: float
    coordinator_mb: float


def fill(scene: Scene, kind: str, count: int) -> Filled:
    """Submit so many no-op tasks."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rig.filling", kind, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=scene.environment,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the submitting process ended with {process.wait()}")
    rss_mb = scene.coordinator.rss_mb
    process.communicate("")
    told = json.loads(line)
    return Filled(seconds=told["seconds"], client_mb=told["rss_mb"], coordinator_mb=rss_mb)


def served(client: Client, count: int) -> float:
    """Wait until so many more tasks have ended; how many a second, the first tenth left out."""
    ended = client.stats().counts.succeeded
    start = before = ended + count // 10
    began = 0.0
    while ended < start + count - count // 10:
        time.sleep(0.01)
        ended = client.stats().counts.succeeded
        if not began and ended >= start:
            began, before = time.perf_counter(), ended
    return (ended - before) / (time.perf_counter() - began)


def _fill(client: Client, kind: str, count: int) -> None:
    if kind == "map":
        client.submit_map(noop, range(count)).accepted()
        return
    submits: list[Callable[[int], TaskHandle[Any]]] = [partial(client.submit, noop)]
    if kind == "batches":
        submits = [partial(client.options(max_retries=n).submit, noop) for n in (3, 4)]
    elif kind == "names":
        submits = [lambda n: client.submit(noop, n, limits=f"name-{n % NAMES}", queue=f"queue-{n % QUEUES}")]
    elif kind == "parked":
        submits = [lambda n: client.submit(noop, n, limits=f"parked-{n % NAMES}")]
    kept: list[TaskHandle[Any]] = []
    for number in range(count):
        kept.append(submits[number % len(submits)](number))
        if len(kept) > _KEPT:
            kept.clear()
    for handle in kept[-1:]:
        handle.accepted()


def _main() -> None:
    kind, count = sys.argv[1], int(sys.argv[2])
    with Client() as client:
        client.stats()
        start = time.perf_counter()
        _fill(client, kind, count)
        seconds = time.perf_counter() - start
        most_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        own_mb = psutil.Process(os.getpid()).memory_info().rss / 1e6
        print(json.dumps({"seconds": seconds, "rss_mb": max(most_mb, own_mb)}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _main()
