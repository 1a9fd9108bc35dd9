"""Everything that is known after a run, in one place: what was submitted, what was executed, how the queue says it
ended, and what was done to the cluster meanwhile. Times are ``time.monotonic()``, which all processes share."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dtq.client.payloads import result_decoder
from dtq.errors import ResultExpired, UnknownId
from dtq.model import pages
from dtq.model.messages import Ended
from dtq.model.options import FunctionKind
from dtq.model.service import Service
from dtq.model.snapshots import BatchView, Stats, TaskView
from dtq.model.states import State
from soak_rig.director import Chronicle
from soak_rig.ledgers import read
from soak_rig.onlookers import Follower, Operator
from soak_rig.orders import Order


@dataclass(slots=True)
class Execution:
    """One execution of a task, by its own ledger.

    Attributes:
        id: the queue's name for the task, ``(batch, index)``.
        attempt: which attempt.
        worker: the worker's start, as ``w2-3``.
        pid: the slot's process.
        start: when.
        end: when it was over; None where it never wrote so: killed, or it ended its own process.
        failed: whether it raised on purpose.
    """

    id: tuple[int, int]
    attempt: int
    worker: str
    pid: int
    start: float
    end: float | None = None
    failed: bool = False


@dataclass(slots=True)
class Submitted:
    """An order, and what its producer learned of it.

    Attributes:
        producer: who submitted it.
        order: what.
        tried_at: when the submission began.
        acked_at: when it was acknowledged; None where it was not.
        ids: the queue's names of its tasks, in order; empty where it was not acknowledged.
        refused: code of the error, where it was refused.
        cancels: when a cancel was about to be sent, and for which index (-1: all).
        cancelled: when a cancel was acknowledged, and for which index.
        letters: how its tasks ended, as its producer saw it.
    """

    producer: str
    order: Order
    tried_at: float
    acked_at: float | None = None
    ids: list[tuple[int, int]] = field(default_factory=list)
    refused: str = ""
    cancels: list[tuple[float, int]] = field(default_factory=list)
    cancelled: list[tuple[float, int]] = field(default_factory=list)
    letters: str = ""

    @property
    def priority(self) -> int:
        """Its tasks' priority."""
        return int(self.order.options["priority"])

    @property
    def queue(self) -> str:
        """Its tasks' queue."""
        return str(self.order.options["queue"])


@dataclass(slots=True)
class Final:
    """How a task ended, by the queue.

    Attributes:
        state: its final state.
        value: its result, decoded.
        why: the reason of its cancellation, where nobody asked for that.
    """

    state: State
    value: Any = None
    why: str = ""


