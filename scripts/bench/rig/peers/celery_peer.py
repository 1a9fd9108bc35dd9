"""Celery with its prefork pool; Redis as broker and result backend. This module is the application, too."""

from __future__ import annotations

import os
import sys

from celery import Celery, group

from rig.peers.base import FUNCTIONS, REDIS_URL, SLOTS, Peer

app = Celery("bench", broker=os.environ[REDIS_URL], backend=os.environ[REDIS_URL])
# What its documentation advises for tiny tasks: fetch many ahead.
app.conf.update(worker_prefetch_multiplier=128)
TASKS = {name: app.task(name=name)(function) for name, function in FUNCTIONS.items()}


class Contender(Peer):
    name = "Celery"
    distribution = "celery"

    def start(self) -> None:
        quiet = ("--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat")
        words = ("-A", "rig.peers.celery_peer", "worker", "--concurrency", str(SLOTS), *quiet)
        self.background(sys.executable, "-m", "celery", *words)

    def run(self, task: str, values: list[int]) -> list[int]:
        return list(group(TASKS[task].s(value) for value in values).apply_async().get(timeout=600))
