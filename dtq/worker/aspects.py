"""One thing that a process has once, that a task may change, and that the next task has to find as it was.

Worker, in the slot's process. `interpreter` and `kernel` have the tables, `surroundings` goes through them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtq.records import dataclass


class Spoilt(Exception):
    """Something cannot be put back: this process must not run another task."""


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Aspect:
    """Something to compare with what it was, and to put back.

    Attributes:
        name: for people, as in "a task changed *its umask*"; and what the setters that change it are listed under.
        look: what it is now; compared by ``==``.
        put_back: makes it what it was, given that. May raise `Spoilt`, or anything where that is not allowed.
        keep: a copy of what it is now, where that is an object that changes.
        quiet: whether nobody is to hear of a change: it is one that many a harmless task makes.
    """

    name: str
    look: Callable[[], Any]
    put_back: Callable[[Any], object]
    keep: Callable[[Any], Any] = _same
    quiet: bool = False


class Kept:
    """An aspect, and what it is to be.

    Args:
        aspect: the aspect; as it is now is right.
    """

    __slots__ = ("aspect", "look", "right")

    def __init__(self, aspect: Aspect) -> None:
        self.aspect = aspect
        self.look = aspect.look
        self.right: Any = None
        self.accept()

    def accept(self) -> None:
        """What is now is right."""
        self.right = self.aspect.keep(self.aspect.look())

    def restore(self) -> bool:
        """Put it back where it has changed; see `put_back`.

        Returns:
            Whether it had, and somebody should hear of it.
        """
        return self.look() != self.right and self.put_back()

    def put_back(self) -> bool:
        """Put it back: it has changed.

        Returns:
            Whether somebody should hear of it.

        Raises:
            Spoilt: it cannot be put back.
        """
        aspect = self.aspect
        try:
            aspect.put_back(self.right)
        except (OSError, ValueError) as error:
            raise Spoilt(f"changed {aspect.name}, which cannot be put back ({error})") from error
        if aspect.look() != self.right:
            raise Spoilt(f"changed {aspect.name}, which cannot be put back")
        return not aspect.quiet
