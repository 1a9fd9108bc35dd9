"""A producer that uses the client, as programs do: it waits for every handle, and checks every result that it gets."""

from __future__ import annotations

import heapq
import queue
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dtq import Client
from dtq.client.batch_handle import BatchHandle
from dtq.client.handle import TaskHandle
from dtq.errors import DtqError, ResultExpired, TaskCancelled, Unreachable
from soak_rig.orders import Order
from soak_rig.producing import MOST_OPEN, Producer

#: How many tasks those may have together whose results a task is given.
MOST_GIVEN = 40


@dataclass(slots=True)
class Open:
    """An order whose tasks have not all ended."""

    order: Order
    batch: BatchHandle[Any] | None = None
    tasks: list[TaskHandle[Any]] = field(default_factory=list)
    left: int = 0


class ClientProducer(Producer):
    """Submits by `Client`. Threads: this one submits, one waits for acceptance, one reads results, one cancels."""

    def run(self, address: str, key_file: str) -> None:
        """Submit until asked to stop; end when the end of everything is known."""
        self._accepting: queue.SimpleQueue[Open] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Open] = queue.SimpleQueue()
        self._cancels: list[tuple[float, int, Order, list[Any]]] = []
        self._open_tasks = 0
        #: A client forgets handles that nobody holds.
        self._held: dict[int, Open] = {}
        #: The handles of orders that others may wait for.
        self._known: dict[int, Open] = {}
        self._changed = threading.Condition()
        self._client = Client(address, authkey_file=key_file)
        for work in (self._accept, self._read, self._cancel):
            threading.Thread(target=work, daemon=True).start()
        while not self.stopping.is_set():
            self._submit(self.next_order())
            self.pause()
            with self._changed:
                self._changed.wait_for(lambda: self._open_tasks < MOST_OPEN or self.stopping.is_set(), 1.0)
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
        self._client.close()
        self.say("done")

    def _submit(self, order: Order) -> None:
        items = Open(order, left=order.size)
        with self._changed:
            self._held[order.serial] = items
            self._open_tasks += order.size
        tags = order.tags(self.name)
        hows = [order.hows.get(index) for index in range(order.size)]
        function: Any = self.function(order)
        try:
            parents = [self._parent(serial, index) for serial, index in order.after]
            each = [handle for parent in parents for handle in (parent if isinstance(parent, list) else [parent])]
            after = {"after": each, "on_failed": "run" if order.run_anyway else "cancel"} if each else {}
            target = self._client.options(**order.options, delay=order.delay_s, key=self.key(order), **after)
            if order.singly:
                few = sum(self._known[serial].order.size for serial, _ in order.after) <= MOST_GIVEN
                wanted = [self._known[serial].order.wanted(self.name, index) for serial, index in order.after]
                given = [(wanted, parents)] if order.given and parents and few else []
                items.tasks = [target.submit(function, tag, how, *given) for tag, how in zip(tags, hows, strict=True)]
            else:
                items.batch = target.submit_map(function, tags, hows)
        except DtqError as error:  # the very first connection, or what it waits for was refused: nothing was submitted
            self.say("refused", order, code=error.code)
            self._over(items)
            return
        self._known[order.serial] = items
        self.remember(order)
        self._known = {serial: known for serial, known in self._known.items() if serial in self.before}
        self._accepting.put(items)

    def _parent(self, serial: int, index: int) -> Any:
        """The handle of a task of an earlier order, or of all of it; several where it has no batch of its own."""
        known = self._known[serial]
        if known.batch is None:
            return list(known.tasks) if index < 0 else known.tasks[index]
        return known.batch if index < 0 else known.batch.task(index)

    def _over(self, items: Open) -> None:
        with self._changed:
            del self._held[items.order.serial]
            self._open_tasks -= items.order.size
            self._changed.notify_all()

    # -- acceptance -----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            items = self._accepting.get()
            try:
                pieces = self._accepted(items)
            except DtqError as error:
                self.say("refused", items.order, code=error.code)
                self._over(items)
                continue
            self.say("ack", items.order, pieces=pieces)
            if items.order.cancel_after_s is not None:
                self._plan_cancel(items, pieces)
            self._follow(items)

    def _accepted(self, items: Open) -> list[tuple[int, int, int, int]]:
        if items.batch is not None:
            items.batch.accepted()
            number = int(items.batch.id)
            while items.batch.size < items.order.size:
                time.sleep(0.002)
            return [(number, 0, items.order.size, 0)]
        pieces = []
        for place, task in enumerate(items.tasks):
            batch, _, index = task.id.partition(".")
            pieces.append((int(batch), int(index or 0), 1, place))
        return pieces

    def _follow(self, items: Open) -> None:
        handles: list[Any] = [items.batch] if items.batch is not None else list(items.tasks)
        items.left = len(handles)
        for handle in handles:
            while True:
                try:
                    if not handle.on_end(partial(self._ended.put, items)):
                        self._ended.put(items)
                    break
                except Unreachable:
                    pass  # it has waited long enough

    # -- results --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while True:
            items = self._ended.get()
            items.left -= 1
            if items.left:
                continue
            order = items.order
            try:
                values = self._values(items)
            except Unreachable:
                items.left += 1
                self._ended.put(items)
                continue
            if len(values) != order.size:
                self.say("wrong", order, why=f"{len(values)} results of {order.size} tasks")
            letters = "".join([self._letter(order, index, value) for index, value in enumerate(values)])
            self.say("end", order, letters=letters)
            self._over(items)

    def _values(self, items: Open) -> list[Any]:
        if items.batch is not None:
            values = list(items.batch.results(return_exceptions=True))
        else:
            values = [task.exception() or task.result() for task in items.tasks]
        for value in values:
            if isinstance(value, Unreachable):
                raise value
        return values

    def _letter(self, order: Order, index: int, value: Any) -> str:
        if isinstance(value, TaskCancelled):
            return "c"
        if isinstance(value, ResultExpired):
            return "g"
        if isinstance(value, BaseException):
            return "d"
        if self.right(order, index, value):
            return "s"
        self.say("wrong", order, why=f"task {index} gave {value!r}"[:300])
        return "w"

    # -- cancelling -----------------------------------------------------------------------------------------------

    def _plan_cancel(self, items: Open, pieces: list[tuple[int, int, int, int]]) -> None:
        order = items.order
        assert order.cancel_after_s is not None
        number = pieces[0][0]
        with self._changed:
            due = time.monotonic() + order.cancel_after_s
            what: list[Any] = [number, order.cancel_index]
            heapq.heappush(self._cancels, (due, order.serial, order, what))
            self._changed.notify_all()

    def _cancel(self) -> None:
        while True:
            with self._changed:
                while not self._cancels:
                    self._changed.wait()
                due, _, order, what = heapq.heappop(self._cancels)
            time.sleep(max(0.0, due - time.monotonic()))
            self.say("cancel", order, id=what)
            id = f"{what[0]}.{what[1]}" if what[1] >= 0 else str(what[0])
            try:
                report = self._client.cancel(id)
            except Unreachable:
                continue  # it may have been carried out
            except DtqError as error:
                self.say("wrong", order, why=f"cancel of {id}: {error}")
                continue
            self.say("cancelled", order, id=what, report=[report.cancelled, report.stopping, report.finished])
