"""Rows 20 and 48 to 59 of the catalogue of faults: what a task does to its process is its own affair.

Whatever it is, it ends as one honest outcome, and the next task of the slot finds everything as it should be. One slot
serves all tests here, one after the other, so each also shows that the one before left nothing behind.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dtq.model.messages import Ended, Failure
from dtq.model.snapshots import Attempt
from dtq.model.states import Outcome, State
from tests.cluster import Cluster, Process, until
from tests.producer import Producer

#: Largest message of the coordinator, in bytes.
LIMIT = 1 << 20


class Scene:
    """A coordinator, a worker with one slot, and somebody who submits."""

    def __init__(self, cluster: Cluster) -> None:
        self.coordinator = cluster.coordinator("--max-message", str(LIMIT))
        self.worker = cluster.worker(slots=1)
        self.producer = Producer(cluster.service())
        self.cluster = cluster

    def value(self, function: str, *arguments: Any, **options: Any) -> Any:
        """What a task returns that is allowed one attempt."""
        (value,) = self.producer.values(
            self.producer.submit(f"rude_work:{function}", [arguments], max_retries=0, max_crashes=1, **options)
        )
        return value

    def end(self, function: str, *arguments: Any, **options: Any) -> tuple[Attempt, ...]:
        """The attempts of a task that ends as a dead letter; one, unless told otherwise."""
        options = {"max_retries": 0, "max_crashes": 1, **options}
        batch = self.producer.submit(f"rude_work:{function}", [arguments], **options)
        (ended,) = self.producer.finish(batch).values()
        assert ended.state is State.DEAD, ended
        history = self.producer.service.task(batch, 0).history
        last = history[-1]
        assert ended == Ended(batch=batch, lo=0, hi=1, state=State.DEAD, outcome=last.outcome, failure=last.failure), (
            "the same story everywhere"
        )
        return history

    def failure(self, function: str, *arguments: Any, **options: Any) -> tuple[Outcome, Failure]:
        """How the only attempt of a task ended that is a dead letter now."""
        (attempt,) = self.end(function, *arguments, **options)
        assert attempt.failure.peak_memory is not None
        assert 1 << 20 < attempt.failure.peak_memory < psutil.virtual_memory().total
        return attempt.outcome, attempt.failure


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Cluster(tmp_path_factory.mktemp("slots"), memory=True) as cluster:
        yield Scene(cluster)


def gone(pids: list[int]) -> None:
    """Wait until none of these processes is there any more."""
    until(lambda: not [pid for pid in pids if alive(pid)], "the processes to end", lambda: str(pids))


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def numbers(directory: Path) -> list[int]:
    return [int(name) for name in os.listdir(directory)]


@pytest.mark.parametrize(
    ("how", "code", "number"),
    [
        ("exit", 3, None),
        ("abort", None, signal.SIGABRT),
        ("segfault", None, signal.SIGSEGV),
        ("kill", None, signal.SIGKILL),
        ("kill parent", None, signal.SIGKILL),
    ],
)
def test_task_that_ends_its_process_is_a_crash_with_the_cause(
    scene: Scene, how: str, code: int | None, number: int | None
) -> None:
    """Row 48: ``os._exit``, abort, segmentation fault, SIGKILL: a crash that names signal or exit code."""
    before = scene.value("pid")
    (attempt,) = scene.end("end", how)
    outcome, failure = attempt.outcome, attempt.failure
    assert (outcome, failure.exit_code, failure.signal) == (Outcome.CRASHED, code, number)
    assert f"about to end by {how}" in failure.output
    assert ("in string_at" in failure.output) == (how == "segfault")
    # Who kills the process that watches over its own has nobody left to say how large it was.
    assert (failure.peak_memory is None) == (how == "kill parent")
    assert scene.value("pid") != before


def test_exit_by_exception_is_a_failure_of_the_task(scene: Scene) -> None:
    """Row 48: ``sys.exit`` is an exception like any other: the attempt failed, and the slot goes on."""
    before = scene.value("pid")
    outcome, failure = scene.failure("end", "sys.exit")
    assert (outcome, failure.exception, failure.message) == (Outcome.FAILED, "SystemExit", "4")
    assert failure.output == "about to end by sys.exit\n"
    assert scene.value("pid") == before


def test_killed_task_has_exactly_its_attempts_and_the_slot_is_back(scene: Scene) -> None:
    """Row 20: a task whose process is killed, as the kernel does when memory runs out: three attempts, one letter."""
    history = scene.end("end", "kill", max_crashes=3, max_retries=3)
    assert [attempt.number for attempt in history] == [1, 2, 3]
    assert {(attempt.outcome, attempt.failure.signal) for attempt in history} == {(Outcome.CRASHED, signal.SIGKILL)}
    (worker,) = scene.producer.service.stats().workers
    assert worker.slots == 1
    assert scene.value("pid") > 0


def test_time_limit_ends_what_holds_the_lock_and_ignores_signals(scene: Scene, tmp_path: Path) -> None:
    """Row 49: an endless loop in C that ignores SIGTERM is gone soon after its time limit."""
    begun = time.monotonic()
    outcome, failure = scene.failure("spin_in_c", str(tmp_path), timeout_s=0.3)
    took_s = time.monotonic() - begun
    assert outcome is Outcome.TIMED_OUT
    assert "time limit of 300 ms" in failure.message
    assert not alive(*numbers(tmp_path))
    assert took_s < 10


KINDS = ["program", "child", "session", "daemon"]


@pytest.mark.parametrize("kind", KINDS)
def test_process_left_running_ends_and_the_slot_with_it(scene: Scene, tmp_path: Path, kind: str) -> None:
    """Row 50: a task succeeds and leaves a process: its result counts, the process ends, and the log says so."""
    before = scene.value("pid")
    assert scene.value("beget", str(tmp_path), kind, "return") == "return"
    gone(numbers(tmp_path))
    assert scene.value("pid") != before
    (pid,) = numbers(tmp_path)
    scene.worker.await_line(f"(pid {pid}) running; the slot is replaced")


def test_process_may_stay_where_the_worker_allows_it(tmp_path: Path) -> None:
    """Row 50: with --keep-processes what a task leaves running goes on, and still ends with its slot."""
    place = tmp_path / "place"
    place.mkdir()
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator()
        worker = cluster.worker("--keep-processes", slots=1)
        producer = Producer(cluster.service())
        (slot,) = producer.values(producer.submit("rude_work:pid", [()]))
        producer.values(producer.submit("rude_work:beget", [(str(place), "daemon", "return")]))
        assert producer.values(producer.submit("rude_work:pid", [()])) == [slot]
        assert alive(*numbers(place))
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0
        assert not alive(*numbers(place))


@pytest.mark.parametrize("kind", KINDS)
def test_process_of_a_crashed_task_ends_with_it(scene: Scene, tmp_path: Path, kind: str) -> None:
    """Row 50: by the time the crash is told, what the task had started is gone, and the attempt says so."""
    outcome, failure = scene.failure("beget", str(tmp_path), kind, "crash")
    assert (outcome, failure.exit_code) == (Outcome.CRASHED, 9)
    # Of a daemon the parent may be ending still.
    assert re.search("(a process|2 processes) that it had left running ended with it", failure.message)
    assert not alive(*numbers(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_process_of_a_task_that_ran_too_long_ends_with_it(scene: Scene, tmp_path: Path, kind: str) -> None:
    """Row 50: the same at a time limit."""
    outcome, _ = scene.failure("beget", str(tmp_path), kind, "wait", timeout_s=0.5)
    assert outcome is Outcome.TIMED_OUT
    assert not alive(*numbers(tmp_path))


def test_unpicklable_argument_is_refused_before_sending(scene: Scene) -> None:
    """Row 53: see also test_payloads. The command line's own arguments are JSON, so the client is asked here."""
    from dtq import CannotPickle, Client

    submitted = scene.producer.service.stats().submitted
    with (
        Client(scene.cluster.address, authkey_file=scene.cluster.key_file) as client,
        pytest.raises(CannotPickle, match="argument 1"),
    ):
        client.submit("rude_work:much", (number for number in range(3)))
    assert issubclass(CannotPickle, TypeError)
    assert scene.producer.service.stats().submitted == submitted


