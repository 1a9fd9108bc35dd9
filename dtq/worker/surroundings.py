"""What a task finds around it in its process, and gets back to be so when it was changed by the one before.

Worker, in the slot's process. What a process has once (`interpreter`, `kernel`) is compared with what it was, and put
back; where it cannot be, or nothing can tell, the process must not run another task. Processes that a task left running
cannot be taken back from whatever in this process still counts on them, so the slot ends, and its warden ends them.

Looking at everything takes far longer than a tiny task, so there are three looks:

1. After each tiny task, what it changed through a function that says so (`setters`): nothing, as a rule.
2. After a longer task, and after a lease, also all that costs no system call.
3. All the rest, too, as often as half a hundredth of the time allows; before the process waits for work; and before
   anything is accepted as right.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import sys
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from dtq.client.by_value import sentence
from dtq.worker import interpreter, kernel
from dtq.worker.aspects import Kept, Spoilt
from dtq.worker.setters import PROCESSES, RANDOM, UNKNOWABLE, Setters
from dtq.worker.warden import children

__all__ = ["Spoilt", "Surroundings", "seed_anew"]

#: Looking at what costs system calls takes at most one part in so many of the time.
SHARE: Final = 200
#: Longest pause between two such looks while tasks run, in seconds, however busy the machine is.
LONGEST_PAUSE_S: Final = 0.02


class Surroundings:
    """How this process is to be for every task; at first as it is now.

    Args:
        keep_processes: whether processes that tasks leave running may go on.
        setters: they say what they were called for.
    """

    def __init__(self, keep_processes: bool, setters: Setters) -> None:
        self._keep_processes = keep_processes
        #: Whether objects are frozen that the fork server has made.
        self._frozen = gc.get_freeze_count() > 0
        self._setters = setters
        self._environment = kernel.Environment()
        self._slow = {kept.aspect.name: kept for kept in map(Kept, kernel.aspects(self._environment))}
        self._slow |= {kept.aspect.name: kept for kept in map(Kept, interpreter.slower_aspects())}
        self._quick = {kept.aspect.name: kept for kept in map(Kept, interpreter.aspects())}
        self._known: frozenset[int] = frozenset()
        #: When a look at everything may be made again, ``time.monotonic()``.
        self._due_at = 0.0
        #: Whether there was a task since the last one.
        self.overdue = False
        self._accept_processes()

    def accept(self) -> None:
        """What is now is right: a module that was imported for the first time has set something up."""
        for kept in (*self._slow.values(), *self._quick.values()):
            kept.accept()
        self._accept_processes()
        self._setters.watch_imported()
        self._setters.forget()

    def _accept_processes(self) -> None:
        self._known = frozenset(_helpers()) if _has_children() else frozenset()

    def lend(self, variables: Mapping[str, str | None]) -> dict[str, str | None]:
        """Have the environment be right with these values, from now on.

        Args:
            variables: values by name; None for none.

        Returns:
            What they were before.
        """
        right: dict[bytes, bytes] = self._slow["its environment"].right[1]
        before: dict[str, str | None] = {name: os.environ.get(name) for name in variables}
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
                right.pop(os.fsencode(name), None)
            else:
                os.environ[name] = value
                right[os.fsencode(name)] = os.fsencode(value)
        return before

    @property
    def touched(self) -> set[str]:
        """What a task has changed through a function that says so; empty, as a rule."""
        return self._setters.called

    def restore(self, *, everything: bool = False, touched: bool = False) -> list[str]:
        """Put back what has changed.

        Args:
            everything: whether to look at all of it, however long ago the last time was.
            touched: whether to look at nothing but what is `touched`, as long as that had not changed.

        Returns:
            What had.

        Raises:
            Spoilt: it cannot be.
        """
        try:
            changed = self._restore_touched() if self._setters.called else []
            if touched and not changed:
                self.overdue = True
            else:
                self._look_around(changed, everything or bool(changed))  # who changes something may change more
        except Spoilt:
            raise
        except BaseException as error:  # what stands there now is the task's own, and may raise anything
            raise Spoilt(f"left what cannot be put back ({sentence(error)})") from error
        self._setters.forget()  # what putting back has called, too
        return list(dict.fromkeys(changed))

    def _restore_touched(self) -> list[str]:
        called = set(self._setters.called)
        changed = self._put_back_untold()
        for group in (self._slow, self._quick):
            changed += [name for name, kept in group.items() if name in called and kept.restore()]
        if PROCESSES in called:
            self._refuse_processes()
        return changed

    def _look_around(self, changed: list[str], everything: bool) -> None:
        begun = monotonic()
        self.overdue = not everything and begun < self._due_at
        if not self.overdue:
            changed += [name for name, kept in self._slow.items() if kept.look() != kept.right and kept.put_back()]
            kernel.check_descriptors()
            ended = monotonic()
            self._due_at = ended + min(LONGEST_PAUSE_S, SHARE * (ended - begun))
        changed += [name for name, kept in self._quick.items() if kept.look() != kept.right and kept.put_back()]
        if closed := interpreter.closed_stream():
            raise Spoilt(f"closed {closed}")
        self._refuse_processes()

    def _put_back_untold(self) -> list[str]:
        """What cannot be looked at, but only be put back: because a function was called that changes it.

        What modules have called when they were imported is accepted instead: they will not be imported again.
        """
        setters = self._setters
        changed: list[str] = []
        for name in tuple(setters.at_import):
            for group in (self._slow, self._quick):
                if name in group:
                    group[name].accept()
        made = tuple(setters.calls)
        calls = {call for call, _ in made}
        if UNKNOWABLE in setters.called - setters.at_import:
            raise Spoilt(f"called {', '.join(sorted(calls & setters.unknowable))}")
        if any(call.startswith("faulthandler.") for call in calls):
            _reset_fault_handler([arguments for call, arguments in made if call == "faulthandler.register"])
            changed.append("its fault handler")
        if "gc.freeze" in calls:
            gc.unfreeze()
            if self._frozen:
                gc.freeze()
        if RANDOM in setters.called - setters.at_import:
            seed_anew()
        names = {os.fsencode(arguments[0]) for call, arguments in made if call in _PUTENV and arguments}
        if names:
            self._environment.put_back_in_c(names, self._slow["its environment"].right)
        return changed

    def _refuse_processes(self) -> None:
        """Make sure that no process was started that still runs."""
        if not _has_children() or self._keep_processes:
            return
        left = [pid for pid in _helpers() if pid not in self._known and pid != _resource_tracker()]
        if left:
            raise Spoilt(f"left {', '.join(f'{_name(pid)} (pid {pid})' for pid in left)} running")


_PUTENV: Final = ("os.putenv", "os.unsetenv")


def _reset_fault_handler(registered: list[tuple[Any, ...]]) -> None:
    faulthandler.cancel_dump_traceback_later()
    for arguments in registered:
        with suppress(ValueError, TypeError, IndexError):
            faulthandler.unregister(arguments[0])
    faulthandler.enable()


def seed_anew() -> None:
    """Have the operating system seed what makes random numbers: what was is known, or the same in other processes."""
    random.seed()
    numbers: Any = sys.modules.get("numpy.random")
    if numbers is not None:
        numbers.seed()


def _has_children() -> bool:
    """Whether there are children that run; the ended are collected on the way, for nobody else will."""
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            os.waitpid(ended.si_pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _helpers() -> list[int]:
    return children() if sys.platform == "linux" else []


def _resource_tracker() -> int | None:
    """The process that multiprocessing keeps for good, which ends with this one by itself."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    with suppress(AttributeError):
        found: int | None = module._resource_tracker._pid  # type: ignore[union-attr]
        return found
    return None


def _name(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()
    return "a process"
