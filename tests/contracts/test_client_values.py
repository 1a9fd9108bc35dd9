"""Large calls and results at the clients: as files that both sides reach, and by calls, the same comes of them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dtq import AsyncClient
from dtq.client import batch_uploads, reading
from dtq.client.client_core import ClientCore
from dtq.client.client_values import HubValues
from dtq.client.submitting import PLAIN, prepare
from dtq.client.sync import Client
from dtq.errors import ClientClosed, DtqError, ResultCannotPickle, ResultExpired, StoreFull, TooLarge
from dtq.model.states import State
from dtq.model.values import Value
from dtq.values.local import LocalValues
from dtq.values.place import Place
from dtq.values.wire import WireValues
from tests.client_scene import DEADLINE_S, Queue
from tests.contracts.service_scene import until
from tests.tasks import work

np = pytest.importorskip("numpy")

SIZES = [100_000, 10_000_000]


@pytest.fixture(params=["by reference", "by calls", "over a socket"])
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    with Queue(by_reference=request.param == "by reference", wire=request.param == "over a socket") as queue:
        yield queue


def _place(queue: Queue) -> Place:
    place = queue._engine.place
    assert place is not None
    return place


def _unsettled(client: Client) -> int:
    """How many values of a client are not known to be in the queue's hands."""
    return _unsettled_of(client._core)


def _unsettled_of(core: ClientCore) -> int:
    now = core._values._now
    assert isinstance(now, LocalValues | WireValues)
    return sum(held.unsettled for held in now._held.values())


@pytest.mark.parametrize("size", SIZES)
def test_large_calls_and_results_come_back(queue: Queue, size: int) -> None:
    # Given bytes and an array
    data, array = os.urandom(size), np.frombuffer(os.urandom(size), np.uint8).copy()
    client = queue.client()
    with queue.working():
        # When they are sent and come back, the first time and when they are expected to be large
        for _ in range(2):
            assert client.submit(work.echo, data).result(DEADLINE_S) == data
            found: Any = client.submit(work.echo, array).result(DEADLINE_S)
            # Then they are the same, and the caller's own
            assert (found == array).all()
            found[0] ^= 1
        assert list(client.map(work.echo, [data, b"small", data])) == [data, b"small", data]
        assert [len(part) for part in client.submit_map(work.echo, [data] * 3).results()] == [size] * 3
    assert isinstance(client._core._values._now, LocalValues) is queue.by_reference
    until("all to be settled", lambda: not _unsettled(client))


@pytest.mark.parametrize("size", SIZES)
def test_large_calls_and_results_come_back_to_coroutines(queue: Queue, size: int) -> None:
    data = os.urandom(size)

    async def numbered() -> Any:
        for _ in range(3):
            yield data

    async def scene() -> None:
        async with AsyncClient(connector=queue) as client:
            for _ in range(2):
                assert await (await client.submit(work.echo, data)) == data
            assert [value async for value in client.map(work.echo, [data, b"small"])] == [data, b"small"]
            assert [value async for value in client.map(work.echo, numbered())] == [data] * 3

    with queue.working():
        asyncio.run(asyncio.wait_for(scene(), DEADLINE_S))


def test_a_large_call_does_not_hold_up_the_event_loop(queue: Queue) -> None:
    """It is written by a thread: the loop turns meanwhile."""
    turns = 0

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def scene() -> None:
        async with AsyncClient(connector=queue) as client:
            await client.submit(work.echo, b"x" * 100_000)  # large ones are expected from now on
            turner = asyncio.create_task(turning())
            await asyncio.sleep(0)
            before = turns
            await client.submit(work.echo, os.urandom(5_000_000))
            assert turns > before + 1
            turner.cancel()

    asyncio.run(asyncio.wait_for(scene(), DEADLINE_S))


def test_a_large_call_whose_coroutine_is_cancelled_holds_nothing(queue: Queue) -> None:
    # Given coroutines that submit large calls
    async def scene() -> None:
        client = AsyncClient(connector=queue)
        await client.connect()
        await client.submit(work.echo, b"x" * 100_000)
        tasks = [asyncio.create_task(client.submit(work.echo, b"%d" % n * 2_000_000)) for n in range(5)]
        # When they are cancelled while these are written, or wait to be sent
        for task in tasks:
            await asyncio.sleep(0.001)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        core = client._loop.shared
        await asyncio.to_thread(until, "nothing to be held", lambda: not _unsettled_of(core))
        await client.close()

    # Then nothing of them is held
    asyncio.run(asyncio.wait_for(scene(), DEADLINE_S))


def test_a_call_may_be_as_large_as_a_value_and_no_larger() -> None:
    with Queue(max_value=300_000) as queue:
        client = queue.client()
        for data in (b"x" * 300_000, [os.urandom(100_000) for _ in range(4)], np.zeros(300_000, np.uint8)):
            for _ in range(2):
                with pytest.raises(TooLarge, match="more than the limit of 300,000"):
                    client.submit(work.echo, data)
            with pytest.raises(TooLarge):
                list(client.map(work.echo, [data]))
        assert not _unsettled(client)


def test_a_value_that_is_too_large_to_be_put_is_called_one() -> None:
    with (
        Queue(max_value=300_000) as queue,
        pytest.raises(TooLarge, match=r"the value that is put has .* more than the limit of 300,000"),
    ):
        queue.client().put(os.urandom(300_001))