@pytest.mark.parametrize(
    ("kind", "exception", "message"),
    [
        ("two arguments", "rude_work.TwoArguments", "1 and 2"),
        ("unspeakable", "rude_work.Unspeakable", "(the exception's own message cannot be made)"),
        ("lock", "dtq.errors.ResultCannotPickle", "cannot be pickled: TypeError"),
        ("deep", "dtq.errors.ResultCannotPickle", "recursion"),
    ],
)
def test_what_cannot_travel_is_a_failure_with_its_text(
    scene: Scene, tmp_path: Path, kind: str, exception: str, message: str
) -> None:
    """Row 54: a result that cannot be pickled, an exception that cannot be, or does not come back: told as text."""
    before = scene.value("pid")
    outcome, failure = scene.failure("raise_awkward", str(tmp_path), kind)
    assert (outcome, failure.exception) == (Outcome.FAILED, exception)
    assert message in failure.message
    assert len(os.listdir(tmp_path)) == 1, "it ran once"
    assert scene.value("pid") == before


def resident(process: Process) -> int:
    return int(psutil.Process(process.pid).memory_info().rss)


def test_huge_result_fails_with_size_and_limit_and_goes_nowhere(scene: Scene) -> None:
    """Row 55: a result of 2 GiB is never written; the error says how large it is and which setting has the limit."""
    size = 2 << 30
    if psutil.virtual_memory().available < 3 * size:
        pytest.skip(f"a result of {size} bytes needs three times that in memory")
    before = resident(scene.coordinator), resident(scene.worker)
    outcome, failure = scene.failure("much", size)
    assert (outcome, failure.exception) == (Outcome.FAILED, "dtq.errors.TooLarge")
    assert f"the result has {size + 7:,} bytes, more than the limit of {1 << 30:,}" in failure.message
    assert "--max-value" in failure.message
    grown = resident(scene.coordinator) - before[0], resident(scene.worker) - before[1]
    assert max(grown) < 2 * LIMIT + (8 << 20)
    assert failure.peak_memory is not None
    assert failure.peak_memory < size, "it was copied"


