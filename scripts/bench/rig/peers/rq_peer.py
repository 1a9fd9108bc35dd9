"""RQ with its usual worker, which forks for each job."""

from __future__ import annotations

import os
import sys
import time

import redis
import rq
from rq.job import Job

from rig.peers.base import FUNCTIONS, REDIS_URL, SLOTS, Peer


class Contender(Peer):
    name = "RQ"
    distribution = "rq"
    words: tuple[str, ...] = ()

    def start(self) -> None:
        url = os.environ[REDIS_URL]
        for _ in range(SLOTS):
            words = ("worker", "--url", url, "--quiet", *self.words, "bench")
            self.background(sys.executable, "-m", "rq.cli", *words)
        self._redis = redis.Redis.from_url(url)
        self._queue = rq.Queue("bench", connection=self._redis)

    def run(self, task: str, values: list[int]) -> list[int]:
        datas = [rq.Queue.prepare_data(FUNCTIONS[task], args=(value,), result_ttl=600) for value in values]
        finished = self._queue.finished_job_registry
        before = finished.get_job_count(cleanup=False)
        jobs = self._queue.enqueue_many(datas)
        while finished.get_job_count(cleanup=False) < before + len(jobs):
            time.sleep(0.005)
        done = Job.fetch_many([job.id for job in jobs], connection=self._redis)
        return [job.return_value() for job in done if job is not None]
