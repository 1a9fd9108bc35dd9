"""Results on their way from a worker on another machine than its coordinator.

Worker, below the supervisor. Slots write large results as values into segments of the worker's own. What names them is
reported when the values are at the coordinator, and so are the outcomes of the same lease that come after it; others
are not held up. One thread sends them, a piece of each in turn, and holds a piece in memory, never a value. At the
coordinator a value has another place, which is what the report names.

The worker's segments go when nobody holds them: no slot that writes to them, and no result that is not acknowledged.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Final

from dtq.errors import DtqError, StoreFull, ValueDamaged, ValueGone
from dtq.model import pages
from dtq.model.messages import Released, Succeeded
from dtq.model.values import MOST_WITHOUT_ROOM, Value, describe, is_description, named, rest
from dtq.records import replace
from dtq.transport.backoff import Backoff
from dtq.values.local import LocalValues
from dtq.values.place import Place
from dtq.values.wire import WireDraft, WireValues
from dtq.worker.chunks import Holdings, Outcome, refused, singly
from dtq.worker.valueline import ValueLine

log = logging.getLogger("dtq.worker")

#: How many outcomes are sent in turns; the others wait until one of them is there.
AT_ONCE: Final = 16
#: How often a value is sent of which the coordinator has lost what was sent.
_TRIES: Final = 3
#: How old what was written last in a segment is, in seconds, before it is removed: its slot may just have died, with
#: a result that nobody has heard of.
_FRESH_S: Final = 2.0
_SAFELY: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW

#: Sends a piece each time, and says whether it was: there may be no room for it.
_Steps = Generator[bool, None, Succeeded]


class _Job:
    """An outcome that is being sent.

    Args:
        outcome: the outcome.
        queue: it and what waits behind it, of the same lease.
        steps: sends a piece each time.
    """

    def __init__(self, outcome: Succeeded, queue: deque[Outcome], steps: _Steps) -> None:
        self.outcome = outcome
        self.queue = queue
        self.steps = steps


class Uploads:
    """Sends values.

    Args:
        values: where they go.
        line: the connection of that.
        place: where slots write them.
        most_inline: how many bytes a result may have that goes with the report, where there is no room for it else.
        holdings: the worker's; what waits is among them.
        lock: the supervisor's.
        announce: called with it when there is more to tell.
    """

    def __init__(
        self,
        values: WireValues,
        line: ValueLine,
        place: Place,
        most_inline: int,
        holdings: Holdings,
        lock: threading.Lock,
        announce: Callable[[], None],
    ) -> None:
        self._values = values
        self._line = line
        self.place = place
        self._files = LocalValues(place)
        self._most_inline = min(most_inline, MOST_WITHOUT_ROOM)
        self._holdings = holdings
        self._lock = lock
        self._news = threading.Condition(lock)
        self._announce = announce
        self._jobs: deque[_Job] = deque()
        #: What was sent of each lease, and is the coordinator's when that is acknowledged.
        self._sent: dict[int, list[Value]] = {}
        #: When to look for segments that nobody needs, ``time.monotonic()``; None for never.
        self._sweep_at: float | None = None
        self._closed = False
        self._memory = bytearray()
        #: Whether the coordinator has no room; and how many outcomes in a row were tried in vain.
        self._full = False
        self._vain = 0
        self._backoff = Backoff()
        self._thread = threading.Thread(target=self._run, name="dtq-upload", daemon=True)
        self._thread.start()

    def move(self, place: Place) -> None:
        """Slots write values there with other limits from now on; in the same directory."""
        self._files.place = self.place = place

    # -- with the lock --------------------------------------------------------------------------------------------

    @property
    def stalled(self) -> int:
        """How many leases wait for nothing but room at the coordinator: no slot runs anything of them."""
        if not self._full:
            return 0
        chunks = self._holdings.chunks
        return sum(token in chunks and chunks[token].ended for token in self._holdings.waiting)

    def takes(self, outcome: Outcome) -> bool:
        """Whether an outcome has to wait; it is reported later then."""
        queue = self._holdings.waiting.get(outcome.token)
        if queue is not None:
            queue.append(outcome)
            return True
        if not isinstance(outcome, Succeeded) or not pages.has_descriptions(outcome.results):
            return False
        place = self._holdings.chunks[outcome.token].place
        if place is None or place.paths != self.place.paths:
            return False
        self._begin(self._holdings.wait(outcome))
        return True

    def let_go(self, token: int) -> None:
        """A lease is over."""
        sent = self._sent.pop(token, None)
        if sent is None:
            return
        self._values.settled(sent)
        if self._sweep_at is None:
            self._sweep_at = time.monotonic()
        self._news.notify_all()

    def _begin(self, queue: deque[Outcome]) -> None:
        outcome = queue[0]
        assert isinstance(outcome, Succeeded)
        self._jobs.append(_Job(outcome, queue, self._steps(outcome)))
        if self._full:
            self._jobs.rotate(1)  # it may be small enough to go with the report
        self._news.notify_all()

    def cancel(self, token: int, index: int) -> bool:
        """A task is to be stopped whose result waits to be sent: it goes back as one that was stopped, and its result
        is not sent any more. What travels with results of others does.

        Args:
            token: of its lease.
            index: its place in the batch.

        Returns:
            Whether it goes back.
        """
        chunk, queue = self._holdings.chunks.get(token), self._holdings.waiting.get(token)
        if chunk is None or queue is None or not chunk.ended or chunk.end != index + 1:
            return False  # what goes back is the end of a lease
        last = queue[-1]
        if not isinstance(last, Succeeded) or last.lo != index:
            return False
        released = Released(token=token, lo=index, hi=index + 1, started=1)
        if len(queue) > 1:
            queue[-1] = released
        else:
            self._holdings.waited(token)
            self._holdings.outbox.add(released)
        self._announce()
        self._news.notify_all()
        return True

    def _is_current(self, job: _Job) -> bool:
        return self._holdings.waiting.get(job.outcome.token) is job.queue and job.queue[0] is job.outcome

    def _over(self, job: _Job, outcomes: list[Outcome]) -> None:
        """Have an outcome reported, as what came of it, and what has only waited for it."""
        token = job.outcome.token
        if not self._is_current(job):
            if token not in self._holdings.chunks:
                self._values.settled(self._sent.pop(token, ()))
            return
        queue = job.queue
        queue.popleft()
        queue.extendleft(reversed(outcomes))
        ready = len(outcomes) if len(outcomes) == 1 else 0
        while queue and (ready > 0 or not _has_values(queue[0])):
            ready -= 1
            self._holdings.outbox.add(queue.popleft())
        if queue:
            self._begin(queue)
        else:
            self._holdings.waited(token)
        self._announce()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._step(job)
            except Exception as error:
                log.exception("a large result could not be sent")
                self._fail(job, error)

    def _next(self) -> _Job | None:
        """The next outcome of which to send a piece; None at the end."""
        while True:
            with self._lock:
                if self._jobs and self._vain >= len(self._jobs) and not self._closed:
                    self._news.wait(self._backoff.next_s())
                    self._vain = 0
                while not self._jobs and not self._closed and not self._is_to_sweep():
                    self._news.wait(None if self._sweep_at is None else self._sweep_at - time.monotonic())
                if self._closed:
                    return None
                sweep, held = self._is_to_sweep(), self._holdings.segments.held
                if sweep:
                    self._sweep_at = None
                job = self._jobs.popleft() if self._jobs else None
                current = job is not None and self._is_current(job)
            if sweep:
                self._sweep(held)
            if job is not None and current:
                return job
            if job is not None:
                self._drop(job)

    def _drop(self, job: _Job) -> None:
        """Nothing is to be said of its lease any more."""
        job.steps.close()
        with self._lock:
            if job.outcome.token not in self._holdings.chunks:
                self._values.settled(self._sent.pop(job.outcome.token, ()))

    def _step(self, job: _Job) -> None:
        try:
            sent = next(job.steps)
        except StopIteration as end:
            with self._lock:
                self._over(job, [end.value])
            return
        except (DtqError, OSError) as error:
            if not self._closed:
                log.warning("a large result cannot be sent: %s", error)
                self._fail(job, error)
            return
        with self._lock:
            self._jobs.insert(AT_ONCE - 1, job)
            self._vain = 0 if sent else self._vain + 1

    def _fail(self, job: _Job, error: Exception) -> None:
        """A result cannot be sent: each by itself may be, and the task of the one that cannot has failed."""
        several = pages.count(job.outcome.results) > 1
        outcomes = singly(job.outcome) if several else [refused(job.outcome, error)]
        with self._lock:
            self._over(job, [outcome for outcome in outcomes if outcome is not None])

    def _steps(self, outcome: Succeeded) -> _Steps:
        """Send the values of an outcome, a piece at a time; the outcome that names them where they are then."""
        moved: dict[Value, Value] = {}
        found: list[bytes] = []
        for blob in pages.unpack(outcome.results):
            if not is_description(blob):
                found.append(blob)
                continue
            try:
                for value in named(blob):
                    if value not in moved:
                        moved[value] = yield from self._carry(value, fits=self._fits(blob))
                        with self._lock:
                            self._sent.setdefault(outcome.token, []).append(moved[value])
            except StoreFull:  # it has kept room for what goes with the report
                found.append(bytes(memoryview(self._files.fetch(value))))
            else:
                found.append(describe([moved[value] for value in named(blob)], rest(blob)))
        return replace(outcome, results=pages.pack(found, described=True))

    def _fits(self, blob: bytes) -> bool:
        """Whether what a description stands for may go with the report: a pickle as it is, and not too long."""
        first, *others = named(blob)
        return not (others or rest(blob) or first.trailer) and first.length <= self._most_inline

    def _carry(self, value: Value, *, fits: bool) -> Generator[bool, None, Value]:
        """Send a value, once more where the coordinator has lost what was sent of it; where it is there.

        Args:
            value: the value.
            fits: whether to raise StoreFull rather than to wait until there is room for it.
        """
        for _ in range(_TRIES):
            draft: WireDraft | None = None
            try:
                with self._files.stream(value) as file:
                    draft = self._values.draft()
                    left = value.length
                    while True:
                        piece = self._piece(min(left, draft.chunk))
                        # All of it at once: what is less than a piece is sent only with what follows.
                        if file.readinto(piece) != piece.nbytes:  # type: ignore[attr-defined]
                            raise ValueDamaged(value.length, "its segment is too short")
                        left -= piece.nbytes
                        sent = yield from self._send(draft, piece, last=not left, fits=fits)
                        if sent is not None:
                            return replace(sent, trailer=value.trailer)
                        yield True
            except ValueGone:
                if draft is None:
                    raise
                draft.abandon()
            except BaseException:
                if draft is not None:
                    draft.abandon()
                raise
        raise ValueGone(value.length)

    def _send(
        self, draft: WireDraft, piece: memoryview, *, last: bool, fits: bool
    ) -> Generator[bool, None, Value | None]:
        """Send a piece, as soon as there is room for it; the value where it is the last one."""
        while True:
            try:
                draft.write(piece)
                sent = draft.finish() if last else None
            except StoreFull as error:
                if fits:
                    raise
                self._on_full(error)
                piece = memoryview(bytes(piece))  # others use its memory meanwhile
                yield False
            else:
                self._on_room()
                return sent

    def _on_full(self, error: StoreFull) -> None:
        if not self._full:
            log.warning("large results wait, the coordinator has no room for them: %s", error)
            with self._lock:
                self._full = True
                self._announce()

    def _on_room(self) -> None:
        if self._full:
            log.warning("the coordinator has room for results again")
            self._backoff.reset()
            with self._lock:
                self._full = False
                self._announce()

    def _piece(self, size: int) -> memoryview:
        """Memory for a piece, until that is sent."""
        if len(self._memory) < size:
            self._memory = bytearray(size)
        return memoryview(self._memory)[:size]

    def _is_to_sweep(self) -> bool:
        return self._sweep_at is not None and self._sweep_at <= time.monotonic()

    def _sweep(self, held: frozenset[int]) -> None:
        """Remove the segments that nobody needs.

        Args:
            held: those that are.
        """
        again = False
        for number, path in self.place.segments().items():
            if number in held:
                continue
            try:
                file = os.open(path, _SAFELY)
            except OSError:
                continue
            try:
                if time.time() - os.fstat(file).st_mtime < _FRESH_S:
                    again = True
                    continue
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            except OSError:
                pass  # its slot holds it
            finally:
                os.close(file)
        if again:
            with self._lock:
                self._sweep_at = time.monotonic() + _FRESH_S

    def close(self) -> None:
        """End, also a call that is under way. Not with the lock."""
        with self._lock:
            self._closed = True
            self._news.notify_all()
        self._values.close()
        self._thread.join(5.0)
        self._files.close()


def _has_values(outcome: Outcome) -> bool:
    return isinstance(outcome, Succeeded) and pages.has_descriptions(outcome.results)
