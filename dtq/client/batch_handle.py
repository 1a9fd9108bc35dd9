"""Handles of batches.

Client, beside `handle`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Final, Generic

from dtq.client.batches import Batch
from dtq.client.current import looked
from dtq.client.following import ACCEPTED, ENDED, NEWS, Wake, add_waiter
from dtq.client.handle import HandleClient, MemberHandle, T_co, TaskHandle
from dtq.client.html_repr import Row, card
from dtq.client.parents import as_it_is, is_collecting, stand_in
from dtq.client.reading import read, read_numbered
from dtq.client.thread_wakeup import ThreadWakeup
from dtq.errors import InvalidValue
from dtq.model.options import FunctionKind, Spec
from dtq.model.snapshots import BatchView, CancelReport
from dtq.wording import counted

#: Pause between two calls for the size of a batch that another client is still submitting, in seconds: its news go to
#: its submitter only.
SIZE_EVERY_S: Final = 1.0


class Element:
    """Stands for the result of one task of a batch, among the arguments of a call."""

    __slots__ = ("batch", "index", "is_json")

    def __init__(self, batch: int, index: int, is_json: bool) -> None:
        self.batch = batch
        self.index = index
        self.is_json = is_json

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return stand_in(self, self.is_json)

    @property
    def id(self) -> str:
        """The task's id."""
        return f"{self.batch}.{self.index}"


