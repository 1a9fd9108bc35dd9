"""A submitter for tests, of the bare service, whose calls and results may be large."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from dtq.client.payloads import decode_result, encode_call
from dtq.errors import from_wire
from dtq.model import pages
from dtq.model.messages import Submission
from dtq.model.states import State
from dtq.values.base import Values
from dtq.values.local import LocalValues
from dtq.values.offers import reachable
from dtq.values.wire import WireValues
from dtq.worker.valueline import ValueLine
from tests.cluster import Cluster
from tests.producer import Producer, spec_of


class ValueProducer(Producer):
    """Writes and reads values in the coordinator's files, or by calls where it cannot reach them.

    Args:
        cluster: whose; its coordinator runs.
    """

    def __init__(self, cluster: Cluster) -> None:
        proxy = cluster.service()
        super().__init__(proxy)
        welcome = proxy.connect()
        assert welcome.values is not None
        place = reachable(welcome.values)
        self.files: Values
        if place is not None:
            self.place = place
            self.files = LocalValues(place)
        else:
            line = ValueLine(proxy)
            line.on_welcome(welcome)
            self.files = WireValues(line, max_value=welcome.values.max_value, checked=welcome.values.checked)
        self._own_numbers = itertools.count(1_000_000)

    def large(self, function: str, calls: Sequence[tuple[Any, ...]], **options: Any) -> int:
        """Submit one batch of a few calls."""
        blobs = [encode_call(call, None, self.files, True) for call in calls]
        arguments = pages.pack(blobs, described=True)
        submission = Submission(spec=0, number=next(self._own_numbers), arguments=arguments)
        (receipt,) = self.service.submit([spec_of(f"value_work:{function}", **options)], [submission], False)
        if receipt.code:
            raise from_wire(receipt.code, receipt.details)
        self.acknowledged[receipt.batch] = len(calls)
        return receipt.batch

    def values(self, batch: int) -> list[Any]:
        """As above, also of large ones."""
        return [decode_result(blob, self.files) for blob in self.blobs(batch)]

    def blobs(self, batch: int) -> list[bytes]:
        """The results of a batch, all of whose tasks succeeded, as they are kept."""
        ended = self.finish(batch)
        failures = {index: one.failure for index, one in ended.items() if one.state is not State.SUCCEEDED}
        assert not failures
        return [pages.unpack(ended[index].results)[index - ended[index].lo] for index in range(len(ended))]
