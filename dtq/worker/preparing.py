"""Advance imports: functions that the idle slots of a worker import before their first task.

Worker, below the supervisor. Pure. A function that is new to a worker is imported by the slot that gets its first
lease; other slots, as long as they are idle, import it at the same time, so that the second lease finds it ready. Later
slots import the most recent functions when they start.

Rules:

1. An advance import is a guess, and reports nothing: its failure is left to the task that comes, in a new process.
2. A function whose import has failed, ended a slot, or had to be stopped, is not imported in advance any more.
3. Of functions that travel by value, one of each name is imported: the modules take the time, and the next lambda of a
   loop needs the same ones.
4. Functions of bundles are not, and none are once a slot was found to have other code than a lease needs (`slotcode`):
   new slots then import nothing before their first lease, so that they can take any.
"""

from __future__ import annotations

from typing import Final

from dtq.model.lru import SizedLru
from dtq.model.options import Function, FunctionKind
from dtq.model.values import weight
from dtq.worker.slotcode import bundle_of

#: Functions that a new slot imports.
MOST: Final = 8
#: Longest body of a function by value that is imported in advance, in bytes: larger ones go only to slots that need
#: them.
MAX_BODY: Final = 1 << 16
#: Most remembered functions that must not be imported in advance, and most bytes of their names.
_MOST_UNFIT: Final = 1_000
_MOST_UNFIT_BYTES: Final = 1 << 16


class Preparing:
    """The most recent functions.

    Args:
        only_registered: whether the worker runs registered task types only: those are imported from the start.
    """

    def __init__(self, only_registered: bool) -> None:
        self._stopped = only_registered
        #: By name, the number of each and the function, in the order of the numbers.
        self._functions: dict[str, tuple[int, Function]] = {}
        self._unfit: SizedLru[str, bool] = SizedLru(_MOST_UNFIT_BYTES, _MOST_UNFIT)
        #: The number of the last one; 0 for none.
        self.latest = 0

    def note(self, function: Function) -> None:
        """Note a lease of a function."""
        name = function.name
        if name in self._functions or not self._wants(function):
            return
        self.latest += 1
        self._functions[name] = self.latest, function
        if len(self._functions) > MOST:
            del self._functions[next(iter(self._functions))]

    def _wants(self, function: Function) -> bool:
        if self._stopped or function.kind is FunctionKind.REGISTERED or weight(function.body) > MAX_BODY:
            return False
        if bundle_of(function):  # it takes a process for itself
            return False
        return self._unfit.get(function.name) is None

    def after(self, number: int) -> tuple[int, Function] | None:
        """The first function with a higher number, and that number; None for none."""
        return next((entry for entry in self._functions.values() if entry[0] > number), None)

    def stop(self) -> None:
        """Import nothing in advance any more: leases are of the code of several processes."""
        self._stopped = True
        self._functions.clear()

    def give_up(self, name: str) -> None:
        """Do not import a function in advance any more."""
        self._functions.pop(name, None)
        self._unfit.put(name, True, len(name))
