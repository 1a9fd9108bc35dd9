"""The client for coroutines against a real cluster: ten thousand at once, kills, and tasks that are coroutines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dtq import AsyncClient, State, TaskCancelled
from tests.cluster import DEADLINE_S, Cluster
from tests.looping import looped, until
from tests.tasks import async_work, work
from tests.tasks import numbers_work as numbers

ROOT = Path(__file__).parents[2]
#: How many coroutines wait at once.
MANY = 10_000
#: Connections of one client: submitting, waiting, everything else.
CONNECTIONS = 3
#: Its threads: sender, watcher, calls; and the program's own.
THREADS = 3 + 1
#: How long a client that is closed may be counted, in seconds; less than a call waits that its end does not reach.
GONE_S = 5.0
#: What so many handles, futures and results may take, in bytes; about twice of what they do.
MEMORY = 96 << 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for everything that breaks nothing."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.coordinator()
        made.worker("--path", str(ROOT))
        yield made


def client_of(cluster: Cluster) -> AsyncClient:
    return AsyncClient(cluster.address, authkey_file=cluster.key_file)


@looped
async def test_ten_thousand_awaits_need_no_more_than_one(cluster: Cluster) -> None:
    # Given a client that has done everything once
    me = psutil.Process()
    others = set(threading.enumerate())
    async with client_of(cluster) as client:
        assert await (await client.submit(numbers.add, 1)) == 1
        async with asyncio.timeout(GONE_S):  # until the coordinator has seen that the clients of other tests are closed
            while (await client.stats()).clients > 1:
                await asyncio.sleep(0.01)
        before = me.memory_info().rss
        peak, connections, threads = 0, 0, 0

        async def look() -> None:
            nonlocal peak, connections, threads
            while True:
                ends = [connection.raddr for connection in me.net_connections("tcp")]
                connections = max(connections, sum(end == ("127.0.0.1", cluster.port) for end in ends))
                threads = max(threads, len(set(threading.enumerate()) - others))
                peak = max(peak, me.memory_info().rss)
                await asyncio.sleep(0.005)

        looking = asyncio.create_task(look())
        # When ten thousand coroutines submit, and wait, at once
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            handles = [group.create_task(client.submit(numbers.add, n, 1)) for n in range(MANY)]
        results = await asyncio.gather(*[handle.result() for handle in handles])
        seconds = time.monotonic() - began
        looking.cancel()
        more = (peak - before) / (1 << 20)
        print(f"{MANY} awaits: {seconds:.1f} s, {connections} connections, {threads} threads, {more:.0f} MiB more")
        # Then all have their results; over the same connections and threads, as one session, in little memory
        assert results == [n + 1 for n in range(MANY)]
        assert 1 <= connections <= CONNECTIONS
        assert threads <= THREADS - 1
        assert (await client.stats()).clients == 1
        assert peak - before < MEMORY, f"{(peak - before) >> 20} MiB"
        assert seconds < DEADLINE_S


@looped
async def test_killed_coordinator_keeps_nobody_from_the_results(tmp_path: Path) -> None:
    # Given coroutines that wait for tasks, some of which have ended
    with Cluster(tmp_path) as own:
        coordinator = own.coordinator()
        async with client_of(own) as client:
            handles = await asyncio.gather(*[client.submit(numbers.add, n) for n in range(2_000)])
            waiting = asyncio.gather(*handles)
            batch = asyncio.create_task(_read(client))
            own.worker("--path", str(ROOT))
            await handles[0]
            # When the coordinator is killed, and comes back
            coordinator.kill()
            late = asyncio.create_task(client.submit(numbers.add, -1))
            await asyncio.sleep(0)
            own.coordinator()
            # Then all have their results, each once, and what was submitted meanwhile too
            assert await waiting == list(range(2_000))
            assert await (await late) == -1
            assert await batch == [n * n for n in range(3_000)]
            assert (await client.stats()).counts.succeeded == 5_001


async def _read(client: AsyncClient) -> list[int]:
    return [value async for value in client.map(numbers.square, (n for n in range(3_000)), read_ahead=500)]


@looped
async def test_cancelling_the_coroutine_lets_the_task_run_and_cancelling_the_task_kills_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    # Given a task that runs, and a coroutine that waits for it
    marks = tmp_path / "marks"
    marks.mkdir()
    async with client_of(cluster) as client:
        handle = await client.submit(work.spin, str(marks), "spinning")
        waiting = asyncio.create_task(handle.result())
        await until(lambda: any(marks.iterdir()))
        pid = int(next(marks.iterdir()).name.rpartition("-")[2])
        # When the coroutine is cancelled; Then the task runs on
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert await handle.state() is State.RUNNING
        assert psutil.pid_exists(pid)
        # When the task is; Then its process is killed
        assert await handle.cancel()
        with pytest.raises(TaskCancelled):
            await handle
        await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


@looped
async def test_loop_stays_responsive_while_results_stream(cluster: Cluster) -> None:
    # Given a coroutine that looks how long the loop keeps it waiting
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    ticking = asyncio.create_task(tick())
    # When a large map is read; Then it is never kept for long
    async with client_of(cluster) as client:
        assert len([value async for value in client.map(numbers.square, range(50_000))]) == 50_000
    ticking.cancel()
    assert longest < 1.0


@looped
async def test_coroutine_functions_run_to_their_end(cluster: Cluster) -> None:
    # Given tasks that are coroutine functions, of all kinds
    async with client_of(cluster) as client:

        async def local(n: int) -> int:
            return await async_work.plus(n, 10)

        handles = [
            await client.submit(async_work.plus, 1, 2),
            await client.submit(async_work.plus_one, 4),
            await client.submit(async_work.Adder(3), 4),
            await client.submit(local, 1),
        ]
        # When slots run them; Then their results are those of their coroutines
        assert await asyncio.gather(*handles) == [3, 5, 7, 11]
        assert await (await client.submit(async_work.both, 1, 2)) == (2, 3, True)
        assert [v async for v in client.map(async_work.plus, range(20), range(20))] == [2 * n for n in range(20)]
        with pytest.raises(LookupError, match="asynchronously"):
            await (await client.submit(async_work.fails, max_retries=0))


@looped
async def test_log_records_of_a_task_say_which_it_is(cluster: Cluster, tmp_path: Path) -> None:
    # Given a task with a log of its own, that fails once
    path = tmp_path / "shop.log"
    async with client_of(cluster) as client:
        handle = await client.submit(async_work.logs, str(path), retry_delay=0.01)
        # When it has ended
        await handle
        # Then its records have its id and attempt, from every thread, but where the program says something else
        expected = [f"{handle.id} {n} plain\nmine {n} extra\n{handle.id} {n} thread\n" for n in (1, 2)]
        assert path.read_text() == "".join(expected)
