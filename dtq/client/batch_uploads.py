"""Batches in transit: maps whose items are still being made, or still wait to be sent.

Client, below the outbox. One thread puts items in, the sender takes them out, a reader of the results reports its
position; each counter has one writer, so none of the three takes a lock for a task.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple, Protocol

from dtq.client.batches import Batch
from dtq.client.thread_wakeup import ThreadWakeup
from dtq.model import pages
from dtq.model.messages import Conditions
from dtq.model.options import Spec
from dtq.model.values import weight

#: Most tasks of one map, and bytes of them, that wait to be sent.
MAX_FED: Final = 16 * pages.PAGE_BLOBS
MAX_FED_BYTES: Final = 16 << 20
#: Approximate bytes that a map may be ahead of the reader of its results, if it is at least this many tasks ahead.
AHEAD_BYTES: Final = 256 << 20
AHEAD_TASKS: Final = 32
#: Pieces of one map in a call.
CALL_PIECES: Final = 16
#: About how many bytes of a call are taken by each task that another one waits for.
_PARENT_OVERHEAD: Final = 32


class Held(Protocol):
    """The handle of a task that is kept for one that waits for it."""

    _kept: bool

    def release(self) -> None:
        """It need not be kept any longer for that."""
        ...


class Own(NamedTuple):
    """What a single task of a map waits for by itself, and the handles of that."""

    parents: tuple[tuple[int, int, int, bool], ...]
    handles: tuple[Held, ...]


class BatchUpload:
    """A batch that is being submitted in pieces, while its items are still being made.

    Args:
        batch: the batch as it is followed.
        spec: its function and options.
        delay_s: delay of its tasks, in seconds.
        key: the user's key.
        conditions: rare terms.
        follow: whether the coordinator reports the ends of its tasks.
        window: how far the map may be ahead of its reader, in tasks; None for any number.

    Attributes:
        blobs: arguments that wait to be sent.
        put: tasks put in so far, and their bytes, values included.
        described: whether descriptions are among them.
        sent: tasks taken out so far, and their bytes.
        met: parents of the call that was encoded last; empty for nearly all.
        own: parents of single tasks that have not been sent, by place in the map.
        taken: results that a reader has taken.
        failure: the exception that ended the making of items early; for the reader.
        over: the last item was put in.
        sealed: its last piece was taken out.
        stopped: the map was given up; waiting items are not sent.
        room: rings when items were taken out.
    """

    __slots__ = (
        "__weakref__",
        "batch",
        "blobs",
        "conditions",
        "delay_s",
        "described",
        "failure",
        "follow",
        "key",
        "met",
        "over",
        "own",
        "put",
        "put_bytes",
        "room",
        "sealed",
        "sent",
        "sent_bytes",
        "spec",
        "stopped",
        "taken",
        "window",
    )

    def __init__(
        self,
        batch: Batch,
        spec: Spec,
        *,
        delay_s: float = 0.0,
        key: str | None = None,
        conditions: Conditions | None = None,
        follow: bool,
        window: int | None = None,
    ) -> None:
        self.batch = batch
        self.spec = spec
        self.delay_s = delay_s
        self.key = key
        self.conditions = conditions
        self.follow = follow
        self.window = window
        self.blobs: deque[bytes] = deque()
        self.met: list[Own] = []
        self.own: dict[int, Own] = {}
        self.put = self.put_bytes = 0
        self.sent = self.sent_bytes = 0
        self.taken = 0
        self.described = False
        self.failure: BaseException | None = None
        self.over = False
        self.stopped = False
        self.sealed = False
        self.room = ThreadWakeup()

    @property
    def full(self) -> bool:
        """Whether the bound of waiting items is reached."""
        unsent, unsent_bytes = self.put - self.sent, self.put_bytes - self.sent_bytes
        return self._ahead or unsent >= MAX_FED or unsent_bytes >= MAX_FED_BYTES

    @property
    def _ahead(self) -> bool:
        """Whether it is as far ahead of its reader as it may be."""
        if self.window is None:
            return False
        ahead = self.put - self.taken
        return ahead >= self.window or (ahead >= AHEAD_TASKS and ahead * (self.put_bytes / self.put) >= AHEAD_BYTES)

    def note(self, place: int) -> int:
        """The call that was encoded last waits for others; about how many bytes that takes.

        Args:
            place: its place in the map.
        """
        own = self.own[place] = self.met.pop()
        return _PARENT_OVERHEAD * len(own.parents)

    def own_of(self, offset: int, count: int) -> list[tuple[int, Own]]:
        """What tasks of a piece wait for by themselves, by their places in it; they are sent now."""
        if not self.own:
            return []
        return [(at, self.own.pop(offset + at)) for at in range(count) if offset + at in self.own]

    def count(self, tasks: int, size: int) -> None:
        """Count tasks that were put in, and their bytes."""
        self.put += tasks
        self.put_bytes += size

    def ready(self) -> bool:
        """Whether items can be sent."""
        return not self.sealed and (self.over or self.stopped or bool(self.blobs))

    @property
    def grows(self) -> bool:
        """Whether more large values will be put in soon: it was not given up, and its thread does not wait for room."""
        return self.described and not (self.over or self.stopped or self.full)

    def pieces(
        self, most_bytes: int, most_blobs: int = pages.PAGE_BLOBS, *, alone: bool = True
    ) -> list[tuple[int, bytes, bool]]:
        """Take out the pieces that can be sent now: ``(offset, page, whether it is the last)``.

        Until the batch has a number only one piece is sent, as the others must name it.

        Args:
            most_bytes: room in the call, in bytes.
            most_blobs: most blobs of one piece.
            alone: whether the call is otherwise empty: then the first item goes whatever its size.
        """
        over = self.over  # before the blobs are counted: items put in before it was set are seen
        if self.stopped:
            self.blobs.clear()
            for own in list(self.own.values()):
                for handle in own.handles:
                    handle.release()
            self.own.clear()
            over = True
        found: list[tuple[int, bytes, bool]] = []
        most_pieces = CALL_PIECES if self.batch.number else 1
        while self.blobs and len(found) < most_pieces and (len(self.blobs[0]) <= most_bytes or (alone and not found)):
            taken, size = self._page(most_bytes, most_blobs)
            found.append((self.sent, pages.pack(taken, described=self.described), False))
            self.sent += len(taken)
            self.sent_bytes += sum(map(weight, taken)) if self.described else size
            most_bytes -= size
        if over and not self.blobs:
            self.sealed = True
            if found:
                found[-1] = (*found[-1][:2], True)
            elif self.batch.number:
                found.append((self.batch.size, pages.pack(()), True))
        self.room.ring()
        return found

    def _page(self, most_bytes: int, most_blobs: int) -> tuple[list[bytes], int]:
        """Blobs for one piece, the first of them whatever its size."""
        blobs, own = self.blobs, self.own
        taken = [blobs.popleft()]
        size = len(taken[0])
        for _ in range(min(len(blobs), most_blobs - 1)):
            more = len(blobs[0])
            if own and (waits := own.get(self.sent + len(taken))) is not None:
                more += _PARENT_OVERHEAD * len(waits.parents)
            size += more
            if size > most_bytes:
                return taken, size - more
            taken.append(blobs.popleft())
        return taken, size


class WholeFeed(BatchUpload):
    """A map over what other maps return, task by task: submitted in one piece, and without arguments of its own."""

    __slots__ = ()

    def pieces(
        self, most_bytes: int, most_blobs: int = pages.PAGE_BLOBS, *, alone: bool = True
    ) -> list[tuple[int, bytes, bool]]:
        """The piece."""
        self.sealed = True
        if self.stopped:
            return []
        self.sent = self.put = 1
        return [(0, pages.pack(()), True)]
