"""Leases as the worker holds them, and the outcomes it owes the coordinator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from dtq.errors import TooLarge
from dtq.model import pages
from dtq.model.fields import MAX_NAME
from dtq.model.lru import SizedLru
from dtq.model.messages import Doomed, Failed, Failure, Grant, Holding, Progress, Released, Succeeded
from dtq.model.options import Function, Options, Spec
from dtq.model.states import Outcome as Ending
from dtq.model.weight import slim
from dtq.model.weight import weight as weigh
from dtq.records import replace
from dtq.values.place import Place
from dtq.worker.segments import Segments

#: How many bytes of outcomes may wait to be reported while more work is asked for.
MAX_UNREPORTED: Final = 16 << 20
#: How many bytes of values that outcomes name may wait to be sent, likewise.
MAX_UNSENT: Final = 256 << 20
#: About how many bytes an outcome takes beside what it carries.
_OVERHEAD: Final = 80
#: Stands for the base classes of the failure that is reported in place of what cannot be.
_REFUSED: Final = ("dtq.errors.DtqError",)
#: Longest reason of it, in characters.
_MESSAGE: Final = 2_000
#: Longest time that a task is said to have taken where its outcome was refused, in seconds.
_LONGEST_S: Final = 1e9

#: Of how many functions it is remembered that their results are sent one by one, and how long their names may be.
_MOST_CAREFUL: Final = 1_000
_MOST_CAREFUL_BYTES: Final = 1 << 16

#: Of how many leases that are not here it is remembered that tasks of theirs are to be stopped.
MOST_DOOMED: Final = 1_000


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
        #: Index after the last task that is still its; those from here on were given back.
        self.end = grant.hi
        #: Serial of its first task in the slot it was sent to; -1 while it was not.
        self.serial = -1
        #: When it was sent there, ``time.monotonic()``.
        self.sent_at = now
        #: Whether the slot may stop in the middle of it: something was taken back, or its function cannot be had.
        self.stoppable = False
        #: Whether each of its results is sent before the next task begins; see `Holdings.careful`.
        self.careful = False
        #: Where the slot it was sent to takes its values to be, and writes those of its results.
        self.place: Place | None = None
        #: Index of the task whose result waits for room on the disk, and the reason; None for no task.
        self.no_room: tuple[int, str] | None = None

    @property
    def token(self) -> int:
        """Its number."""
        return self.grant.token

    @property
    def slots(self) -> int:
        """How many slots its task has."""
        needs = self.spec.options.needs
        return 1 if needs is None else needs.slots

    @property
    def ended(self) -> bool:
        """Whether all its tasks have, or were given back."""
        return self.next >= self.end

    def task(self, serial: int) -> int | None:
        """Index of the task with a serial of the slot; None where it is none of this lease.

        Args:
            serial: of the task.
        """
        at = serial - self.serial
        return self.grant.lo + at if self.serial >= 0 and 0 <= at < self.grant.hi - self.grant.lo else None

    def serial_of(self, index: int) -> int:
        """Serial of a task of it, in the slot that it was sent to."""
        return self.serial + index - self.grant.lo


#: What a worker tells the coordinator of tasks.
Outcome = Succeeded | Failed | Released


class Outbox:
    """What has happened and was not reported yet, in the order in which it happened.

    Attributes:
        progress: latest progress of running tasks, by token.
        size: about how many bytes the outcomes have.
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
        """The results among it."""
        return [outcome for outcome in self._outcomes if isinstance(outcome, Succeeded)]

    @property
    def failed(self) -> list[Failed]:
        """The failures."""
        return [outcome for outcome in self._outcomes if isinstance(outcome, Failed)]

    @property
    def released(self) -> list[Released]:
        """What is given back."""
        return [outcome for outcome in self._outcomes if isinstance(outcome, Released)]

    def add(self, outcome: Outcome) -> None:
        """Something has happened."""
        self._outcomes.append(outcome)
        self.size += weight(outcome)

    def put_back(self, outcomes: Iterable[Outcome]) -> None:
        """What was taken is to be reported before anything else."""
        for outcome in reversed(list(outcomes)):
            self._outcomes.appendleft(outcome)
            self.size += weight(outcome)

    def forget(self, token: int) -> None:
        """Nothing is to be said of a lease."""
        self._outcomes = deque(outcome for outcome in self._outcomes if outcome.token != token)
        self.size = sum(map(weight, self._outcomes))
        self.progress.pop(token, None)

    def take(self, room: int) -> list[Outcome]:
        """The first of it that have so many bytes; the first in any case. Results of a lease are divided for it."""
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
    """About how many bytes it takes in a report, rather too many."""
    if isinstance(outcome, Succeeded):
        return len(outcome.results) + _OVERHEAD
    return _OVERHEAD if isinstance(outcome, Released) else weigh(outcome.failure) + _OVERHEAD


