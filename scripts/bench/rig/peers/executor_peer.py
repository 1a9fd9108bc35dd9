"""The standard library's executor, which keeps everything in memory and ends with its program."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

from rig.peers.base import FUNCTIONS, SLOTS, Peer


class Contender(Peer):
    name = "ProcessPoolExecutor.map"

    def start(self) -> None:
        self._executor = self.stack.enter_context(ProcessPoolExecutor(SLOTS))

    def run(self, task: str, values: list[int]) -> list[int]:
        return list(self._executor.map(FUNCTIONS[task], values, chunksize=1))