class BatchHandle(Generic[T_co]):
    """A batch that was submitted, or that was found by its id.

    Its results stay with the coordinator until a caller reads them: a handle of ten million tasks takes no memory.
    """

    #: Whether it is a handle among arguments; see `parents.ResultOf`.
    stands_for_result: ClassVar[bool] = True

    def __init__(self, desk: HandleClient, spec: Spec, batch: Batch) -> None:
        self._desk = desk
        self._spec = spec
        self._target = batch

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Among the arguments of a call, a handle stands for all of its results."""
        if self.is_empty and is_collecting():
            return as_it_is, ((),)
        return stand_in(self, self._spec.function.kind is FunctionKind.REGISTERED)

    def accepted(self, timeout: float | None = None) -> bool:
        """Wait until the coordinator has some of the batch durably, and so it has an id.

        Args:
            timeout: how long at most, in seconds; None for ever.

        Returns:
            Whether it has.

        Raises:
            DtqError: why the coordinator refused it, or will never be asked.
        """
        batch = self._target
        if not self._desk.following.wait(batch, ACCEPTED, timeout):
            return False
        if batch.error is not None:
            raise batch.error
        return True

    @property
    def id(self) -> str:
        """Its number, which is the id of the whole batch; waits until it has one.

        Raises:
            InvalidValue: it has no tasks, and so was never submitted.
            DtqError: as `accepted`.
        """
        self.accepted()
        if not self._target.number:
            raise InvalidValue("a batch", "it", "without tasks it was not submitted, and has no id")
        return str(self._target.number)

    @property
    def is_empty(self) -> bool:
        """Whether it is known to have no tasks, and never will have any; without a call."""
        return self._target.finished and not self._target.number

    @property
    def size(self) -> int:
        """Number of its tasks that the coordinator has accepted so far."""
        return self._target.size

    @property
    def ended(self) -> int:
        """Number of its tasks that are known to have ended; without a call. Known only once a caller waits or reads."""
        return self._target.ended.count

    def done(self) -> bool:
        """Whether all of it is known to have ended; without a call. Known only once a caller waits or reads."""
        if not self._target.finished:
            looked()
        return self._target.finished

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all of its tasks have ended, with or without results.

        Args:
            timeout: how long at most, in seconds; None for ever.

        Returns:
            Whether they have.

        Raises:
            DtqError: as `accepted`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.accepted(timeout):
            return False
        if self._target.number:
            self._desk.follow(self._target)
        following, batch = self._desk.following, self._target
        while not batch.finished:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            foreign = not batch.complete and batch.foreign
            pause = SIZE_EVERY_S if left is None else min(SIZE_EVERY_S, left)
            if following.wait(batch, ENDED, pause if foreign else left):
                break
            if left == 0:
                return False
            if foreign:
                self.ask_size()
        if batch.error is not None:
            raise batch.error
        return True

    def failed(self) -> bool:
        """Whether the client will learn no more about it; failed tasks are no such failure."""
        return self._target.error is not None

    def on_end(self, wake: Wake) -> bool:
        """Call a function when all of its tasks have ended: in a thread of the client's, so it must be quick.

        Returns:
            False if they have already: then it is not called.
        """
        self.accepted()
        if self._target.number:
            self._desk.follow(self._target)
        return self._desk.following.subscribe(self._target, ENDED, wake)

    def forget(self, wake: Wake) -> None:
        """Cancel such a call; it may just have happened."""
        self._desk.following.unsubscribe(self._target, wake)

    def results(self, *, return_exceptions: bool = False) -> Iterator[T_co]:
        """The results, in order, each as soon as it and those before it have arrived. May be called again.

        Args:
            return_exceptions: yield the exception of a task without a result in its place, instead of raising it.

        Raises:
            Exception: as `TaskHandle.result`, at the turn of that task.
        """
        self.accepted()
        if not self._target.number:
            return iter(())
        if not self._target.complete and self._target.foreign:
            self.wait()
        with self._desk.following.lock:
            self._target.keep_results(ordered=True)
        self._desk.follow(self._target)
        return read(self._desk, self._target, self._spec, return_exceptions=return_exceptions)

    def outcomes(self, *, ordered: bool) -> Iterator[tuple[int, T_co | BaseException]]:
        """The index and the result of each task; its exception if it has none.

        Args:
            ordered: whether they come in the order of the tasks; else as they end.

        Raises:
            DtqError: as `accepted`.
        """
        self.accepted()
        with self._desk.following.lock:
            self._target.keep_results(ordered)
        self._desk.follow(self._target)
        return read_numbered(self._desk, self._target, self._spec)

    def completed(self) -> int:
        """Wait until all of its tasks have been accepted; how many they are.

        Raises:
            DtqError: what `accepted` raises.
        """
        self.accepted()
        batch, following = self._target, self._desk.following
        while not self._is_whole():
            wakeup = ThreadWakeup()
            with following.lock:
                if not self._is_whole():
                    add_waiter(batch, NEWS, wakeup.ring)
            if not wakeup.wait(SIZE_EVERY_S):
                following.unsubscribe(batch, wakeup.ring)
            if batch.foreign:
                self.ask_size()
        if batch.error is not None:
            raise batch.error
        return batch.size

    def _is_whole(self) -> bool:
        return self._target.complete or self._target.error is not None

    def element(self, index: int) -> Element:
        """Stands for the result of one of its tasks among the arguments of a call."""
        return Element(self._target.number, index, self._spec.function.kind is FunctionKind.REGISTERED)

    def task(self, index: int) -> TaskHandle[T_co]:
        """A handle of one of its tasks.

        Raises:
            InvalidValue: the batch has no task of that index (so far).
        """
        self.accepted()
        if not 0 <= index < self._target.size:
            raise InvalidValue("the index of a task", index, f"the batch has {counted(self._target.size, 'task')}")
        return member(self._desk, self._spec, self._target, index)

    def status(self) -> BatchView:
        """The batch's state: the number of its tasks in each state.

        Raises:
            UnknownId: it is no longer kept.
            DtqError: as `accepted`.
        """
        view = self._desk.batch(int(self.id))
        if not view.complete or view.counts.unfinished:
            looked()
        return view

    def cancel(self) -> CancelReport:
        """Stop all of it: waiting tasks never start, running tasks are killed.

        Returns:
            The numbers of tasks that were cancelled, are being stopped, and had ended before.
        """
        return self._desk.cancel([(int(self.id), -1)])

    def __repr__(self) -> str:
        batch = self._target
        number = f" {batch.number}" if batch.number else ""
        ended = f", {batch.ended.count:,} ended" if batch.followed else ""
        error = f", {batch.error}" if batch.error is not None else ""
        more = "" if batch.complete else " so far"
        return f"<BatchHandle{number} {self._spec.function.name}: {counted(batch.size, 'task')}{more}{ended}{error}>"

    def _repr_html_(self) -> str:
        batch = self._target
        rows: list[Row] = [
            ("batch", batch.number or "not accepted yet"),
            ("function", self._spec.function.name),
            ("tasks", f"{batch.size:,}" + ("" if batch.complete else " so far")),
            ("ended", f"{batch.ended.count:,}" if batch.followed else None),
            ("error", batch.error),
        ]
        return card("BatchHandle", rows, done=batch.ended.count / batch.size if batch.followed and batch.size else None)

    def ask_size(self) -> None:
        """Fetch the present size of a batch that another client is still submitting."""
        view = self._desk.batch(self._target.number)
        wakes: list[Wake] = []
        with self._desk.following.lock:
            self._target.on_accepted(view.batch, view.size, view.complete, wakes)
        for wake in wakes:
            wake()


#: Over what a map is: iterables, and the handles of batches, whose results it is given one by one.
Mapped = Iterable[Any] | BatchHandle[Any]


def member(desk: HandleClient, spec: Spec, batch: Batch, index: int, *, single: bool = False) -> TaskHandle[Any]:
    """A handle of one task of a known batch.

    Args:
        desk: the client.
        spec: the batch's function.
        batch: the batch.
        index: the task.
        single: whether the batch has no other task, and so the id is the batch's number alone.
    """
    handle: MemberHandle[Any] = MemberHandle(desk, spec, batch, -1 if single else index)
    with desk.following.lock:
        batch.enlist(index, handle)
    # Most tasks of known batches that users ask for by id have ended: then the batch need not be followed.
    ended = desk.results(batch.number, index, index + 1)
    if not ended:
        desk.follow(batch)
        return handle
    wakes: list[Wake] = []
    with desk.following.lock:
        handle._on_ended(ended[0], wakes)
    return handle
