"""Limits: each is refused with one sentence that names the limit and the setting, and the queue is as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from operator import add
from pathlib import Path
from typing import Any

import pytest

from dtq import Client
from dtq.cli.coordinator import start
from dtq.config import CoordinatorSettings
from dtq.coordinator.connection import Connection
from dtq.coordinator.service import Coordinator, Setup
from dtq.core.queue_state import Rules
from dtq.engines.memory import MemoryEngine
from dtq.errors import BatchTooLarge, DtqError, QueueFull, SessionUnknown, TooLarge, from_wire
from dtq.model.messages import Exchange, Hello, Receipt, Role, Submission, Succeeded
from dtq.model.options import Function, Options, Spec
from dtq.model.pages import pack
from dtq.model.snapshots import Selection
from dtq.transport import Proxy, Server
from tests.cluster import DEADLINE_S, Cluster, until

KEY = b"the key of these tests, 32 bytes"
CLIENT = Hello(session="c" * 32, role=Role.CLIENT, name="slow")
SPEC = Spec(function=Function(name="math:sqrt"), options=Options())


class House:
    """A coordinator with limits, behind a server."""

    def __init__(self, stack: ExitStack, rules: Rules, max_unread: int = 1000) -> None:
        self._stack = stack
        self._numbers = iter(range(1, 10**6))
        self.coordinator = Coordinator(MemoryEngine(), Setup(rules=rules, max_unread=max_unread))
        self.coordinator.start()
        stack.callback(self.coordinator.stop)
        coordinator = self.coordinator
        self.server = stack.enter_context(Server(lambda peer: Connection(coordinator, peer), port=0, authkeys=[KEY]))
        stack.callback(self.coordinator.quiesce)
        self.worker = Connection(coordinator, "worker")
        self.worker.hello(Hello(session="w" * 32, role=Role.WORKER, slots=1, primary=True))

    def proxy(self, hello: Hello = CLIENT) -> Proxy:
        return self._stack.enter_context(Proxy([self.server.address], KEY, hello, call_timeout_s=DEADLINE_S))

    def submission(self, count: int = 1, **more: Any) -> Submission:
        return Submission(spec=0, number=next(self._numbers), arguments=pack([b"x"] * count), **more)

    def finish(self, most: int) -> None:
        """Work through so many tasks, one lease at a time."""
        done = 0
        while done < most:
            for grant in self.worker.exchange(Exchange(capacity=1, fetch=True, wait_s=5)).grants:
                count = min(grant.hi - grant.lo, most - done)
                if count:
                    ended = Succeeded(
                        token=grant.token, lo=grant.lo, results=pack([b"y"] * count), seconds=10.0 * count
                    )
                    self.worker.exchange(Exchange(succeeded=(ended,), capacity=1))
                done += count


@pytest.fixture
def houses() -> Iterator[Callable[..., House]]:
    with ExitStack() as stack:
        yield lambda **settings: House(stack, **settings)


def refusal(receipt: Receipt) -> DtqError:
    assert receipt.code, "it was accepted"
    return from_wire(receipt.code, receipt.details)


def test_every_limit_is_a_flag_and_said_in_its_error() -> None:
    # Given every setting that is a limit
    limits = {field.name for field in fields(CoordinatorSettings) if field.name.startswith("max_")}
    assert limits == {"max_tasks", "max_batch", "max_message", "max_value", "max_connections", "max_unread"}
    # Then each is a flag
    assert limits <= {parameter.name for parameter in start.params}


def test_batch_beyond_its_limit_is_refused_and_keeps_what_it_has(houses: Callable[..., House]) -> None:
    # Given a batch with three of four tasks
    house = houses(rules=Rules(max_batch=4))
    proxy = house.proxy()
    (receipt,) = proxy.submit([SPEC], [house.submission(3, complete=False)], False)

    # When two more come
    more = house.submission(2, batch=receipt.batch, offset=3)
    (refused,) = proxy.submit([SPEC], [more], False)

    # Then they are refused, with the limit and the setting; one more is taken
    error = refusal(refused)
    assert type(error) is BatchTooLarge
    assert "5 tasks, more than the limit of 4" in str(error)
    assert "--max-batch (DTQ_MAX_BATCH)" in str(error)
    (taken,) = proxy.submit([SPEC], [house.submission(1, batch=receipt.batch, offset=3)], False)
    assert taken.size == 4


def test_blob_beyond_its_limit_is_refused_among_others_that_are_not(houses: Callable[..., House]) -> None:
    house = houses(rules=Rules(max_blob=1000))
    large = replace(house.submission(), arguments=pack([b"x" * 10, b"x" * 1001]))
    many = replace(house.submission(), arguments=pack([b"x" * 1000] * 10))
    refused, taken = house.proxy().submit([SPEC], [large, many], False)
    error = refusal(refused)
    assert type(error) is TooLarge
    assert "1,001 bytes, more than the limit of 1,000" in str(error)
    assert "--max-value" in str(error)
    assert taken.size == 10


def test_held_submission_goes_on_when_there_is_room(houses: Callable[..., House]) -> None:
    # Given a full queue, and a submission that may wait
    house = houses(rules=Rules(max_tasks=4))
    proxy = house.proxy()
    proxy.submit([SPEC], [house.submission(4)], False)
    answers: list[list[Receipt]] = []
    held = [house.submission(2, wait_s=15.0), house.submission(1, wait_s=15.0), house.submission(1)]
    thread = threading.Thread(target=lambda: answers.append(proxy.submit([SPEC], held, False)), daemon=True)
    thread.start()
    deadline = threading.Event()
    for _ in range(1000):
        if house.coordinator.held:
            break
        deadline.wait(0.01)
    assert house.coordinator.held

    # When there is room for a part of it, Then it still waits
    house.finish(1)
    assert house.coordinator.held

    # When there is room for the first, Then it is taken; what would overtake is refused, also what may not wait
    house.finish(1)
    thread.join(DEADLINE_S)
    ((first, second, third),) = answers
    assert (first.size, second.code, third.code) == (2, "queue-full", "queue-full")
    counts = house.proxy(replace(CLIENT, session="o" * 32)).stats().counts
    assert counts.pending + counts.running == 4


def test_held_submission_is_refused_when_its_time_is_over(houses: Callable[..., House]) -> None:
    house = houses(rules=Rules(max_tasks=4))
    proxy = house.proxy()
    proxy.submit([SPEC], [house.submission(4)], False)
    (receipt,) = proxy.submit([SPEC], [house.submission(1, wait_s=0.1)], False)
    assert "already holds 4 tasks, its limit is 4" in str(refusal(receipt))
    assert "--max-tasks (DTQ_MAX_TASKS)" in str(refusal(receipt))
    assert not house.coordinator.held

    # What can never fit is not waited for, whatever it would take
    (receipt,) = proxy.submit([SPEC], [house.submission(5, wait_s=1000.0)], False)
    assert type(refusal(receipt)) is QueueFull


def test_later_submission_does_not_overtake_one_that_waits(houses: Callable[..., House]) -> None:
    # Given a queue with room for two
    house = houses(rules=Rules(max_tasks=5))
    proxy = house.proxy()
    proxy.submit([SPEC], [house.submission(3)], False)

    # When one task, two, and one are submitted in this order, and may wait
    sizes = [house.submission(count, wait_s=0.05) for count in (1, 2, 1)]
    receipts = proxy.submit([SPEC], sizes, False)

    # Then the first is taken; the last is not, though there would be room for it
    assert [receipt.code for receipt in receipts] == ["", "queue-full", "queue-full"]


def test_unread_results_are_bounded_and_can_be_asked_for_again(
    houses: Callable[..., House], caplog: pytest.LogCaptureFixture
) -> None:
    # Given a client that does not ask how its tasks end
    house = houses(rules=Rules(), max_unread=10)
    proxy = house.proxy()
    receipts = proxy.submit([SPEC], [house.submission() for _ in range(12)], False)
    ids = [receipt.batch for receipt in receipts]

    # When more have ended than are kept for it
    house.finish(12)
    assert proxy.batch(ids[-1]).counts.succeeded == 1
    state = house.coordinator.sessions.by_id[CLIENT.session]
    for _ in range(1000):
        if state.overrun:
            break
        threading.Event().wait(0.01)

    # Then nothing is kept, it is said, and the client is told to begin anew
    assert state.overrun
    assert "client slow has left 10 results unread, the limit of --max-unread (DTQ_MAX_UNREAD)" in caplog.text
    with pytest.raises(SessionUnknown):
        proxy.watch(0, 0)

    # When it says hello again, on the connection that the next call opens, and follows anew, Then it is told all
    proxy.reconnect()  # as clients do: the coordinator ends the old connection, which may not be seen in time
    assert proxy.follow(ids) == []
    cursor, seen = 0, set()
    while len(seen) < 12:
        watched = proxy.watch(cursor, 5)
        assert watched.ended, f"only {sorted(seen)} of {ids} are told"
        cursor = watched.cursor
        seen |= {ended.batch for ended in watched.ended}


def test_client_waits_for_room_and_loses_nothing(tmp_path: Path) -> None:
    # Given a queue with room for fifty tasks, and a worker
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator("--max-tasks", "50")
        with Client(cluster.address, authkey_file=cluster.key_file) as client:
            # When a client submits far more, alone and as a map, before there is a worker
            handles = [client.submit(add, number, 1) for number in range(300)]
            batch = client.map(add, range(1000), [1] * 1000)
            cluster.worker()

            # Then all of it is done, in order, and the queue never held more
            assert [handle.result(DEADLINE_S) for handle in handles] == list(range(1, 301))
            assert list(batch) == list(range(1, 1001))


def test_client_that_does_not_want_to_wait_is_refused(tmp_path: Path) -> None:
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator("--max-tasks", "2")
        where: dict[str, Any] = {"authkey_file": cluster.key_file}
        with Client(cluster.address, when_full="fail", **where) as client:
            assert all(client.submit(add, number, 1).accepted(DEADLINE_S) for number in range(2))
            with pytest.raises(QueueFull, match="--max-tasks"):
                client.submit(add, 1, 1).accepted(DEADLINE_S)
        # And so is one that waits, when nothing has moved for so long
        with Client(cluster.address, full_timeout=0.2, **where) as client:
            with pytest.raises(QueueFull):
                client.submit(add, 1, 1).accepted(DEADLINE_S)
            assert client.cancel(queue="default").cancelled == 2
            assert client.submit(add, 1, 1).accepted(DEADLINE_S)


def test_map_that_is_given_up_makes_room_for_what_waits(tmp_path: Path) -> None:
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator("--max-tasks", "20")
        with Client(cluster.address, authkey_file=cluster.key_file) as client:
            # Given a map that fills the queue, and a task that waits for room
            results = client.map(add, range(20), [1] * 20)
            until(lambda: client.stats().counts.pending == 20, "the queue to be full", client.stats)
            handle = client.submit(add, 1, 1)
            assert not handle.accepted(0.3)
            # When nobody wants the map any more, Then the task is taken
            del results
            assert handle.accepted(DEADLINE_S)


def test_selection_of_a_cancel_makes_room(houses: Callable[..., House]) -> None:
    # Given a full queue, and a submission that waits
    house = houses(rules=Rules(max_tasks=1))
    proxy, other = house.proxy(), house.proxy(replace(CLIENT, session="o" * 32))
    proxy.submit([SPEC], [house.submission(1)], False)
    answers: list[list[Receipt]] = []
    thread = threading.Thread(
        target=lambda: answers.append(proxy.submit([SPEC], [house.submission(1, wait_s=15.0)], False)), daemon=True
    )
    thread.start()
    for _ in range(1000):
        if house.coordinator.held:
            break
        threading.Event().wait(0.01)

    # When the task is cancelled, Then the other is taken
    other.cancel(Selection(limit=0))
    thread.join(DEADLINE_S)
    assert [receipt.code for (receipt,) in answers] == [""]
