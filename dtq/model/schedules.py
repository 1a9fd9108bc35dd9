"""Schedules: named rules that make submissions at due times; their definitions and views.

Due times are moments of the wall clock, in seconds of the Unix epoch.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final

from dtq.errors import InvalidValue
from dtq.model import fields
from dtq.model.fields import FEW, MAX_CALL
from dtq.model.options import Spec
from dtq.model.snapshots import BatchView
from dtq.records import dataclass

#: Shortest time between two due times of `Rule.every_s`, in seconds.
SHORTEST_S: Final = 0.1


class Overlap(Enum):
    """The effect of a due time while the run before it has not ended."""

    QUEUE = "queue"  #: it makes its submission all the same
    SKIP = "skip"  #: it makes none
    REPLACE = "replace"  #: the run before it is cancelled, and it makes its submission


class CatchUp(Enum):
    """The effect of due times that went by while no coordinator was running."""

    NONE = "none"  #: they make no submission
    LAST = "last"  #: the last of them makes one
    ALL = "all"  #: each of them makes one


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A schedule's due times, by exactly one of a cron expression, a period and a moment.

    Attributes:
        cron: a cron expression of five fields, or six with seconds in front; "" for the other two.
        tz: the time zone in which the expression is read.
        every_s: seconds from one due time to the next, the first that long after the schedule was defined.
        at: the only due time.
        jitter_s: a submission is made up to this many seconds after its due time; the delay is drawn once for each due
            time.
        until: the last moment that may be a due time; None for no end.
    """

    cron: fields.Expression = ""
    tz: fields.Zone = "UTC"
    every_s: fields.Seconds | None = None
    at: fields.Moment | None = None
    jitter_s: fields.Seconds = 0.0
    until: fields.Moment | None = None

    def __post_init__(self) -> None:
        if (self.cron != "") + (self.every_s is not None) + (self.at is not None) != 1:
            raise InvalidValue("a schedule's rule", str(self), "give one of a cron expression, a period and a moment")
        if self.every_s is not None and self.every_s < SHORTEST_S:
            raise InvalidValue("every", self.every_s, f"it is at least {SHORTEST_S:g} seconds")

    def __str__(self) -> str:
        if self.every_s is not None:
            return f"every {self.every_s:g} s"
        return f"at {self.at:.0f}" if self.at is not None else self.cron


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The definition of a schedule.

    Attributes:
        name: its name.
        rule: when it is due.
        spec: the function to call, and its terms.
        arguments: the call's arguments, as a blob.
        overlap: the effect of a due time while the run before it has not ended.
        catch_up: the effect of due times that went by while no coordinator was running.
    """

    name: fields.ScheduleName
    rule: Rule
    spec: Spec
    arguments: fields.CallBlob
    overlap: Overlap = Overlap.QUEUE
    catch_up: CatchUp = CatchUp.LAST

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidValue("a schedule's name", self.name, "it has at least one character")
        for what, blob in (("function", self.spec.function.body), ("arguments", self.arguments)):
            if len(blob) > MAX_CALL:
                why = f"a schedule keeps at most {MAX_CALL:,} bytes of it; have the function read the data"
                raise InvalidValue(f"a schedule's {what}", f"{len(blob):,} bytes", why)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    """A schedule, and its state.

    Attributes:
        schedule: its definition; without the function's body, if that travelled by value.
        added_at: when it was defined, or its rule was changed last.
        paused: whether due times go by.
        upcoming: the next due times, at most three; empty if it is paused, or has none left.
        last_due: the due time of its last submission, or the moment of one that was asked for; None before the first.
        last_batch: the batch of its last submission; 0 before the first.
        last: that batch; None if it is no longer kept.
        made: how many submissions it has made.
        skipped: how many due times made none because the run before had not ended.
        trouble: why it cannot make its submissions at the moment; "" if it can.
    """

    schedule: Schedule
    added_at: fields.Moment
    paused: bool
    upcoming: Annotated[tuple[fields.Moment, ...], FEW]
    last_due: fields.Moment | None
    last_batch: fields.BatchNumber
    last: BatchView | None
    made: fields.Count
    skipped: fields.Count
    trouble: fields.Sentence
