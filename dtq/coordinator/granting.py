"""Granting: prepares new leases and their arguments for the answer to a worker.

An answer gathers at most `Rules.grant_bytes` of arguments, whatever the machine's estimate was: leases that do not fit
go back before their worker is told of them, as if never granted. A task of any size travels alone; so each fetching
call brings a task, and no answer is too large to send.
"""

from __future__ import annotations

import logging

from dtq.coordinator.inputs import calls_of_elements, has_inputs, with_results
from dtq.coordinator.service import Coordinator
from dtq.core.leases import Lease
from dtq.errors import DtqError, StoreDamaged, TooLarge
from dtq.model import pages
from dtq.model.messages import ANSWER_ENVELOPE, Failure, Grant
from dtq.model.states import Outcome

log = logging.getLogger("dtq.coordinator")


def grants_of(c: Coordinator, leases: list[Lease], *, large: bool, inline: int = 0) -> tuple[Grant, ...]:
    """Make the grants of a worker's new leases.

    Args:
        c: the coordinator; not under its lock.
        leases: the leases, in the order in which they were granted.
        large: whether a task may travel alone whose arguments exceed the usual bound.
        inline: see `Hello.inline`.
    """
    if not leases:
        return ()
    room = c.setup.rules.grant_bytes
    granted: list[Grant] = []
    cut = False
    for lease in leases:
        lo, hi = lease.lo, lease.hi
        if lo >= hi:
            continue  # taken back before its answer was made
        page = _arguments(c, lease, lo, hi, room, whatever=large and not granted)
        if page is None:
            cut = True  # what it took of limits and resources is free
            continue
        count = pages.count(page)
        if count < hi - lo:
            cut = True
            _cut(c, lease, lo + count)
        if inline and c.values is not None and pages.has_descriptions(page):
            page = c.values.put_in(page, inline, room)
        if count:
            lease.batch.entry.weigh_arguments(len(page), count)
            granted.append(_grant(lease, lo, lo + count, page))
        room -= len(page)
    if cut:
        with c.lock:
            c.dispatch(c.clock.now())
            c.committer.soon()
    return tuple(granted)


def _grant(lease: Lease, lo: int, hi: int, page: bytes) -> Grant:
    batch = lease.batch
    return Grant(
        token=lease.token,
        batch=batch.number,
        lo=lo,
        hi=hi,
        single=batch.single,
        attempt=lease.attempt,
        spec=batch.entry.number,
        arguments=page,
        units=lease.units,
        behind=lease.behind,
    )


def _cut(c: Coordinator, lease: Lease, hi: int) -> None:
    with c.lock:
        c.machine.granting.cut(lease, hi, c.clock.now())


def _arguments(c: Coordinator, lease: Lease, lo: int, hi: int, room: int, *, whatever: bool) -> bytes | None:
    """The arguments of a lease's first tasks; None if those of the first are lost: it has failed."""
    number = lease.batch.number
    largest = c.setup.max_message - ANSWER_ENVELOPE
    try:
        page = calls_of_elements(lease.batch, hi - lo) or c.cache.arguments(number, lo, hi, room, whatever=whatever)
    except (StoreDamaged, LookupError) as error:
        why = f"the task's arguments cannot be read: {error}"
        _fail(c, lease, lease.hi, Failure(exception="dtq.errors.StoreDamaged", message=why))
        return None
    if pages.count(page) and has_inputs(lease.batch, lo, hi):
        return _with_results(c, lease, lo, page, None if whatever else room)
    if len(page) > largest:  # one task, stored when messages could be larger
        too_large = TooLarge("a task's call", len(page), largest)
        _fail(c, lease, lo + 1, Failure(exception=_name(too_large), message=str(too_large)))
        _cut(c, lease, lo + 1)
        return None
    return page


def _with_results(c: Coordinator, lease: Lease, lo: int, page: bytes, room: int | None) -> bytes | None:
    """Calls with the results that they are given: as many as fit; None if the results are lost, or cannot be sent: the
    tasks have failed.
    """
    try:
        given = with_results(c, lease.batch, lo, page, room, lease.given)
    except DtqError as error:
        why = f"what the task is given cannot be read: {error}"
        _fail(c, lease, lo + 1, Failure(exception=_name(error), message=why))
        _cut(c, lease, lo + 1)
        return None
    largest = c.setup.max_message - ANSWER_ENVELOPE
    if len(given) > largest:
        too_large = TooLarge("a task's call, with the results that it is given,", len(given), largest)
        _fail(c, lease, lo + 1, Failure(exception=_name(too_large), message=str(too_large)))
        _cut(c, lease, lo + 1)
        return None
    return given


def _name(error: DtqError) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _fail(c: Coordinator, lease: Lease, upto: int, failure: Failure) -> None:
    """Fail a lease's tasks below ``upto``, which cannot be sent, with the reason, until they are dead letters."""
    with c.lock:
        now = c.clock.now()
        if lease.token in c.machine.queue_state.leases:
            last = upto - 1
            log.error("tasks %d.%d to %d cannot be leased: %s", lease.batch.number, lease.lo, last, failure.message)
        while lease.token in c.machine.queue_state.leases and lease.lo < upto:
            index = lease.lo
            c.machine.queue_state.shorten(lease, index + 1)
            c.machine.queue_state.attempt_ended(lease, index, Outcome.FAILED, failure, now, now)
        c.ticker.by(c.machine.queue_state.waiting.next_at())
        c.committer.soon()
