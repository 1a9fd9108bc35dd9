"""The asyncio queue with a cluster of its own: as that library's users write it, and what its processes promise."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from dtq import InvalidValue, TaskCancelled, TaskQueue, TaskStatus, UnknownId
from dtq.client import taskqueue, watcher
from dtq.errors import ClusterEnded, ResultExpired
from tests.cluster import DEADLINE_S, TASKS, clean_environment
from tests.looping import looped, until
from tests.tasks import async_work, nested_work, work

ROOT = Path(__file__).parents[2]

#: The row of the mission as its users write it; their functions are those of the program itself.
AS_WRITTEN = """
import asyncio
from dtq import TaskQueue

def fn(arg1, arg2):
    return arg1 + arg2

async def coroutine(arg1, arg2):
    await asyncio.sleep(0.01)
    return arg1 * arg2

def fails():
    raise ValueError("every time")

arg1, arg2 = 3, 4

async def main():
    q = TaskQueue(num_workers=4)
    await q.start()
    id = await q.submit(fn, arg1, arg2, priority=10, max_retries=3)
    other = await q.submit(coroutine, arg1, arg2, priority=1)
    failing = await q.submit(fails, max_retries=0)
    while any(q.get_task_status(one) in ("pending", "running") for one in (id, other, failing)):
        await asyncio.sleep(0.01)
    print(q.get_task_status(id), q.get_task_status(other), q.get_task_status(failing))
    print(await q.result(id), await q.result(other))
    stats = q.get_stats()
    print(stats["completed"], stats["failed"], stats["workers"], round(stats["success_rate"], 2))
    await q.stop()

asyncio.run(main())
"""


@asynccontextmanager
async def queue_of(slots: int, **options: object) -> AsyncIterator[TaskQueue]:
    """A queue that can run the tests' functions."""
    async with TaskQueue(slots, paths=[ROOT, TASKS], **options) as made:  # type: ignore[arg-type]
        yield made


def processes(queue: TaskQueue) -> list[psutil.Process]:
    """Those of a queue, slots included."""
    own = [psutil.Process(pid) for pid in queue._cluster.pids.values()]
    return own + [child for process in own for child in process.children(recursive=True)]


def marks(directory: Path) -> list[str]:
    """The marks that tasks left, in the order of their execution."""
    return [path.name.split("-", 1)[1] for path in sorted(directory.iterdir())]


