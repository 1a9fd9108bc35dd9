"""Waiting for tasks on the command line, and printing what became of them.

Results go to standard output, one line a task, as they are ready to be piped on; the progress bar and every sentence
about a failure go to standard error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from dtq.cli.failures import TaskTrouble, complain
from dtq.cli.output import write, write_json
from dtq.cli.values import message_of, value_json, value_text
from dtq.client.batch_handle import BatchHandle
from dtq.client.handle import TaskHandle
from dtq.client.outcomes import RemoteTraceback
from dtq.client.terms import exception_name
from dtq.errors import DtqError, TaskCancelled, TaskError, WaitTimeout
from dtq.model.ids import TaskId
from dtq.model.states import State
from dtq.model.text import printable
from dtq.wording import counted

#: How often a progress bar asks how far things are, in seconds.
_LOOK_S: Final = 0.25
#: How many failures of a batch are told one by one.
_TOLD: Final = 20

#: How many have ended, of how many, and how many of those without a result.
Tally = tuple[float, float, int]


@contextmanager
def interruptible(what: str) -> Iterator[None]:
    """Say on Ctrl-C that only the waiting ends.

    Args:
        what: the ids that are waited for.
    """
    try:
        yield
    except KeyboardInterrupt:
        complain(f"waiting no longer; the tasks go on (dtq wait {what}).")
        raise


@contextmanager
def _bar(shown: bool) -> Iterator[Callable[[Tally], None]]:
    if not shown:
        yield lambda tally: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=None)

        def update(tally: Tally) -> None:
            done, total, failed = tally
            progress.update(bar, completed=done, total=total or None, description=f"{failed} failed" if failed else "")

        yield update


def wait_for(
    handle: TaskHandle[Any] | BatchHandle[Any],
    timeout_s: float | None,
    *,
    what: str,
    look: Callable[[], Tally],
    quiet: bool = False,
) -> None:
    """Wait until a task or batch has ended, with a progress bar where standard error is a terminal.

    Args:
        handle: what to wait for.
        timeout_s: how long at most, in seconds; None for ever.
        what: what it is, for the sentence.
        look: asks how far it is.
        quiet: whether there is no progress bar.

    Raises:
        WaitTimeout: it has not ended in time.
    """
    shown = sys.stderr.isatty() and not quiet
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with _bar(shown) as update:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            pause = left if not shown else _LOOK_S if left is None else min(_LOOK_S, left)
            if handle.wait(pause):
                return
            if left is not None and left <= (pause or 0.0):
                raise WaitTimeout(what, timeout_s)
            update(look())


# -- what became of them ------------------------------------------------------------------------------------------


def find_modules_here() -> None:
    """Functions and the classes of results may be defined in the current directory, where the user's tasks are."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _traceback(error: BaseException) -> str:
    return error.__cause__.traceback if isinstance(error.__cause__, RemoteTraceback) else ""


def _sentence(task: str, error: BaseException) -> str:
    if isinstance(error, DtqError) and not _traceback(error):
        return str(error)
    return f"task {task} failed: {exception_name(type(error))}: {message_of(error)}"


def _error_json(task: str, error: BaseException) -> dict[str, Any]:
    state = State.CANCELLED if isinstance(error, TaskCancelled) else State.DEAD
    described = {
        "exception": exception_name(type(error)),
        "message": message_of(error),
        "traceback": _traceback(error),
    }
    return {"id": task, "state": state.value, "error": described}


def print_task(handle: TaskHandle[Any], *, as_json: bool) -> None:
    """Print what a task that has ended returned; or its remote traceback, and why it has no result.

    Raises:
        TaskTrouble: it has no result.
        DtqError: its result cannot be shown (it is no longer kept, or cannot be unpickled here).
    """
    find_modules_here()
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
    if _traceback(error):
        write(printable(_traceback(error).strip()))
    complain(_sentence(handle.id, error))
    raise TaskTrouble


def print_batch(handle: BatchHandle[Any], *, as_json: bool) -> None:
    """Print what the tasks of a batch returned, a line each, in their order; an empty line for one without a result.

    Raises:
        TaskTrouble: some have no result; standard error says which.
    """
    find_modules_here()
    failures = 0
    number = int(handle.id)
    for index, value in enumerate(handle.results(return_exceptions=True)):
        task = str(TaskId(number, index))
        if not isinstance(value, BaseException):
            if as_json:
                write_json({"id": task, "state": State.SUCCEEDED.value, **value_json(value)})
            else:
                write(value_text(value))
            continue
        failures += 1
        if as_json:
            write_json(_error_json(task, value))
            continue
        write()
        if failures <= _TOLD:
            complain(_sentence(task, value))
    if failures > _TOLD and not as_json:
        complain(f"{counted(failures - _TOLD, 'more task')} of batch {number} failed (dtq dlq list).")
    if failures:
        raise TaskTrouble
