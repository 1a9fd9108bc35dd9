"""Operators' calls that steer queues and set limits."""

from __future__ import annotations

from dtq.coordinator.service import Coordinator
from dtq.core import operators, queues, views
from dtq.errors import InvalidValue, UnknownLimit
from dtq.model.limits import Limit, LimitView
from dtq.model.queues import Steering, SteeringChange
from dtq.model.weight import first_within


def steer(c: Coordinator, queue: str, how: SteeringChange) -> Steering:
    """Pause or drain a queue, or set its weight; see `Service.steer_queue`."""
    with c.lock:
        after = queues.steer(c.machine.queue_state, queue, paused=how.paused, draining=how.draining, weight=how.weight)
        c.dispatch(c.clock.now())
        ticket = c.committer.ticket()
    c.committer.settle(ticket)
    return after


def set_limit(c: Coordinator, limit: Limit) -> None:
    """Set a limit, or change it; see `Service.set_limit`."""
    if limit.bounds_nothing:
        raise InvalidValue("a limit", limit.name, "it has a concurrency, a rate, or both")
    with c.lock:
        operators.set_limit(c.machine, limit, c.clock.now())
        c.dispatch(c.clock.now())
        ticket = c.committer.ticket()
    c.committer.settle(ticket)


def remove_limit(c: Coordinator, name: str) -> None:
    """Remove a limit; see `Service.remove_limit`."""
    with c.lock:
        if not operators.remove_limit(c.machine, name, c.clock.now()):
            raise UnknownLimit(name)
        c.dispatch(c.clock.now())
        ticket = c.committer.ticket()
    c.committer.settle(ticket)


def limits(c: Coordinator, after: str) -> list[LimitView]:
    """The limits behind a name; see `Service.limits`."""
    with c.lock:
        found = views.limits(c.machine, c.clock.now())
    return list(first_within((view for view in found if view.limit.name > after), c.setup.answer_bytes))
