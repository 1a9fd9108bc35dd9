"""The kept output of ended attempts, from the engine."""

from __future__ import annotations

from typing import Final

from dtq.core.changes import OutputPage
from dtq.engines.base import Engine
from dtq.model import printed
from dtq.model.printed import Printed
from dtq.model.snapshots import Attempt
from dtq.records import replace

#: Bytes of a failed attempt's output in its record.
LAST_LINES: Final = 4096


def of_attempts(engine: Engine, number: int, index: int) -> dict[int, Printed]:
    """The kept output of a task's attempts, by their numbers."""
    found: dict[int, Printed] = {}
    for page in engine.pages(OutputPage, number, index, index + 1):
        for item in printed.unpack(page.data, page.lo):
            if item.index == index:
                found[page.attempt] = item
    return found


def with_output(engine: Engine, number: int, index: int, attempts: list[Attempt]) -> list[Attempt]:
    """Unsuccessful attempts with the last lines that they have printed."""
    if not any(not attempt.failure.output for attempt in attempts):
        return attempts  # of an old store
    kept = of_attempts(engine, number, index)
    return [
        replace(each, failure=replace(each.failure, output=printed.last_lines(kept[each.number], LAST_LINES)))
        if each.number in kept and not each.failure.output
        else each
        for each in attempts
    ]