@dataclass(slots=True)
class Records:
    """A whole run.

    Attributes:
        submitted: the orders, by producer and serial.
        executions: by tag, in the order of their starts.
        finals: by batch and index.
        batches: what the queue says of each batch.
        stats: its counts at the end.
        views: tasks that were looked at closely, with their history.
        clock_offset: the coordinator's clock less the monotonic one.
        chronicle, follower, operator: what was done and seen.
        wrongs: what producers found wrong: ``(when, sentence)``.
        unfinished_producers: those that never learned the end of something.
    """

    chronicle: Chronicle
    follower: Follower
    operator: Operator
    stats: Stats
    submitted: dict[tuple[str, int], Submitted] = field(default_factory=dict)
    executions: dict[str, list[Execution]] = field(default_factory=lambda: defaultdict(list))
    finals: dict[tuple[int, int], Final] = field(default_factory=dict)
    batches: dict[int, BatchView] = field(default_factory=dict)
    views: dict[tuple[int, int], TaskView] = field(default_factory=dict)
    clock_offset: float = 0.0
    wrongs: list[tuple[float, str]] = field(default_factory=list)
    unfinished_producers: list[str] = field(default_factory=list)

    def tasks(self) -> Iterator[tuple[Submitted, int, str]]:
        """Every task that anybody tried to submit: its order, its index there, its tag."""
        for submitted in self.submitted.values():
            for index in range(submitted.order.size):
                yield submitted, index, submitted.order.tag(submitted.producer, index)

    # -- reading --------------------------------------------------------------------------------------------------

    def read_ledgers(self, directory: Path) -> None:
        """Take in what producers wrote."""
        for path in sorted(directory.iterdir()):
            done = False
            for record in read(path):
                done |= record["what"] == "done"
                self._note(path.name, record)
            if not done:
                self.unfinished_producers.append(path.name)

    def _note(self, producer: str, record: dict[str, Any]) -> None:
        what, at = record["what"], record["t"]
        if what == "try":
            fields = record["drawn"]
            fields["hows"] = {int(index): how for index, how in fields["hows"].items()}
            fields["after"] = [(serial, index) for serial, index in fields["after"]]
            order = Order(**fields)
            self.submitted[producer, order.serial] = Submitted(producer, order, at)
            return
        if what == "wrong":
            self.wrongs.append((at, f"{producer}, order {record['serial']}: {record['why']}"))
            return
        if what == "done":
            return
        submitted = self.submitted[producer, record["serial"]]
        if what == "ack":
            submitted.acked_at = at
            for batch, first, count, _ in record["pieces"]:
                submitted.ids += [(batch, index) for index in range(first, first + count)]
        elif what == "refused":
            submitted.refused = record["code"]
        elif what == "cancel":
            submitted.cancels.append((at, record["id"][1]))
        elif what == "cancelled":
            submitted.cancelled.append((at, record["id"][1]))
        elif what == "end":
            submitted.letters = record["letters"]

    def read_executions(self, directory: Path) -> None:
        """Take in what the tasks wrote."""
        for path in directory.iterdir():
            worker, _, pid = path.name.rpartition("~")
            current: Execution | None = None
            for line in path.read_text().splitlines():
                kind, tag, *rest = line.split()
                if kind == "S":
                    batch, _, index = rest[0].partition(".")
                    current = Execution((int(batch), int(index or 0)), int(rest[1]), worker, int(pid), float(rest[2]))
                    self.executions[tag].append(current)
                elif kind == "W":
                    self.wrongs.append((time.monotonic(), f"{tag} was given a wrong result: {' '.join(rest)}"))
                elif current is not None:
                    current.end, current.failed = float(rest[0]), kind == "F"
        for executions in self.executions.values():
            executions.sort(key=lambda execution: execution.start)

    def read_queue(self, service: Service) -> None:
        """Ask the queue how everything ended."""
        self.clock_offset = service.stats().now - time.monotonic()
        decode = result_decoder(FunctionKind.IMPORT)
        known = {id[0] for submitted in self.submitted.values() for id in submitted.ids}
        known |= {execution.id[0] for executions in self.executions.values() for execution in executions}
        for number in range(1, max(known, default=0) + 50):
            try:
                view = service.batch(number)
            except (UnknownId, ResultExpired):
                continue
            self.batches[number] = view
            lo = 0
            while lo < view.size:
                piece = service.results(number, lo, view.size)
                for ended in piece:
                    self._take(ended, decode)
                if not piece:
                    break
                lo = piece[-1].hi

    def _take(self, ended: Ended, decode: Any) -> None:
        blobs = pages.unpack(ended.results) if ended.results else []
        for place, index in enumerate(range(ended.lo, ended.hi)):
            value = decode(blobs[place]) if blobs else None
            if (ended.batch, index) in self.finals:
                self.wrongs.append((time.monotonic(), f"task {ended.batch}.{index} is told twice in one answer"))
            why = ended.failure.message if ended.state is State.CANCELLED and ended.failure is not None else ""
            self.finals[ended.batch, index] = Final(ended.state, value, why)

    def look_closely(self, service: Service) -> None:
        """Ask for the history of every task that left the common path."""
        wanted = {id for id, final in self.finals.items() if final.state is State.DEAD}
        for executions in self.executions.values():
            if len(executions) > 1 or executions[0].attempt > 1:
                wanted |= {execution.id for execution in executions}
        for id in sorted(wanted):
            try:
                self.views[id] = service.task(*id)
            except (UnknownId, ResultExpired):
                continue  # purged; whether it may be is another's question
