"""Huey on Redis, with processes as workers. This module is what its consumer imports, too."""

from __future__ import annotations

import os
import sys

from huey import RedisHuey

from rig.peers.base import FUNCTIONS, REDIS_URL, SLOTS, Peer

huey = RedisHuey("bench", url=os.environ[REDIS_URL])
TASKS = {name: huey.task(name=name)(function) for name, function in FUNCTIONS.items()}


class Contender(Peer):
    name = "Huey"
    distribution = "huey"

    def start(self) -> None:
        words = ("rig.peers.huey_peer.huey", "--workers", str(SLOTS), "--worker-type", "process", "--quiet")
        self.background(sys.executable, "-m", "huey.bin.huey_consumer", *words)

    def run(self, task: str, values: list[int]) -> list[int]:
        results = TASKS[task].map(values)
        return [result.get(blocking=True, max_delay=0.005) for result in results]
