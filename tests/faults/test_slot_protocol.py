"""What a task does to the pipe and the memory between its slot and the worker is its own outcome.

A slot's words are a stranger's words. One that breaks the protocol is killed, and the task that it ran is blamed; the
worker goes on, and nobody else is charged.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dtq.model.messages import Failure
from dtq.model.snapshots import Attempt, Selection
from dtq.model.states import Outcome, State
from dtq.transport import safepickle
from tests.cluster import Cluster, until
from tests.producer import Producer


class Scene:
    """A coordinator, a worker with two slots, and somebody who submits."""

    def __init__(self, cluster: Cluster) -> None:
        cluster.coordinator()
        self.worker = cluster.worker(slots=2)
        self.producer = Producer(cluster.service())

    def run(self, function: str, *arguments: Any, **options: Any) -> tuple[State, tuple[Attempt, ...]]:
        """How a task ends that may run once; simple ones run beside it, and none of them is charged with anything."""
        producer = self.producer
        retries = producer.service.stats().retries
        before = producer.submit("rude_work:quick_or_long", [(n, 0.0) for n in range(20)])
        options = {"max_retries": 0, "max_crashes": 1, **options}
        batch = producer.submit(f"rude_work:{function}", [arguments], **options)
        after = producer.submit("rude_work:quick_or_long", [(n, 0.0) for n in range(20)])
        (ended,) = producer.finish(batch).values()
        for innocent in (before, after):
            assert producer.values(innocent) == list(range(20))
        assert producer.service.stats().retries == retries
        assert self.worker.popen.poll() is None
        return ended.state, producer.service.task(batch, 0).history

    def attempt(self, function: str, *arguments: Any, **options: Any) -> tuple[Outcome, Failure]:
        """How the only attempt of a task ends that fails."""
        state, (attempt,) = self.run(function, *arguments, **options)
        assert state is State.DEAD
        return attempt.outcome, attempt.failure


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Cluster(tmp_path_factory.mktemp("protocol"), memory=True) as cluster:
        yield Scene(cluster)


WORDS = {
    "one byte": b"x",
    "text": b"hello, who is there?\n" * 100,
    "zeros": bytes(1_000),
    "a length of 4 GiB": b"\xff" * 8,
    "a plain message": (9).to_bytes(4, "big") + safepickle.dumps(("stopped", 1, 0)),
    "a great deal": b"x" * (1 << 18),
}


@pytest.mark.parametrize("what", WORDS)
@pytest.mark.parametrize("seconds", [60.0, 0.0], ids=["and goes on", "and returns"])
def test_task_that_writes_into_the_pipe_is_blamed(scene: Scene, what: str, seconds: float) -> None:
    outcome, failure = scene.attempt("write_into_pipe", WORDS[what], seconds)
    assert outcome is Outcome.CRASHED
    assert failure.message.startswith("it wrote over what its slot and the worker share")


def test_result_counts_for_nothing_where_the_pipe_was_written_into_before_it_was_sent(scene: Scene) -> None:
    """A slot that is killed between the making of a result and its sending leaves it in the memory that both share."""
    outcome, failure = scene.attempt("write_into_pipe_once_done", 0, bytes(16))
    assert outcome is Outcome.CRASHED
    assert failure.message.startswith("it wrote over what its slot and the worker share")


def test_neighbours_of_a_task_that_writes_into_the_pipe_keep_their_results(scene: Scene) -> None:
    # Given a function whose tasks are leased together, for they were quick so far
    producer = scene.producer
    producer.values(producer.submit("rude_work:write_into_pipe_once_done", [(n, b"") for n in range(2_000)]))
    # When the last one of some writes into the pipe before its result and theirs are sent
    calls = [(n, b"" if n < 9 else bytes(16)) for n in range(10)]
    ended = producer.finish(producer.submit("rude_work:write_into_pipe_once_done", calls, max_retries=0, max_crashes=1))
    # Then it is the only one without a result
    assert [n for n, one in ended.items() if one.state is not State.SUCCEEDED] == [9]


def test_task_that_reads_from_the_pipe_harms_nobody(scene: Scene) -> None:
    state, _ = scene.run("read_from_pipe", 0.3)
    assert state is State.SUCCEEDED


HOUR = 3_600.0
PAGES = {
    "an hour ahead": lambda: struct.pack("=d", time.monotonic() + HOUR),
    "far ahead": lambda: struct.pack("=d", 1e18),
    "no number": lambda: struct.pack("=d", math.nan),
    "endless": lambda: struct.pack("=d", math.inf),
    "before the world": lambda: struct.pack("=d", -1e18),
    "zeros": lambda: bytes(16),
    "ones": lambda: b"\xff" * 16,
    "the page": lambda: b"\xa5" * 128,
    "everything": lambda: b"",
}


@pytest.mark.parametrize("what", PAGES)
def test_time_limit_holds_whatever_stands_in_the_page(scene: Scene, what: str) -> None:
    begun = time.monotonic()
    outcome, failure = scene.attempt("scribble", 0, PAGES[what](), 60.0, timeout_s=0.4)
    assert time.monotonic() - begun < 30
    assert outcome in (Outcome.TIMED_OUT, Outcome.CRASHED)
    assert failure.message


@pytest.mark.parametrize("what", ["zeros", "ones", "the page", "everything"])
def test_crash_after_scribbling_is_still_that_tasks(scene: Scene, what: str) -> None:
    outcome, _ = scene.attempt("scribble_and_crash", PAGES[what]())
    assert outcome is Outcome.CRASHED


@pytest.mark.parametrize(
    ("junk", "seconds", "exits", "limit_s"),
    [
        pytest.param(b"", 60.0, False, 0.4, id="sleeps"),
        pytest.param(b"", 60.0, False, None, id="sleeps without a limit"),
        pytest.param(b"hello", 60.0, False, 0.4, id="writes into the pipe"),
        pytest.param(b"", 0.0, True, 0.4, id="ends its process"),
    ],
)
def test_task_that_is_said_not_to_have_begun_is_blamed(
    scene: Scene, junk: bytes, seconds: float, exits: bool, limit_s: float | None
) -> None:
    # Given slots that have nothing to do, so that nothing else makes the worker look at them
    producer = scene.producer
    producer.values(producer.submit("rude_work:quick_or_long", [(n, 0.0) for n in range(20)]))
    # When a task puts back where its slot says that it is
    begun = time.monotonic()
    batch = producer.submit(
        "rude_work:say_not_begun", [(junk, seconds, exits)], max_retries=0, max_crashes=1, timeout_s=limit_s
    )
    (ended,) = producer.finish(batch).values()
    # Then it is a crash of that task, about when its time limit is over
    assert ended.state is State.DEAD
    (attempt,) = producer.service.task(batch, 0).history
    assert attempt.outcome is Outcome.CRASHED
    assert time.monotonic() - begun < (8 if limit_s else 20)


def test_saying_that_the_next_task_has_begun_gives_no_more_time(scene: Scene) -> None:
    # Given a function whose tasks are leased together, for they were quick so far
    producer = scene.producer
    producer.values(producer.submit("rude_work:quick_or_long", [(n, 0.0) for n in range(2_000)], timeout_s=0.5))
    # When one of them pretends that its successors run
    outcome, _ = scene.attempt("run_ahead", 60.0, timeout_s=0.5)
    assert outcome in (Outcome.TIMED_OUT, Outcome.CRASHED)


def test_long_name_of_a_class_is_cut(scene: Scene) -> None:
    outcome, failure = scene.attempt("raise_named", 20 << 20)
    assert outcome is Outcome.FAILED
    assert failure.message == "no"
    assert len(failure.exception) < 1_000


# -- neighbours in a lease ------------------------------------------------------------------------------------------


def ran(directory: Path) -> list[int]:
    """Every run that left a mark, in no order."""
    return [
        int.from_bytes(data[at : at + 4], "big")
        for data in (path.read_bytes() for path in directory.iterdir())
        for at in range(0, len(data), 4)
    ]


@pytest.mark.parametrize("how", ["kill", "exit", "sleep", "hold"])
def test_neighbours_in_a_lease_run_once(scene: Scene, tmp_path: Path, how: str) -> None:
    """Results that were made are handed over, however the slot ends: a crash, an exit, a time limit."""
    producer = scene.producer
    size, every = 4_000, 500
    calls = [(str(tmp_path), n, how if n % every == every - 1 else "") for n in range(size)]
    timed_out = how in ("sleep", "hold")
    limits = {"timeout_s": 0.5} if timed_out else {}
    ended = producer.finish(producer.submit("rude_work:mark_and", calls, max_retries=0, max_crashes=1, **limits))
    poison = [n for n in range(size) if n % every == every - 1]
    assert [n for n, one in ended.items() if one.state is State.DEAD] == poison
    expected = Outcome.TIMED_OUT if timed_out else Outcome.CRASHED
    assert {ended[n].outcome for n in poison} == {expected}
    marks = ran(tmp_path)
    assert sorted(set(marks)) == list(range(size))
    assert len(marks) - size == 0, "tasks ran again"


def test_neighbours_of_tasks_that_write_into_the_pipe_and_return_are_not_charged(scene: Scene, tmp_path: Path) -> None:
    """When the slot is killed, other tasks of the lease have run meanwhile, and results of theirs are lost."""
    size, every = 4_000, 500
    wrong = set(range(every - 1, size, every))

    def dead(name: str) -> set[int]:
        (tmp_path / name).mkdir()
        calls = [(str(tmp_path / name), n, "write" if n in wrong else "") for n in range(size)]
        ended = scene.producer.finish(scene.producer.submit("rude_work:mark_and", calls, max_retries=0, max_crashes=1))
        assert sorted(set(ran(tmp_path / name))) == list(range(size))
        return {n for n, one in ended.items() if one.state is not State.SUCCEEDED}

    # Some may get away with it at first: of several tasks that ran, nobody knows which it was
    assert dead("first") <= wrong
    # After that it is known
    assert dead("second") == wrong


def test_neighbours_of_a_cancelled_task_run_once(scene: Scene, tmp_path: Path) -> None:
    producer = scene.producer
    calls = [(str(tmp_path), n, "hold" if n == 500 else "") for n in range(1_000)]
    batch = producer.submit("rude_work:mark_and", calls, max_retries=0, max_crashes=1)
    until(lambda: 500 in ran(tmp_path), "the task to run")
    producer.service.cancel(Selection(ids=((batch, 500),), limit=0))
    ended = producer.finish(batch)
    assert [n for n, one in ended.items() if one.state is not State.SUCCEEDED] == [500]
    assert sorted(ran(tmp_path)) == list(range(1_000))


def test_slot_without_its_modules_is_replaced(scene: Scene) -> None:
    """A task that empties ``sys.modules`` has its result, and the next one a process in which it can be imported."""
    state, _ = scene.run("forget_modules")
    assert state is State.SUCCEEDED
    scene.worker.await_line("removed modules that every import needs; the slot is replaced")
    assert scene.producer.values(scene.producer.submit("echo", [(n,) for n in range(8)], max_crashes=1))
