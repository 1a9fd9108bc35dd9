"""Reads what tasks print: as bytes part by part, and as text.

Client, beside `reading`. Whoever follows a task has a connection of his own: his calls wait at the coordinator, and the
client's other calls must not wait for them.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Final

from dtq.client.links import Link
from dtq.errors import InvalidValue
from dtq.model.snapshots import OutputPart

if TYPE_CHECKING:
    from dtq.client.client_core import ClientCore
    from dtq.client.loops import LoopCore

#: Longest time that the coordinator may hold one call, in seconds: a follower that is closed waits for it.
WAIT_S: Final = 10.0


class OutputCursor:
    """The place of a reader in the output of a task.

    Args:
        attempt: which attempt is read, from 1; None for the last one and, if the task is followed, those behind it.
    """

    def __init__(self, attempt: int | None = None) -> None:
        self._only = attempt is not None
        self._attempt, self._offset = attempt or 0, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        #: Whether an attempt has been read, and whether nothing follows.
        self.began = self.over = False

    def ask(self, core: ClientCore, batch: int, index: int, wait_s: float, link: Link | None = None) -> OutputPart:
        """The next part; empty if there is none now.

        Args:
            core: the client.
            batch: the batch.
            index: the task.
            wait_s: how long to wait for it at most, in seconds.
            link: a connection for a call that waits.
        """
        part = core.output(batch, index, self._attempt, self._offset, wait_s, link)
        self._attempt = part.attempt
        return part

    def next(self, core: ClientCore, batch: int, index: int, wait_s: float, link: Link) -> OutputPart | None:
        """The next part, as `ask`; None if the task has ended without the attempt that was to follow."""
        try:
            return self.ask(core, batch, index, wait_s, link)
        except InvalidValue:
            if not self.began:
                raise
            return None

    def left_out(self, part: OutputPart) -> int:
        """Number of bytes that are left out before a part."""
        return max(0, part.offset - self._offset)

    def text(self, part: OutputPart) -> str:
        """The text of a part, and go on behind it."""
        text = gap(self.left_out(part)) if self.left_out(part) else ""
        if text:
            text = self._decoder.decode(b"", final=True) + text
            self._decoder.reset()
        self._offset = part.offset + len(part.data)
        text += self._decoder.decode(part.data, final=part.over)
        if part.over:
            self.began = True
            self.over = self._only or part.last
            self._attempt, self._offset = part.attempt + 1, 0
            self._decoder.reset()
        return text


def gap(count: int) -> str:
    """The line in place of output that is left out.

    Args:
        count: number of its bytes.
    """
    return f"\n[... {count:,} bytes left out ...]\n"


def whole(core: ClientCore, batch: int, index: int, attempt: int | None) -> str:
    """What a task has printed so far, as text."""
    cursor = OutputCursor(attempt)
    texts: list[str] = []
    while True:
        part = cursor.ask(core, batch, index, 0.0)
        texts.append(cursor.text(part))
        if part.over or not part.data:
            return "".join(texts)


def follow(core: ClientCore, batch: int, index: int, attempt: int | None) -> Generator[str, None, None]:
    """What a task prints, as text, as it arrives, until the task has ended."""
    cursor = OutputCursor(attempt)
    with closing(core.session.link()) as link:
        while not cursor.over:
            part = cursor.next(core, batch, index, WAIT_S, link)
            if part is None:
                return
            text = cursor.text(part)
            if text:
                yield text


async def follow_in_loop(core: LoopCore, batch: int, index: int, attempt: int | None) -> AsyncGenerator[str, None]:
    """The same in an event loop."""
    cursor = OutputCursor(attempt)
    with closing(core.shared.session.link()) as link:
        while not cursor.over:
            part = await core.in_thread(partial(cursor.next, core.shared, batch, index, WAIT_S, link), "dtq-output")
            if part is None:
                return
            text = cursor.text(part)
            if text:
                yield text
