"""Reads everything about the task whose page is open; what it prints is read on from where the last look ended."""

from __future__ import annotations

from typing import Final

from dtq.client.argument_text import argument_text
from dtq.client.paging import all_arguments, whole_task
from dtq.dashboard.board import Opened
from dtq.model.service import Service
from dtq.model.snapshots import TaskView

#: Most bytes of its output that are kept here: the last ones.
_KEPT: Final = 32 << 10
#: Most parts of output that one look takes.
_PARTS: Final = 8
#: Most characters of its arguments, and most bytes that are fetched for them.
_ARGUMENTS: Final = 600
_FETCHED: Final = 8 << 10


class TaskReader:
    """Reads one task, again and again.

    Args:
        service: the coordinator.
        batch: its batch.
        index: its index.
    """

    def __init__(self, service: Service, batch: int, index: int) -> None:
        self.at = batch, index
        self._service = service
        self._arguments: str | None = None
        #: The attempt whose output is read, the number of its bytes that were read, and the last of them.
        self._attempt = self._offset = 0
        self._printed = b""

    def read(self) -> Opened:
        """The task as it is now.

        Raises:
            UnknownId: it was never accepted.
            ResultExpired: it is no longer kept.
        """
        task = whole_task(self._service, *self.at)
        explained = self._service.explain(*self.at)
        if self._arguments is None:
            self._arguments = self._read_arguments(task)
        if task.attempt:
            self._read_output()
        return Opened(
            task=task,
            explained=explained[0] if explained else None,
            arguments=self._arguments,
            printed=self._printed.decode(errors="replace"),
        )

    def _read_arguments(self, task: TaskView) -> str:
        found = all_arguments(self._service, [self.at], _FETCHED)
        text = argument_text(found[0], task.spec.function.kind, _ARGUMENTS) if found else None
        return "" if text is None else text.text or "none"

    def _read_output(self) -> None:
        for _ in range(_PARTS):
            part = self._service.output(*self.at, 0, self._offset, 0.0)
            if part.attempt != self._attempt:  # another attempt has begun: its output is read from the beginning
                again = self._offset > 0
                self._attempt, self._offset, self._printed = part.attempt, 0, b""
                if again:
                    continue
            if not part.data:
                return
            left_out = part.offset - self._offset
            gap = f"\n... {left_out:,} bytes are left out ...\n".encode() if left_out > 0 else b""
            self._printed = (self._printed + gap + part.data)[-_KEPT:]
            self._offset = part.offset + len(part.data)
