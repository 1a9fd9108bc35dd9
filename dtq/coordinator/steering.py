"""Operators' calls that steer queues and workers, and set limits."""

from __future__ import annotations

from operator import attrgetter

from dtq.coordinator.queries import session_name
from dtq.coordinator.service import Coordinator
from dtq.coordinator.sessions import SessionState
from dtq.core import operators, queues, views
from dtq.core.held import running
from dtq.errors import InvalidValue, UnknownLimit, UnknownWorker
from dtq.model.globs import glob
from dtq.model.limits import Limit, LimitView
from dtq.model.messages import WorkerOrder
from dtq.model.queues import Steering, SteeringChange
from dtq.model.snapshots import OrderedWorker
from dtq.model.weight import first_within


def steer(c: Coordinator, queue: str, how: SteeringChange) -> Steering:
    """Pause or drain a queue, or set its weight; see `Service.steer_queue`."""
    with c.lock:
        after = queues.steer(c.machine.queue_state, queue, paused=how.paused, draining=how.draining, weight=how.weight)
        c.dispatch(c.clock.now())
        ticket = c.committer.ticket()
    c.committer.settle(ticket)
    return after


def order_workers(c: Coordinator, names: list[str], order: WorkerOrder) -> list[OrderedWorker]:
    """Give workers an order; see `Service.order_workers`."""
    with c.lock:
        workers = [state for state in c.sessions.by_id.values() if state.is_worker]
    found = {id(state): state for name in names for state in _named(workers, name)}
    with c.lock:
        ordered = [
            _ordered(c, state, c.sessions.order(state, order))
            for state in (found.values() if names else workers)
            if c.sessions.by_id.get(state.hello.session) is state
        ]
    return list(first_within(sorted(ordered, key=attrgetter("name")), c.setup.answer_bytes))


def _named(workers: list[SessionState], name: str) -> list[SessionState]:
    """The workers of a name. A peer's glob is matched here, without the lock."""
    pattern = glob(name)
    found = [state for state in workers if state.name == name or pattern.matches(state.name)]
    found = found or [state for state in workers if session_name(state.hello.session) == name]
    if not found:
        raise UnknownWorker(name)
    return found


def _ordered(c: Coordinator, state: SessionState, order: WorkerOrder) -> OrderedWorker:
    worker = c.machine.queue_state.workers.get(state.hello.session)
    busy = 0 if worker is None else len(running(worker))
    return OrderedWorker(name=state.name, session=session_name(state.hello.session), order=order, busy=busy)


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
