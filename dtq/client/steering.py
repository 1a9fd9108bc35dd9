"""The verbs on limits and queues: `Client.limits`, `Client.queues`, and the same of `AsyncClient`.

Client, beside `sync` and `aio`.
"""

from __future__ import annotations

import builtins
from functools import partial
from typing import TYPE_CHECKING

from dtq.client.paging import all_limits, all_queues, cancel_all
from dtq.config.values import check_queue, parse_rate
from dtq.errors import InvalidValue
from dtq.model import fields
from dtq.model.limits import Limit, LimitView, usual_burst
from dtq.model.queues import Steering, SteeringChange
from dtq.model.snapshots import QueueView, Selection
from dtq.model.states import State

if TYPE_CHECKING:
    from dtq.client.aio import AsyncClient
    from dtq.client.sync import Client
    from dtq.model.service import Service

#: States that a purge of a queue leaves alone.
_KEPT = (State.RUNNING,)


def limit_of(name: str, concurrency: int | None, rate: str | None, burst: int | None) -> Limit:
    """A limit from a user's arguments.

    Raises:
        InvalidValue: it is invalid.
    """
    given: object = name  # whatever its declared type
    wrong = fields.LIMIT_PATTERN.breach(given) if isinstance(given, str) else "is a text"
    if wrong is not None:
        raise InvalidValue("the name of a limit", str(name)[:80], f"it {wrong}")
    if concurrency is None and rate is None:
        raise InvalidValue("a limit", name, "it has a concurrency, a rate, or both")
    if concurrency is not None:
        _whole("a concurrency", concurrency)
    if burst is not None:
        _whole("a burst", burst)
    if rate is None:
        return Limit(name=name, concurrency=concurrency, burst=1 if burst is None else burst)
    starts, per_s = parse_rate(str(rate))
    burst = usual_burst(starts, per_s) if burst is None else burst
    return Limit(name=name, concurrency=concurrency, starts=starts, per_s=per_s, burst=burst)


def _whole(what: str, number: object) -> None:
    """Check that a number is a whole one, whatever its declared type.

    Raises:
        InvalidValue: it is not.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidValue(what, repr(number)[:80], "it is a whole number")


def purge_queue(service: Service, name: str) -> int:
    """Cancel all waiting tasks of a queue; returns their number."""
    waiting = [state for state in State if not state.final and state not in _KEPT]
    reports = [cancel_all(service, Selection(queue=name, state=state, limit=0)) for state in waiting]
    return sum(report.cancelled + report.stopping for report in reports)  # what a worker holds is stopped there


class Limits:
    """The limits by name. Made by `Client.limits`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def set(
        self, name: str, *, concurrency: int | None = None, rate: str | None = None, burst: int | None = None
    ) -> None:
        """Set a limit, or change it; running tasks count already.

        Args:
            name: the name, or a glob of names (``"tenant-*"``): each that it matches is bounded by itself.
            concurrency: how many tasks may run at once; 0 for none. None for any number.
            rate: how many may start per time: ``"100/m"``, ``"5/s"``, ``"10/90s"``. None for any number.
            burst: how many may start together after a long enough pause; None for one, and at more than 20 starts a
                second for a twentieth of a second's starts.

        Raises:
            InvalidValue: the limit is invalid.
            LimitsFull: the number of limits has reached its bound.
        """
        limit = limit_of(name, concurrency, rate, burst)
        self._client._core.call(lambda service: service.set_limit(limit))

    def list(self) -> builtins.list[LimitView]:
        """All limits with their use, in the order of their names."""
        return self._client._core.call(all_limits)

    def remove(self, name: str) -> None:
        """Remove a limit: tasks that waited for it may start.

        Raises:
            UnknownLimit: no limit has this name.
            Unreachable: the coordinator was lost in the middle: `list` tells whether it was done.
        """
        self._client._core.call(lambda service: service.remove_limit(name), again=False)


class Queues:
    """The queues: list and steer them. Made by `Client.queues`.

    A verb on a queue holds for all tasks that this client has submitted before.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> builtins.list[QueueView]:
        """The queues with unfinished tasks, with workers of their own, or with settings."""
        return self._client._core.call(all_queues)

    def pause(self, name: str) -> Steering:
        """Start no tasks of a queue until `resume`; it takes tasks as before. Running tasks go on."""
        return self._steer(name, SteeringChange(paused=True))

    def resume(self, name: str) -> Steering:
        """Start a queue's waiting tasks again, and take new tasks again."""
        return self._steer(name, SteeringChange(paused=False, draining=False))

    def drain(self, name: str) -> Steering:
        """Take no new tasks into a queue until `resume`, and work off those it has: submitters get `QueueDraining`."""
        return self._steer(name, SteeringChange(draining=True))

    def weigh(self, name: str, weight: int) -> Steering:
        """Set a queue's weight: how many of its tasks start for each one of a queue of weight 1, both of equal
        priority.

        Raises:
            InvalidValue: the weight is not a whole number from 1 to 1,000.
        """
        _whole("a weight", weight)
        Steering(weight=weight)
        return self._steer(name, SteeringChange(weight=weight))

    def purge(self, name: str) -> int:
        """Cancel all waiting tasks of a queue; running tasks go on.

        Returns:
            The number of cancelled tasks.
        """
        purge = partial(purge_queue, name=check_queue(name))
        return sum(self._client._core.call_behind(purge, more=bool))

    def _steer(self, name: str, change: SteeringChange) -> Steering:
        queue = check_queue(name)
        return self._client._core.call_behind(lambda service: service.steer_queue(queue, change))[-1]


class AsyncLimits:
    """The limits, for coroutines: the verbs of `Limits`. Made by `AsyncClient.limits`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._limits = Limits(client._client)

    async def set(
        self, name: str, *, concurrency: int | None = None, rate: str | None = None, burst: int | None = None
    ) -> None:
        """Set a limit, or change it; see `Limits.set`."""
        await self._client._loop.call(partial(self._limits.set, name, concurrency=concurrency, rate=rate, burst=burst))

    async def list(self) -> builtins.list[LimitView]:
        """All limits with their use; see `Limits.list`."""
        return await self._client._loop.call(self._limits.list)

    async def remove(self, name: str) -> None:
        """Remove a limit; see `Limits.remove`."""
        await self._client._loop.call(partial(self._limits.remove, name))


class AsyncQueues:
    """The queues, for coroutines: the verbs of `Queues`. Made by `AsyncClient.queues`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._queues = Queues(client._client)

    async def list(self) -> builtins.list[QueueView]:
        """See `Queues.list`."""
        return await self._client._loop.call(self._queues.list)

    async def pause(self, name: str) -> Steering:
        """Start no tasks of a queue until `resume`; see `Queues.pause`."""
        return await self._client._loop.call(partial(self._queues.pause, name))

    async def resume(self, name: str) -> Steering:
        """Start a queue's waiting tasks again, and take new tasks again."""
        return await self._client._loop.call(partial(self._queues.resume, name))

    async def drain(self, name: str) -> Steering:
        """Take no new tasks into a queue; see `Queues.drain`."""
        return await self._client._loop.call(partial(self._queues.drain, name))

    async def weigh(self, name: str, weight: int) -> Steering:
        """Set a queue's weight; see `Queues.weigh`."""
        return await self._client._loop.call(partial(self._queues.weigh, name, weight))

    async def purge(self, name: str) -> int:
        """Cancel all waiting tasks of a queue; see `Queues.purge`."""
        return await self._client._loop.call(partial(self._queues.purge, name))
