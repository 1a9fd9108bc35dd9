"""Process state that a task may change, and that is restored before the next task: directory, environment, signals, ...

Worker, in the slot's process. Each aspect (`interpreter`, `kernel`) is compared with its right state, and restored; if
it cannot be restored, or not even read, the process must not run another task. A process that a task left running
cannot be ended behind the back of objects here that still refer to it, so the slot ends, and its reaper ends that
process.

A check of everything takes far longer than a tiny task, so there are three checks:

1. After each tiny task, the state that it changed through a recorded function (`setters`): nothing, as a rule.
2. After a longer task, and after a lease, also all state that costs no system call.
3. All other state, too, as often as half a hundredth of the time allows; before the process waits for work; and before
   any state is accepted as right.
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
from dtq.worker.reaper import children
from dtq.worker.setters import PROCESSES, RANDOM, UNKNOWABLE, Setters

__all__ = ["Spoilt", "ProcessState", "seed_anew"]

#: Checks with system calls take at most one part in this many of the time.
SHARE: Final = 200
#: Longest pause between two such checks while tasks run, in seconds, however busy the machine is.
LONGEST_PAUSE_S: Final = 0.02


class ProcessState:
    """The right state of this process for every task; at first the present one.

    Args:
        keep_processes: whether processes that tasks leave running may go on.
        setters: record tasks' changes.
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
        #: When a full check may be made again, ``time.monotonic()``.
        self._due_at = 0.0
        #: Whether a task has run since the last one.
        self.overdue = False
        self._accept_processes()

    def accept(self) -> None:
        """Make the present state the right one: the first import of a module has set up some state."""
        for kept in (*self._slow.values(), *self._quick.values()):
            kept.accept()
        self._accept_processes()
        self._setters.watch_imported()
        self._setters.forget()

    def _accept_processes(self) -> None:
        self._known = frozenset(_helpers()) if _has_children() else frozenset()

    def lend(self, variables: Mapping[str, str | None]) -> dict[str, str | None]:
        """Make these values part of the right environment, from now on.

        Args:
            variables: values by name; None for none.

        Returns:
            The values before.
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
        """The aspects that a task has changed through recorded functions; empty, as a rule."""
        return self._setters.called

    def restore(self, *, everything: bool = False, touched: bool = False) -> list[str]:
        """Restore changed state.

        Args:
            everything: whether to check all of it, however recent the last check was.
            touched: whether to check only `touched` state, as long as that had not changed.

        Returns:
            The changed aspects.

        Raises:
            Spoilt: it cannot be restored.
        """
        try:
            changed = self._restore_touched() if self._setters.called else []
            if touched and not changed:
                self.overdue = True
            else:
                self._look_around(changed, everything or bool(changed))  # a task that changes one part may change more
        except Spoilt:
            raise
        except BaseException as error:  # the objects there are the task's own, and may raise anything
            raise Spoilt(f"left what cannot be put back ({sentence(error)})") from error
        self._setters.forget()  # with the calls that the restoration has made
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
        """Restore state that cannot be read, only set: because a function that changes it was called.

        Calls during a module's import are accepted instead: the module will not be imported again.
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
        """Make sure that no process that was started here still runs."""
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
    """Seed random number generators from the operating system: their present state is known, or equal in other
    processes.
    """
    random.seed()
    numbers: Any = sys.modules.get("numpy.random")
    if numbers is not None:
        numbers.seed()


def _has_children() -> bool:
    """Whether children run; the ended ones are collected on the way, for no other code will."""
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
