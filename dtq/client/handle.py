"""Handles of tasks: the return value of a submission, with the task's state, result and end.

Client, above `following`. A handle of one task is a few words of memory: it holds no lock, no thread waits for it
unless a caller does, and its result is unpickled in the thread that first asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from dtq.client import output
from dtq.client.batches import Batch
from dtq.client.current import looked
from dtq.client.following import ACCEPTED, ENDED, Following, Waiters, Wake, wake_waiters
from dtq.client.html_repr import Row, card
from dtq.client.outcomes import Known, Raised, Value, decode, state_of, take
from dtq.client.parents import stand_in
from dtq.client.payloads import result_decoder
from dtq.errors import DtqError, WaitTimeout
from dtq.model import pages
from dtq.model.ids import TaskId
from dtq.model.messages import Ended
from dtq.model.options import Function, FunctionKind, Spec
from dtq.model.snapshots import BatchView, CancelReport, TaskView
from dtq.model.states import State
from dtq.model.values import MARK
from dtq.values.base import Values

T_co = TypeVar("T_co", covariant=True)


class HandleClient(Protocol):
    """A handle's view of its client."""

    following: Following

    @property
    def values(self) -> Values | None:
        """Reads large results."""
        ...

    def task(self, batch: int, index: int) -> TaskView:
        """Fetch a task."""
        ...

    def batch(self, batch: int) -> BatchView:
        """Fetch a batch."""
        ...

    def results(self, batch: int, lo: int, hi: int) -> list[Ended]:
        """Fetch ended tasks."""
        ...

    def cancel(self, ids: Sequence[tuple[int, int]]) -> CancelReport:
        """Stop tasks."""
        ...

    def follow(self, batch: Batch) -> None:
        """Subscribe to news of a batch, past ends included; once is enough."""
        ...


