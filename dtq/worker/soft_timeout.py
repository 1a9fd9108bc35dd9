"""The soft time limit: raises `SoftTimeout` inside the task.

Worker, in the slot's process. The kernel's timer interrupts a wait of the main thread, and the handler of its signal
raises in the task's own code, as soon as Python runs there again; code that never comes back to Python is left to the
hard time limit. A function without such a limit is called without a layer between.

It is raised once, and only during the task's call. If it comes just after the return, the task has returned; the
handler then finds no task, and raises nothing. Handler and timer are restored after the call, whatever the task did
with them.
"""

from __future__ import annotations

from collections.abc import Callable
from signal import ITIMER_REAL, SIGALRM, setitimer, signal  # the originals: `setters` wraps them later
from typing import Any, Final

from dtq.errors import SoftTimeout

_ABSENT: Final = object()


def softly(call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Make a call raise `SoftTimeout` in the main thread, in which it must be made, after this many seconds."""

    def run(*args: Any, **kwargs: Any) -> Any:
        value: Any = _ABSENT
        armed = False

        def expire(number: int, frame: object) -> None:
            nonlocal armed
            if armed:
                armed = False
                raise SoftTimeout(seconds)

        before = signal(SIGALRM, expire)
        try:
            try:
                armed = True
                setitimer(ITIMER_REAL, seconds)
                value = call(*args, **kwargs)
            finally:
                armed = False
        except SoftTimeout:
            if value is _ABSENT:
                raise
        finally:
            setitimer(ITIMER_REAL, 0.0)
            if before is not None:
                signal(SIGALRM, before)
        return value

    return run
