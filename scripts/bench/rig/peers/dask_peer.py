"""Dask's scheduler: in memory."""

from __future__ import annotations

from distributed import Client, LocalCluster

from rig.peers.base import FUNCTIONS, SLOTS, Peer


class Contender(Peer):
    name = "Dask"
    distribution = "distributed"

    def start(self) -> None:
        cluster = LocalCluster(n_workers=SLOTS, threads_per_worker=1, processes=True, dashboard_address=None)
        self.stack.enter_context(cluster)
        self._client = self.stack.enter_context(Client(cluster))

    def run(self, task: str, values: list[int]) -> list[int]:
        return list(self._client.gather(self._client.map(FUNCTIONS[task], values, pure=False)))
