"""`current_task`: the running task, as its own code sees it.

Client, because user code imports it; the worker's slot sets it. A slot's process runs one task at a time, so the
running task stands in a plain variable: the task's threads see it too, and setting it costs a task two assignments. The
object from `current_task` belongs to that one task for ever: a thread that outlives its task cannot report progress for
the next.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Final, NamedTuple

from dtq.errors import InvalidValue, NotInTask
from dtq.model.fields import MAX_DEPTH
from dtq.model.ids import TaskId

#: Shortest time between two sent progress reports of a task, in seconds; the last one is always sent.
REPORT_EVERY_S: Final = 0.25

#: Sends ``(done, total)`` of the running task to the coordinator.
Report = Callable[[float, float], None]
#: Tells the worker for how many seconds from now the running task waits for other tasks, unless it reports again, and
#: whether it is blocked meanwhile; 0 ends the wait.
OnWait = Callable[[float, bool], None]

#: Duration of a blocked wait, in seconds.
FOR_EVER: Final = 1e9
#: Time for which a task that polls another one counts as waiting for it, in seconds: twice the time since its previous
#: look, within these bounds.
LOOKED_S: Final = 2.0
LONGEST_LOOKED_S: Final = 10.0


#: The slot's description of the running task: batch, index, whether it is the batch's only task, attempt. Never the
#: same object for two tasks.
_Running = tuple[int, int, bool, int]


class CurrentTask:
    """A running task.

    Attributes:
        id: its id, as everywhere.
        name: its function's name: ``module:function``, or a registered name.
        attempt: which attempt this is, from 1.
        queue: the queue in which it waited.
        worker: name of the worker.
        resources: its share of the worker's resources, by name: the names of units, or the part of a sum.
    """

    __slots__ = ("_next_report", "_running", "attempt", "id", "name", "queue", "resources", "worker")

    def __init__(self, running: _Running, worker: str, name: str, queue: str) -> None:
        batch, index, single, attempt = running
        self.id = str(TaskId(batch, index, single))
        self.attempt = attempt
        self.worker = worker
        self.name = name
        self.queue = queue
        self.resources: dict[str, tuple[str, ...] | int] = dict(_slot.resources)
        self._running = running
        self._next_report = 0.0

    def progress(self, done: float, total: float) -> None:
        """Report the task's progress; `dtq status` and the dashboard show it. At most a few reports a second are sent.

        Args:
            done: the finished amount, in any unit.
            total: the whole amount, in the same.

        Raises:
            InvalidValue: one of them is not a finite number.
        """
        try:
            done_number, total_number = float(done), float(total)
        except (TypeError, ValueError):
            raise InvalidValue("progress", f"{done!r}, {total!r}"[:80], "it is two numbers") from None
        if not (math.isfinite(done_number) and math.isfinite(total_number)):
            raise InvalidValue("progress", f"{done!r}, {total!r}", "it is two finite numbers")
        now = time.monotonic()
        if (now < self._next_report and done_number < total_number) or not self.belongs_to(_slot.running):
            return
        self._next_report = now + REPORT_EVERY_S
        _slot.report(done_number, total_number)

    def belongs_to(self, running: _Running | None) -> bool:
        """Whether this is the running task; for `current_task`."""
        return running is self._running

    def __repr__(self) -> str:
        return f"<CurrentTask {self.id} attempt {self.attempt} on {self.worker}>"


def _nowhere(done: float, total: float) -> None:
    """The report function before a slot sets one."""


class _Slot:
    """The one slot of this process."""

    __slots__ = (
        "access",
        "bystanders",
        "current",
        "depth",
        "is_process",
        "name",
        "on_wait",
        "queue",
        "report",
        "resources",
        "running",
        "waits",
        "worker",
    )

    def __init__(self) -> None:
        self.worker = ""
        self.report: Report = _nowhere
        self.on_wait: OnWait | None = None
        self.bystanders: frozenset[threading.Thread] = frozenset()
        self.running: _Running | None = None
        self.current: CurrentTask | None = None
        self.waits: _Waits | None = None
        self.depth = 0
        self.name = self.queue = ""
        #: The running task's share of its worker's resources.
        self.resources: dict[str, tuple[str, ...] | int] = {}
        self.is_process = False
        self.access: Access | None = None


_slot: Final = _Slot()


def current_task() -> CurrentTask:
    """The running task of this process, from any of its threads.

    Raises:
        NotInTask: no task runs here.
    """
    running = _slot.running
    if running is None:
        raise NotInTask("current_task()")
    current = _slot.current
    if current is None or not current.belongs_to(running):
        current = _slot.current = CurrentTask(running, _slot.worker, _slot.name, _slot.queue)
    return current


class Access(NamedTuple):
    """Default address and key of a task's client.

    Attributes:
        addresses: of the coordinator, ``host:port`` each.
        authkey: the key.
    """

    addresses: tuple[str, ...]
    authkey: bytes


class _Waits:
    """The waits of one task: how many of its threads wait for other tasks; and until when it waits because it polls."""

    __slots__ = ("_count", "_lock", "_looked_at", "_running", "_told_until", "_until")

    def __init__(self, running: _Running) -> None:
        self._running = running
        self._count = 0
        self._lock = threading.Lock()
        #: When it looked last, the end of the wait for that, and of the reported wait; ``time.monotonic()``.
        self._looked_at = math.inf
        self._until = self._told_until = 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._tell(FOR_EVER, True)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._told_until = self._until
                self._tell(max(0.0, self._until - time.monotonic()), False)

    def looked(self) -> None:
        """Note that the task has looked at another one, which has not ended."""
        with self._lock:
            now = time.monotonic()
            seconds = min(LONGEST_LOOKED_S, max(LOOKED_S, 2 * (now - self._looked_at)))
            self._looked_at = now
            self._until = now + seconds
            # A task that looks in a tight loop must not report each time.
            if self._count == 0 and self._told_until - now < seconds / 2:
                self._told_until = self._until
                self._tell(seconds, False)

    def belongs_to(self, running: _Running) -> bool:
        """Whether this belongs to the running task."""
        return running is self._running

    def _tell(self, seconds: float, blocked: bool) -> None:
        tell = _slot.on_wait
        if tell is not None and _slot.running is self._running:
            tell(seconds, blocked)


_NO_TASK: Final = nullcontext()
_making_waits: Final = threading.Lock()


def waiting() -> AbstractContextManager[None]:
    """While this context lasts, the running task waits for other tasks: its slot may be given to them.

    For the parts of a client that block until tasks end, unless they are known to return at once. No effect outside of
    a slot.
    """
    return _waits() or _NO_TASK


def looked() -> None:
    """Note that the running task has looked at another task, or has waited for it with a timeout, and it has not ended:
    a polling task waits, too. No effect outside of a slot.
    """
    waits = _waits()
    if waits is not None:
        waits.looked()


def _waits() -> _Waits | None:
    running = _slot.running
    if running is None or _slot.on_wait is None:
        return None
    if _slot.bystanders and threading.current_thread() in _slot.bystanders:
        return None
    with _making_waits:
        waits = _slot.waits
        if waits is None or not waits.belongs_to(running):
            waits = _slot.waits = _Waits(running)
    return waits


def depth_of_submissions() -> int:
    """The depth of this process's present submissions: the number of submitting tasks above them; 0 outside of
    tasks.
    """
    return 0 if _slot.running is None else min(MAX_DEPTH, _slot.depth + 1)


def access() -> Access | None:
    """Address and key for a client in a task; None if it has none, or this is no slot."""
    return _slot.access


def is_slot() -> bool:
    """Whether this process is a slot of a worker."""
    return _slot.is_process


def running() -> tuple[str, int]:
    """Id and attempt of the running task; an empty text and 0 for none."""
    now = _slot.running
    if now is None:
        return "", 0
    batch, index, single, attempt = now
    return str(TaskId(batch, index, single)), attempt


# -- for the slot ---------------------------------------------------------------------------------------------------


def serve(
    worker: str,
    report: Report,
    on_wait: OnWait | None = None,
    bystanders: frozenset[threading.Thread] = frozenset(),
) -> None:
    """Set the runner of tasks in this process. Once, before the first task.

    Args:
        worker: name of the worker.
        report: takes ``(done, total)`` of the running task; called from any thread of the task, at most a few times a
            second.
        on_wait: told when the running task begins to wait for others, when it looks at them, and when it goes on; from
            any thread of the task. None for no reports.
        bystanders: threads of this process that are not the tasks', and whose waits are not theirs.
    """
    _slot.worker = worker
    _slot.report = report
    _slot.on_wait = on_wait
    _slot.bystanders = bystanders


def become_slot(access: Access | None) -> None:
    """This process is a slot of a worker. Once, before anything of the user's runs.

    Args:
        access: address and key for clients in its tasks; None if they must find their own.
    """
    _slot.is_process = True
    _slot.access = access


@contextmanager
def set_aside() -> Iterator[None]:
    """While this context lasts, this process runs no task, so that others can run in its place."""
    kept = _slot.running, _slot.current, _slot.waits, _slot.depth, _slot.name, _slot.queue
    try:
        yield
    finally:
        _slot.running, _slot.current, _slot.waits, _slot.depth, _slot.name, _slot.queue = kept


def lease(depth: int, name: str = "", queue: str = "") -> None:
    """Begin the tasks of one function.

    Args:
        depth: number of submitting tasks above them.
        name: the function's name.
        queue: the queue in which they waited.
    """
    _slot.depth, _slot.name, _slot.queue = depth, name, queue


def allot(resources: dict[str, tuple[str, ...] | int]) -> None:
    """Set the share of the worker's resources of later tasks."""
    _slot.resources = resources


def begin(batch: int, index: int, single: bool, attempt: int) -> None:
    """Begin a task in this process."""
    _slot.running = (batch, index, single, attempt)


def end() -> None:
    """End the task."""
    _slot.running = None
