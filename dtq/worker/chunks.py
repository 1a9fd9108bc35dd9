"""Leases as the worker holds them, and the outcomes it owes the coordinator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from dtq.errors import TooLarge
from dtq.model import pages, printed
from dtq.model.fields import MAX_NAME
from dtq.model.lru import SizedLru
from dtq.model.messages import Cancellation, Failed, Failure, Grant, Holding, Progress, Released, Succeeded
from dtq.model.options import Function, Options, Spec
from dtq.model.states import Outcome as Ending
from dtq.model.weight import slim
from dtq.model.weight import weight as weigh
from dtq.records import replace
from dtq.values.place import Place
from dtq.worker.segments import Segments

#: Bytes of unreported outcomes above which the worker asks for no more work.
MAX_UNREPORTED: Final = 16 << 20
#: Likewise, bytes of unsent values that outcomes name.
MAX_UNSENT: Final = 256 << 20
#: Approximate bytes of an outcome beside its content.
_OVERHEAD: Final = 80
#: Base classes of the failure that replaces a refused outcome.
_REFUSED: Final = ("dtq.errors.DtqError",)
#: Longest reason in it, in characters.
_MESSAGE: Final = 2_000
#: Longest duration in it, in seconds.
_LONGEST_S: Final = 1e9

#: Most functions whose results are sent one by one, and most bytes of their names.
_MOST_CAREFUL: Final = 1_000
_MOST_CAREFUL_BYTES: Final = 1 << 16

#: Most leases, not arrived yet, with tasks that must be stopped.
MOST_CANCELLATIONS: Final = 1_000


class Chunk:
    """A lease on its way through the worker: granted, bound to a slot, ended, acknowledged."""

    __slots__ = (
        "careful",
        "end",
        "grant",
        "granted_at",
        "next",
        "no_room",
        "place",
        "sent_at",
        "serial",
        "spec",
        "stoppable",
    )

    def __init__(self, grant: Grant, spec: Spec, now: float) -> None:
        self.grant = grant
        self.spec = spec
        #: When it arrived, ``time.monotonic()``.
        self.granted_at = now
        #: Index of the first task that has not ended.
        self.next = grant.lo
        #: Index after its last task; those from here on were given back.
        self.end = grant.hi
        #: Serial of its first task in its slot; -1 without a slot.
        self.serial = -1
        #: When it was sent to its slot, ``time.monotonic()``.
        self.sent_at = now
        #: Whether the slot may stop in the middle of it: tasks were taken back, or its function cannot be had.
        self.stoppable = False
        #: Whether each of its results is sent before the next task begins; see `Holdings.careful`.
        self.careful = False
        #: Its slot's place of values, also for its results.
        self.place: Place | None = None
        #: Index of the task whose result waits for room on the disk, and the reason; None for no task.
        self.no_room: tuple[int, str] | None = None

    @property
    def token(self) -> int:
        """Its number."""
        return self.grant.token

    @property
    def slots(self) -> int:
        """Number of slots of its task."""
        needs = self.spec.options.needs
        return 1 if needs is None else needs.slots

    @property
    def ended(self) -> bool:
        """Whether all its tasks have ended, or were given back."""
        return self.next >= self.end

    def task(self, serial: int) -> int | None:
        """Index of the task with a serial of the slot; None if the task is none of this lease.

        Args:
            serial: of the task.
        """
        at = serial - self.serial
        return self.grant.lo + at if self.serial >= 0 and 0 <= at < self.grant.hi - self.grant.lo else None

    def serial_of(self, index: int) -> int:
        """Serial of a task of it, in the slot that it was sent to."""
        return self.serial + index - self.grant.lo


#: An outcome for the coordinator.
Outcome = Succeeded | Failed | Released


class Outbox:
    """Outcomes that were not reported yet, in their order.

    Attributes:
        progress: latest progress of running tasks, by token.
        size: approximate bytes of the outcomes.
    """

    def __init__(self) -> None:
        self.progress: dict[int, Progress] = {}
        self.size = 0
        self._outcomes: deque[Outcome] = deque()

    def __bool__(self) -> bool:
        return bool(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)

    def __len__(self) -> int:
        return len(self._outcomes)

    @property
    def succeeded(self) -> list[Succeeded]:
        """The results in it."""
        return [outcome for outcome in self._outcomes if isinstance(outcome, Succeeded)]

    @property
    def failed(self) -> list[Failed]:
        """The failures in it."""
        return [outcome for outcome in self._outcomes if isinstance(outcome, Failed)]

    @property
    def released(self) -> list[Released]:
        """The returned tasks in it."""
        return [outcome for outcome in self._outcomes if isinstance(outcome, Released)]

    def add(self, outcome: Outcome) -> None:
        """Add an outcome."""
        self._outcomes.append(outcome)
        self.size += weight(outcome)

    def put_back(self, outcomes: Iterable[Outcome]) -> None:
        """Put taken outcomes back, to be reported first."""
        for outcome in reversed(list(outcomes)):
            self._outcomes.appendleft(outcome)
            self.size += weight(outcome)

    def forget(self, token: int) -> None:
        """Drop the outcomes of a lease."""
        self._outcomes = deque(outcome for outcome in self._outcomes if outcome.token != token)
        self.size = sum(map(weight, self._outcomes))
        self.progress.pop(token, None)

    def take(self, room: int) -> list[Outcome]:
        """The first outcomes that fit into this many bytes; the first in any case. Results of a lease are divided for
        it.
        """
        taken: list[Outcome] = []
        while self._outcomes:
            outcome = self._outcomes.popleft()
            size = weight(outcome)
            part, rest = (outcome, None) if size <= room else divided(outcome, room, whatever=not taken)
            self.size -= size
            if part is not None:
                taken.append(part)
                room -= weight(part)
            if rest is not None:
                self._outcomes.appendleft(rest)
                self.size += weight(rest)
            if rest is not None or room <= 0:
                break
        return taken


def weight(outcome: Outcome) -> int:
    """Approximate bytes of an outcome in a report, rather too many."""
    if isinstance(outcome, Succeeded):
        return len(outcome.results) + _OVERHEAD + printed.weight(outcome.printed)
    if isinstance(outcome, Released):
        return _OVERHEAD
    return weigh(outcome.failure) + _OVERHEAD + printed.weight(outcome.printed)


def divided(outcome: Outcome, room: int, *, whatever: bool) -> tuple[Outcome | None, Outcome | None]:
    """Divide an outcome into the part that fits, and the rest.

    Args:
        outcome: the outcome; it does not fit as a whole.
        room: bytes that the part may have.
        whatever: whether to take the smallest possible part even if it does not fit.
    """
    least = outcome if whatever else None
    if not isinstance(outcome, Succeeded):
        return (least, None) if whatever else (None, outcome)
    count = pages.count(outcome.results)
    fit = max(_fitting(outcome, count, room - _OVERHEAD), int(whatever))
    if fit == 0:
        return None, outcome
    if fit == count:
        return outcome, None
    part = replace(
        outcome,
        results=pages.cut(outcome.results, 0, fit),
        seconds=outcome.seconds * fit / count,
        printed=printed.within(outcome.printed, outcome.lo, outcome.lo + fit),
    )
    rest = replace(
        outcome,
        lo=outcome.lo + fit,
        results=pages.cut(outcome.results, fit, count),
        seconds=outcome.seconds * (count - fit) / count,
        printed=printed.within(outcome.printed, outcome.lo + fit, outcome.lo + count),
    )
    return part, rest


def _fitting(outcome: Succeeded, count: int, room: int) -> int:
    """How many of the first results of an outcome fit into this many bytes, with what their tasks have printed."""
    if not outcome.printed:
        return pages.fitting(outcome.results, 0, count, room)
    spent = 0
    fit = count
    for each in outcome.printed:
        spent += printed.weight((each,))
        if spent > room:
            fit = each.index - outcome.lo
            break
    within = printed.weight(printed.within(outcome.printed, outcome.lo, outcome.lo + fit))
    return pages.fitting(outcome.results, 0, fit, room - within)


def refused(outcome: Outcome, error: Exception) -> Failed | None:
    """The substitute for a refused outcome: a failure with the reason. None if that was refused too."""
    if isinstance(outcome, Released) or (isinstance(outcome, Failed) and outcome.failure.bases == _REFUSED):
        return None
    index, kind = (outcome.lo, Ending.FAILED) if isinstance(outcome, Succeeded) else (outcome.index, outcome.outcome)
    failure = _reason(error, "what came of the task could not be reported")
    seconds = outcome.seconds if 0 <= outcome.seconds < _LONGEST_S else 0.0
    return Failed(token=outcome.token, index=index, outcome=kind, failure=failure, seconds=seconds)


def _reason(error: Exception, what: str) -> Failure:
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    final = isinstance(error, TooLarge)
    return Failure(exception=name[:MAX_NAME], bases=_REFUSED, message=f"{what}: {error}"[:_MESSAGE], final=final)


class Holdings:
    """Every lease that the worker has, from the grant to the acknowledgement of its last outcome."""

    def __init__(self) -> None:
        self.chunks: dict[int, Chunk] = {}
        self.outbox = Outbox()
        #: Sent in the report that is under way.
        self.reporting: list[Outcome] = []
        #: Tasks to stop of leases that have not arrived, by token.
        self.cancellations: dict[int, list[Cancellation]] = {}
        #: Names of functions of which an unknown task has broken its slot's protocol: their results are sent one by
        #: one, so that the task is known the next time.
        self.careful: SizedLru[str, bool] = SizedLru(_MOST_CAREFUL_BYTES, _MOST_CAREFUL)
        #: Segments of unacknowledged results.
        self.segments = Segments()
        #: By token, outcomes of which the first waits until its values are sent; and the bytes of those.
        self.waiting: dict[int, deque[Outcome]] = {}
        self._unsent: dict[int, int] = {}
        #: Called at the end of a lease, with its token.
        self.on_over: Callable[[int], None] | None = None

    @property
    def urgent(self) -> bool:
        """Whether the report has more than results of unfinished leases: those may wait for further ones."""
        if self.reporting or self.outbox.progress:
            return True
        for outcome in self.outbox:
            chunk = self.chunks.get(outcome.token)
            if not isinstance(outcome, Succeeded) or (chunk is not None and chunk.ended):
                return True
        return False

    @property
    def burdened(self) -> bool:
        """Whether so many outcomes wait that the worker asks for no more work."""
        return self.outbox.size > MAX_UNREPORTED or (bool(self._unsent) and sum(self._unsent.values()) > MAX_UNSENT)

    def add(self, chunk: Chunk) -> None:
        """Add a lease that has arrived."""
        self.chunks[chunk.token] = chunk

    def note_cancellation(self, cancellation: Cancellation) -> None:
        """Stop a task whose lease is not here: it may be on its way, or over."""
        self.cancellations.setdefault(cancellation.token, []).append(cancellation)
        while len(self.cancellations) > MOST_CANCELLATIONS:
            del self.cancellations[next(iter(self.cancellations))]

    def unknown(self, grant: Grant, error: Exception) -> None:
        """Add a lease whose spec the worker is refused: its tasks have failed with the reason."""
        chunk = Chunk(grant, Spec(function=Function(name="unknown:unknown"), options=Options()), 0.0)
        chunk.next = grant.hi
        self.add(chunk)
        failure = _reason(error, "the worker could not learn what the task is")
        for index in range(grant.lo, grant.hi):
            self.outbox.add(Failed(token=grant.token, index=index, outcome=Ending.FAILED, failure=failure, seconds=0.0))

    def forget(self, token: int) -> None:
        """Forget a lease that is no longer the worker's, with its outcomes."""
        self.chunks.pop(token, None)
        self.outbox.forget(token)
        self.waited(token)
        self._over(token)

    def _over(self, token: int) -> None:
        self.segments.let_go(token)
        if self.on_over is not None:
            self.on_over(token)

    def wait(self, outcome: Succeeded) -> deque[Outcome]:
        """Have an outcome, and the later ones of its lease, wait until its values are sent; their queue."""
        queue = self.waiting[outcome.token] = deque([outcome])
        self._unsent[outcome.token] = sum(value.length for value in pages.named(outcome.results))
        return queue

    def waited(self, token: int) -> None:
        """Note that no outcome of a lease waits any more."""
        if self.waiting.pop(token, None) is not None:
            del self._unsent[token]

    def give_up(self) -> None:
        """Give up the waiting outcomes: their tasks go back."""
        for token, queue in list(self.waiting.items()):
            ranges = [_range(outcome) for outcome in queue]
            lo, hi = ranges[0][0], ranges[-1][1]
            self.waited(token)
            self.outbox.add(Released(token=token, lo=lo, hi=hi, started=hi - lo))

    def take(self, room: int, largest: int) -> list[Outcome]:
        """Take the outcomes of the next report, first those of a failed report.

        Args:
            room: bytes of a report, unless it has one outcome alone.
            largest: bytes of one outcome.
        """
        self.outbox.put_back(outcome for outcome in self.reporting if outcome.token in self.chunks)
        self.reporting = self.outbox.take(room)
        if self.reporting and weight(self.reporting[0]) > largest:  # then it goes alone
            self.reporting = [_slimmer(self.reporting[0], largest)]
        return self.reporting

    def take_progress(self) -> tuple[Progress, ...]:
        """Take the progress of running tasks since the last report."""
        said, self.outbox.progress = self.outbox.progress, {}
        return tuple(said.values())

    def keep_progress(self, said: Iterable[Progress]) -> None:
        """Put back the progress of a failed report."""
        for progress in said:
            if progress.token in self.chunks:
                self.outbox.progress.setdefault(progress.token, progress)

    def acknowledged(self) -> None:
        """Note that the report under way has arrived and is durable."""
        self.reporting = []
        unsaid = {outcome.token for outcome in self.outbox} | self.waiting.keys()
        for token in [t for t, chunk in self.chunks.items() if chunk.ended and t not in unsaid]:
            del self.chunks[token]
            self._over(token)

    def refuse(self, error: Exception) -> None:
        """Handle a report of one outcome that was refused for good: its task has failed with the reason. If even that
        was refused, the lease is dropped, so that the coordinator takes it back.
        """
        (outcome,) = self.reporting
        self.reporting = []
        if isinstance(outcome, Succeeded) and pages.count(outcome.results) > 1:
            self.outbox.put_back(singly(outcome))
        elif (instead := refused(outcome, error)) is not None:
            self.outbox.put_back([instead])
        else:
            self.forget(outcome.token)

    def say(self, started: dict[int, int]) -> tuple[Holding, ...]:
        """All leases, as a report has them.

        Args:
            started: index of the running task, by token.
        """
        return tuple(
            [Holding(token=t, started=started.get(t, -1), done=chunk.ended) for t, chunk in self.chunks.items()]
        )


def _slimmer(outcome: Outcome, room: int) -> Outcome:
    if isinstance(outcome, Released):
        return outcome
    if outcome.printed:
        beside = weight(outcome) - printed.weight(outcome.printed) + printed.OVERHEAD
        outcome = replace(outcome, printed=(printed.cut(outcome.printed[0], max(0, room - beside)),))
    if isinstance(outcome, Failed):
        return replace(outcome, failure=slim(outcome.failure, room - _OVERHEAD))
    return outcome


def _range(outcome: Outcome) -> tuple[int, int]:
    """The tasks of an outcome."""
    if isinstance(outcome, Failed):
        return outcome.index, outcome.index + 1
    return outcome.lo, outcome.hi if isinstance(outcome, Released) else outcome.lo + pages.count(outcome.results)


def singly(outcome: Succeeded) -> list[Outcome]:
    """The results of a lease, each by itself."""
    parts: list[Outcome] = []
    rest: Outcome | None = outcome
    while rest is not None:
        part, rest = divided(rest, 0, whatever=True)
        assert part is not None
        parts.append(part)
    return parts
