"""Detects whether this process is the slot, or a child that a task has forked.

Worker, in the slot's process. A task may fork in any way, and its child may return, raise or exit: it is then in the
slot's place, in the middle of a lease. It must not be heard as the slot, so the slot checks its process whenever a
task's code has ended. A page that the kernel empties in every child tells without a system call, even if Python was not
told of the fork.
"""

from __future__ import annotations

import mmap
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

#: Linux's number for it, from its mman.h; since 4.14.
_MADV_WIPEONFORK: Final = 18


def own_page(before: Callable[[], None], in_child: Callable[[], None]) -> mmap.mmap:
    """A page whose first byte is 1 in this process, and 0 in every process that is forked from it.

    Args:
        before: called in this process before Python forks.
        in_child: called in each child that Python knows of.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with suppress(OSError):
            page.madvise(_MADV_WIPEONFORK)
    page[0] = 1

    def forks() -> None:
        if page[0]:
            before()

    def forked() -> None:
        page[0] = 0
        in_child()

    os.register_at_fork(before=forks, after_in_child=forked)
    return page


def end_child(error: BaseException | None) -> NoReturn:
    """End a task's forked child after the task's code, as a program of its own would end; but without exit handlers,
    which are the slot's.

    Args:
        error: the code's exception; None if it returned.
    """
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = _exit_code(error)
        elif error is not None:
            code = 1
            traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:  # noqa: BLE001 - whatever stands there is the task's own, and this process ends
        code = code or 1
    finally:
        os._exit(code)


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1
