"""The verbs on workers: `Client.workers`, and the same of `AsyncClient`.

Client, beside `sync` and `aio`.
"""

from __future__ import annotations

import builtins
from functools import partial
from typing import TYPE_CHECKING, Final

from dtq.client.paging import all_workers
from dtq.errors import InvalidValue
from dtq.model.fields import FEW
from dtq.model.globs import MAX_GLOB
from dtq.model.messages import WorkerOrder
from dtq.model.snapshots import OrderedWorker, WorkerView

if TYPE_CHECKING:
    from dtq.client.aio import AsyncClient
    from dtq.client.sync import Client

_NAMES: Final = "name workers, or say all=True"


def chosen(names: tuple[str, ...], everything: bool) -> list[str]:
    """The names of a verb on workers; empty for all.

    Raises:
        InvalidValue: the verb names none, or names some and all, or a name is none.
    """
    if bool(names) is everything:
        raise InvalidValue("the workers", ", ".join(map(str, names))[:80], _NAMES)
    for name in names:
        given: object = name  # whatever its declared type
        if not isinstance(given, str) or not 0 < len(given) <= MAX_GLOB or not given.isprintable():
            raise InvalidValue("the name of a worker", str(given)[:80], f"it has 1 to {MAX_GLOB} printable characters")
    if len(names) > FEW.most:
        raise InvalidValue("the workers", f"{len(names)} names", f"at most {FEW.most} at once; use a glob")
    return list(names)


class Workers:
    """The connected workers: list, drain and stop them. Made by `Client.workers`.

    A verb takes names, or globs of names (``"lab-*"``), or ``all=True``. A worker hears its order at once, or when it
    comes back; the order holds as long as the worker's process.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> builtins.list[WorkerView]:
        """The connected workers, in the order of their names."""
        return self._client._core.call(all_workers)

    def drain(self, *names: str, stay: bool = False, all: bool = False) -> builtins.list[OrderedWorker]:
        """Have workers finish their running tasks and take no others; then they end.

        Args:
            names: of the workers, or globs of names.
            stay: whether they stay, and take no tasks until `resume`.
            all: every connected worker.

        Returns:
            The workers, and the order that holds for each now.

        Raises:
            UnknownWorker: a name matches no worker; no worker was given an order.
            InvalidValue: no worker was named.
        """
        return self._order(names, all, WorkerOrder.STAY if stay else WorkerOrder.DRAIN)

    def resume(self, *names: str, all: bool = False) -> builtins.list[OrderedWorker]:
        """Have workers take tasks again that were drained with ``stay=True``; see `drain`.

        A worker that ends cannot be called back: its order is still ``DRAIN`` or ``STOP``.
        """
        return self._order(names, all, WorkerOrder.WORK)

    def stop(self, *names: str, all: bool = False) -> builtins.list[OrderedWorker]:
        """Have workers give their running tasks back to the queue, unblamed, and end; see `drain`."""
        return self._order(names, all, WorkerOrder.STOP)

    def _order(self, names: tuple[str, ...], everything: bool, order: WorkerOrder) -> builtins.list[OrderedWorker]:
        wanted = chosen(names, everything)
        return self._client._core.call(lambda service: service.order_workers(wanted, order))


class AsyncWorkers:
    """The connected workers, for coroutines: the verbs of `Workers`. Made by `AsyncClient.workers`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._workers = Workers(client._client)

    async def list(self) -> builtins.list[WorkerView]:
        """See `Workers.list`."""
        return await self._client._loop.call(self._workers.list)

    async def drain(self, *names: str, stay: bool = False, all: bool = False) -> builtins.list[OrderedWorker]:
        """Have workers finish their running tasks and take no others; see `Workers.drain`."""
        return await self._client._loop.call(partial(self._workers.drain, *names, stay=stay, all=all))

    async def resume(self, *names: str, all: bool = False) -> builtins.list[OrderedWorker]:
        """Have workers take tasks again; see `Workers.resume`."""
        return await self._client._loop.call(partial(self._workers.resume, *names, all=all))

    async def stop(self, *names: str, all: bool = False) -> builtins.list[OrderedWorker]:
        """Have workers give their running tasks back, and end; see `Workers.stop`."""
        return await self._client._loop.call(partial(self._workers.stop, *names, all=all))