def test_flood_is_cut_short_in_the_log_and_its_end_kept(scene: Scene) -> None:
    """Row 59: 4 MB of output in no time: the task ends, the log stays small, a failure has the last lines."""
    lines = 100_000
    _, failure = scene.failure("flood_and_fail", lines)
    assert len(failure.output) <= 4096
    assert failure.output.endswith(f"line {lines - 1} of a task that says too much\nthe end of it\n")
    assert all(line.startswith(("line ", "the end")) for line in failure.output.splitlines()), "whole lines"
    scene.worker.await_line("bytes of output are left out here")
    assert scene.worker.log.stat().st_size < 1 << 20
    # And the next one has words of its own
    _, failure = scene.failure("whisper_and_fail", "no line, and no luck")
    assert failure.output == "no line, and no luck"


def test_output_is_logged_with_the_task(scene: Scene) -> None:
    """Row 59: what a task prints is in the worker's log, with the task's id."""
    batch = scene.producer.submit("rude_work:flood", [(2,)])
    scene.producer.values(batch)
    # The flood before it may have used up what may be logged; then a line says so.
    line = scene.worker.await_line(f"task {batch}: ")
    assert "slot 1" in line


@pytest.mark.parametrize("how", ["spoil", "spoil_and_fail"])
def test_next_task_finds_everything_in_place(scene: Scene, tmp_path: Path, how: str) -> None:
    """Row 59: directory, umask, environment, signals, timers, limits and streams are put back for the next task."""
    right = scene.value("surroundings")
    assert (right["sigterm"], right["stdout"], right["spoilt"]) == (True, True, None)
    # When a task spoils them all, in a process that goes on
    spoilt = scene.producer.submit(f"rude_work:{how}", [(str(tmp_path),)] * 3, max_retries=0)
    scene.producer.finish(spoilt)
    # Then the next one sees nothing of it
    assert scene.value("surroundings") == right
    line = scene.worker.await_line(f"a task of rude_work:{how} changed ")
    assert all(f"its {what}" in line for what in ("standard streams", "working directory", "umask", "environment"))


