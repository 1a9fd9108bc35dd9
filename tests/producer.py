"""A submitter for tests that speaks the bare service: no client library between the test and the promise."""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Sequence
from typing import Any

from dtq.client.payloads import decode_result
from dtq.errors import DtqError, Unreachable, from_wire
from dtq.model import pages
from dtq.model.messages import Ended, Submission
from dtq.model.options import Function, Options, Spec
from dtq.model.service import Service
from dtq.model.snapshots import Counts
from dtq.model.states import State
from dtq.transport.proxy import Proxy
from dtq.values.local import LocalValues
from dtq.values.offers import reachable
from tests.cluster import DEADLINE_S, until


def spec_of(function: str, **options: Any) -> Spec:
    """A spec of a function of tests/tasks/work.py; ``module:function`` for one that stands elsewhere."""
    name = function if ":" in function else f"work:{function}"
    return Spec(function=Function(name=name), options=Options(**options))


class Producer:
    """Submits, and waits for the end of what it submitted.

    Args:
        service: where to.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self._numbers = itertools.count(1)
        #: Every batch that was acknowledged, and how many tasks it has.
        self.acknowledged: dict[int, int] = {}

    def submit(self, function: str, calls: Sequence[tuple[Any, ...]], delay_s: float = 0.0, **options: Any) -> int:
        """Submit one batch, and return its number once it is acknowledged."""
        spec = spec_of(function, **options)
        batch: int | None = None
        blobs = [pickle.dumps(call) for call in calls]
        for lo in range(0, max(1, len(blobs)), pages.PAGE_BLOBS):
            submission = Submission(
                spec=0,
                number=next(self._numbers),
                arguments=pages.pack(blobs[lo : lo + pages.PAGE_BLOBS]),
                batch=batch,
                offset=lo,
                complete=lo + pages.PAGE_BLOBS >= len(blobs),
                delay_s=delay_s,
            )
            (receipt,) = self.service.submit([spec], [submission], False)
            if receipt.code:
                raise from_wire(receipt.code, receipt.details)
            batch = receipt.batch
        assert batch is not None
        self.acknowledged[batch] = len(blobs)
        return batch

    def counts(self, batch: int) -> Counts:
        """Where the tasks of a batch stand; while the coordinator is away, wait for it."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                return self.service.batch(batch).counts
            except Unreachable:
                assert time.monotonic() < deadline, "the coordinator stays away"

    def finish(self, batch: int) -> dict[int, Ended]:
        """Wait until all tasks of a batch have ended, and return how, by index."""

        def finished() -> bool:
            try:
                return self.service.batch(batch).finished_at is not None
            except DtqError as error:
                if not error.retryable:
                    raise
                return False

        until(finished, f"batch {batch} to finish", lambda: self.counts(batch))
        return self.ended(batch)

    def ended(self, batch: int) -> dict[int, Ended]:
        """How the tasks of a batch have ended so far, by index; one entry a task."""
        size = self.service.batch(batch).size
        found: dict[int, Ended] = {}
        lo = 0
        while lo < size:
            piece = self.service.results(batch, lo, size)
            for ended in piece:
                for index in range(ended.lo, ended.hi):
                    assert index not in found, f"task {batch}.{index} ended twice"
                    found[index] = ended
            if not piece:
                break
            lo = piece[-1].hi
        return found

    def values(self, batch: int) -> list[Any]:
        """The results of a batch, all of whose tasks succeeded, in their order."""
        ended = self.finish(batch)
        assert [index for index, e in ended.items() if e.state is not State.SUCCEEDED] == []
        blobs = {index: pages.unpack(e.results)[index - e.lo] for index, e in ended.items()}
        offer = self.service.connect().values if isinstance(self.service, Proxy) else None
        place = None if offer is None else reachable(offer)
        where = None if place is None else LocalValues(place)
        return [decode_result(blobs[index], where) for index in range(len(blobs))]
