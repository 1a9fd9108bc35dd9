"""The verbs on schedules: `Client.schedules` and `AsyncClient.schedules`.

Client, beside `sync` and `aio`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dtq.client.defining import Timing, all_schedules, schedule_of
from dtq.client.terms import TaskOptions
from dtq.model.options import Function
from dtq.model.schedules import ScheduleView

if TYPE_CHECKING:
    from dtq.client.aio import AsyncClient
    from dtq.client.async_handle import AsyncTaskHandle
    from dtq.client.handle import TaskHandle
    from dtq.client.sync import Client


class Schedules:
    """The coordinator's schedules. Made by `Client.schedules`.

    Each due time of a schedule makes one submission, whose key is ``schedule/NAME/<due time>``: over any number of
    restarts of the coordinator.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(
        self,
        name: str,
        timing: Timing,
        fn: Callable[..., Any] | str | Function,
        /,
        *args: Any,
        options: TaskOptions | None = None,
        replace: bool = False,
        **kwargs: Any,
    ) -> str:
        """Define a schedule; an identical definition changes nothing.

        Args:
            name: its name: letters, digits and ``_ . : / -``, 100 at most.
            timing: its due times, for example ``{"every": 90}`` or ``{"cron": "0 3 * * *", "tz": "Europe/Prague"}``.
            fn: the function; or ``"module:function"`` or a registered name.
            args: its arguments; they, and a function that travels by value, have at most 64 KiB each.
            options: the terms of its calls: see `TaskOptions`.
            replace: whether a schedule of this name with another definition is changed.
            kwargs: its keyword arguments.

        Returns:
            ``"added"``, ``"changed"`` or ``"unchanged"``.

        Raises:
            ScheduleExists: a schedule of this name has another definition.
            InvalidValue, NotImportable, CannotPickle: the definition is invalid, or cannot be sent.
            CronMissing: the coordinator cannot read cron expressions.
            SchedulesFull: the number of schedules has reached its bound.
        """
        schedule = schedule_of(name, fn, args, kwargs, timing, options or {})
        return self._client._core.call(lambda service: service.set_schedule(schedule, replace, False))

    def list(self) -> list[ScheduleView]:
        """All schedules, in the order of their names."""
        return self._client._core.call(all_schedules)

    def get(self, name: str) -> ScheduleView:
        """A schedule: its definition, next due times, last run and that run's end.

        Raises:
            UnknownSchedule: no schedule has this name.
        """
        return self._client._core.call(lambda service: service.schedule(name))

    def pause(self, name: str) -> None:
        """Let due times go by until `resume`; they are not made up for.

        Raises:
            UnknownSchedule: no schedule has this name.
        """
        self._client._core.call(lambda service: service.pause_schedule(name, True))

    def resume(self, name: str) -> None:
        """Go on with the first due time from now on.

        Raises:
            UnknownSchedule: no schedule has this name.
        """
        self._client._core.call(lambda service: service.pause_schedule(name, False))

    def run(self, name: str) -> TaskHandle[Any]:
        """Make a submission now, beside the due times; a paused schedule's too.

        Raises:
            UnknownSchedule: no schedule has this name.
            QueueFull: the queue has no room for it.
            Unreachable: the coordinator was lost in the middle: `get` tells whether it was done.
        """
        return self._client.get(self._client._core.call(lambda service: service.run_schedule(name), again=False))

    def remove(self, name: str) -> None:
        """Remove a schedule. Its submissions stay.

        Raises:
            UnknownSchedule: no schedule has this name.
            Unreachable: the coordinator was lost in the middle: `list` tells whether it was done.
        """
        self._client._core.call(lambda service: service.remove_schedule(name), again=False)


class AsyncSchedules:
    """The coordinator's schedules, for coroutines: the verbs of `Schedules`. Made by `AsyncClient.schedules`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._schedules = Schedules(client._client)

    async def add(
        self,
        name: str,
        timing: Timing,
        fn: Callable[..., Any] | str | Function,
        /,
        *args: Any,
        options: TaskOptions | None = None,
        replace: bool = False,
        **kwargs: Any,
    ) -> str:
        """Define a schedule; see `Schedules.add`."""
        add = partial(self._schedules.add, name, timing, fn, *args, options=options, replace=replace, **kwargs)
        return await self._client._loop.call(add)

    async def list(self) -> list[ScheduleView]:
        """All schedules, in the order of their names."""
        return await self._client._loop.call(self._schedules.list)

    async def get(self, name: str) -> ScheduleView:
        """A schedule; see `Schedules.get`."""
        return await self._client._loop.call(partial(self._schedules.get, name))

    async def pause(self, name: str) -> None:
        """Let due times go by until `resume`; see `Schedules.pause`."""
        await self._client._loop.call(partial(self._schedules.pause, name))

    async def resume(self, name: str) -> None:
        """Go on with the first due time from now on."""
        await self._client._loop.call(partial(self._schedules.resume, name))

    async def run(self, name: str) -> AsyncTaskHandle[Any]:
        """Make a submission now, beside the due times; see `Schedules.run`."""
        from dtq.client.async_handle import AsyncTaskHandle

        return AsyncTaskHandle(self._client._loop, await self._client._loop.call(partial(self._schedules.run, name)))

    async def remove(self, name: str) -> None:
        """Remove a schedule; see `Schedules.remove`."""
        await self._client._loop.call(partial(self._schedules.remove, name))
