"""Task ids: ``17.3`` is item 3 of batch 17 (counted from 0); ``17`` is the batch, or its only task."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dtq.errors import InvalidId

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


def parse_id(text: str) -> tuple[int, int | None]:
    """Take an id apart.

    Returns:
        ``(batch, index)``; the index is None where the text names the whole batch.

    Raises:
        InvalidId: the text is not an id.
    """
    match = _ID.fullmatch(text.strip())
    if match is None:
        raise InvalidId(text)
    batch, index = match.groups()
    return int(batch), None if index is None else int(index)
