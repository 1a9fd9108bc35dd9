"""loky, joblib's executor: in memory, ends with its program."""

from __future__ import annotations

import loky

from rig.peers.base import FUNCTIONS, SLOTS, Peer


class Contender(Peer):
    name = "loky"
    distribution = "loky"

    def start(self) -> None:
        self._executor = loky.ProcessPoolExecutor(SLOTS)
        self.stack.callback(self._executor.shutdown)

    def run(self, task: str, values: list[int]) -> list[int]:
        return list(self._executor.map(FUNCTIONS[task], values, chunksize=1))
