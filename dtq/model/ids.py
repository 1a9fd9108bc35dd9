"""Task ids: ``17.3`` is item 3 of batch 17 (counted from 0); ``17`` is the batch, or its only task; ``17.0-46`` a run
of tasks, as lists show them."""

from __future__ import annotations

import re

from dtq.errors import InvalidId
from dtq.records import dataclass

_RUN = re.compile(r"(\d{1,15})\.(\d{1,15})-(\d{1,15})", re.ASCII)
_ID = re.compile(r"(\d{1,15})(?:\.(\d{1,15}))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class TaskId:
    """One task.

    Attributes:
        batch: number of the batch, from 1.
        index: place in the batch, from 0.
        single: whether the batch has no other task, and so the text is the batch's number alone.
    """

    batch: int
    index: int
    single: bool = False

    def __str__(self) -> str:
        return str(self.batch) if self.single else f"{self.batch}.{self.index}"


@dataclass(frozen=True, slots=True)
class Named:
    """The meaning of an id: a batch, a task, or a run of tasks.

    Attributes:
        batch: number of the batch.
        lo: the first index; None for the batch as a whole.
        hi: the last one.
    """

    batch: int
    lo: int | None = None
    hi: int | None = None

    @property
    def index(self) -> int | None:
        """The index, if the id is one task's."""
        return self.lo if self.lo == self.hi else None

    @property
    def run(self) -> range | None:
        """The indices, if the id is a run's."""
        return None if self.lo is None or self.hi is None or self.lo == self.hi else range(self.lo, self.hi + 1)


def run_text(batch: int, index: int, count: int, *, single: bool = False) -> str:
    """The id of a run of tasks: the task's id if the run has one task."""
    return str(TaskId(batch, index, single)) if count == 1 else f"{batch}.{index}-{index + count - 1}"


def parse_named(text: str) -> Named:
    """Parse an id that may be a run's.

    Raises:
        InvalidId: the text is not an id, or its run ends before it begins.
    """
    match = _RUN.fullmatch(text.strip())
    if match is None:
        batch, index = parse_id(text)
        return Named(batch, index, index)
    batch, lo, hi = map(int, match.groups())
    if hi < lo:
        raise InvalidId(text)
    return Named(batch, lo, hi)


def parse_id(text: str) -> tuple[int, int | None]:
    """Parse an id.

    Returns:
        ``(batch, index)``; the index is None if the text names the whole batch.

    Raises:
        InvalidId: the text is not an id.
    """
    match = _ID.fullmatch(text.strip())
    if match is None:
        raise InvalidId(text)
    batch, index = match.groups()
    return int(batch), None if index is None else int(index)
