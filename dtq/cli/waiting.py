"""Waits for tasks on the command line, and prints their outcomes.

Results go to standard output, one line a task, as they arrive, so they can be piped; the progress bar and every
sentence about a failure go to standard error.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from dtq.cli.failures import TaskTrouble, complain
from dtq.cli.output import say, write, write_json
from dtq.cli.values import message_of, value_json, value_text
from dtq.client.batch_handle import BatchHandle
from dtq.client.handle import TaskHandle
from dtq.client.import_path import find_modules
from dtq.client.outcomes import RemoteTraceback
from dtq.client.terms import exception_name
from dtq.errors import DtqError, TaskCancelled, TaskError, TaskFailed, WaitTimeout
from dtq.model.ids import TaskId
from dtq.model.states import State
from dtq.model.text import printable
from dtq.wording import counted

#: Failures of a batch that are reported one by one.
_TOLD: Final = 20


@contextmanager
def interruptible(what: str) -> Iterator[None]:
    """Explain on Ctrl-C that only the wait ends.

    Args:
        what: the awaited ids.
    """
    try:
        yield
    except KeyboardInterrupt:
        complain(f"waiting no longer; the tasks go on (dtq wait {what}).")
        raise


class Deadline:
    """The end of a command's wait, for all of its tasks.

    Args:
        timeout_s: how long from now, in seconds; None for ever.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._at = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float | None:
        """Seconds left; None for ever."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())


def wait_for(handle: TaskHandle[Any] | BatchHandle[Any], deadline: Deadline, what: str) -> None:
    """Wait until a task or batch has ended.

    Args:
        handle: of the task or batch.
        deadline: the end of the wait.
        what: its noun in the sentence.

    Raises:
        WaitTimeout: it has not ended in time.
    """
    if not handle.wait(deadline.left_s):
        raise WaitTimeout(what, deadline.timeout_s)


# -- outcomes -----------------------------------------------------------------------------------------------------


def _traceback(error: BaseException) -> str:
    return error.__cause__.traceback if isinstance(error.__cause__, RemoteTraceback) else ""


def _sentence(task: str, error: BaseException) -> str:
    if isinstance(error, DtqError) and not _traceback(error):
        return str(error)
    return f"task {task} failed: {': '.join(_raised(task, error))}"


def _raised(task: str, error: BaseException) -> tuple[str, str]:
    """Name and message of a task's exception, even if that cannot be made here, or must not be raised."""
    if isinstance(error, TaskFailed) and error.args[:1] == (task,) and len(error.args) == 3:
        _, name, message = error.args
        return str(name), str(message)
    return exception_name(type(error)), message_of(error)


def _error_json(task: str, error: BaseException) -> dict[str, Any]:
    state = State.CANCELLED if isinstance(error, TaskCancelled) else State.DEAD
    name, message = _raised(task, error)
    described = {
        "exception": name,
        "message": message,
        "traceback": _traceback(error),
    }
    return {"id": task, "state": state.value, "error": described}


def print_task(handle: TaskHandle[Any], *, as_json: bool) -> None:
    """Print the result of an ended task; or its remote traceback, and why it has no result.

    Raises:
        TaskTrouble: it has no result.
        DtqError: its result cannot be shown (it is no longer kept, or cannot be unpickled here).
    """
    find_modules()  # the user's modules may define the classes of results
    error = handle.exception()
    if error is None:
        value = handle.result()
        if as_json:
            write_json({"id": handle.id, "state": State.SUCCEEDED.value, **value_json(value)})
        else:
            write(value_text(value))
        return
    if isinstance(error, DtqError) and not isinstance(error, TaskError) and not _traceback(error):
        raise error
    if as_json:
        write_json(_error_json(handle.id, error))
        raise TaskTrouble
    if '\n  File "' in _traceback(error):  # else it adds nothing to the sentence
        say(printable(_traceback(error).strip()))  # it is no data: a reader of results gets none
    complain(_sentence(handle.id, error))
    raise TaskTrouble


class _Troubles:
    """Tasks of a batch without a result: the first failures are reported one by one, the others by their number.

    Args:
        batch: the batch's number.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._failed = 0
        self._cancelled = 0

    def add(self, task: str, error: BaseException, *, told: bool) -> None:
        """Add a task.

        Args:
            task: its id.
            error: why it has no result.
            told: whether it is reported in another way.
        """
        if isinstance(error, TaskCancelled):
            self._cancelled += 1
            return
        self._failed += 1
        if not told and self._failed <= _TOLD:
            complain(_sentence(task, error))

    def close(self, *, told: bool) -> None:
        """Report the number of the others.

        Raises:
            TaskTrouble: there was one.
        """
        if not told and self._failed > _TOLD:
            complain(f"{counted(self._failed - _TOLD, 'more task')} of batch {self._batch} failed (dtq dlq list).")
        if not told and self._cancelled:
            were = "was" if self._cancelled == 1 else "were"
            complain(f"{counted(self._cancelled, 'task')} of batch {self._batch} {were} cancelled.")
        if self._failed or self._cancelled:
            raise TaskTrouble


def print_batch(handle: BatchHandle[Any], *, as_json: bool) -> None:
    """Print the results of a batch's tasks, a line each, in their order; an empty line for a task without a result.

    Raises:
        TaskTrouble: some have no result; standard error names them.
    """
    number = int(handle.id)
    results = enumerate(handle.results(return_exceptions=True))
    _print_all(((str(TaskId(number, index)), value) for index, value in results), number, as_json)


def print_each(handles: Sequence[TaskHandle[Any]], *, as_json: bool) -> None:
    """Print the results of some tasks of a batch, as `print_batch` does.

    Raises:
        TaskTrouble: some have no result; standard error names them.
    """
    outcomes = ((handle.id, handle.exception() or handle.result()) for handle in handles)
    _print_all(outcomes, int(handles[0].id.partition(".")[0]), as_json)


def _print_all(outcomes: Iterable[tuple[str, Any]], batch: int, as_json: bool) -> None:
    find_modules()  # the user's modules may define the classes of results
    troubles = _Troubles(batch)
    for task, value in outcomes:
        if isinstance(value, BaseException):
            troubles.add(task, value, told=as_json)
            if as_json:
                write_json(_error_json(task, value))
            else:
                write()
        elif as_json:
            write_json({"id": task, "state": State.SUCCEEDED.value, **value_json(value)})
        else:
            write(value_text(value))
    troubles.close(told=as_json)
