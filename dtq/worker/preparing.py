"""Which functions the idle slots of a worker import before a task of theirs has come.

Worker, below the supervisor. Pure. A function that is new to a worker is imported by the slot that gets the first lease
of it; others, as long as they are idle, import it at the same time, so that the second lease finds it there. Slots that
are started later do so with the functions that were new last.

Rules:

1. What is prepared for is a guess, and says nothing: what fails is left to the task that comes, in a new process.
2. A function whose import has failed, ended a slot, or had to be stopped, is not prepared any more.
3. Of functions that travel by value, one of each name is prepared: the modules are what takes long, and the next lambda
   of a loop needs the same ones.
"""

from __future__ import annotations

from typing import Final

from dtq.model.lru import SizedLru
from dtq.model.options import Function, FunctionKind
from dtq.model.values import weight

#: How many functions a new slot imports.
MOST: Final = 8
#: Longest body of a function by value that is prepared, in bytes: what carries more is sent to who needs it.
MAX_BODY: Final = 1 << 16
#: How many functions are remembered that are not to be prepared, and how long their names may be together, in bytes.
_MOST_UNFIT: Final = 1_000
_MOST_UNFIT_BYTES: Final = 1 << 16


class Preparing:
    """The functions that were new last.

    Args:
        only_registered: whether the worker runs registered task types only: those are there from the start.
    """

    def __init__(self, only_registered: bool) -> None:
        self._only_registered = only_registered
        #: By name, the number of each and the function, in the order of the numbers.
        self._functions: dict[str, tuple[int, Function]] = {}
        self._unfit: SizedLru[str, bool] = SizedLru(_MOST_UNFIT_BYTES, _MOST_UNFIT)
        #: The number of the last one; 0 where there was none.
        self.latest = 0

    def note(self, function: Function) -> None:
        """A lease of a function has come."""
        name = function.name
        if name in self._functions or not self._wants(function):
            return
        self.latest += 1
        self._functions[name] = self.latest, function
        if len(self._functions) > MOST:
            del self._functions[next(iter(self._functions))]

    def _wants(self, function: Function) -> bool:
        if self._only_registered or function.kind is FunctionKind.REGISTERED or weight(function.body) > MAX_BODY:
            return False
        return self._unfit.get(function.name) is None

    def after(self, number: int) -> tuple[int, Function] | None:
        """The first function with a higher number, and that; None where there is none."""
        return next((entry for entry in self._functions.values() if entry[0] > number), None)

    def give_up(self, name: str) -> None:
        """Do not prepare a function any more."""
        self._functions.pop(name, None)
        self._unfit.put(name, True, len(name))
