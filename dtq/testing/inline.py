"""A worker without processes: it runs tasks in its caller's thread.

Testing, below the in-process queue. It treats functions, calls, results and failures as a slot does: the same code
resolves, decodes, encodes and describes them. Features that need a process are missing: time limits, memory limits,
cancelling running tasks, and surviving a task that crashes.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dtq.client import current
from dtq.client.around import hooked
from dtq.client.functions import resolve
from dtq.client.payloads import call_decoder, result_encoder
from dtq.client.runnables import runnable
from dtq.model import pages
from dtq.model.ids import TaskId
from dtq.model.messages import Exchange, Failed, Grant, Hello, Holding, Orders, Progress, Released, Role, Succeeded
from dtq.model.options import Function, FunctionKind
from dtq.model.printed import Printed
from dtq.model.resources import Needs
from dtq.model.service import Service
from dtq.model.states import Outcome
from dtq.records import dataclass, field
from dtq.testing.printing import recorded
from dtq.values.base import Values
from dtq.worker.failures import Stage, describe, located
from dtq.worker.logrecords import mark_records

#: Reported duration of a task, in seconds: so long that no task is granted ahead, and priorities are strict from one
#: task to the next.
_TOOK_S: Final = 1.0
#: Exceptions that are a task's outcome; any other one may be the test's own.
_OUTCOMES: Final = (Exception, SystemExit, GeneratorExit, asyncio.CancelledError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One attempt of a task that was run.

    Attributes:
        id: the task.
        function: its function's name, ``module:function`` or a registered name.
        args: its arguments.
        kwargs: its keyword arguments.
        attempt: which attempt it was, from 1.
        value: its result; None if it failed.
        error: its exception, None if it succeeded.
    """

    id: str
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attempt: int
    value: Any
    error: BaseException | None

    @property
    def succeeded(self) -> bool:
        """Whether it returned."""
        return self.error is None