def test_task_that_closes_every_descriptor_harms_nobody(scene: Scene) -> None:
    """Row 59: a task closes its pipe to the worker, too: where it goes on it crashed, where it returns it returned, and
    the next finds a clean process."""
    before = scene.value("pid")
    (attempt,) = scene.end("close_everything", 60.0)
    assert (attempt.outcome, attempt.failure.signal) == (Outcome.CRASHED, signal.SIGKILL)
    assert attempt.failure.message == "its process closed its pipe to the worker, and was killed"
    after = scene.value("pid")
    assert after != before
    assert scene.value("close_everything", 0.0) == "closed"
    assert scene.value("pid") != after


def test_endless_recursion_is_a_failure_and_a_used_up_stack_a_crash(scene: Scene) -> None:
    """Row 48: recursion to death, where Python counts and where it does not."""
    outcome, failure = scene.failure("recurse", 0)
    assert (outcome, failure.exception) == (Outcome.FAILED, "RecursionError")
    outcome, failure = scene.failure("recurse_in_c")
    assert (outcome, failure.signal) == (Outcome.CRASHED, signal.SIGSEGV)
    assert scene.value("pid") > 0


def test_leak_costs_the_slot_its_process_and_no_task_anything(tmp_path: Path) -> None:
    """Row 51: a task that keeps 10 MiB each time: the slot is replaced before it has much more than it may."""
    limit, piece = 80 << 20, 10 << 20
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator()
        cluster.worker("--max-memory-per-slot", str(limit), slots=1)
        producer = Producer(cluster.service())
        batch = producer.submit("rude_work:leak", [(piece,)] * 40)
        seen = producer.values(batch)
        stats = producer.service.stats()
    assert max(size for _, size in seen) < limit + 2 * piece
    assert len({pid for pid, _ in seen}) >= 40 * piece // limit
    assert (stats.retries, stats.counts.succeeded) == (0, 40)


def test_code_that_holds_the_lock_keeps_its_lease(tmp_path: Path) -> None:
    """Rows 35 and 52: a task holds the interpreter's lock for two leases: it runs once, heartbeats are on time."""
    directory = tmp_path / "marks"
    directory.mkdir()
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator("--lease", "2s")
        cluster.worker(slots=1)
        producer = Producer(cluster.service())
        batch = producer.submit("rude_work:hold_the_lock", [(str(directory), 4.5)])
        silent = 0.0
        while producer.counts(batch).succeeded == 0:
            silent = max(silent, *(worker.seen_s for worker in producer.service.stats().workers), 0.0)
            time.sleep(0.02)  # looks now and then; it waits for nothing
        assert producer.values(batch) == [None]
        assert len(os.listdir(directory)) == 1
        assert producer.service.task(batch, 0).history == ()
    assert 0 < silent < 2.0


def test_worker_is_the_same_after_all_of_this(scene: Scene) -> None:
    """Rows 48 to 59: nothing is left over of the slot's past."""
    assert scene.value("pid") > 0
    assert scene.worker.popen.poll() is None
    assert len(psutil.Process(scene.worker.pid).children(recursive=True)) == 3, "a fork server, a reaper, a slot"
