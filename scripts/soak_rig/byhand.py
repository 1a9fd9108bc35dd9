"""A producer that makes the calls itself, with nothing in between: what is not answered is repeated, or given up as
unknown, as it pleases."""

from __future__ import annotations

import os
import pickle
import time
from typing import Any

from dtq.config import load_authkey, parse_address
from dtq.errors import DtqError, SessionUnknown, ShuttingDown, Unreachable
from dtq.model import pages
from dtq.model.messages import Conditions, Hello, Receipt, Role, Submission
from dtq.model.options import Function, Options, Spec
from dtq.model.snapshots import Selection
from dtq.transport import Proxy
from soak_rig.orders import Order
from soak_rig.producing import MOST_OPEN, Producer

_AWAY = (Unreachable, ShuttingDown, SessionUnknown)
#: How the client's names of options are called on the wire.
_NAMES = {"timeout": "timeout_s", "retry_delay": "retry_delay_s"}


class RawProducer(Producer):
    """Submits by the bare service."""

    most = pages.PAGE_BLOBS

    def run(self, address: str, key_file: str) -> None:
        """Submit until asked to stop. How tasks end it leaves to others."""
        key, origin = load_authkey(key_file)
        hello = Hello(session=os.urandom(16).hex(), role=Role.CLIENT, name=self.name)
        self._service = Proxy([parse_address(address)], key, hello, key_source=origin, call_timeout_s=5.0)
        self._numbers = 0
        self._batches: dict[int, int] = {}
        while not self.stopping.is_set():
            self._submit([self.next_order() for _ in range(self.draw.randint(1, 2))])
            self.pause()
            self._hold_back()
        self.say("done")

    def _submit(self, orders: list[Order]) -> None:
        specs = [self._spec(order) for order in orders]
        submissions = [self._submission(order, place) for place, order in enumerate(orders)]
        receipts = self._call(specs, submissions)
        if receipts is None:
            for order in orders:
                self.say("unknown", order)
            return
        for order, receipt in zip(orders, receipts, strict=True):
            self._take(order, receipt)
        if self.draw.random() < 0.3:
            self._repeat_keyed(orders, specs, receipts)
        for order in orders:
            if order.cancel_after_s is not None and not order.singly:
                time.sleep(order.cancel_after_s)
                self._cancel(order, receipts[orders.index(order)].batch)

    def _take(self, order: Order, receipt: Receipt) -> None:
        if receipt.code:
            self.say("refused", order, code=receipt.code)
            return
        self.say("ack", order, pieces=[(receipt.batch, 0, order.size, 0)])
        self._batches[order.serial] = receipt.batch
        self.remember(order)
        if receipt.size != order.size:
            self.say("wrong", order, why=f"a receipt for {receipt.size} of {order.size} tasks")

    def _call(self, specs: list[Spec], submissions: list[Submission]) -> list[Receipt] | None:
        """Receipts; None where the answer was lost and nobody asks again."""
        insist = self.draw.random() < 0.6
        repeated = False
        while True:
            try:
                return self._service.submit(specs, submissions, repeated)
            except ShuttingDown:
                pass  # refused as a whole
            except _AWAY:
                repeated = True
                if not insist:
                    return None
            if self.stopping.wait(0.1):
                return None

    def _repeat_keyed(self, orders: list[Order], specs: list[Spec], receipts: list[Receipt]) -> None:
        """Submit once more what has a key of its own: it must be found, not accepted again."""
        for place, order in enumerate(orders):
            if not order.keyed or receipts[place].code:
                continue
            submission = self._submission(order, place)
            again = self._call(specs, [submission])
            if again is not None and again[0].batch != receipts[place].batch:
                why = f"its key gave batch {receipts[place].batch} first, and then {again[0]}"
                self.say("wrong", order, why=why)

    def _submission(self, order: Order, place: int) -> Submission:
        self._numbers += 1
        tags = order.tags(self.name)
        blobs = [pickle.dumps((tag, order.hows.get(index))) for index, tag in enumerate(tags)]
        return Submission(
            spec=place,
            number=self._numbers,
            arguments=pages.pack(blobs),
            delay_s=order.delay_s,
            key=self.key(order),
            follow=False,
            conditions=self._conditions(order),
        )

    def _conditions(self, order: Order) -> Conditions | None:
        after = [
            (self._batches[serial], max(0, index), index + 1 if index >= 0 else 0, False)
            for serial, index in order.after
        ]
        return Conditions(after=tuple(after), run_anyway=order.run_anyway) if after else None

    def _spec(self, order: Order) -> Spec:
        options: dict[str, Any] = {_NAMES.get(name, name): value for name, value in order.options.items()}
        options["limits"] = tuple(options.get("limits", ()))
        return Spec(function=Function(name=self.function(order)), options=Options(**options))

    def _cancel(self, order: Order, batch: int) -> None:
        what = [batch, order.cancel_index]
        self.say("cancel", order, id=what)
        try:
            report = self._service.cancel(Selection(ids=((batch, order.cancel_index),), limit=0))
        except _AWAY:
            return  # it may have been carried out
        except DtqError as error:
            self.say("wrong", order, why=f"cancel of {what}: {error}")
            return
        self.say("cancelled", order, id=what, report=[report.cancelled, report.stopping, report.finished])

    def _hold_back(self) -> None:
        """Wait while the queue is too long already."""
        while not self.stopping.is_set():
            try:
                if self._service.stats().counts.unfinished < 4 * MOST_OPEN:
                    return
            except _AWAY:
                return
            self.stopping.wait(0.2)
