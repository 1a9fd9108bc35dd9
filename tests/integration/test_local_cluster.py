"""Clusters that belong to a program: they come up complete, and nothing of them outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Queue

import psutil
import pytest

from dtq import Client, Executor
from dtq.client import processes
from dtq.client.local import LocalCluster
from dtq.daemon import launcher
from dtq.errors import ClusterEnded, DtqError, InvalidValue, KeyMissingInTask
from tests.cluster import DEADLINE_S, TASKS, until
from tests.tasks import nested_work, numbers_work

#: A program that runs a cluster, starts a task that never ends, and says what there is; then it waits for its end.
PROGRAM = """
import os, sys, time
from dtq import Client
from dtq.client.local import LocalCluster

cluster = LocalCluster(1).start()
client = Client(cluster.address, authkey_file=cluster.authkey_file)
client.submit("work:spin", sys.argv[1], "spinning")
{more}
print(*cluster.pids.values(), cluster.authkey_file.parent, flush=True)
time.sleep(600)
"""
#: As a pool of the standard library would: a child that holds everything this program has open.
FORKED = """
if os.fork() == 0:
    time.sleep(600)
"""


def connect(cluster: LocalCluster) -> Client:
    return Client(cluster.address, authkey_file=cluster.authkey_file)


def started(directory: Path, name: str) -> int:
    """The process of a task that has left its mark."""

    def mark() -> int | None:
        found = [path.name for path in directory.iterdir() if f"-{name}-" in path.name]
        return int(found[0].rpartition("-")[2]) if found else None

    return until(mark, f"the task {name} to start", lambda: list(directory.iterdir()))


def test_calls_of_a_local_executor_may_submit_to_it_where_the_program_says_so() -> None:
    # Given an executor of one slot whose calls may; When one waits for a call of its own; Then both end
    with Executor.local(1, paths=[TASKS], tasks_may_submit=True) as executor:
        assert executor.submit(nested_work.by_future, 7).result(DEADLINE_S) == 7


def test_calls_of_a_local_executor_have_no_key_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a user without a key
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    with Executor.local(1, paths=[TASKS]) as executor, pytest.raises(KeyMissingInTask, match="tasks_may_submit=True"):
        executor.submit(nested_work.connect_anyhow).result(DEADLINE_S)


def test_with_block_starts_both_and_leaves_nothing(tmp_path: Path) -> None:
    # When
    with LocalCluster(1, paths=[TASKS]) as cluster:
        processes = [psutil.Process(pid) for pid in cluster.pids.values()]
        home = cluster.authkey_file.parent
        with connect(cluster) as client:
            slot = psutil.Process(client.submit("work:pid").result(DEADLINE_S))
    # Then
    assert not any(process.is_running() for process in [*processes, slot])
    assert not home.exists()
    with pytest.raises(ClusterEnded):
        _ = cluster.address


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="they are forked on Linux only")


@LINUX
def test_processes_are_listed_under_their_names_and_share_what_both_import() -> None:
    with LocalCluster(1) as cluster:
        names = {name: psutil.Process(pid).name() for name, pid in cluster.pids.items()}
    assert names == {"coordinator": "dtq-coordinator", "worker": "dtq-worker"}
    code = "import sys\nfor name in {0}: __import__(name)\nprint(*[name for name in sys.modules if 'dtq' in name])"
    shared, *parts = [
        set(subprocess.run([sys.executable, "-c", code.format(wanted)], capture_output=True, check=True).stdout.split())
        for wanted in (
            ["dtq.daemon.launcher", *launcher.SHARED],
            ["dtq.daemon.local_coordinator"],
            ["dtq.daemon.local_worker", "dtq.daemon.worker", "dtq.worker.forkserver"],
        )
    ]
    assert parts[0] & parts[1] - shared == set()


def test_processes_that_are_not_forked_do_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Given a system where forks are not safe for its libraries
    (tmp_path / "no_forks.py").write_text(
        "from dtq.daemon import launcher\nlauncher.FORKS = False\nlauncher.main(__import__('sys').argv[1:])\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(processes, "_LAUNCHER", "no_forks")
    # When
    with LocalCluster(1, paths=[TASKS]) as cluster, connect(cluster) as client:
        found = [psutil.Process(pid) for pid in cluster.pids.values()]
        words = [process.cmdline() for process in found]
        assert client.submit("work:add", 1, 2).result(DEADLINE_S) == 3
    # Then
    assert ["coordinator" in words[0], "worker" in words[1]] == [True, True]
    assert not any(process.is_running() for process in found)


@LINUX
def test_nothing_outlives_the_launcher(tmp_path: Path) -> None:
    told: Queue[DtqError] = Queue()
    with LocalCluster(1, paths=[TASKS]) as cluster, connect(cluster) as client:
        cluster.on_end(told.put)
        client.submit("work:spin", str(tmp_path), "spinning").accepted()
        slot = started(tmp_path, "spinning")
        found = [psutil.Process(pid) for pid in (*cluster.pids.values(), slot)]
        # When
        (launching,) = {process.ppid() for process in found[:2]}
        os.kill(launching, signal.SIGKILL)
        # Then
        _, alive = psutil.wait_procs(found, timeout=DEADLINE_S)
        assert not alive
        assert "launcher" in str(told.get(timeout=DEADLINE_S))


@LINUX
def test_a_resource_tracker_is_started_when_somebody_needs_one(tmp_path: Path) -> None:
    # Given a program in which nobody has needed one; it says how many processes its cluster has
    code = (
        "import contextlib, psutil, warnings\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "from dtq.client.local import LocalCluster\n"
        "warnings.simplefilter('error')\n"
        "def use():\n"
        "    memory = SharedMemory(create=True, size=100)\n"
        "    memory.close()\n"
        "    memory.unlink()\n"
        "def trackers():\n"
        "    found = 0\n"
        "    for child in psutil.Process().children(recursive=True):\n"
        "        with contextlib.suppress(psutil.NoSuchProcess):\n"
        "            found += 'resource_tracker' in str(child.cmdline())\n"
        "    return found\n"
        "with LocalCluster(1) as cluster:\n"
        "    print(trackers())\n"
        "with LocalCluster(1) as cluster:\n"
        "    use()\n"
        "    while not trackers(): pass\n"
        "    print(trackers())\n"
        "use()\n"
        "with LocalCluster(1) as cluster:\n"
        "    pass\n"
        "use()\n"
    )
    # When one is used while there is a cluster, after it, and after another one
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    # Then
    assert (done.stdout, done.stderr, done.returncode) == ("0\n1\n", "", 0)


@LINUX
def test_slots_have_nothing_of_the_worker_that_their_fork_server_is_a_fork_of() -> None:
    with LocalCluster(1, paths=[TASKS]) as cluster, connect(cluster) as client:
        worker = psutil.Process(cluster.pids["worker"])
        found = client.submit("work:surroundings").result(DEADLINE_S)
        servers = [child for child in worker.children() if child.cmdline() == worker.cmdline()]
        theirs = {os.readlink(f"/proc/{worker.pid}/fd/{number}") for number in os.listdir(f"/proc/{worker.pid}/fd")}
    assert servers
    assert found["main"] == []
    assert found["input"] == os.devnull
    assert found["session"] != os.getsid(0)
    # The pipe to the resource tracker of this program is theirs as well as the worker's.
    assert len(theirs.intersection(found["pipes"])) <= 1


def test_tasks_import_what_this_program_imports_and_run_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a module that only this program's path leads to
    (tmp_path / "only_here.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    # When
    with LocalCluster(1) as cluster, connect(cluster) as client:
        answer: int = client.submit("only_here:answer").result(DEADLINE_S)
        directory = client.submit(os.getcwd).result(DEADLINE_S)
        total = client.submit(numbers_work.square, 10).result(DEADLINE_S)
    # Then
    assert (answer, directory, total) == (42, os.getcwd(), 100)


def test_the_users_own_settings_and_state_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a user with another queue
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("DTQ_DB", str(tmp_path / "theirs.db"))
    monkeypatch.setenv("DTQ_QUEUES", "theirs")
    monkeypatch.setenv("DTQ_HIGHEST_FIRST", "yes")
    # When
    with LocalCluster(1, paths=[TASKS]) as cluster, connect(cluster) as client:
        assert client.submit("work:add", 1, 2).result(DEADLINE_S) == 3
        stats = client.stats()
    # Then
    assert not stats.highest_first
    assert list(tmp_path.iterdir()) == []


def test_close_lets_what_runs_finish(tmp_path: Path) -> None:
    # Given a task that waits for a file
    marks, gate, store = tmp_path / "marks", tmp_path / "gate", tmp_path / "queue.db"
    marks.mkdir()
    cluster = LocalCluster(1, db=store, paths=[TASKS]).start()
    with connect(cluster) as client:
        id = client.submit("work:until_file", str(marks), "slow", str(gate)).id
        started(marks, "slow")
    # When
    closing = threading.Thread(target=cluster.close)
    closing.start()
    gate.touch()
    closing.join(DEADLINE_S)
    # Then
    with LocalCluster(1, db=store) as again, connect(again) as client:
        assert client.get(id).result(DEADLINE_S) == "slow"
        assert client.status(id).failures == 0


def test_close_without_drain_kills_what_runs_and_the_store_has_it(tmp_path: Path) -> None:
    # Given
    store = tmp_path / "queue.db"
    cluster = LocalCluster(1, db=store, paths=[TASKS]).start()
    with connect(cluster) as client:
        id = client.submit("work:spin", str(tmp_path), "spinning").id
        slot = psutil.Process(started(tmp_path, "spinning"))
    # When
    cluster.close(drain=False)
    # Then
    assert not slot.is_running()
    with LocalCluster(1, db=store, queues=["none"]) as again, connect(again) as client:
        assert not client.status(id).state.final


def test_close_with_a_time_limit_kills_what_takes_longer(tmp_path: Path) -> None:
    # Given
    cluster = LocalCluster(1, paths=[TASKS]).start()
    with connect(cluster) as client:
        client.submit("work:spin", str(tmp_path), "spinning").accepted()
        slot = psutil.Process(started(tmp_path, "spinning"))
    # When
    began = time.monotonic()
    cluster.close(timeout_s=0.1)
    # Then
    assert time.monotonic() - began < DEADLINE_S
    assert not slot.is_running()


@pytest.mark.parametrize("more", ["", FORKED], ids=["alone", "with a child that holds its pipes"])
def test_kill_9_of_the_program_leaves_no_process_and_no_file(tmp_path: Path, more: str) -> None:
    # Given a program with a cluster, in the middle of a task
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(TASKS)])}
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(more=more), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert program.stdout is not None
    coordinator, worker, home = program.stdout.readline().split()
    slot = started(tmp_path, "spinning")
    processes = [psutil.Process(int(pid)) for pid in (coordinator, worker, slot)]
    children = [child for child in psutil.Process(program.pid).children() if child not in processes]
    # When
    program.kill()
    program.wait()
    # Then
    try:
        _, alive = psutil.wait_procs(processes, timeout=DEADLINE_S)
        assert not alive
        until(lambda: not Path(home).exists(), f"{home} to be removed")
    finally:
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        program.stdout.close()


def test_a_program_that_forgets_its_cluster_ends_and_takes_it_along(tmp_path: Path) -> None:
    # Given
    code = (
        "from dtq.client.local import LocalCluster\n"
        "cluster = LocalCluster(1).start()\n"
        "print(*cluster.pids.values(), cluster.authkey_file.parent)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    # When
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, env=environment
    )
    # Then
    coordinator, worker, home = done.stdout.split()
    assert not psutil.pid_exists(int(coordinator))
    assert not psutil.pid_exists(int(worker))
    assert not Path(home).exists()
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["coordinator", "worker"])
def test_who_wants_to_know_is_told_of_the_end_of_a_process(name: str) -> None:
    # Given
    told: Queue[DtqError] = Queue()
    with LocalCluster(1) as cluster:
        cluster.on_end(told.put)
        # When
        os.kill(cluster.pids[name], signal.SIGKILL)
        # Then
        failure = told.get(timeout=DEADLINE_S)
        assert isinstance(failure, ClusterEnded)
        assert name in str(failure)
        late: list[ClusterEnded] = []
        cluster.on_end(late.append)
        assert late == [failure]


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    # Given a store that cannot be
    (tmp_path / "file").touch()
    cluster = LocalCluster(1, db=tmp_path / "file" / "queue.db")
    before = psutil.Process().children()
    # When
    with pytest.raises(ClusterEnded) as caught:
        cluster.start()
    # Then
    assert "queue.db" in str(caught.value)
    assert psutil.Process().children() == before


def test_no_slots_are_refused() -> None:
    with pytest.raises(InvalidValue):
        LocalCluster(0)
