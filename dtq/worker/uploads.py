"""Uploads of results from a worker on another machine than its coordinator.

Worker, below the supervisor. Slots write large results as values into segments of the worker's own. An outcome with
values is reported when the values are at the coordinator, and so are the later outcomes of the same lease; others are
not held up. One thread sends them, a few pieces at a time, from several values in turn, and holds pieces in memory,
never a value. At the coordinator a value has another place, which the report names.

The worker's segments are removed when nothing holds them: no slot that writes to them, and no unacknowledged result.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from dtq.errors import DtqError, StoreFull, ValueDamaged, ValueGone
from dtq.model import pages
from dtq.model.messages import Released, Succeeded
from dtq.model.values import MOST_WITHOUT_ROOM, Value, describe, is_description, named, rest
from dtq.records import replace
from dtq.transport.backoff import Backoff
from dtq.values.base import Content, FileRange
from dtq.values.local import LocalValues
from dtq.values.place import Place
from dtq.values.wire import WINDOW, Outgoing, WireValues
from dtq.worker.chunks import Holdings, Outcome, refused, singly
from dtq.worker.valueline import ValueLine

log = logging.getLogger("dtq.worker")

#: Outcomes sent in turns; the others wait until one of them is complete.
AT_ONCE: Final = 16
#: Times that a value is sent if the coordinator loses the sent pieces.
_TRIES: Final = 3
#: Age of a segment's last write, in seconds, before its removal: its slot may just have died, with an unreported
#: result.
_FRESH_S: Final = 2.0
_SAFELY: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


class _Carry:
    """A value that is being sent.

    Args:
        value: the value.
        files: its source.
        values: its destination.

    Raises:
        ValueGone, ValueDamaged: it is missing or damaged.
    """

    def __init__(self, value: Value, files: LocalValues, values: WireValues) -> None:
        self._value = value
        self._file, self._start = files.open_part(value.segment, value.offset, value.length)
        try:
            self._draft = values.draft()
        except BaseException:
            os.close(self._file)
            raise
        #: Whether its checksum must be compared; else the kernel sends it, and nobody reads it here.
        self._checked = values.checked or value.crc > 0

    def pieces(self, memories: Sequence[bytearray]) -> list[Outgoing]:
        """The next pieces.

        Args:
            memories: memory of each until it is sent, if it is read.

        Raises:
            ValueGone, ValueDamaged, OSError: they cannot be read.
        """
        at = self._draft.sent
        if at == 0 and os.pread(self._file, 1, self._start) == b"\0":
            raise ValueGone(self._value.length)
        pieces: list[Content] = []
        for memory in memories:
            size = min(len(memory), self._draft.chunk, self._value.length - at)
            if not size:
                break
            content = FileRange(self._file, self._start + at, size)
            if not content.whole:
                raise ValueDamaged(self._value.length, "its segment is too short")
            pieces.append([self._read(content, memory)] if self._checked else content)
            at += size
        return self._draft.place(pieces)

    def _read(self, content: FileRange, memory: bytearray) -> memoryview:
        piece = memoryview(memory)[: content.size]
        if os.preadv(self._file, [piece], content.offset) != content.size:
            raise ValueDamaged(self._value.length, "its segment is too short")
        return piece

    def took(self, pieces: Sequence[Outgoing], refusals: Sequence[DtqError | None]) -> DtqError | None:
        """See `WireDraft.took`."""
        return self._draft.took(pieces, refusals)

    def finish(self) -> Value | None:
        """The place of the value, if all of it has arrived.

        Raises:
            ValueDamaged: it has changed since it was written.
        """
        value = self._value
        if self._draft.sent < value.length:
            return None
        if value.crc and self._draft.crc and self._draft.crc != value.crc:
            raise ValueDamaged(value.length, "its checksum is wrong")
        os.close(self._file)
        return replace(self._draft.finish(), crc=value.crc or self._draft.crc, trailer=value.trailer)

    def abandon(self) -> None:
        """Send no more of it."""
        os.close(self._file)
        self._draft.abandon()


class _Job:
    """An outcome that is being sent.

    Args:
        outcome: the outcome.
        queue: it and the outcomes of the same lease that wait behind it.
    """

    def __init__(self, outcome: Succeeded, queue: deque[Outcome]) -> None:
        self.outcome = outcome
        self.queue = queue
        #: The value under way; how often it was begun; its pieces that are being sent; why they are not.
        self.carry: _Carry | None = None
        self.tries = 0
        self.pieces: list[Outgoing] = []
        self.problem: Exception | None = None
        self._blobs = pages.unpack(outcome.results)
        #: The finished blobs, as they are reported; and the new place of each value.
        self._done: list[bytes] = []
        self._moved: dict[Value, Value] = {}

    @property
    def blob(self) -> bytes | None:
        """The next blob with a value to be sent; None for none."""
        while len(self._done) < len(self._blobs):
            blob = self._blobs[len(self._done)]
            if is_description(blob):
                if any(value not in self._moved for value in named(blob)):
                    return blob
                blob = describe([self._moved[value] for value in named(blob)], rest(blob))
            self._done.append(blob)
        return None

    @property
    def value(self) -> Value:
        """The next value to be sent."""
        assert self.blob is not None
        return next(value for value in named(self.blob) if value not in self._moved)

    def moved(self, value: Value) -> None:
        """Note that this value has arrived."""
        self._moved[self.value] = value
        self.carry, self.tries = None, 0

    def inline(self, blob: bytes) -> None:
        """Put the next blob's value into the report."""
        self.abandon()
        self._done.append(blob)
        self.tries = 0

    def sent(self) -> Succeeded:
        """The outcome, when everything has arrived."""
        return replace(self.outcome, results=pages.pack(self._done, described=True))

    def abandon(self) -> None:
        """Send no more of the value under way."""
        carry, self.carry = self.carry, None
        if carry is not None:
            carry.abandon()


