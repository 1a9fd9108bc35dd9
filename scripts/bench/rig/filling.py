"""Filling a queue that nobody serves, from a process of its own, whose memory is told."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from dtq import Client, TaskHandle
from rig.scene import Scene
from rig.work import noop

#: How a queue can be filled: all as one map; each submitted by itself, neighbours travelling as one batch; the same
#: with options that differ from neighbour to neighbour, so that each is a batch of its own.
KINDS: Final = ("map", "submit", "batches")
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


def _fill(client: Client, kind: str, count: int) -> None:
    if kind == "map":
        client.submit_map(noop, range(count)).accepted()
        return
    submits = [client.submit] if kind == "submit" else [client.options(max_retries=n).submit for n in (3, 4)]
    kept: list[TaskHandle[Any]] = []
    for number in range(count):
        kept.append(submits[number % len(submits)](noop, number))
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
