"""Ray: in memory."""

from __future__ import annotations

import ray

from rig.peers.base import FUNCTIONS, SLOTS, Peer
from rig.scene import BENCH


class Contender(Peer):
    name = "Ray"
    distribution = "ray"

    def start(self) -> None:
        ray.init(
            num_cpus=SLOTS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": {"PYTHONPATH": str(BENCH)}},
        )
        self.stack.callback(ray.shutdown)
        self._functions = {name: ray.remote(function) for name, function in FUNCTIONS.items()}

    def run(self, task: str, values: list[int]) -> list[int]:
        return list(ray.get([self._functions[task].remote(value) for value in values]))
