"""Makes the submissions of due times, and makes up for missed ones.

Rules:

1. A due time makes one submission, with the key ``schedule/NAME/<due time>``. The schedule's next due time is stored in
   the same commit as the batch, so a restart finds both or none.
2. A due time is late if its submission was to be made more than `ON_TIME_S` ago: no coordinator was running to make it.
   If one is late, the schedule's `CatchUp` says which of the due times until now are made. If none is late, each is
   made.
3. A submission without room is tried again; due times that come meanwhile wait behind it, and are not late. While its
   queue is drained a schedule makes no submission, and its due times become late.
4. A due time that is skipped because the run before has not ended (`Overlap.SKIP`) is over, like one that was made.
"""

from __future__ import annotations

from typing import Final

from dtq.core import operators
from dtq.core.changes import ArgumentPage
from dtq.core.machine import Machine
from dtq.core.schedules import MOST_CAUGHT_UP, Entry, moment_name
from dtq.errors import DtqError, KeyConflict, QueueDraining, QueueFull
from dtq.model import pages
from dtq.model.messages import Submission
from dtq.model.schedules import CatchUp, Overlap
from dtq.records import dataclass, field

#: A submission that is up to this many seconds late counts as made in time.
ON_TIME_S: Final = 10.0
#: Wait of a submission for its next try: without room, and after another failure.
_FULL_S: Final = 1.0
_TROUBLE_S: Final = 60.0
#: Due times handled in one tick: about ten milliseconds of work. Other work has its turn between two ticks.
_AT_ONCE: Final = 100


@dataclass(slots=True)
class Made:
    """The effects of due times.

    Attributes:
        pages: the arguments of new batches, as they will be stored.
        cancelled: whether a run was cancelled to make room for another.
        more: whether more due times have come.
    """

    pages: list[ArgumentPage] = field(default_factory=list)
    cancelled: bool = False
    more: bool = False


def run_due(machine: Machine, now: float, wall: float, trouble: DtqError | None = None) -> Made:
    """Make the submissions of due times that have come.

    Args:
        machine: the machine.
        now: the steady time.
        wall: the wall time.
        trouble: why submissions cannot be made at the moment; None otherwise. They are made as soon as possible.
    """
    schedules = machine.schedules
    schedules.look_again(now)
    made = Made()
    for _ in range(_AT_ONCE):
        entry = schedules.pop_due(wall)
        if entry is None:
            return made
        if trouble is not None:
            _stuck(machine, entry, trouble, now + _FULL_S, wall)
            continue
        due = entry.next_at
        try:
            _come(machine, entry, made, now, wall)
        except QueueDraining as error:  # due times go by meanwhile: the schedule's catch-up decides about them
            entry.trouble = str(error)
            schedules.put_off(entry, now + _FULL_S)
            if entry.next_at != due:
                machine.queue_state.ledger.definition(entry.row())
        except QueueFull as error:
            _stuck(machine, entry, error, now + _FULL_S, wall)
            machine.queue_state.ledger.definition(entry.row())
        except DtqError as error:
            _stuck(machine, entry, error, now + _TROUBLE_S, wall)
            machine.queue_state.ledger.definition(entry.row())
        except BaseException:  # a defect of this schedule, or of its call
            schedules.put_off(entry, now + _TROUBLE_S)
            raise
    made.more = True
    return made


def _stuck(machine: Machine, entry: Entry, error: DtqError, until: float, wall: float) -> None:
    entry.stuck_since = wall if entry.stuck_since is None else min(wall, entry.stuck_since)
    entry.trouble = str(error)
    machine.schedules.put_off(entry, until)


def _come(machine: Machine, entry: Entry, made: Made, now: float, wall: float) -> None:
    """Handle the next due time of a schedule, which has come, or was missed."""
    due = _first_to_make(machine, entry, wall)
    if due is None:
        entry.next_at = machine.schedules.later(entry, wall)
    else:
        entry.next_at = due
        later = machine.schedules.later(entry, due)  # before the submission: the next due time may not be computable
        _make(machine, entry, due, made, now)
        entry.next_at = later
    entry.stuck_since = None
    entry.trouble = ""
    entry.catching_up = entry.catching_up and _is_late(entry, wall)
    machine.schedules.changed(entry)


def _is_late(entry: Entry, wall: float) -> bool:
    since = wall if entry.stuck_since is None else min(wall, entry.stuck_since)
    return entry.next_at is not None and entry.moment_of(entry.next_at) < since - ON_TIME_S


def _first_to_make(machine: Machine, entry: Entry, wall: float) -> float | None:
    """The first of the due times up to now that makes a submission; None if none of them does."""
    late = _is_late(entry, wall)
    if entry.catching_up or not (late or entry.stuck_since is not None):
        return entry.next_at
    catch_up = entry.schedule.catch_up if late else CatchUp.ALL  # the coordinator was there in time, without room
    due = machine.schedules.latest(entry, wall, MOST_CAUGHT_UP if catch_up is CatchUp.ALL else 1)[0]
    if catch_up is CatchUp.ALL:
        entry.catching_up = True
    elif catch_up is CatchUp.NONE and entry.moment_of(due) < wall - ON_TIME_S:
        return None
    return due


def _make(machine: Machine, entry: Entry, due: float, made: Made, now: float) -> None:
    before = machine.queue_state.batches.get(entry.last_batch)
    overlap = entry.schedule.overlap
    if before is not None and overlap is Overlap.SKIP:
        entry.skipped += 1
        return
    key = f"schedule/{entry.schedule.name}/{moment_name(due)}"
    try:
        number = _submit(machine, entry, key, made, now)
    except KeyConflict as taken:  # made already, by a schedule of this name with another call
        number = int(str(taken.args[1]))
    if before is not None and overlap is Overlap.REPLACE and before.number != number:
        operators.cancel_batch(machine, before, now, why=f"it was replaced by {number}")
        made.cancelled = True
    entry.last_due = due
    entry.last_batch = number


def run_now(machine: Machine, entry: Entry, now: float, wall: float) -> tuple[int, Made]:
    """Make a submission of a schedule beside its due times.

    Args:
        machine: the machine.
        entry: the schedule.
        now: the steady time.
        wall: the wall time.

    Returns:
        The batch's number, and the effects.

    Raises:
        QueueFull: there is no room for it.
    """
    made = Made()
    key = f"schedule/{entry.schedule.name}/run/{machine.queue_state.last_batch + 1}"
    entry.last_batch = _submit(machine, entry, key, made, now)
    entry.last_due = wall if entry.last_due is None else max(wall, entry.last_due)
    machine.schedules.changed(entry)
    return entry.last_batch, made


def _submit(machine: Machine, entry: Entry, key: str, made: Made, now: float) -> int:
    arguments = pages.pack([entry.schedule.arguments])
    submission = Submission(spec=0, number=0, arguments=arguments, key=key, follow=False)
    before = machine.queue_state.last_batch
    batch, page = machine.submit(entry.schedule.spec, submission, "", now)
    entry.made += batch.number > before
    if page is not None:
        made.pages.append(page)
    return batch.number
