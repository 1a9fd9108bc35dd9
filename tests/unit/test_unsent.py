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
from dtq.worker.arena import SIZE, Arena
from dtq.worker.channel import Channel
from dtq.worker.position import Position
from dtq.worker.unsent import FLUSH_BYTES, FLUSH_S, Unsent
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
        kind, token, lo, page, seconds = self.messages.get(timeout=DEADLINE_S)
        assert kind == "returned"
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
    unsent = Unsent(channel, arena)
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
    unsent = Unsent(Recorder(), arena)
    unsent.begin(1, 0, 100.0)
    assert unsent.add(b"a", 100.001 + FLUSH_S, more=False)
    unsent.flush(100.001 + FLUSH_S)
    assert not unsent.add(b"b", 100.002 + FLUSH_S, more=False)
    assert unsent.add(b"c" * FLUSH_BYTES, 100.003 + FLUSH_S, more=False)


def test_results_before_a_long_task_are_sent_while_it_runs(arena: Arena) -> None:
    # Given a result, and a task after it that takes long
    channel = Recorder(most=2)
    unsent = Unsent(channel, arena)
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
