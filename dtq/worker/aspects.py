"""An aspect: one part of a process's state that a task may change, and that the next task must find unchanged.

Worker, in the slot's process. `interpreter` and `kernel` have the tables, `process_state` goes through them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtq.records import dataclass


class Spoilt(Exception):
    """A part of the state cannot be restored: this process must not run another task."""


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Aspect:
    """A part of the state that can be compared and restored.

    Attributes:
        name: for people, as in "a task changed *its umask*"; also the key of the setters that change it.
        look: returns the present state; compared by ``==``.
        put_back: restores the given state. May raise `Spoilt`, or any exception if that is not allowed.
        keep: a copy of the present state, if that is a mutable object.
        quiet: whether a change is not reported: many harmless tasks make it.
    """

    name: str
    look: Callable[[], Any]
    put_back: Callable[[Any], object]
    keep: Callable[[Any], Any] = _same
    quiet: bool = False


class Kept:
    """An aspect, and its right state.

    Args:
        aspect: the aspect; its present state is right.
    """

    __slots__ = ("aspect", "look", "right")

    def __init__(self, aspect: Aspect) -> None:
        self.aspect = aspect
        self.look = aspect.look
        self.right: Any = None
        self.accept()

    def accept(self) -> None:
        """Make the present state the right one."""
        self.right = self.aspect.keep(self.aspect.look())

    def restore(self) -> bool:
        """Restore the state if it has changed; see `put_back`.

        Returns:
            Whether it had, and the change should be reported.
        """
        return self.look() != self.right and self.put_back()

    def put_back(self) -> bool:
        """Restore the state, which has changed.

        Returns:
            Whether the change should be reported.

        Raises:
            Spoilt: the state cannot be restored.
        """
        aspect = self.aspect
        try:
            aspect.put_back(self.right)
        except (OSError, ValueError) as error:
            raise Spoilt(f"changed {aspect.name}, which cannot be put back ({error})") from error
        if aspect.look() != self.right:
            raise Spoilt(f"changed {aspect.name}, which cannot be put back")
        return not aspect.quiet
