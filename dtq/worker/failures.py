"""Describes a task's exception for the coordinator: plain, bounded, and with the place of a lack.

Worker, in the slot's process; the queue of `dtq.testing`, whose tasks run in its own process, uses it too. The
supervisor checks the same bounds once more (`check`), for a slot runs foreign code.

The stage in which an attempt ended tells whether the worker was *unable* to run the task, never the exception's class:
an exception of the task's own code is the task's failure, dtq's own errors included.
"""

from __future__ import annotations

import importlib
import os
import traceback
from enum import Enum
from typing import Final, TypeGuard

import dtq
from dtq.client.exception_pickles import dump_exception
from dtq.client.functions import cannot_import, exception_name
from dtq.errors import (
    BadMessage,
    CannotImport,
    CannotUnpickle,
    DtqError,
    OtherPython,
    ResultCannotPickle,
    TooLarge,
)
from dtq.model.fields import MAX_NAME, ExceptionName, fitting
from dtq.model.messages import Failure
from dtq.model.options import Function, FunctionKind

#: Bounds of a failure's content, all in bytes (of UTF-8): texts, the pickled exception, and the number of base classes.
MAX_MESSAGE: Final = 4_000
MAX_TRACEBACK: Final = 32_000
MAX_PICKLED: Final = 256 << 10
MAX_BASES: Final = 32
#: Longest class name whose exceptions are pickled, in characters.
_MAX_CLASS: Final = 4_000
#: Most bytes of the note in place of omitted text.
_NOTE: Final = 64
#: Most memory that a process can plausibly have had.
MAX_MEMORY: Final = 1 << 50
#: Directories of frames that belong to dtq and the import machinery only.
_OWN: Final = (
    os.path.dirname(dtq.__file__) + os.sep,
    os.path.dirname(importlib.__file__) + os.sep,
    "<frozen importlib",
)


#: Part of the path of the package that pickles functions by value.
_BY_VALUE: Final = f"{os.sep}cloudpickle{os.sep}"


class Stage(Enum):
    """Stages of a call."""

    IMPORT = "import"  #: the function is imported
    REBUILD = "rebuild"  #: the function, which was sent by value, is unpickled
    DECODE = "decode"  #: the arguments are unpickled
    CALL = "call"  #: the function runs
    RESULT = "result"  #: its result is pickled

    @classmethod
    def of(cls, function: Function) -> Stage:
        """The first stage of a call."""
        return cls.REBUILD if function.kind is FunctionKind.VALUE else cls.IMPORT


def located(error: BaseException, stage: Stage, where: str) -> BaseException:
    """The exception of a call; if a module was missing, the returned one says where.

    Args:
        error: the exception.
        stage: the stage of the call.
        where: this worker.
    """
    if stage in (Stage.CALL, Stage.RESULT):
        return error
    if type(error) is CannotUnpickle and _is_lack(error.__cause__):
        return cannot_import(f"a module for {error.args[0]}", where, error.__cause__)
    return error


def _is_lack(cause: BaseException | None) -> TypeGuard[BaseException]:
    """Whether unpickling failed because a module, or a name in it, is missing."""
    return isinstance(cause, ImportError) or (
        type(cause) is AttributeError and str(cause).startswith("Can't get attribute ")
    )


def describe(error: BaseException, runner: str, stage: Stage = Stage.CALL, peak_memory: int | None = None) -> Failure:
    """Describe an exception for the coordinator.

    Args:
        error: the exception, as `located` returns it.
        runner: the file of the code that called the task; its frames at the top of the traceback are left out.
        stage: the stage of the call.
        peak_memory: highest resident memory of its process, in bytes; None if it has no process of its own.
    """
    kind = type(error)
    return Failure(
        exception=_name(kind),
        bases=tuple([_name(base) for base in type.mro(kind)[1:-1][:MAX_BASES]]),
        message=bounded(_message(error), MAX_MESSAGE),
        traceback=bounded(traceback_of(error, runner), MAX_TRACEBACK),
        pickled=_pickled(error),
        peak_memory=peak_memory,
        unable=_is_unable(error, stage),
        particular=stage in (Stage.REBUILD, Stage.DECODE),
        final=stage is Stage.RESULT and isinstance(error, TooLarge | ResultCannotPickle),
    )


