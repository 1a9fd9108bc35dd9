"""An executor whose program is interrupted, has no thread left, or a coordinator that stands still: nothing hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import dtq
from dtq.client.async_handle import AsyncTaskHandle
from dtq.client.local import LocalCluster
from tests.cluster import DEADLINE_S, TASKS, until
from tests.contracts.executor_kinds import Gate
from tests.tasks import executor_work as work


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    directory = tmp_path / "gate"
    directory.mkdir()
    gate = Gate(directory)
    yield gate
    gate.open()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(1, paths=[TASKS]) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster: LocalCluster) -> Iterator[dtq.Executor]:
    with dtq.Executor(cluster.address, authkey_file=cluster.authkey_file) as executor:
        yield executor
        executor.shutdown(wait=False, cancel_futures=True)


# -- Ctrl-C ---------------------------------------------------------------------------------------------------------

#: A program that waits for calls that take for ever; it says when it waits, and when it was left.
INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from dtq import Executor

def endless(path):
    Path(path).touch()
    time.sleep(600)

def interrupt():
    while not Path("begun").exists():
        time.sleep(0.01)
    print(time.monotonic(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)

def main(executor):
    threading.Thread(target=interrupt, daemon=True).start()
    {body}

if __name__ == "__main__":
    {start}
"""
WAYS = {
    "map": "list(executor.map(endless, ['begun'] * 50))",
    "map with a buffer": "list(executor.map(endless, ['begun'] * 50, buffersize=5))",
    "future": "executor.submit(endless, 'begun').result()",
    "waiting future": "[executor.submit(endless, 'begun') for _ in range(9)][-1].result()",
}
STARTS = {
    "with": "with Executor.local(1) as executor: main(executor)",
    "without": "main(Executor.local(1))",
}


@pytest.mark.parametrize(
    ("way", "start"),
    [("map", "with"), ("map with a buffer", "without"), ("future", "without"), ("waiting future", "with")],
)
def test_ctrl_c_leaves_soon(tmp_path: Path, way: str, start: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(INTERRUPTED.format(body=WAYS[way], start=STARTS[start]))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, str(script)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=DEADLINE_S, check=False, cwd=tmp_path, env=environment
    )
    took = time.monotonic() - float(done.stdout)
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "KeyboardInterrupt" in done.stderr
    assert took < 15, done.stderr  # the bar is 2 s, on a machine that does nothing else


def test_interrupt_inside_of_submit_leaves_nothing_to_wait_for(
    executor: dtq.Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = executor._completer.core.outbox
    executor.submit(work.square, 2).result(DEADLINE_S)

    def interrupted(item: object) -> None:
        raise KeyboardInterrupt

    for target in (outbox, outbox):
        for name in ("put", "add"):
            monkeypatch.setattr(target, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        executor.submit(work.square, 3)
    with pytest.raises(KeyboardInterrupt):
        executor.map(work.square, [3])
    monkeypatch.undo()
    assert executor.submit(work.square, 4).result(DEADLINE_S) == 16
    closing = threading.Thread(target=executor.shutdown)
    closing.start()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()


def test_callback_that_exits_ends_no_other_future(executor: dtq.Executor) -> None:
    seen: list[Any] = []
    future = executor.submit(work.square, 2)
    future.add_done_callback(lambda future: sys.exit(3))
    future.add_done_callback(seen.append)
    assert future.result(DEADLINE_S) == 4
    assert executor.submit(work.square, 3).result(DEADLINE_S) == 9
    assert executor.submit(work.square, 4).result(DEADLINE_S) == 16
    assert seen == [future]


# -- cancelling -----------------------------------------------------------------------------------------------------


def test_shutdown_that_cancels_says_nothing_of_what_it_could_not(
    cluster: LocalCluster, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    for round in range(5):
        executor = dtq.Executor(cluster.address, authkey_file=cluster.authkey_file, retry_delay=100 + round)
        futures = [executor.submit(work.keywords, n) for n in range(200)]
        executor.map(work.keywords, range(200))
        executor.shutdown(cancel_futures=True)
        assert all(future.done() for future in futures)
    assert caplog.records == []


def test_cancelling_in_an_event_loop_does_not_wait_for_a_coordinator_that_stands_still(tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    async def main(executor: dtq.Executor, coordinator: int) -> float:
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(executor, work.gated, *gate.paths(), 1) for _ in range(30)]
        await asyncio.to_thread(gate.await_started, 1)
        os.kill(coordinator, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            for future in futures:
                future.cancel()
            await asyncio.gather(*futures, return_exceptions=True)
            return time.monotonic() - begun
        finally:
            os.kill(coordinator, signal.SIGCONT)

    with dtq.Executor.local(1, timeout=500) as executor:
        cluster = executor._completer.cluster
        assert cluster is not None
        took = asyncio.run(main(executor, cluster.pids["coordinator"]))
        # When the coordinator goes on, what has not been started is cancelled, and what has is not
        until(lambda: executor.client.stats().counts.cancelled == 29, "the others to be cancelled")
        gate.open()
    assert took < 5, "it waited for the coordinator, which stood still for longer than any call may take"


# -- no thread can be started ---------------------------------------------------------------------------------------


def starts(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more threads of dtq's from now on, after some."""
    left = [after]
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("dtq"):
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)


def ends(act: Any) -> BaseException | None:
    """What something raises; it must end."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).exception(DEADLINE_S)


@pytest.mark.parametrize("after", range(3))
@pytest.mark.parametrize("face", ["executor", "client", "async client"])
def test_without_threads_there_is_an_error(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, face: str, after: int
) -> None:
    where: Any = {"address": cluster.address, "authkey_file": cluster.authkey_file}

    def by_executor() -> None:
        with dtq.Executor(**where) as executor:
            assert list(executor.map(work.square, [2])) == [4]

    def by_client() -> None:
        with dtq.Client(**where) as client:
            assert list(client.map(work.square, iter([2]))) == [4]

    async def by_async_client() -> None:
        async with dtq.AsyncClient(**where) as client:
            handle: AsyncTaskHandle[int] = await client.submit(work.square, 2)
            assert await handle.result() == 4

    acts = {"executor": by_executor, "client": by_client, "async client": lambda: asyncio.run(by_async_client())}
    starts(after, monkeypatch)
    error = ends(acts[face])
    assert error is None or "can't start new thread" in str(error), repr(error)
    assert error is not None


def test_without_threads_a_local_cluster_is_an_error_that_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    starts(0, monkeypatch)
    error = ends(lambda: dtq.Executor.local(1))
    assert "can't start new thread" in str(error)
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1  # the resource tracker's


# -- descriptors ----------------------------------------------------------------------------------------------------


def test_local_clusters_leave_no_descriptor() -> None:
    def use() -> int:
        with dtq.Executor.local(1) as executor:
            executor.submit(work.square, 2).result(DEADLINE_S)
        return len(os.listdir("/proc/self/fd"))

    first = use()
    assert use() == first
