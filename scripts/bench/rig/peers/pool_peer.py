"""The standard library's older pool, which keeps everything in memory and ends with its program."""

from __future__ import annotations

import multiprocessing

from rig.peers.base import FUNCTIONS, SLOTS, Peer


class Contender(Peer):
    name = "multiprocessing.Pool.imap"

    def start(self) -> None:
        self._pool = self.stack.enter_context(multiprocessing.Pool(SLOTS))

    def run(self, task: str, values: list[int]) -> list[int]:
        return list(self._pool.imap(FUNCTIONS[task], values, chunksize=1))
