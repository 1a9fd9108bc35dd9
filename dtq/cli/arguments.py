"""The arguments of tasks as commands show them: fetched in one go, and never run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dtq.client.argument_text import ArgumentText, argument_text
from dtq.client.paging import all_arguments
from dtq.model.fields import MAX_CALL
from dtq.model.options import FunctionKind
from dtq.model.service import Service
from dtq.model.snapshots import DeadLetter, TaskView

#: Most characters that are shown of a task in a list, of a single task, and of both in JSON.
LIST: Final = 80
LIST_JSON: Final = 400
FULL: Final = 4_000
FULL_JSON: Final = 100_000
#: Bytes that are fetched for each character: most arguments take fewer.
_BYTES: Final = 16

#: The arguments of tasks, by batch and index; those that are no longer kept are missing.
Arguments = dict[tuple[int, int], ArgumentText]


def fetch_arguments(service: Service, tasks: Iterable[TaskView | DeadLetter], most: int) -> Arguments:
    """The arguments of tasks; of a run of like tasks those of the first.

    Args:
        service: the coordinator.
        tasks: the tasks.
        most: most characters of each.
    """
    kinds = {(task.batch, task.index): _kind(task) for task in tasks}
    found: Arguments = {}
    for one in all_arguments(service, list(kinds), min(most * _BYTES, MAX_CALL)) if kinds else ():
        at = one.batch, one.index
        text = argument_text(one, kinds[at], most) if at in kinds else None
        if text is not None:
            found[at] = text
    return found


def _kind(task: TaskView | DeadLetter) -> FunctionKind:
    if isinstance(task, TaskView):
        return task.spec.function.kind
    return FunctionKind.IMPORT if ":" in task.function else FunctionKind.REGISTERED