def _is_unable(error: BaseException, stage: Stage) -> bool:
    """Whether the worker lacks a part that the call needs. If arguments cannot be unpickled for any other reason than a
    lack, the call itself is at fault.
    """
    if stage is Stage.DECODE:
        return isinstance(error, CannotImport | OtherPython)
    return stage not in (Stage.CALL, Stage.RESULT)


def _name(kind: type[BaseException]) -> str:
    try:
        return fitting(ExceptionName, exception_name(kind))
    except BaseException:  # noqa: BLE001 - what stands in its place may be anything
        return "(an exception without a name)"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - the exception's own code
        return "(the exception's own message cannot be made)"


def _pickled(error: BaseException) -> bytes:
    try:
        # The import system looks for every part of such a long name in every directory.
        return b"" if len(exception_name(type(error))) > _MAX_CLASS else dump_exception(error, MAX_PICKLED)
    except BaseException:  # noqa: BLE001 - as above; its text is kept all the same
        return b""


def traceback_of(error: BaseException, runner: str) -> str:
    """The traceback as text, without the frames of one file and of dtq at its top. A function written in C has no
    frames; and for an error of dtq's without any of the user's code, the sentence is enough.
    """
    if isinstance(error, DtqError) and not _reaches_others(error):
        return "".join(traceback.format_exception_only(error))
    try:
        whole = traceback.TracebackException(type(error), error, error.__traceback__)
        _leave_out(whole, (runner, _OWN[0]))
        return "".join(whole.format())
    except BaseException as second:  # noqa: BLE001 - as above
        return f"(the traceback cannot be made: {_name(type(second))})"


def _leave_out(whole: traceback.TracebackException | None, files: tuple[str, ...]) -> None:
    """Leave out the frames of some files at the top of a traceback, and of those that are shown with it."""
    seen: set[int] = set()
    left = [whole]
    while left:
        shown = left.pop()
        if shown is None or id(shown) in seen:
            continue
        seen.add(id(shown))
        while shown.stack and shown.stack[0].filename.startswith(files):
            del shown.stack[0]
        if not shown.stack:
            shown.stack = None  # type: ignore[assignment]  # as where there is no traceback: then it has no heading
        left += [shown.__cause__, shown.__context__]


def _reaches_others(error: BaseException | None) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
        if any(not file.startswith(_OWN) and _BY_VALUE not in file for file in files):
            return True
        error = error.__cause__
    return False


def bounded(text: str, most: int) -> str:
    """A text that is valid UTF-8 and not much longer than this many bytes; the omitted part is its middle.

    Args:
        text: any text, lone surrogates included.
        most: bytes that are kept.
    """
    text = str.__str__(text)  # a subclass's method may do anything
    length = len(text)
    head, tail = text[:most], text[max(0, length - most) :]  # only the kept parts of a huge text are encoded
    if length <= most and len(data := text.encode("utf-8", "backslashreplace")) <= most:
        return data.decode()
    half = most // 2
    first = head.encode("utf-8", "backslashreplace")[:half].decode("utf-8", "ignore")
    last = tail.encode("utf-8", "backslashreplace")[-half:].decode("utf-8", "ignore")
    return f"{first}\n[... {max(0, length - len(first) - len(last))} characters left out ...]\n{last}"


# -- at the supervisor ----------------------------------------------------------------------------------------------


def check(failure: Failure) -> None:
    """Make sure that a slot's reported failure is one that `describe` could have made.

    Raises:
        BadMessage: it is not.
    """
    for text, most in (
        *((name, 4 * MAX_NAME) for name in (failure.exception, *failure.bases)),
        (failure.message, MAX_MESSAGE),
        (failure.traceback, MAX_TRACEBACK),
        (failure.output, 0),
    ):
        _check_text(text, most)
    if len(failure.bases) > MAX_BASES or len(failure.pickled) > MAX_PICKLED:
        raise BadMessage("a failure is longer than any that dtq describes")
    if not (failure.exit_code is failure.signal is None) or not 0 <= (failure.peak_memory or 0) <= MAX_MEMORY:
        raise BadMessage("a failure has numbers that no exception has")


def _check_text(text: str, most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadMessage("a failure has text that is not UTF-8") from None
    if size > most + _NOTE:
        raise BadMessage("a failure is longer than any that dtq describes")
