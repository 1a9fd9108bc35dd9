"""What is kept of an exception that a task raised: plain, bounded, and with the place where something was missing.

Worker, in the slot's process; the queue of `dtq.testing`, whose tasks run where it is, uses it too.
"""

from __future__ import annotations

import importlib
import os
import traceback
from typing import Final

import dtq
from dtq.client.exception_pickles import dump_exception
from dtq.client.functions import cannot_import, exception_name
from dtq.errors import CannotImport, CannotUnpickle, DtqError
from dtq.model.messages import Failure

#: Bounds of what a failure may carry: characters of text, bytes of the pickled exception.
MAX_MESSAGE: Final = 4_000
MAX_TRACEBACK: Final = 32_000
MAX_PICKLED: Final = 256 << 10
#: Where frames come from that are nobody's code but ours and the import machinery's.
_OWN: Final = (
    os.path.dirname(dtq.__file__) + os.sep,
    os.path.dirname(importlib.__file__) + os.sep,
    "<frozen importlib",
)


def located(error: BaseException, where: str) -> BaseException:
    """What a task raised; where it could not be made for want of a module, it says who lacks it.

    Args:
        error: what it raised.
        where: who ran it.
    """
    if type(error) is CannotUnpickle and isinstance(error.__cause__, ImportError):
        return cannot_import(f"a module for {error.args[0]}", where, error.__cause__)
    return error


def describe(error: BaseException, runner: str, peak_memory: int | None = None) -> Failure:
    """What the coordinator keeps of an exception.

    Args:
        error: the exception.
        runner: the file of the code that called the task; its frames at the top of the traceback are left out.
        peak_memory: the most memory that its process has had resident, in bytes; None where it has none of its own.
    """
    kind = type(error)
    try:
        message = str(error)
    except BaseException:  # noqa: BLE001 - the exception's own code, which is not to end the slot
        message = "(the exception's own message cannot be made)"
    return Failure(
        exception=exception_name(kind),
        bases=tuple(exception_name(base) for base in kind.__mro__[1:-1])[:32],
        message=_bounded(message, MAX_MESSAGE),
        traceback=_bounded(traceback_of(error, runner), MAX_TRACEBACK),
        pickled=dump_exception(error, MAX_PICKLED),
        peak_memory=peak_memory,
        unable=isinstance(error, CannotImport),
    )


def traceback_of(error: BaseException, runner: str) -> str:
    """The traceback as text, without the frames of one file at its top; without any, where it is an error of dtq's that
    no code of the user's had a part in: its sentence says it all."""
    if isinstance(error, DtqError) and not _reaches_others(error):
        return "".join(traceback.format_exception_only(error))
    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename == runner:
        own = own.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, own or error.__traceback__))
    except BaseException as second:  # noqa: BLE001 - as above
        return f"(the traceback cannot be made: {type(second).__name__})"


def _reaches_others(error: BaseException | None) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if any(not frame.f_code.co_filename.startswith(_OWN) for frame, _ in traceback.walk_tb(error.__traceback__)):
            return True
        error = error.__cause__
    return False


def _bounded(text: str, most: int) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - most} characters left out ...]\n{text[-half:]}"