class TaskHandle(Generic[T_co]):
    """One task that was submitted, or that was found by its id."""

    __slots__ = ("__weakref__", "_batch", "_desk", "_index", "_known", "_spec", "_waiters")

    #: Whether its exception is in an executor's form; see `outcomes.error_of`.
    _standard: ClassVar[bool] = False
    #: Whether only its holder can ask for the task, so that it need not be kept once its end is here.
    _sole: ClassVar[bool] = False
    #: Whether it is a handle among arguments; see `parents.ResultOf`.
    stands_for_result: ClassVar[bool] = True
    #: Whether it must be kept all the same, because a dependent task has not been accepted yet.
    _kept: bool = False

    def __init__(self, desk: HandleClient, spec: Spec, batch: int = 0, index: int = -1) -> None:
        self._desk = desk
        self._spec = spec
        self._batch = batch  # 0: not accepted (yet)
        self._index = index  # -1: the only one of its batch
        self._known: Known | None = None
        self._waiters: Waiters | None = None

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Among the arguments of a call, a handle stands for its task's result."""
        return stand_in(self, self._spec.function.kind is FunctionKind.REGISTERED)

    # -- its id ---------------------------------------------------------------------------------------------------

    def accepted(self, timeout: float | None = None) -> bool:
        """Wait until the coordinator has the task durably.

        Args:
            timeout: how long at most, in seconds; None for ever.

        Returns:
            Whether it has.

        Raises:
            DtqError: why the coordinator refused it, or will never be asked (`ClientClosed`, `WrongKey`).
        """
        if not self._batch and not self._desk.following.wait(self, ACCEPTED, timeout):
            return False
        if not self._batch:
            raise cast(Raised, self._known).error
        return True

    @property
    def id(self) -> str:
        """Its id; waits until the task is accepted, and raises the errors of `accepted`."""
        self.accepted()
        return self._text

    @property
    def _text(self) -> str:
        return str(TaskId(self._batch, max(0, self._index), self._index < 0))

    def _keep(self) -> bool:
        """Keep the task, because a new submission depends on it, until that is accepted.

        Returns:
            False if it has a result already, and need not be waited for.
        """
        return True

    def release(self) -> None:
        """Its dependents no longer need it kept here."""

    # -- its end --------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it is known to have ended; without a call."""
        if self._known is None:
            looked()
        return self._known is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, with or without a result.

        Args:
            timeout: how long at most, in seconds; None for ever.

        Returns:
            Whether it has.
        """
        return self._known is not None or self._desk.following.wait(self, ENDED, timeout)

    def failed(self) -> bool:
        """Whether it is known to have ended without a result, or never to have been accepted; without a call."""
        return self._known is not None and state_of(self._known) is not State.SUCCEEDED

    def on_end(self, wake: Wake) -> bool:
        """Call a function when the task has ended: in a thread of the client's, so it must be quick.

        Returns:
            False if it has already: then the function is not called.
        """
        return self._known is None and self._desk.following.subscribe(self, ENDED, wake)

    def forget(self, wake: Wake) -> None:
        """Cancel such a call; it may just have happened."""
        self._desk.following.unsubscribe(self, wake)

    def result(self, timeout: float | None = None) -> T_co:
        """Wait for the task's result.

        Args:
            timeout: how long at most, in seconds; None for ever.

        Returns:
            The function's return value.

        Raises:
            Exception: the function's exception, with the remote traceback as its ``__cause__``.
            TaskFailed: that exception cannot be made here, or would end this program (`SystemExit` and its like).
            RuntimeError: the function raised `StopIteration` or `StopAsyncIteration`, which is the ``__cause__``.
            TaskCrashed, TaskTimedOut, TaskCancelled: it ended without an exception of its own.
            WaitTimeout: it has not ended in time; it goes on.
            ResultExpired: its result is no longer kept.
            DtqError: as `accepted`.
        """
        known = self._decoded(timeout)
        if isinstance(known, Value):
            return cast(T_co, known.value)
        try:
            raise known.error
        finally:
            del self, known  # or the exception's traceback would keep the handle, which keeps the exception

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the task, and return the exception that `result` would raise; None for none.

        Raises:
            WaitTimeout: it has not ended in time; it goes on.
        """
        known = self._decoded(timeout)
        return known.error if isinstance(known, Raised) else None

    @property
    def _undecoded(self) -> bytes | None:
        """Its encoded result, if that has arrived and was not decoded yet."""
        return self._known if isinstance(self._known, bytes) else None

    def _decoded(self, timeout: float | None) -> Value | Raised:
        if self._known is None and not self.wait(timeout):
            raise WaitTimeout(f"task {self._text}" if self._batch else "a task not accepted yet", timeout)
        known = self._known
        if not isinstance(known, Value | Raised):
            assert known is not None  # it has ended
            where = self._desk.values if isinstance(known, bytes) and known.startswith(MARK) else None
            decoder = result_decoder(self._spec.function.kind, where)
            known = self._known = decode(known, self._text, decoder, self._standard)
        return known

    def then(self, fn: Callable[..., Any] | str | Function, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Submit a call with this task's result as its first argument, and these arguments behind it.

        Shorthand for ``submit(fn, handle, *args, **kwargs)``: option keywords of `Client.submit` are its options.

        Args:
            fn: the function, as for `Client.submit`.
            args: its other arguments.
            kwargs: its keyword arguments.

        Raises:
            As `Client.submit`.
        """
        from dtq.client.submitting import divided, submit  # makes handles, and so is imported late

        order, rest = divided(kwargs)
        return submit(cast(Any, self._desk), fn, order, (self, *args), rest)

    # -- asking the coordinator -----------------------------------------------------------------------------------

    def status(self) -> TaskView:
        """The task's state, attempts with their history, progress, and the reason why it waits, if it does.

        Raises:
            UnknownId: it was purged.
            DtqError: as `accepted`.
        """
        self.accepted()
        view = self._desk.task(self._batch, max(0, self._index))
        if not view.state.final:
            looked()
        return view

    @property
    def state(self) -> State:
        """The task's state; makes a call only as long as the task is not known to have ended."""
        known = state_of(self._known) if self._known is not None else None
        return known or self.status().state

    def output(self, attempt: int | None = None) -> str:
        """What it has printed so far, standard output and error together: as much of it as the worker keeps.

        Args:
            attempt: which attempt, from 1; None for the last one.

        Returns:
            The text; bytes that are not UTF-8 are replaced. A line says how much is left out.

        Raises:
            InvalidValue: it has ended, and had no such attempt.
            ResultExpired: it is no longer kept.
            UnknownId: it was purged.
            DtqError: as `accepted`.
        """
        self.accepted()
        return output.whole(cast(Any, self._desk), self._batch, max(0, self._index), attempt)

    def follow_output(self, attempt: int | None = None) -> Iterator[str]:
        """What it prints, as it arrives: from the beginning, until the task has ended.

        Args:
            attempt: which attempt only, from 1; None for the last one so far, and those that follow.

        Returns:
            Pieces of text; joined, they are what `output` returns. While it prints nothing, the iterator waits.

        Raises:
            As `output`.
        """
        self.accepted()
        return output.follow(cast(Any, self._desk), self._batch, max(0, self._index), attempt)

    def cancel(self) -> bool:
        """Stop it: a waiting task never starts, a running one's process is killed.

        Returns:
            Whether it was stopped; False if it had ended already.
        """
        self.accepted()
        report = self._desk.cancel([(self._batch, max(0, self._index))])
        return report.cancelled + report.stopping > 0

    def __repr__(self) -> str:
        task = f" {self._text}" if self._batch else ""
        return f"<{type(self).__name__}{task} {self._spec.function.name} {self._standing}>"

    def _repr_html_(self) -> str:
        rows: list[Row] = [
            ("task", self._text if self._batch else "not accepted yet"),
            ("function", self._spec.function.name),
            ("state", self._standing),
        ]
        return card("TaskHandle", rows)

    @property
    def _standing(self) -> str:
        known = self._known
        state = None if known is None else state_of(known)
        if state is not None:
            return state.value
        if known is not None:
            return "unknown" if self._batch else "refused"
        return "accepted" if self._batch else "submitted"

    # -- news (see `following.Target`) ----------------------------------------------------------------------------

    def _reached(self, level: int) -> bool:
        return self._known is not None or (level == ACCEPTED and self._batch > 0)

    def _on_accepted(self, batch: int, index: int, wakes: list[Wake]) -> None:
        self._batch = batch
        self._index = index
        if self._waiters is not None:
            wake_waiters(self, ACCEPTED, wakes)

    def _on_ended(self, ended: Ended, wakes: list[Wake]) -> bool:
        index = self._index if self._index > 0 else 0
        if ended.lo <= index < ended.hi:
            self._on_known(take(ended, index), wakes)
        return self._known is not None

    def _on_known(self, known: Known, wakes: list[Wake]) -> None:
        if self._known is None:
            self._known = known
            if self._waiters is not None:
                wake_waiters(self, ENDED, wakes)

    def _on_failed(self, error: DtqError, wakes: list[Wake]) -> None:
        self._on_known(Raised(error), wakes)


class MemberHandle(TaskHandle[T_co]):
    """One task of a batch of several. Keeps the batch followed."""

    __slots__ = ("_owner",)

    def __init__(self, desk: HandleClient, spec: Spec, owner: Batch, index: int) -> None:
        super().__init__(desk, spec, owner.number, index)
        self._owner = owner


class Group:
    """Tasks that were submitted one by one, and travelled as one batch because they waited in the outbox together.

    Holds the handles of unfinished tasks; an ended task's outcome is in its handle alone.

    Args:
        handles: of the tasks, in their order.
        size: bytes of their arguments.
    """

    __slots__ = ("__weakref__", "_batch", "_count", "_handles", "_left", "_read", "_size", "_waiters")

    def __init__(self, handles: Sequence[TaskHandle[Any]], size: int) -> None:
        self._handles: list[TaskHandle[Any] | None] = list(handles)
        self._batch = 0
        self._count = self._left = len(handles)
        self._waiters: Waiters | None = None
        self._size = size
        #: Told when all of them have ended; None if they must be kept even then.
        self._read = handles[0]._desk.following.read if all([handle._sole for handle in handles]) else None

    def itself(self) -> Group:
        """Itself: the registry holds other targets weakly."""
        return self

    def _reached(self, level: int) -> bool:
        return False

    def _on_accepted(self, batch: int, wakes: list[Wake]) -> None:
        self._batch = batch
        for index, handle in enumerate(self._handles):
            if handle is not None:
                handle._on_accepted(batch, index, wakes)

    def _on_ended(self, ended: Ended, wakes: list[Wake]) -> bool:
        blobs = pages.unpack(ended.results) if ended.results else ()
        for place, index in enumerate(range(ended.lo, min(ended.hi, len(self._handles)))):
            handle = self._handles[index]
            if handle is not None:
                if self._read is not None and handle._kept:
                    self._read = None  # it is let go when its dependents are accepted
                handle._on_known(blobs[place] if blobs else ended, wakes)
                self._handles[index] = None
                self._left -= 1
        self._size += len(ended.results)
        if self._left:
            return False
        if self._read is not None:
            self._read.add(self._batch, 0, self._count, self._size)
            self._read = None
        return True

    def _on_failed(self, error: DtqError, wakes: list[Wake]) -> None:
        for handle in self.give_up():
            handle._on_failed(error, wakes)

    def give_up(self) -> list[TaskHandle[Any]]:
        """Return the handles that it holds, and hold none any more."""
        handles = [handle for handle in self._handles if handle is not None]
        self._handles.clear()
        return handles
