"""Real workers with real slots: what becomes of tasks that return, fail, crash, hang or are cancelled."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dtq.model.messages import Ended
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from tests.cluster import Cluster, until
from tests.producer import Producer


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator()
        yield cluster


@pytest.fixture
def producer(cluster: Cluster) -> Producer:
    return Producer(cluster.service())


def marks(directory: Path) -> list[str]:
    """The marks that tasks left, in the order of their execution."""
    return [path.name.split("-", 1)[1] for path in sorted(directory.iterdir())]


def only(ended: dict[int, Ended]) -> Ended:
    (one,) = ended.values()
    return one


def slot_pids(worker: int) -> list[int]:
    """The slots' processes and their reapers'."""
    return [child.pid for child in psutil.Process(worker).children(recursive=True)]


def test_results_come_back_in_order(cluster: Cluster, producer: Producer) -> None:
    cluster.worker()
    batch = producer.submit("square", [(n,) for n in range(3_000)])
    assert producer.values(batch) == [n * n for n in range(3_000)]


def test_task_that_forks_finds_no_thread_of_the_slot(cluster: Cluster, producer: Producer) -> None:
    """Python 3.12 and later warn where a process forks that has threads, and see them as the kernel does."""
    # Given tasks in one lease, so that results of those before wait to be sent
    batch = producer.submit("fork_and_count", [(n,) for n in range(60)])
    cluster.worker(slots=1)
    assert producer.values(batch) == [1] * 60


def test_priorities_run_in_strict_order(cluster: Cluster, producer: Producer, tmp_path: Path) -> None:
    # Given 300 tasks with priorities 1 to 10, submitted while no worker runs
    directory = tmp_path / "marks"
    directory.mkdir()
    expected: list[tuple[int, int]] = []
    batches = []
    for number in range(300):
        priority = (number * 7) % 10 + 1
        expected.append((priority, number))
        batches.append(producer.submit("note", [(str(directory), f"{number}")], priority=priority))
    # When one slot starts
    cluster.worker(slots=1)
    for batch in batches:
        producer.finish(batch)
    # Then they ran by priority, and inside a priority in the order of submission
    assert marks(directory) == [str(number) for _, number in sorted(expected)]


def test_urgent_task_overtakes_what_waits(cluster: Cluster, producer: Producer, tmp_path: Path) -> None:
    directory = tmp_path / "marks"
    directory.mkdir()
    gate = tmp_path / "gate"
    cluster.worker(slots=1)
    first = producer.submit("until_file", [(str(directory), "first", str(gate))])
    until(lambda: marks(directory), "the first task to start")
    slow = producer.submit("note", [(str(directory), f"slow{n}") for n in range(3)], priority=9)
    urgent = producer.submit("note", [(str(directory), "urgent")], priority=1)
    gate.touch()
    for batch in (first, slow, urgent):
        producer.finish(batch)
    assert marks(directory)[1:] == ["urgent", "slow0", "slow1", "slow2"]


def test_failure_is_retried_then_dead_with_its_history(cluster: Cluster, producer: Producer) -> None:
    cluster.worker()
    batch = producer.submit("fail", [("no luck",)], max_retries=2, retry_delay_s=0.0)
    ended = only(producer.finish(batch))
    assert ended.state is State.DEAD
    assert ended.failure is not None
    assert (ended.failure.exception, ended.failure.message) == ("ValueError", "no luck")
    assert "work.py" in ended.failure.traceback
    history = producer.service.task(batch, 0).history
    assert [attempt.number for attempt in history] == [1, 2, 3]
    assert {attempt.outcome for attempt in history} == {Outcome.FAILED}


def test_flaky_task_succeeds_in_the_end(cluster: Cluster, producer: Producer, tmp_path: Path) -> None:
    directory = tmp_path / "marks"
    directory.mkdir()
    cluster.worker()
    batch = producer.submit("flaky", [(str(directory), "it", 2)], retry_delay_s=0.0)
    assert producer.values(batch) == ["it"]
    assert marks(directory) == ["it"] * 3
    assert len(producer.service.task(batch, 0).history) == 2


@pytest.mark.parametrize(
    ("function", "arguments", "code", "number"),
    [("leave", (3,), 3, None), ("crash", (), None, signal.SIGSEGV), ("kill_self", (), None, signal.SIGKILL)],
)
def test_poison_task_dies_alone(
    cluster: Cluster, producer: Producer, function: str, arguments: tuple[int, ...], code: int | None, number: int
) -> None:
    """Rows 20 and 48: exit, segmentation fault, SIGKILL: counted, then a dead letter; nobody else is charged."""
    # Given a poison task among innocent ones
    cluster.worker()
    before = producer.submit("square", [(n,) for n in range(500)])
    poison = producer.submit(function, [arguments], max_crashes=2)
    after = producer.submit("square", [(n,) for n in range(500)])
    # Then it is a dead letter with its cause after its second crash
    ended = only(producer.finish(poison))
    assert ended.state is State.DEAD
    assert ended.outcome is Outcome.CRASHED
    assert ended.failure is not None
    assert (ended.failure.exit_code, ended.failure.signal) == (code, number)
    assert len(producer.service.task(poison, 0).history) == 2
    # And the innocent ones are not charged
    for batch in (before, after):
        assert producer.values(batch) == [n * n for n in range(500)]
    assert producer.service.stats().retries == 1


def test_poison_inside_a_chunk_blames_no_neighbour(cluster: Cluster, producer: Producer) -> None:
    """Row 21: a poison pill among tasks that are leased together: only the pill is blamed."""
    # Given a function that is known to be quick, so that leases hold many tasks
    cluster.worker(slots=1)
    producer.values(producer.submit("echo", [(0,)] * 2_000))
    # When one task in the middle of a batch kills its slot each time
    calls: list[tuple[object, ...]] = [(n,) for n in range(300)]
    batch = producer.submit("leave_if", [(n, n == 137) for (n,) in calls], max_crashes=2)
    ended = producer.finish(batch)
    # Then it alone is dead, and nobody else has a history
    assert [index for index, e in ended.items() if e.state is not State.SUCCEEDED] == [137]
    assert all(producer.service.task(batch, n).history == () for n in (136, 138, 0, 299))


def test_time_limit_kills_what_ignores_signals(cluster: Cluster, producer: Producer, tmp_path: Path) -> None:
    """Row 49: an endless loop that ignores SIGTERM."""
    directory = tmp_path / "marks"
    directory.mkdir()
    cluster.worker(slots=1)
    batch = producer.submit("spin", [(str(directory), "it")], timeout_s=0.3, max_retries=0)
    ended = only(producer.finish(batch))
    assert ended.outcome is Outcome.TIMED_OUT
    assert not psutil.pid_exists(int(marks(directory)[0].split("-")[1]))
    assert producer.values(producer.submit("add", [(1, 2)])) == [3]


def test_cancel_stops_code_that_runs(cluster: Cluster, producer: Producer, tmp_path: Path) -> None:
    directory = tmp_path / "marks"
    directory.mkdir()
    cluster.worker(slots=1)
    batch = producer.submit("spin", [(str(directory), "it")])
    started = until(lambda: marks(directory), "the task to start")
    waiting = producer.submit("add", [(1, 2), (3, 4)])
    # When a running and a waiting task are cancelled
    report = producer.service.cancel(Selection(ids=((batch, 0), (waiting, 1))))
    assert (report.cancelled, report.stopping, report.finished) == (1, 1, 0)
    # Then both end so, the process is gone, and the slot serves the next
    assert only(producer.finish(batch)).state is State.CANCELLED
    ended = producer.finish(waiting)
    assert {index: e.state for index, e in ended.items()} == {0: State.SUCCEEDED, 1: State.CANCELLED}
    assert not psutil.pid_exists(int(started[0].split("-")[1]))


def test_killed_slot_is_replaced_and_its_task_runs_again(cluster: Cluster, producer: Producer, tmp_path: Path) -> None:
    """Row 20: the child is killed from outside."""
    directory = tmp_path / "marks"
    directory.mkdir()
    gate = tmp_path / "gate"
    cluster.worker(slots=1)
    batch = producer.submit("until_file", [(str(directory), "it", str(gate))])
    started = until(lambda: marks(directory), "the task to start")
    os.kill(int(started[0].split("-")[1]), signal.SIGKILL)
    until(lambda: len(marks(directory)) == 2, "the task to start again", lambda: marks(directory))
    gate.touch()
    assert producer.values(batch) == ["it"]
    (attempt,) = producer.service.task(batch, 0).history
    assert (attempt.outcome, attempt.failure.signal) == (Outcome.CRASHED, signal.SIGKILL)


@pytest.mark.parametrize("function", ["unpicklable", "raise_awkward"])
def test_what_cannot_be_pickled_is_a_failure_with_text(cluster: Cluster, producer: Producer, function: str) -> None:
    """Row 54; more of it in tests/faults/test_slots.py."""
    cluster.worker()
    ended = only(producer.finish(producer.submit(function, [()], max_retries=0)))
    assert ended.state is State.DEAD
    assert ended.failure is not None
    assert ended.failure.message
    assert producer.values(producer.submit("add", [(1, 2)])) == [3]


def test_unknown_function_names_worker_and_path(cluster: Cluster, producer: Producer) -> None:
    cluster.worker("--name", "rack7")
    ended = only(producer.finish(producer.submit("no_such_function", [()], max_retries=0)))
    assert ended.failure is not None
    assert "rack7" in ended.failure.message
    assert "no_such_function" in ended.failure.message


def test_tasks_do_not_see_the_key(cluster: Cluster, producer: Producer) -> None:
    cluster.environment["DTQ_AUTHKEY_FILE"] = str(cluster.key_file)
    cluster.worker()
    assert producer.values(producer.submit("environment", [()])) == [[]]


def test_slot_is_recycled_after_its_tasks(cluster: Cluster, producer: Producer) -> None:
    cluster.worker("--max-tasks-per-slot", "5", slots=1)
    pids = producer.values(producer.submit("pid", [()] * 1))
    for _ in range(12):
        pids += producer.values(producer.submit("pid", [()]))
    assert all(pids.count(pid) <= 5 for pid in pids)
    assert len(set(pids)) >= 3


def test_queues_are_served_by_those_who_choose_them(cluster: Cluster, producer: Producer) -> None:
    cluster.worker("--queue", "red", "--name", "red")
    red = producer.submit("add", [(1, 2)], queue="red")
    blue = producer.submit("add", [(3, 4)], queue="blue")
    assert producer.values(red) == [3]
    waiting = producer.service.task(blue, 0)
    assert waiting.state is State.PENDING
    assert "no worker serves the queue 'blue'" in waiting.reason
    cluster.worker("--queue", "blue", "--name", "blue")
    assert producer.values(blue) == [7]


def test_drain_finishes_what_runs_and_gives_back_the_rest(cluster: Cluster, producer: Producer, tmp_path: Path) -> None:
    """Row 25: SIGTERM; the rolling restart is in tests/faults/test_processes.py."""
    # Given a worker in the middle of a task, with more behind it
    directory = tmp_path / "marks"
    directory.mkdir()
    gate = tmp_path / "gate"
    worker = cluster.worker(slots=1)
    running = producer.submit("until_file", [(str(directory), "it", str(gate))])
    until(lambda: marks(directory), "the task to start")
    waiting = producer.submit("add", [(n, n) for n in range(50)])
    # When it is told to end, and the task ends
    worker.signal(signal.SIGTERM)
    worker.await_line("finishing running tasks")
    gate.touch()
    # Then it ends by itself, the task counts, and the rest waits for another worker, unblamed
    assert worker.ended() == 0
    assert producer.values(running) == ["it"]
    assert len(marks(directory)) == 1
    assert producer.counts(waiting).pending == 50
    cluster.worker()
    assert producer.values(waiting) == [2 * n for n in range(50)]
    assert producer.service.stats().retries == 0


def test_second_signal_gives_back_at_once(cluster: Cluster, producer: Producer, tmp_path: Path) -> None:
    """Row 26: the second SIGTERM: running tasks go back, not charged."""
    directory = tmp_path / "marks"
    directory.mkdir()
    worker = cluster.worker(slots=1)
    batch = producer.submit("spin", [(str(directory), "it")])
    started = until(lambda: marks(directory), "the task to start")
    worker.signal(signal.SIGTERM)
    worker.await_line("finishing running tasks")
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
    until(lambda: producer.counts(batch).pending == 1, "the task to wait again", lambda: producer.counts(batch))
    assert not psutil.pid_exists(int(started[0].split("-")[1]))
    task = producer.service.task(batch, 0)
    assert (task.attempt, task.failures, task.crashes) == (1, 0, 0)  # it did start
    assert [attempt.outcome for attempt in task.history] == [Outcome.CANCELLED]


def test_signal_at_the_very_end_makes_no_error_of_it(cluster: Cluster) -> None:
    for _ in range(3):
        worker = cluster.worker(slots=1)
        worker.signal(signal.SIGTERM)
        worker.await_line("all of its work is settled")
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0


def test_slots_end_with_their_worker(cluster: Cluster, producer: Producer) -> None:
    """Row 19: kill -9 of a worker leaves no orphans."""
    worker = cluster.worker(slots=2)
    pids = until(lambda: found if len(found := slot_pids(worker.pid)) == 5 else [], "a fork server, two slots, reapers")
    worker.kill()
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the slots to end", lambda: pids)


def test_long_task_does_not_hold_what_waits_behind_it(cluster: Cluster, producer: Producer, tmp_path: Path) -> None:
    # Given a function that was quick so far, so that leases hold several tasks
    gate = tmp_path / "gate"
    directory = tmp_path / "marks"
    directory.mkdir()
    first = cluster.worker(slots=1)
    gate.touch()
    producer.values(producer.submit("until_file", [(str(directory), "quick", str(gate))] * 300))
    gate.unlink()
    # When the first task of a batch turns out to be long
    batch = producer.submit(
        "until_file",
        [(str(directory), "long", str(gate)), *[(str(directory), "short", str(directory))] * 20],
    )
    until(lambda: any(mark.startswith("long") for mark in marks(directory)), "the long task to start")
    cluster.worker(slots=1)
    # Then the others run elsewhere while it runs
    until(lambda: producer.counts(batch).succeeded == 20, "the short tasks to end", lambda: producer.counts(batch))
    assert first.popen.poll() is None
    gate.touch()
    producer.finish(batch)
    assert producer.service.stats().retries == 0


def test_slots_begin_with_the_init_function_and_are_tried_again_until_it_works(
    cluster: Cluster, producer: Producer, tmp_path: Path
) -> None:
    # Given an init function that fails
    model = tmp_path / "model"
    cluster.environment["MODEL_OF_TESTS"] = str(model)
    batch = producer.submit("init_work:use", [(n,) for n in range(20)])
    worker = cluster.worker("--init", "init_work:begin", "--preload", "init_work", ready=False)

    # Then the log says so in one line for each try, and so do the statistics; nothing runs, and the worker goes on
    line = worker.await_line("slot 1 does not start: its --init init_work:begin fails: FileNotFoundError:")
    assert line.endswith("; it is tried again in 100 ms")
    (seen,) = until(lambda: [w for w in producer.service.stats().workers if w.trouble], "its trouble")
    assert seen.trouble.startswith("its --init init_work:begin fails: FileNotFoundError:")
    assert producer.service.stats().counts.pending == 20
    assert "Traceback" not in worker.output()

    # When it works
    model.write_text("weights")

    # Then tasks run, in slots that have called it once each
    values = producer.values(batch)
    assert {(said, calls) for _, said, calls in values} == {("weights", 1)}
    until(lambda: not producer.service.stats().workers[0].trouble, "all to be well")