def test_program_as_written_runs(tmp_path: Path) -> None:
    # Given the program, as it is written
    (tmp_path / "program.py").write_text(AS_WRITTEN)
    # When it is run
    done = subprocess.run(
        [sys.executable, "program.py"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        check=False,
    )
    # Then its tasks have ended as they should, and it says nothing else
    assert done.stdout == "completed completed failed\n7 12\n2 1 4 0.67\n"
    assert (done.stderr, done.returncode) == ("", 0)


@looped
async def test_task_goes_from_pending_over_running_to_completed(tmp_path: Path) -> None:
    # Given a queue of one worker that is busy
    gate = tmp_path / "gate"
    directory = tmp_path / "marks"
    directory.mkdir()
    async with queue_of(1) as queue:
        first = await queue.submit(work.until_file, str(directory), "first", str(gate))
        second = await queue.submit(work.add, 1, 2)
        # When nothing has ended yet; Then the one runs, and the other waits
        await until(lambda: any(directory.iterdir()))
        assert queue.get_task_status(first) is TaskStatus.RUNNING
        assert queue.get_task_status(second) == "pending"
        stats = queue.get_stats()
        assert (stats["submitted"], stats["pending"], stats["running"], stats["success_rate"]) == (2, 1, 1, 0.0)
        # When the first may end; Then both have
        gate.touch()
        assert await queue.result(second, timeout=DEADLINE_S) == 3
        assert queue.get_task_status(first) == queue.get_task_status(second) == "completed"
        assert f"{queue.get_task_status(first)}" == "completed"
        assert queue.get_stats()["success_rate"] == 1.0


@looped
async def test_tasks_may_submit_to_their_queue_where_the_program_says_so() -> None:
    async with queue_of(1, tasks_may_submit=True) as queue:
        assert await queue.result(await queue.submit(nested_work.by_awaiting, 7, max_retries=0)) == 7


@looped
async def test_failed_task_was_tried_again(tmp_path: Path) -> None:
    # Given tasks that fail: one always, one at first
    async with queue_of(2) as queue:
        bad = await queue.submit(work.fail, "no", max_retries=2, retry_delay=0.01)
        flaky = await queue.submit(work.flaky, str(tmp_path), "flaky", 1, max_retries=2, retry_delay=0.01)
        # When all has ended
        assert await queue.join(timeout=DEADLINE_S)
        # Then they are told apart
        assert (queue.get_task_status(bad), queue.get_task_status(flaky)) == ("failed", "completed")
        stats = queue.get_stats()
        assert (stats["failed"], stats["completed"], stats["retries"], stats["success_rate"]) == (1, 1, 3, 0.5)
        with pytest.raises(ValueError, match="no"):
            await queue.result(bad)


@pytest.mark.parametrize(("highest_first", "expected"), [(True, ["10", "5", "1"]), (False, ["1", "5", "10"])])
@looped
async def test_higher_number_is_more_urgent_unless_told_otherwise(
    tmp_path: Path, highest_first: bool, expected: list[str]
) -> None:
    # Given a busy worker, and tasks of three priorities
    gate = tmp_path / "gate"
    directory, held = tmp_path / "marks", tmp_path / "held"
    directory.mkdir()
    held.mkdir()
    async with queue_of(1, **({} if highest_first else {"highest_first": False})) as queue:
        await queue.submit(work.until_file, str(held), "first", str(gate))
        await until(lambda: any(held.iterdir()))
        for priority in (5, 1, 10):
            await queue.submit(work.note, str(directory), str(priority), priority=priority)
        # When the worker is free; Then it takes them in their order
        gate.touch()
        assert await queue.join(timeout=DEADLINE_S)
        assert marks(directory) == expected


@looped
async def test_coroutine_functions_run(tmp_path: Path) -> None:
    async with queue_of(2) as queue:
        ids = [await queue.submit(async_work.plus, n, 1) for n in range(10)]
        assert await asyncio.gather(*[queue.result(id) for id in ids]) == list(range(1, 11))


@looped
async def test_stop_waits_for_everything_and_leaves_nothing(tmp_path: Path) -> None:
    # Given a queue in memory, with more tasks than can run at once
    queue = await TaskQueue(2, paths=[TASKS]).start()
    for n in range(20):
        await queue.submit(work.marked_nap, str(tmp_path), str(n), 0.02)
    await until(lambda: len(processes(queue)) >= 4)
    running = processes(queue)
    # When it stops
    await queue.stop()
    # Then all of them have run, and no process is left
    assert len(marks(tmp_path)) == 20
    _, alive = psutil.wait_procs(running, timeout=DEADLINE_S)
    assert alive == []
    await queue.stop()
    assert repr(queue) == "<TaskQueue of 2 workers, stopped>"


@looped
async def test_stop_with_a_file_finishes_what_runs_and_keeps_what_waits(tmp_path: Path) -> None:
    # Given a queue with a file, one task that runs, and some that wait
    directory = tmp_path / "marks"
    directory.mkdir()
    queue = await TaskQueue(1, db=tmp_path / "queue.db", paths=[TASKS]).start()
    first = await queue.submit(work.marked_nap, str(directory), "first", 0.3)
    later = [await queue.submit(work.note, str(directory), f"later{n}") for n in range(3)]
    await until(lambda: any(directory.iterdir()))
    # When it stops; Then what ran has ended, and nothing else
    await queue.stop()
    assert marks(directory) == ["first"]
    # When it starts again; Then it goes on where it was
    async with queue:
        assert queue.get_task_status(first) == "completed"
        assert [await queue.result(id, DEADLINE_S) for id in later] == ["later0", "later1", "later2"]


@looped
async def test_stop_takes_no_longer_than_it_may(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Given a task that never ends
    caplog.set_level(logging.INFO, "dtq.client")
    queue = await TaskQueue(1, paths=[TASKS]).start()
    await queue.submit(work.spin, str(tmp_path), "spinning")
    await until(lambda: any(tmp_path.iterdir()))
    running = processes(queue)
    # When the queue has half a second to stop; Then it is killed, and that is said
    began = time.monotonic()
    await queue.stop(timeout=0.5)
    assert time.monotonic() - began < 10
    _, alive = psutil.wait_procs(running, timeout=DEADLINE_S)
    assert alive == []
    assert "waits for 1 task" in caplog.text
    assert "what had not ended is lost with it: 1 task" in caplog.text


@looped
async def test_exception_in_the_block_ends_the_queue_at_once(tmp_path: Path) -> None:
    # Given a block with a task that never ends; When it raises; Then nobody waits for the task
    with pytest.raises(KeyError):
        async with queue_of(1) as queue:
            await queue.submit(work.spin, str(tmp_path), "spinning")
            await until(lambda: any(tmp_path.iterdir()))
            running = processes(queue)
            raise KeyError
    _, alive = psutil.wait_procs(running, timeout=DEADLINE_S)
    assert alive == []


@looped
async def test_queue_that_does_not_run_says_so() -> None:
    # Given a queue that was not started
    queue = TaskQueue(num_workers=1)
    # When it is used; Then it says what to do
    with pytest.raises(RuntimeError, match="await its start"):
        await queue.submit(work.add, 1, 2)
    for ask in (queue.get_stats, lambda: queue.get_task_status("1"), lambda: queue.client):
        with pytest.raises(RuntimeError, match="not running"):
            ask()
    await queue.stop()
    with pytest.raises(InvalidValue):
        TaskQueue(num_workers=0)


@looped
async def test_tasks_are_known_by_their_ids() -> None:
    # Given a queue that is started twice, which is once
    async with queue_of(1) as queue:
        assert await queue.start() is queue
        # When a task is cancelled; Then it says so
        id = await queue.submit(work.add, 1, 2, delay=60)
        assert queue.get_task_status(id) == "pending"
        assert await queue.cancel(id)
        assert not await queue.cancel(id)
        assert queue.get_task_status(id) == "cancelled"
        assert queue.get_stats()["cancelled"] == 1
        with pytest.raises(TaskCancelled):
            await queue.result(id)
        # When a task is asked for that there is not; Then that is said
        for ask in (queue.get_task_status, queue.result, queue.cancel):
            with pytest.raises(UnknownId):
                answer = ask("999")
                if asyncio.iscoroutine(answer):
                    await answer
        # And a task may be looked for in more detail
        assert (await queue.client.status(id)).attempt == 0


@looped
async def test_lost_process_is_told_to_everybody_who_waits(tmp_path: Path) -> None:
    # Given a coroutine that waits for a task
    queue = await TaskQueue(1, paths=[TASKS]).start()
    id = await queue.submit(work.nap, 60)
    waiting = asyncio.create_task(queue.result(id))
    joining = asyncio.create_task(queue.join())
    await until(lambda: queue.get_task_status(id) == "running")
    # When the coordinator is killed
    psutil.Process(queue._cluster.pids["coordinator"]).kill()
    # Then whoever waits hears of it, and so does who submits
    with pytest.raises(ClusterEnded, match="coordinator"):
        await waiting
    assert await joining
    with pytest.raises(ClusterEnded):
        await queue.submit(work.add, 1, 2)
    # And the queue can be stopped, and started again
    await queue.stop()
    async with queue:
        assert await queue.result(await queue.submit(work.add, 1, 2)) == 3


@looped
async def test_queue_works_on_while_its_loop_is_busy() -> None:
    # Given a queue; When a program awaits nothing for a while; Then its tasks end all the same
    async with queue_of(2) as queue:
        ids = [await queue.submit(work.add, n, 1) for n in range(100)]
        deadline = time.monotonic() + DEADLINE_S
        while queue.get_stats()["completed"] < 100:
            assert time.monotonic() < deadline
        assert {queue.get_task_status(id) for id in ids} == {TaskStatus.COMPLETED}


@looped
async def test_result_can_be_asked_for_again_and_is_let_go_then(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given results that are kept for a short time once they were asked for, and one that was not asked for
    monkeypatch.setattr(watcher, "WAIT_S", 0.05)
    monkeypatch.setattr(taskqueue, "READ_KEPT_S", 60.0)
    async with queue_of(1) as queue:
        first = await queue.submit(work.add, 1, 2)
        keyed = await queue.submit(work.add, 3, 4, key="mine")
        unread = await queue.submit(work.add, 5, 6)
        await queue.join(DEADLINE_S)
        # When they are asked for twice, Then the answer is the same
        assert await asyncio.gather(queue.result(first), queue.result(first)) == [3, 3]
        assert queue.get_task_status(first) == "completed"
        # When they are asked for once more, and their time is over
        monkeypatch.setattr(taskqueue, "READ_KEPT_S", 0.0)
        queue._letting_go = None
        assert (await queue.result(first), await queue.result(keyed)) == (3, 7)
        await until(lambda: not is_kept(queue, first))
        # Then only that is gone which nobody else can ask for
        with pytest.raises(ResultExpired):
            await queue.result(first)
        assert await queue.result(keyed) == 7
        assert await queue.result(unread) == 11


@looped
async def test_asking_again_puts_off_when_a_result_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a result that was asked for, and one that was asked for after it
    async with queue_of(1) as queue:
        loop = asyncio.get_running_loop()
        first, second = await queue.submit(work.add, 1, 2), await queue.submit(work.add, 3, 4)
        await queue.result(first)
        await queue.result(second)
        timer = queue._letting_go
        # When the first is asked for again; Then it goes last, and the timer waits for whichever is first
        await queue.result(first)
        assert [f"{batch}" for batch, _ in queue._read] == [second, first]
        assert queue._letting_go is timer is not None
        later = min(queue._read.values())
        with monkeypatch.context() as patched:
            patched.setattr(loop, "time", lambda: later)
            queue._let_go(queue.client)
        assert [f"{batch}" for batch, _ in queue._read] == [first]
        assert queue._letting_go is not None
    # When the queue has stopped, Then nothing waits any more
    assert queue._letting_go is None


@looped
async def test_results_that_nobody_asks_for_are_kept_as_long_as_the_queue_says() -> None:
    async with queue_of(1, keep_results=0) as queue:
        brief = await queue.submit(work.add, 1, 2)
        longer = await queue.submit(work.add, 3, 4, keep_results=600)
        await queue.join(DEADLINE_S)
        await until(lambda: not is_kept(queue, brief))
        assert await queue.result(longer) == 7
    with pytest.raises(InvalidValue, match="keep_results"):
        TaskQueue(1, keep_results="long")  # type: ignore[arg-type]


def is_kept(queue: TaskQueue, id: str) -> bool:
    try:
        queue.get_task_status(id)
    except ResultExpired:
        return False
    return True


@looped
async def test_queue_calls_functions_at_due_times_and_at_moments(tmp_path: Path) -> None:
    async with TaskQueue(num_workers=1, paths=[TASKS]) as queue:
        at = datetime.now() + timedelta(seconds=0.3)
        id = await queue.submit(work.add, 1, 2, at=at)
        assert await queue.schedules.add("sum", {"every": 0.3}, work.add, 3, 4) == "added"
        assert await queue.result(id, DEADLINE_S) == 3
        await until(lambda: queue.get_stats()["completed"] > 1)
        await queue.schedules.remove("sum")
        assert await queue.schedules.list() == []
