"""RQ with the worker that runs jobs in its own process, for speed."""

from __future__ import annotations

from rig.peers import rq_peer


class Contender(rq_peer.Contender):
    name = "RQ (SimpleWorker)"
    words = ("--worker-class", "rq.worker.SimpleWorker")
