"""How the client for coroutines stands to event loops and threads, against a real coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dtq import (
    AsyncClient,
)
from tests.client_scene import DEADLINE_S, Queue
from tests.looping import connected, looped
from tests.tasks import numbers_work as work


@pytest.fixture(params=["in process", "wire"])
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    with Queue(wire=request.param == "wire") as made:
        yield made


@pytest.fixture
def near() -> Iterator[Queue]:
    """A queue whose lines the test can cut."""
    with Queue() as made:
        yield made


def test_loop_is_only_used_from_its_thread(queue: Queue) -> None:
    # Given a loop that looks which thread calls it
    async def use() -> None:
        async with connected(queue) as client:
            handles = await asyncio.gather(*[client.submit(work.add, n) for n in range(50)])
            assert await asyncio.gather(*handles) == list(range(50))
            assert [value async for value in client.map(work.square, range(1200))][-1] == 1199**2

    # When news come from the client's threads; Then they never do what only the loop's own thread may
    with queue.working():
        asyncio.run(use(), debug=True)


def test_client_needs_a_loop_that_runs(queue: Queue) -> None:
    # Given no loop; When the client is used; Then it says what asyncio says
    client = AsyncClient(connector=queue)
    with pytest.raises(RuntimeError, match="no running event loop"):
        client.submit_nowait(work.add, 1)
    with contextlib.closing(client.stats()) as asking, pytest.raises(RuntimeError, match="no running event loop"):
        asking.send(None)


def test_client_belongs_to_its_first_loop(queue: Queue) -> None:
    # Given a client that was used in a loop that is closed by now, with a coroutine that still waits there
    client = AsyncClient(connector=queue)

    async def use() -> tuple[Any, Any]:
        handle = await client.submit(work.add, 1)
        waiting: Any = asyncio.create_task(handle.result())
        waiting._log_destroy_pending = False
        await asyncio.wait([waiting], timeout=0.01)
        return handle, waiting

    loop = asyncio.new_event_loop()
    handle, waiting = loop.run_until_complete(use())
    loop.close()

    async def again() -> None:
        # When it is used in another; Then everything refuses, in the standard library's words
        for ask in (client.stats, handle.result, lambda: client.submit(work.add, 1), handle.cancel):
            with pytest.raises(RuntimeError, match="is bound to a different event loop"):
                await ask()

    asyncio.run(again())
    # And news that come for the closed loop disturb nobody
    with queue.working():
        assert handle._handle.result(DEADLINE_S) == 1
        assert client._client.submit(work.add, 2).result(DEADLINE_S) == 2
    client._client.close()
    assert not waiting.done()


@looped
async def test_client_that_is_forgotten_leaves_no_thread_for_calls(queue: Queue) -> None:
    # Given a client that made a call
    before = set(threading.enumerate())
    client = AsyncClient(connector=queue)
    await client.stats()
    (calls,) = [t for t in threading.enumerate() if t.name == "dtq-loop-calls" and t not in before]
    # When it is dropped
    client._client.close()
    del client
    gc.collect()
    # Then its thread ends
    calls.join(DEADLINE_S)
    assert not calls.is_alive()