class Uploads:
    """Sends values.

    Args:
        values: their destination.
        line: the destination's connection.
        place: the slots' place of values.
        most_inline: most bytes of a result that goes with the report because it has no room otherwise.
        holdings: the worker's, with the waiting outcomes.
        lock: the supervisor's.
        announce: called with it when further outcomes wait for a report.
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
        #: By lease, its sent values, which are the coordinator's after the acknowledgement.
        self._sent: dict[int, list[Value]] = {}
        #: When to look for unneeded segments, ``time.monotonic()``; None for never.
        self._sweep_at: float | None = None
        self._closed = False
        #: Unused memory for pieces.
        self._memories: list[bytearray] = []
        #: Whether the coordinator has no room; and how many outcomes in a row were tried in vain.
        self._full = False
        self._vain = 0
        self._backoff = Backoff()
        self._thread = threading.Thread(target=self._run, name="dtq-upload", daemon=True)
        self._thread.start()

    def move(self, place: Place) -> None:
        """Note that slots write values there with other limits from now on; in the same directory."""
        self._files.place = self.place = place

    # -- with the lock --------------------------------------------------------------------------------------------

    @property
    def stalled(self) -> int:
        """Number of leases that wait only for room at the coordinator: no slot runs any of their tasks."""
        if not self._full:
            return 0
        chunks = self._holdings.chunks
        return sum(token in chunks and chunks[token].ended for token in self._holdings.waiting)

    def takes(self, outcome: Outcome) -> bool:
        """Whether an outcome must wait; it is reported later then."""
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
        """End of a lease."""
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
        self._jobs.append(_Job(outcome, queue))
        if self._full:
            self._jobs.rotate(1)  # it may be small enough to go with the report
        self._news.notify_all()

    def cancel(self, token: int, index: int) -> bool:
        """Stop a task whose result waits to be sent: it goes back as a stopped one, and its result is not sent any
        more. A result that travels with others is sent.

        Args:
            token: of its lease.
            index: its place in the batch.

        Returns:
            Whether it goes back.
        """
        chunk, queue = self._holdings.chunks.get(token), self._holdings.waiting.get(token)
        if chunk is None or queue is None or not chunk.ended or chunk.end != index + 1:
            return False  # only the end of a lease goes back
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
        """Have an outcome reported, in its new form, and those that have only waited for it."""
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
        while jobs := self._next():
            try:
                self._send(jobs)
            except Exception as error:
                if not isinstance(error, DtqError):
                    log.exception("large results could not be sent")
                for job in jobs:
                    job.problem = job.problem or error
            self._settle(jobs)

    def _next(self) -> list[_Job]:
        """The outcomes whose next pieces to send; none at the end."""
        while True:
            jobs: list[_Job] = []
            dropped: list[_Job] = []
            with self._lock:
                if self._jobs and self._vain >= len(self._jobs) and not self._closed:
                    self._news.wait(self._backoff.next_s())
                    self._vain = 0
                while not self._jobs and not self._closed and not self._is_to_sweep():
                    self._news.wait(None if self._sweep_at is None else self._sweep_at - time.monotonic())
                if self._closed:
                    return []
                sweep, held = self._is_to_sweep(), self._holdings.segments.held
                if sweep:
                    self._sweep_at = None
                while self._jobs and len(jobs) < (1 if self._full else WINDOW):
                    job = self._jobs.popleft()
                    (jobs if self._is_current(job) else dropped).append(job)
            if sweep:
                self._sweep(held)
            for job in dropped:
                self._drop(job)
            if jobs:
                return jobs

    def _drop(self, job: _Job) -> None:
        """Drop the outcomes of its lease."""
        job.abandon()
        with self._lock:
            if job.outcome.token not in self._holdings.chunks:
                self._values.settled(self._sent.pop(job.outcome.token, ()))

    def _send(self, jobs: list[_Job]) -> None:
        """Send some pieces of each, and note the answers.

        Raises:
            DtqError: no piece can be sent.
        """
        if not self._memories or len(self._memories[0]) < self._line.chunk:
            self._memories = [bytearray(self._line.chunk) for _ in range(WINDOW)]
        share = WINDOW // len(jobs)
        for place, job in enumerate(jobs):
            job.problem, job.pieces = None, []
            try:
                if job.blob is None:
                    continue
                if job.carry is None:
                    job.carry = _Carry(job.value, self._files, self._values)
                job.pieces = job.carry.pieces(self._memories[place * share : (place + 1) * share])
            except (DtqError, OSError) as error:
                job.problem = error
        refusals = self._line.write_values([piece for job in jobs for piece in job.pieces])
        at = 0
        for job in jobs:
            answered = refusals[at : at + len(job.pieces)]
            at += len(job.pieces)
            try:
                if job.problem is None and job.carry is not None:
                    job.problem = job.carry.took(job.pieces, answered)
                    self._note(job)
            except ValueGone as error:  # the coordinator has lost the sent pieces
                job.abandon()
                job.tries += 1
                job.problem = error if job.tries == _TRIES else None
            except (DtqError, OSError) as error:
                job.problem = error

    def _note(self, job: _Job) -> None:
        """Note that some pieces have arrived, or not.

        Raises:
            ValueDamaged: the value has changed since it was written.
            DtqError: a value that must go with the report cannot be read.
        """
        assert job.carry is not None
        if job.problem is None:
            self._on_room()
            value = job.carry.finish()
            if value is not None:
                job.moved(value)
                with self._lock:
                    self._sent.setdefault(job.outcome.token, []).append(value)
        elif isinstance(job.problem, StoreFull) and job.blob is not None and self._fits(job.blob):
            # It has kept room for values in reports.
            job.inline(bytes(memoryview(self._files.fetch(job.value))))
            job.problem = None

    def _settle(self, jobs: list[_Job]) -> None:
        """Handle the results for the outcomes whose pieces were sent."""
        going: list[_Job] = []
        for job in jobs:
            if isinstance(job.problem, StoreFull):
                self._on_full(job.problem)
                self._vain += 1
                going.append(job)
                continue
            if job.problem is None:
                self._vain = 0
                if job.blob is not None:
                    going.append(job)
                    continue
            job.abandon()
            if job.problem is None:
                with self._lock:
                    self._over(job, [job.sent()])
            elif not self._closed:
                log.warning("a large result cannot be sent: %s", job.problem)
                self._fail(job, job.problem)
        with self._lock:
            for place, job in enumerate(going):
                self._jobs.insert(AT_ONCE - len(jobs) + place, job)

    def _fail(self, job: _Job, error: Exception) -> None:
        """A result cannot be sent: each is tried by itself, and the task of the faulty one has failed."""
        several = pages.count(job.outcome.results) > 1
        outcomes = singly(job.outcome) if several else [refused(job.outcome, error)]
        with self._lock:
            self._over(job, [outcome for outcome in outcomes if outcome is not None])

    def _fits(self, blob: bytes) -> bool:
        """Whether a description's value may go with the report: a plain pickle, and not too long."""
        first, *others = named(blob)
        return not (others or rest(blob) or first.trailer) and first.length <= self._most_inline

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

    def _is_to_sweep(self) -> bool:
        return self._sweep_at is not None and self._sweep_at <= time.monotonic()

    def _sweep(self, held: frozenset[int]) -> None:
        """Remove unneeded segments.

        Args:
            held: the needed ones.
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
        """End, with a call that is under way. Not with the lock."""
        with self._lock:
            self._closed = True
            self._news.notify_all()
        self._values.close()
        self._thread.join(5.0)
        for job in self._jobs:
            job.abandon()
        self._files.close()


def _has_values(outcome: Outcome) -> bool:
    return isinstance(outcome, Succeeded) and pages.has_descriptions(outcome.results)