@pytest.mark.parametrize(
    ("make", "argument", "error"), [(bytes, 300_001, TooLarge), (sys._getframe, 0, ResultCannotPickle)]
)
def test_a_result_that_can_never_be_sent_is_not_made_again(
    make: Callable[[Any], Any], argument: Any, error: type[DtqError]
) -> None:
    # Given a task with retries, whose result is too large, or cannot be pickled
    with Queue(max_value=300_000) as queue, queue.working():
        handle = queue.client().submit(make, argument, max_retries=3)
        # When it has run; Then it is a dead letter, after one attempt, and says why
        with pytest.raises(error, match="the result"):
            handle.result(DEADLINE_S)
        view = handle.status()
        assert (view.state, len(view.history)) == (State.DEAD, 1)


def test_a_call_that_no_small_message_holds_is_a_value() -> None:
    # Given messages that are smaller than what becomes a value
    with Queue(max_message=64 << 10) as queue, queue.working():
        data = b"x" * (63 << 10)
        client = queue.client()
        assert client.submit(len, data).result(DEADLINE_S) == len(data)
        assert list(client.map(len, [data])) == [len(data)]


def test_a_submission_whose_answer_was_lost_is_repeated_with_its_value(queue: Queue) -> None:
    if queue._port is not None:
        pytest.skip("answers are not lost on this way")
    data = os.urandom(300_000)
    client = queue.client()
    client.submit(work.echo, 1).accepted(DEADLINE_S)
    queue.lose_answer("submit")
    handle = client.submit(work.echo, data)
    assert handle.accepted(DEADLINE_S)
    assert not _unsettled(client)
    with queue.working():
        assert handle.result(DEADLINE_S) == data
    assert client.stats().submitted == 2


def test_a_result_that_is_no_longer_kept_has_expired(queue: Queue) -> None:
    # Given a large result that has arrived, and that is not there any more
    client = queue.client()
    with queue.working():
        handle = client.submit(work.echo, os.urandom(1_300_000))
        results = client.submit_map(work.echo, [os.urandom(1_300_000)])
        assert handle.wait(DEADLINE_S)
        assert results.wait(DEADLINE_S)
    for path in _place(queue).segments().values():
        Path(path).unlink()

    # When it is asked for, Then it has expired
    with pytest.raises(ResultExpired):
        handle.result(0)
    with pytest.raises(ResultExpired):
        list(results.results())


def test_a_map_does_not_run_ahead_of_its_reader_by_many_bytes(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a map over large items that nobody works on
    monkeypatch.setattr(batch_uploads, "AHEAD_BYTES", 4 << 20)
    client = queue.client()
    made = 0

    def items() -> Iterator[bytes]:
        nonlocal made
        for _ in range(300):
            made += 1
            yield b"x" * (200 << 10)

    # When its results are read, Then no more are made than fit, until there are results
    reading = client.map(work.echo, items())
    until("tasks to be submitted", lambda: client.stats().submitted >= batch_uploads.AHEAD_TASKS)
    feed = client._core.outbox._feeds[0]
    until("it to be full", lambda: feed.full)
    assert made <= batch_uploads.AHEAD_TASKS + 2
    with queue.working():
        assert sum(1 for _ in reading) == 300


def test_large_results_are_read_a_few_at_a_time(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them have arrived together, memory holds a few."""
    # Given a page of large results
    monkeypatch.setattr(reading, "PIECE_BYTES", 4_000_000)
    client = queue.client()
    data = [bytes([number]) * 1_300_000 for number in range(20)]
    with queue.working():
        batch = client.submit_map(work.echo, data)
        assert batch.wait(DEADLINE_S)
        read: list[Value] = []
        monkeypatch.setattr(
            HubValues, "stream", lambda self, value: read.append(value) or self._current().stream(value)
        )

        # When the first of them is read, Then not many more are
        results = batch.results()
        assert next(results) == data[0]
        assert len(read) <= 3
        assert list(results) == data[1:]
        assert len(read) == 20


def test_submissions_weigh_what_their_values_have(queue: Queue) -> None:
    client = queue.client()
    client.submit(work.echo, 1).accepted(DEADLINE_S)
    data = b"x" * 700_000

    item = prepare(client._core, work.echo, PLAIN, (data,), {})

    assert item.described
    assert item.weight > len(data) > len(item.blob)
    client._core._values.settle_blobs([item.blob])
    assert not _unsettled(client)


def test_a_full_disk_refuses_the_call_and_no_other(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a disk that is full in the middle of a value
    client = queue.client()
    client.submit(work.echo, 1).accepted(DEADLINE_S)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        patched.setattr(os, "pwrite", full)
        for _ in range(2):
            with pytest.raises(StoreFull):
                client.submit(work.echo, b"x" * 3_000_000)
    # When there is room again, Then the next one is taken
    with queue.working():
        assert client.submit(work.echo, b"x" * 3_000_000).result(DEADLINE_S) == b"x" * 3_000_000
    assert not _unsettled(client)


def test_a_closed_client_reads_no_more_by_calls(queue: Queue) -> None:
    client = queue.client()
    data = os.urandom(1_300_000)
    with queue.working():
        handle = client.submit(work.echo, data)
        assert handle.wait(DEADLINE_S)
    client.close()

    if queue.by_reference:  # files are there still
        assert handle.result(0) == data
    else:
        with pytest.raises(ClientClosed):
            handle.result(0)