class InlineWorker:
    """A worker of one slot, in this process.

    Args:
        service: a connection of its own to the coordinator.
        name: its name.
        queues: the queues it serves; none for all.
        handlers: run registered task types, before those that this process has registered.
        took_s: reported duration of each task, in seconds.
        while_waiting: called when a task begins to wait for others, so that they can be run.
        values: reads large arguments, and writes results; None for none.
    """

    def __init__(
        self,
        service: Service,
        name: str = "in-process",
        *,
        queues: Iterable[str] = (),
        handlers: Mapping[str, Callable[..., Any]] | None = None,
        took_s: float = _TOOK_S,
        while_waiting: Callable[[], None] | None = None,
        values: Values | None = None,
    ) -> None:
        self._values = values
        self.service = service
        self.name = name
        #: The leases it has, by their tokens.
        self.held: dict[int, Grant] = {}
        self._handlers = handlers or {}
        self._took_s = took_s
        self._while_waiting = while_waiting
        self._token = self._at = self._calls = 0
        self._bystanders: frozenset[threading.Thread] = frozenset()
        session = secrets.token_hex(16)
        service.hello(Hello(session=session, role=Role.WORKER, name=name, slots=1, queues=tuple(queues), primary=True))

    def fetch(self, wait_s: float = 0.0) -> list[Grant]:
        """Fetch waiting tasks.

        Args:
            wait_s: how long to wait for tasks, in seconds.
        """
        orders = self._exchange(holding=self._holding(), fetch=True, wait_s=wait_s)
        for grant in orders.grants:
            self.held[grant.token] = grant
        return list(orders.grants)

    def run(self, grant: Grant, ran: list[Ran] | None = None) -> int:
        """Run a lease, and report it.

        Args:
            grant: the lease.
            ran: extended by the attempts.

        Returns:
            The number of tasks.

        Raises:
            BaseException: an exception of a task that may be a test's own verdict, or Ctrl-C: no `Exception`, and none
                of `SystemExit`, `GeneratorExit` and `asyncio.CancelledError`. The task, and the rest of the lease, goes
                back as if it had not been started.
        """
        spec = self.service.spec(grant.spec)
        function = spec.function
        current.lease(spec.options.depth, function.name, spec.options.queue)
        current.allot(_what_it_needs(spec.options.needs))
        succeeded: list[Succeeded] = []
        # The test's own threads may wait for this very task meanwhile.
        self._bystanders = frozenset(threading.enumerate()) - {threading.current_thread()}
        self._serve()
        unmark = mark_records()
        try:
            for index, blob in enumerate(pages.unpack(grant.arguments), grant.lo):
                self._token, self._at = grant.token, index
                current.begin(grant.batch, self._at, grant.single, grant.attempt)
                with recorded() as printed:
                    call = self._call(function, blob)
                call.printed = printed(index)
                current.end()
                self._settle(call, succeeded)
                if ran is not None:
                    ran.append(_ran(grant, self._at, function.name, call))
        except BaseException:
            self._report(succeeded, released=[Released(token=grant.token, lo=self._at, hi=grant.hi)])
            raise
        finally:
            current.end()
            current.allot({})
            self._bystanders = frozenset()
            unmark()
            self.held.pop(grant.token, None)
        self._report(succeeded)
        return grant.hi - grant.lo

    def work(self, wait_s: float = 0.0, ran: list[Ran] | None = None) -> int:
        """Fetch once, and run all fetched tasks; returns their number."""
        return sum([self.run(grant, ran) for grant in self.fetch(wait_s)])

    # -- one task -------------------------------------------------------------------------------------------------

    def _call(self, function: Function, blob: bytes) -> _Call:
        call = _Call()
        try:
            call.stage = Stage.of(function)
            resolved = hooked(runnable(self._resolve(function), function))
            call.stage = Stage.DECODE
            call.args, call.kwargs = call_decoder(function.kind)(blob, self._values)
            call.stage = Stage.CALL
            call.value = resolved(*call.args, **call.kwargs)
            call.stage = Stage.RESULT
            call.result = result_encoder(function.kind)(call.value, self._values)
        except _OUTCOMES as error:  # the edge to the task, as in a slot
            call.error = located(error, call.stage, self._where)
        return call

    def _resolve(self, function: Function) -> Callable[..., Any]:
        handler = self._handlers.get(function.name) if function.kind is FunctionKind.REGISTERED else None
        return handler or resolve(function, self._where, self._values)

    @property
    def _where(self) -> str:
        return f"the worker {self.name}"

    def _on_wait(self, seconds: float, blocked: bool) -> None:
        if seconds and self._while_waiting is not None:
            with current.set_aside():
                self._while_waiting()
            self._serve()

    def _serve(self) -> None:
        on_wait = None if self._while_waiting is None else self._on_wait
        current.serve(self.name, self._progress, on_wait, self._bystanders)

    # -- reports --------------------------------------------------------------------------------------------------

    def _progress(self, done: float, total: float) -> None:
        said = Progress(token=self._token, index=self._at, done=done, total=total)
        self._exchange(holding=self._holding(), progress=(said,))

    def _settle(self, call: _Call, succeeded: list[Succeeded]) -> None:
        token, at, took_s = self._token, self._at, self._took_s
        if call.error is None:
            results = pages.pack([call.result], described=True)
            printed = call.printed
            succeeded.append(Succeeded(token=token, lo=at, results=results, seconds=took_s, printed=printed))
            return
        failure = describe(call.error, __file__, call.stage)
        self._report(succeeded)
        succeeded.clear()
        outcome, printed = Outcome.FAILED, call.printed
        self._report(
            [],
            [Failed(token=token, index=at, outcome=outcome, failure=failure, seconds=took_s, printed=printed)],
        )

    def _holding(self) -> tuple[Holding, ...]:
        return tuple(Holding(token=token) for token in self.held)

    def _report(
        self, succeeded: list[Succeeded], failed: Iterable[Failed] = (), released: Iterable[Released] = ()
    ) -> None:
        failures, given_back = tuple(failed), tuple(released)
        if succeeded or failures or given_back:
            self._exchange(succeeded=tuple(succeeded), failed=failures, released=given_back, holding=self._holding())

    def _exchange(self, **parts: Any) -> Orders:
        """One call at a time, so none is ever under way beside another."""
        self._calls += 1
        return self.service.exchange(Exchange(capacity=1, call=self._calls, **parts))


@dataclass(slots=True)
class _Call:
    """One call of a task: its arguments, and its result."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    printed: tuple[Printed, ...] = ()
    result: bytes = b""
    error: BaseException | None = None
    stage: Stage = Stage.CALL


def _what_it_needs(needs: Needs | None) -> dict[str, tuple[str, ...] | int]:
    """The resources of a task with needs, as if this process had all of them."""
    amounts = {} if needs is None else {quantity.name: quantity.amount for quantity in needs.resources}
    return {name: tuple(map(str, range(amount))) if name == "gpu" else amount for name, amount in amounts.items()}


def _ran(grant: Grant, at: int, function: str, call: _Call) -> Ran:
    return Ran(
        id=str(TaskId(grant.batch, at, grant.single)),
        function=function,
        args=call.args,
        kwargs=call.kwargs,
        attempt=grant.attempt,
        value=call.value if call.error is None else None,
        error=call.error,
    )
