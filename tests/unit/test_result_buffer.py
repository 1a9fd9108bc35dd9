"""Results that a slot has not sent: gathered, and sent all the same when a task takes long."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from time import monotonic
from typing import Any

import pytest

from dtq.model import pages
from dtq.model.values import Value, describe
from dtq.worker import result_buffer as unsent_module
from dtq.worker.arena import DATA_AT, SIZE, Arena
from dtq.worker.channel import Channel
from dtq.worker.position import Position
from dtq.worker.result_buffer import FLUSH_BYTES, FLUSH_S, ResultBuffer
from tests.cluster import DEADLINE_S


class Recorder(Channel):
    """Takes so many messages; then it is as if the other end were gone."""

    def __init__(self, most: int = 100) -> None:
        self.messages: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._left = most

    def send(self, *message: Any) -> None:
        if not self._left:
            raise BrokenPipeError
        self._left -= 1
        self.messages.put(message)

    def take(self) -> tuple[int, int, list[bytes], float]:
        """Token, first task, results and seconds of the next report."""
        kind, token, lo, page, seconds, peak = self.messages.get(timeout=DEADLINE_S)
        assert kind == "returned"
        assert peak > 2**20
        return token, lo, list(pages.unpack(page)), seconds


@pytest.fixture
def arena() -> Iterator[Arena]:
    """Shared memory, as a slot has it."""
    position, descriptor = Position.create(SIZE)
    arena = Arena(position.memory)
    yield arena
    arena.close()
    position.close()
    os.close(descriptor)


def test_results_are_sent_together(arena: Arena) -> None:
    # Given
    channel = Recorder()
    unsent = ResultBuffer(channel, arena)
    unsent.begin(7, 3, 100.0)
    # When
    assert not unsent.add(b"a", 100.001, more=False)
    assert not unsent.add(b"b", 100.002, more=False)
    unsent.flush(100.002)
    # Then
    token, lo, results, seconds = channel.take()
    assert (token, lo, results) == (7, 3, [b"a", b"b"])
    assert seconds == pytest.approx(0.002)
    unsent.flush(100.003)
    assert channel.messages.empty()


def test_old_and_large_results_are_due(arena: Arena) -> None:
    unsent = ResultBuffer(Recorder(), arena)
    unsent.begin(1, 0, 100.0)
    assert unsent.add(b"a", 100.001 + FLUSH_S, more=False)
    unsent.flush(100.001 + FLUSH_S)
    assert not unsent.add(b"b", 100.002 + FLUSH_S, more=False)
    assert unsent.add(b"c" * FLUSH_BYTES, 100.003 + FLUSH_S, more=False)


def test_results_before_a_long_task_are_sent_while_it_runs(arena: Arena) -> None:
    # Given a result, and a task after it that takes long
    channel = Recorder(most=2)
    unsent = ResultBuffer(channel, arena)
    made = monotonic()
    unsent.begin(7, 3, made - 0.001)
    assert not unsent.add(b"a", made, more=True)
    # Then the result is sent, and the time of the long task is its own
    token, lo, results, seconds = channel.take()
    assert (token, lo, results) == (7, 3, [b"a"])
    assert seconds == pytest.approx(0.001)
    # When the task has ended, too
    assert unsent.add(b"b", made + 2, more=True)
    unsent.flush(made + 2)
    # Then its result follows, at its place
    token, lo, results, seconds = channel.take()
    assert (token, lo, results) == (7, 4, [b"b"])
    assert seconds == pytest.approx(2)
    # And a pipe that is closed ends the thread
    unsent.add(b"c", monotonic(), more=True)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "dtq-unsent"]
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dtq-unsent"]


def test_thread_ends_before_a_fork_and_comes_back_with_the_next_result(arena: Arena) -> None:
    # Given a result that waits, and a thread that would send it
    channel = Recorder()
    unsent = ResultBuffer(channel, arena)
    made = monotonic()
    unsent.begin(7, 3, made)
    unsent.add(b"a", made + 1_000, more=True)
    (thread,) = watchers()
    # When the process is about to fork
    unsent.before_fork()
    # Then the result is sent, and the kernel knows of no such thread any more
    assert channel.take()[:3] == (7, 3, [b"a"])
    assert not watchers()
    assert not os.path.exists(f"/proc/self/task/{thread.native_id}")
    # And the next result that waits for a task that takes long is sent by another
    unsent.add(b"b", monotonic(), more=True)
    assert channel.take()[:3] == (7, 4, [b"b"])
    unsent.before_fork()
    assert channel.messages.empty()


def test_fork_in_a_signal_handler_does_not_wait_for_the_lock_that_it_interrupted(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a slot that sends its results
    monkeypatch.setattr(unsent_module, "END_S", 0.001)
    channel = Recorder()
    unsent = ResultBuffer(channel, arena)
    unsent.begin(7, 3, 0.0)
    unsent.add(b"a", monotonic() + 1_000, more=True)
    # When a signal handler forks meanwhile
    monkeypatch.setattr(channel, "send", lambda *message: unsent.before_fork())
    # Then it goes on
    unsent.flush(monotonic())
    monkeypatch.setattr(unsent_module, "END_S", DEADLINE_S)
    unsent.before_fork()
    assert not watchers()


def test_where_no_thread_can_be_started_results_wait_for_the_rest(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    # Given a process that may have no more threads
    channel = Recorder()
    unsent = ResultBuffer(channel, arena)
    unsent.begin(7, 3, monotonic())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    # When results are made
    unsent.add(b"a", monotonic(), more=True)
    unsent.add(b"b", monotonic(), more=False)
    unsent.flush(monotonic())
    # Then they are sent together
    assert channel.take()[:3] == (7, 3, [b"a", b"b"])


@pytest.mark.parametrize("before", [b"a" * 100, b"a" * SIZE], ids=["a small one", "one that leaves no room"])
def test_descriptions_are_marked_in_the_page(arena: Arena, before: bytes) -> None:
    # Given a result, and one that was written as a value
    channel = Recorder()
    unsent = ResultBuffer(channel, arena)
    unsent.begin(1, 0, 100.0)
    unsent.add(before[: SIZE - DATA_AT], 100.001, more=False)
    described = describe([Value(7, 64, 100_000)])
    # When they are sent
    unsent.describe()
    unsent.add(described, 100.002, more=False)
    unsent.flush(100.002)
    # Then the page that has it says so
    results = [channel.messages.get_nowait()[3] for _ in range(channel.messages.qsize())]
    assert [value for page in results for value in pages.named(page)] == [Value(7, 64, 100_000)]
