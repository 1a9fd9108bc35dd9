"""Schedules: their definitions, the next due time of each, and their remembered state.

Rules:

1. A due time is a moment of the wall clock, and follows from the schedule's definition alone: from its rule, and for a
   period from the moment at which that was defined.
2. The next due time of each schedule is kept (`Entry.next_at`), and only ever grows: a wall clock that is set back
   brings no due time a second time. It is stored in one commit with the batch of the due time before it.
3. `core.scheduling` makes the submissions of due times, and decides about missed ones; this module holds no machine.

`core.recurrences` computes due times.
"""

from __future__ import annotations

import heapq
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from heapq import nsmallest
from itertools import islice
from typing import Any, Final

from dtq.core.changes import DefinitionRow
from dtq.core.ledger import Ledger
from dtq.core.recurrences import Calendar, Once, Periodic, Recurrence
from dtq.errors import DtqError, SchedulesFull, UnknownSchedule
from dtq.model.options import spec_as_json, spec_from_json
from dtq.model.schedules import CatchUp, Overlap, Rule, Schedule
from dtq.records import asdict, replace

#: The kind of their definitions.
KIND: Final = "schedule"
#: Most schedules.
MOST: Final = 10_000
#: Most bytes of all their calls together, and of their functions that travel by value.
MOST_BYTES: Final = 64 << 20
#: Most bytes of JSON kept of one schedule's definition.
_KEPT: Final = 16 << 10
#: Most missed due times that are made up for: the latest ones.
MOST_CAUGHT_UP: Final = 10_000
#: Number of coming due times that are shown.
_SHOWN: Final = 3
#: Reach of the first search back for due times, in seconds; each further one looks twice as far.
_BACK_S: Final = 4096.0


#: The remembered state of a schedule.
_REMEMBERED: Final = ("paused", "next_at", "last_due", "last_batch", "made", "skipped")


def _json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))


class Entry:
    """A schedule, and its remembered state. Its fields are those of its row."""

    __slots__ = (
        "added_at",
        "catching_up",
        "fixed",
        "last_batch",
        "last_due",
        "made",
        "next_at",
        "paused",
        "recurrence",
        "schedule",
        "skipped",
        "stuck_since",
        "trouble",
    )

    def __init__(self, schedule: Schedule, added_at: float) -> None:
        self.schedule = schedule
        #: When it was defined, or its rule was last changed; periods are counted from here.
        self.added_at = added_at
        self.paused = False
        #: The next due time; None if none is left.
        self.next_at: float | None = None
        self.last_due: float | None = None
        self.last_batch = 0
        self.made = 0
        self.skipped = 0
        #: Made on first use; None until then.
        self.recurrence: Recurrence | None = None
        #: Since when, by the wall clock, its submission is owed for want of room. Due times from then on are not late.
        #: A restart forgets it.
        self.stuck_since: float | None = None
        #: Whether missed due times are being made up for, after they were counted.
        self.catching_up = False
        self.trouble = ""
        #: The definition's part of its row, as JSON; made on first use.
        self.fixed = ""

    def row(self) -> DefinitionRow:
        """The row that describes it."""
        schedule = self.schedule
        fixed = self.fixed
        if not fixed:
            fixed = _json(
                {
                    "rule": asdict(schedule.rule),
                    "spec": spec_as_json(schedule.spec),
                    "arguments": b64encode(schedule.arguments).decode("ascii"),
                    "overlap": schedule.overlap.value,
                    "catch_up": schedule.catch_up.value,
                    "added_at": self.added_at,
                }
            )
            self._keep(fixed)
        remembered = _json({name: getattr(self, name) for name in _REMEMBERED})
        return DefinitionRow(kind=KIND, name=schedule.name, body=f"{fixed[:-1]},{remembered[1:]}")

    def _keep(self, fixed: str) -> None:
        if len(fixed) <= _KEPT:
            self.fixed = fixed

    @classmethod
    def from_row(cls, row: DefinitionRow) -> Entry:
        """The schedule that a row describes."""
        body: dict[str, Any] = json.loads(row.body)
        schedule = Schedule(
            name=row.name,
            rule=Rule(**body["rule"]),
            spec=spec_from_json(body["spec"]),
            arguments=b64decode(body["arguments"]),
            overlap=Overlap(body["overlap"]),
            catch_up=CatchUp(body["catch_up"]),
        )
        entry = cls(schedule, body["added_at"])
        for name in _REMEMBERED:
            setattr(entry, name, body[name])
        entry._keep(row.body[: row.body.rindex(f',"{_REMEMBERED[0]}":')] + "}")
        return entry

    @property
    def fires_at(self) -> float | None:
        """When its next submission is to be made: at the due time, or later by its jitter."""
        return None if self.next_at is None or self.paused else self.moment_of(self.next_at)

    def moment_of(self, due: float) -> float:
        """When the submission of a due time is made."""
        jitter_s = self.schedule.rule.jitter_s
        if not jitter_s:
            return due
        drawn = blake2b(f"{self.schedule.name}/{moment_name(due)}".encode(), digest_size=8).digest()
        return due + jitter_s * int.from_bytes(drawn) / 2**64