def divided(outcome: Outcome, room: int, *, whatever: bool) -> tuple[Outcome | None, Outcome | None]:
    """As much of an outcome as there is room for, and what is left.

    Args:
        outcome: the outcome; it has more bytes than there is room for.
        room: how many bytes there is room for.
        whatever: whether something is taken in any case, the least that can be.
    """
    least = outcome if whatever else None
    if not isinstance(outcome, Succeeded):
        return (least, None) if whatever else (None, outcome)
    count = pages.count(outcome.results)
    fit = max(pages.fitting(outcome.results, 0, count, room - _OVERHEAD), int(whatever))
    if fit == 0:
        return None, outcome
    if fit == count:
        return outcome, None
    part = replace(outcome, results=pages.cut(outcome.results, 0, fit), seconds=outcome.seconds * fit / count)
    rest = replace(
        outcome,
        lo=outcome.lo + fit,
        results=pages.cut(outcome.results, fit, count),
        seconds=outcome.seconds * (count - fit) / count,
    )
    return part, rest


def refused(outcome: Outcome, error: Exception) -> Failed | None:
    """What is reported where an outcome is refused: a failure with the reason. None where that was refused too."""
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
        self.doomed: dict[int, list[Doomed]] = {}
        #: Names of functions of which a task, nobody knows which, has broken its slot's protocol: their results are
        #: sent one by one, so that it is known the next time.
        self.careful: SizedLru[str, bool] = SizedLru(_MOST_CAREFUL_BYTES, _MOST_CAREFUL)
        #: What the results need that are not acknowledged.
        self.segments = Segments()
        #: Outcomes of which the first has values that are to be sent before it is reported, by token; and how many
        #: bytes those have.
        self.waiting: dict[int, deque[Outcome]] = {}
        self._unsent: dict[int, int] = {}
        #: Called when a lease is over, with its token.
        self.on_over: Callable[[int], None] | None = None

    @property
    def urgent(self) -> bool:
        """Whether there is more to report than results of leases that go on: those may wait for more of them."""
        if self.reporting or self.outbox.progress:
            return True
        for outcome in self.outbox:
            chunk = self.chunks.get(outcome.token)
            if not isinstance(outcome, Succeeded) or (chunk is not None and chunk.ended):
                return True
        return False

    @property
    def burdened(self) -> bool:
        """Whether so much waits to be reported that nothing more is to be asked for."""
        return self.outbox.size > MAX_UNREPORTED or (bool(self._unsent) and sum(self._unsent.values()) > MAX_UNSENT)

    def add(self, chunk: Chunk) -> None:
        """A lease has arrived."""
        self.chunks[chunk.token] = chunk

    def doom(self, doomed: Doomed) -> None:
        """A task is to be stopped whose lease is not here: it may be on its way, or over."""
        self.doomed.setdefault(doomed.token, []).append(doomed)
        while len(self.doomed) > MOST_DOOMED:
            del self.doomed[next(iter(self.doomed))]

    def unknown(self, grant: Grant, error: Exception) -> None:
        """A lease has arrived of which the worker is refused what it is: its tasks have failed with the reason."""
        chunk = Chunk(grant, Spec(function=Function(name="unknown:unknown"), options=Options()), 0.0)
        chunk.next = grant.hi
        self.add(chunk)
        failure = _reason(error, "the worker could not learn what the task is")
        for index in range(grant.lo, grant.hi):
            self.outbox.add(Failed(token=grant.token, index=index, outcome=Ending.FAILED, failure=failure, seconds=0.0))

    def forget(self, token: int) -> None:
        """A lease is no longer the worker's; nothing will be said of it."""
        self.chunks.pop(token, None)
        self.outbox.forget(token)
        self.waited(token)
        self._over(token)

    def _over(self, token: int) -> None:
        self.segments.let_go(token)
        if self.on_over is not None:
            self.on_over(token)

    def wait(self, outcome: Succeeded) -> deque[Outcome]:
        """An outcome waits until its values are sent, and so does what follows of its lease; the queue of these."""
        queue = self.waiting[outcome.token] = deque([outcome])
        self._unsent[outcome.token] = sum(value.length for value in pages.named(outcome.results))
        return queue

    def waited(self, token: int) -> None:
        """No outcome of a lease waits any more."""
        if self.waiting.pop(token, None) is not None:
            del self._unsent[token]

    def give_up(self) -> None:
        """What waits is not sent any more: its tasks go back."""
        for token, queue in list(self.waiting.items()):
            ranges = [_range(outcome) for outcome in queue]
            lo, hi = ranges[0][0], ranges[-1][1]
            self.waited(token)
            self.outbox.add(Released(token=token, lo=lo, hi=hi, started=hi - lo))

    def take(self, room: int, largest: int) -> list[Outcome]:
        """What is to be reported now, first what the last report did not get across.

        Args:
            room: how many bytes a report may have, if that is not one outcome alone.
            largest: how many bytes one outcome may have.
        """
        self.outbox.put_back(outcome for outcome in self.reporting if outcome.token in self.chunks)
        self.reporting = self.outbox.take(room)
        if self.reporting and weight(self.reporting[0]) > largest:  # then it goes alone
            self.reporting = [_slimmer(self.reporting[0], largest)]
        return self.reporting

    def take_progress(self) -> tuple[Progress, ...]:
        """How far running tasks are, as far as they have said so since the last time."""
        said, self.outbox.progress = self.outbox.progress, {}
        return tuple(said.values())

    def keep_progress(self, said: Iterable[Progress]) -> None:
        """It did not get across."""
        for progress in said:
            if progress.token in self.chunks:
                self.outbox.progress.setdefault(progress.token, progress)

    def acknowledged(self) -> None:
        """The report under way has arrived and is durable."""
        self.reporting = []
        unsaid = {outcome.token for outcome in self.outbox} | self.waiting.keys()
        for token in [t for t, chunk in self.chunks.items() if chunk.ended and t not in unsaid]:
            del self.chunks[token]
            self._over(token)

    def refuse(self, error: Exception) -> None:
        """The report under way, of one outcome, can never be taken: the task of it has failed with the reason. Of a
        lease that not even that can be said of nothing is, so that it is taken back."""
        (outcome,) = self.reporting
        self.reporting = []
        if isinstance(outcome, Succeeded) and pages.count(outcome.results) > 1:
            self.outbox.put_back(singly(outcome))
        elif (instead := refused(outcome, error)) is not None:
            self.outbox.put_back([instead])
        else:
            self.forget(outcome.token)

    def say(self, started: dict[int, int]) -> tuple[Holding, ...]:
        """All of them.

        Args:
            started: index of the running task, by token.
        """
        return tuple(
            [Holding(token=t, started=started.get(t, -1), done=chunk.ended) for t, chunk in self.chunks.items()]
        )


def _slimmer(outcome: Outcome, room: int) -> Outcome:
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
