"""Dramatiq on Redis, with its result backend. This module is what its workers import, too."""

from __future__ import annotations

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from rig.peers.base import FUNCTIONS, REDIS_URL, SLOTS, Peer
from rig.scene import BENCH

broker = RedisBroker(url=os.environ[REDIS_URL])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ[REDIS_URL])))
dramatiq.set_broker(broker)
ACTORS = {name: dramatiq.actor(function, store_results=True) for name, function in FUNCTIONS.items()}


class Contender(Peer):
    name = "Dramatiq"
    distribution = "dramatiq"

    def start(self) -> None:
        words = ("rig.peers.dramatiq_peer", "--path", str(BENCH), "--processes", str(SLOTS), "--threads", "1")
        self.background(sys.executable, "-m", "dramatiq", *words)

    def run(self, task: str, values: list[int]) -> list[int]:
        messages = dramatiq.group([ACTORS[task].message(value) for value in values]).run()
        return list(messages.get_results(block=True, timeout=600_000))