def moment_name(moment: float) -> str:
    """A due time's name in a key: seconds of the Unix epoch, to the millisecond."""
    return f"{moment:.3f}".rstrip("0").rstrip(".")


class Schedules:
    """All schedules.

    Args:
        ledger: told of changes.
        calendar: reads cron expressions.
    """

    def __init__(self, ledger: Ledger, calendar: Calendar) -> None:
        self._ledger = ledger
        self._calendar = calendar
        self._entries: dict[str, Entry] = {}
        #: Bytes of all calls.
        self._bytes = 0
        #: When each schedule makes its next submission, soonest first; some entries are outdated.
        self._fires: list[tuple[float, str]] = []
        #: Schedules that could not make their submission, and when they try again, by the steady clock.
        self._put_off: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """All schedules, in the order of their names."""
        return iter([self._entries[name] for name in sorted(self._entries)])

    def behind(self, after: str, most: int) -> list[Entry]:
        """The schedules behind a name, in the order of their names; at most this many."""
        names = nsmallest(most, (name for name in self._entries if name > after))
        return [self._entries[name] for name in names]

    def get(self, name: str) -> Entry:
        """The schedule of a name.

        Raises:
            UnknownSchedule: the name has no schedule.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownSchedule(name)
        return entry

    def find(self, name: str) -> Entry | None:
        """The schedule of a name; None if the name has none."""
        return self._entries.get(name)

    # -- defining -------------------------------------------------------------------------------------------------

    def define(self, schedule: Schedule, wall: float) -> Entry:
        """Define a schedule, or redefine it: its first due time is after this moment.

        An existing schedule of this name keeps its remembered state; if its rule stays the same, its next due time too.

        Args:
            schedule: the schedule.
            wall: the wall time.

        Raises:
            InvalidValue: its cron expression, or its time zone, is invalid.
            CronMissing: this process cannot read cron expressions.
            SchedulesFull: the number of schedules, or the size of their calls together, has reached its bound.
        """
        known = self._entries.get(schedule.name)
        more = _size(schedule) - (0 if known is None else _size(known.schedule))
        if (known is None and len(self._entries) >= MOST) or (more > 0 and self._bytes + more > MOST_BYTES):
            raise SchedulesFull(len(self._entries), self._bytes)
        if known is not None and known.schedule.rule == schedule.rule:
            self._bytes += more
            known.schedule, known.fixed = schedule, ""
            self.changed(known)
            return known
        entry = Entry(schedule, round(wall, 3))
        entry.recurrence = self._recurrence(entry)
        if known is not None:
            entry.paused, entry.made, entry.skipped = known.paused, known.made, known.skipped
            entry.last_due, entry.last_batch = known.last_due, known.last_batch
        entry.next_at = self.later(entry, wall)
        self._bytes += more
        self._entries[schedule.name] = entry
        self.changed(entry)
        return entry

    def restore(self, row: DefinitionRow) -> None:
        """Restore a schedule."""
        entry = self._entries[row.name] = Entry.from_row(row)
        self._bytes += _size(entry.schedule)
        self._await(entry)

    def pause(self, entry: Entry, wall: float, *, paused: bool) -> None:
        """Let due times go by from now on, or stop that: then the first one that counts is after this moment."""
        if entry.paused == paused:
            return
        if not paused and entry.next_at is not None and entry.next_at <= wall:
            entry.next_at = self.later(entry, wall)
        entry.paused = paused
        entry.stuck_since = None
        entry.trouble = ""
        self.changed(entry)

    def remove(self, entry: Entry) -> None:
        """Remove a schedule. Its submissions stay."""
        del self._entries[entry.schedule.name]
        self._bytes -= _size(entry.schedule)
        self._ledger.definition_ended(KIND, entry.schedule.name)

    def changed(self, entry: Entry) -> None:
        """Note that a schedule's remembered state has changed."""
        self._ledger.definition(entry.row())
        self._await(entry)

    # -- due times ------------------------------------------------------------------------------------------------

    def _recurrence(self, entry: Entry) -> Recurrence:
        rule = entry.schedule.rule
        if rule.every_s is not None:
            return Periodic(entry.added_at, rule.every_s)
        if rule.at is not None:
            return Once(rule.at)
        return self._calendar.recurrence(rule.cron, rule.tz)

    def _later(self, entry: Entry, moment: float) -> Iterator[float]:
        if entry.recurrence is None:
            entry.recurrence = self._recurrence(entry)
        until = entry.schedule.rule.until
        for due in entry.recurrence.later(moment):
            if until is not None and due > until:
                return
            yield due

    def later(self, entry: Entry, moment: float) -> float | None:
        """The first due time of a schedule after a moment; None if none is left.

        Raises:
            DtqError: this process cannot read its cron expression.
        """
        return next(self._later(entry, moment), None)

    def upcoming(self, entry: Entry) -> tuple[float, ...]:
        """The next few due times of a schedule."""
        return () if entry.paused or entry.next_at is None else self.upcoming_from(entry, entry.next_at)

    def upcoming_from(self, entry: Entry, due: float) -> tuple[float, ...]:
        """A due time of a schedule and the next few after it. Changes no shared state, and needs no lock."""
        try:
            return (due, *islice(self._later(entry, due), _SHOWN - 1))
        except DtqError:
            return (due,)

    def latest(self, entry: Entry, wall: float, most: int) -> list[float]:
        """The latest of a schedule's due times, from its next one on, whose submissions were to be made by now.

        The search goes backwards from now, in growing steps: a year of due times may have passed.

        Args:
            entry: the schedule, whose next submission was to be made by now.
            wall: the wall time.
            most: most due times to return.

        Raises:
            DtqError: this process cannot read its cron expression.
        """
        assert entry.next_at is not None
        back_s = _BACK_S
        while True:
            begin = max(entry.next_at, wall - back_s)
            found = [entry.next_at] if begin == entry.next_at else []
            for due in self._later(entry, begin):
                if due > wall:
                    break
                found.append(due)
            found = [due for due in found if entry.moment_of(due) <= wall]
            if len(found) >= most or begin == entry.next_at:
                return found[-most:]
            back_s *= 2

    # -- waiting --------------------------------------------------------------------------------------------------

    def _await(self, entry: Entry) -> None:
        at = entry.fires_at
        if at is not None:
            heapq.heappush(self._fires, (at, entry.schedule.name))

    def next_at(self) -> float | None:
        """When the next submission is to be made, by the wall clock; None for never."""
        while self._fires:
            at, name = self._fires[0]
            entry = self._entries.get(name)
            if entry is not None and entry.fires_at == at:
                return at
            heapq.heappop(self._fires)
        return None

    def pop_due(self, wall: float) -> Entry | None:
        """The schedule whose submission is due first, if one is; its taker says when its next one is (`changed`,
        `put_off`).
        """
        at = self.next_at()
        if at is None or at > wall:
            return None
        return self._entries[heapq.heappop(self._fires)[1]]

    def put_off(self, entry: Entry, until: float) -> None:
        """Put a schedule off that cannot make its submission now: try again at a moment of the steady clock."""
        heapq.heappush(self._put_off, (until, entry.schedule.name))

    def put_off_until(self) -> float | None:
        """When the first put-off schedule tries again, by the steady clock; None for none."""
        return self._put_off[0][0] if self._put_off else None

    def look_again(self, now: float) -> None:
        """Let schedules try again that were put off until now, a moment of the steady clock."""
        while self._put_off and self._put_off[0][0] <= now:
            entry = self._entries.get(heapq.heappop(self._put_off)[1])
            if entry is not None:
                self._await(entry)

    def rows(self) -> Iterable[DefinitionRow]:
        """The rows of all schedules."""
        return [entry.row() for entry in self]


def _size(schedule: Schedule) -> int:
    """Bytes of a schedule's call."""
    return len(schedule.arguments) + len(schedule.spec.function.body)


def without_function(schedule: Schedule) -> Schedule:
    """A schedule without the function's body, which only slots need."""
    spec = schedule.spec
    if not spec.function.body:
        return schedule
    return replace(schedule, spec=replace(spec, function=replace(spec.function, body=b"")))
