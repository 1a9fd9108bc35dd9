"""Slots are forked from a process that has imported modules once; whatever becomes of it, the worker goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dtq import Client
from dtq.client.local import LocalCluster
from dtq.errors import TaskCrashed
from tests.cluster import DEADLINE_S, Cluster, Process, until

#: A module that says who imports it, and has tasks.
MODULE = """
import os, pathlib, random, time
try:
    import numpy.random
except ImportError:
    numpy = None
with open(pathlib.Path(__file__).with_suffix('.log'), 'a') as file:
    file.write(f'{os.getpid()}\\n')
VALUE = 1
def value(): return VALUE
def pid(s=0.1): time.sleep(s); return os.getpid()
def draw(s):
    time.sleep(s)
    return os.getpid(), (random.random(), numpy.random.random() if numpy else 0.0)
def end(): os._exit(3)
def wait_for(path):
    while not os.path.exists(path): time.sleep(0.01)
    return os.getpid()
"""


class Scene:
    """A worker with two slots, forked from a process that has imported a module."""

    def __init__(self, cluster: Cluster) -> None:
        self.module = cluster.directory / "loaded.py"
        self.module.write_text(MODULE)
        cluster.coordinator()
        self.worker = cluster.worker("--preload", "loaded")
        self.client = Client(cluster.address, authkey_file=cluster.key_file)

    def importers(self) -> list[int]:
        """The processes that have imported the module."""
        log = self.module.with_suffix(".log")
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    def slots(self) -> set[int]:
        """Both slots' processes."""
        return until(lambda: found if len(found := set(self.client.map("loaded:pid", [0.1] * 2))) == 2 else None, "two")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Cluster(tmp_path, memory=True) as cluster:
        scene = Scene(cluster)
        with scene.client:
            yield scene


def ended(worker: Process) -> tuple[int, str]:
    return worker.ended(), worker.output()


def test_module_is_imported_once_however_many_slots_come_from_it(scene: Scene) -> None:
    slots = scene.slots()
    # When a slot is replaced
    with pytest.raises(TaskCrashed):
        scene.client.submit("loaded:end", max_crashes=1).result(30)
    # Then the new one has the module, too, and nobody has imported it again
    assert len(scene.slots() - slots) == 1
    (importer,) = scene.importers()
    assert importer not in slots
    assert psutil.Process(importer).ppid() == scene.worker.pid
    assert psutil.Process(importer).num_threads() == 1


def test_slots_are_children_of_wardens_and_those_of_the_worker(scene: Scene) -> None:
    for slot in scene.slots():
        reaper = psutil.Process(slot).parent()
        assert reaper is not None
        assert reaper.ppid() == scene.worker.pid
        assert os.getsid(slot) == slot
        assert os.getsid(reaper.pid) == reaper.pid


def test_random_numbers_of_slots_are_not_the_same(scene: Scene) -> None:
    drawn: dict[int, tuple[float, float]] = {}
    for pid, numbers in until(
        lambda: found if len(dict(found := list(scene.client.map("loaded:draw", [0.1] * 4)))) == 2 else None, "both"
    ):
        drawn.setdefault(pid, numbers)  # the first ones of each
    one, other = drawn.values()
    assert one[0] != other[0]
    assert one[1] != other[1] or one[1] == 0.0, "where numpy is installed"


def test_worker_goes_on_when_the_fork_server_dies(scene: Scene) -> None:
    # Given a task that runs
    slots = scene.slots()
    go = scene.module.with_suffix(".go")
    running = scene.client.submit("loaded:wait_for", str(go), max_crashes=1)
    until(lambda: running.status().state.value == "running", "it to run")
    # When what its slot was forked from dies
    (importer,) = scene.importers()
    os.kill(importer, signal.SIGKILL)
    scene.worker.await_line(f"the fork server (pid {importer}) is gone; another is started")
    # Then the task goes on, and a slot that ends is replaced by one that comes from another
    with pytest.raises(TaskCrashed):
        scene.client.submit("loaded:end", max_crashes=1).result(30)
    go.touch()
    assert running.result(30) in slots
    assert len(scene.slots() & slots) == 1
    assert len(scene.importers()) == 2
    # And nothing of it is left
    scene.worker.kill()
    until(lambda: not any(map(psutil.pid_exists, {*slots, *scene.importers()})), "its processes to end")


def test_module_that_has_changed_is_imported_again(scene: Scene) -> None:
    assert scene.client.submit("loaded:value").result(30) == 1
    new = scene.module.with_suffix(".new")
    new.write_text(MODULE.replace("VALUE = 1", "VALUE = 22"))
    new.replace(scene.module)
    assert [scene.client.submit("loaded:value").result(30) for _ in range(4)] == [22] * 4


def test_module_that_cannot_be_preloaded_ends_the_worker(tmp_path: Path) -> None:
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator()
        code, said = ended(cluster.worker("--preload", "not.there", ready=False))
    assert code == 65
    assert "not.there cannot be imported by the worker" in said


def test_module_that_starts_a_thread_is_refused(tmp_path: Path) -> None:
    """No process has its parent's threads: what counts on them would wait for ever."""
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()"
    )
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator()
        code, said = ended(cluster.worker("--preload", "threaded", ready=False))
    assert code == 65
    assert "it starts a thread" in said
    assert "--import has each slot import it" in said


def test_module_that_ends_who_imports_it_ends_the_worker(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos._exit(9)")
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator()
        code, said = ended(cluster.worker("--preload", "deadly", ready=False))
    assert code == 72
    assert "slots go without" in said


def test_local_cluster_preloads(tmp_path: Path) -> None:
    (tmp_path / "loaded.py").write_text(MODULE)
    with LocalCluster(2, paths=[tmp_path], preload=["loaded"]) as cluster:
        with Client(cluster.address, authkey_file=cluster.authkey_file) as client:
            slots = set(client.map("loaded:pid", [0.1] * 4))
        (importer,) = (tmp_path / "loaded.log").read_text().split()
        assert int(importer) not in slots


#: A program that begins a fork server ahead, and then needs one with the same settings, or with others.
AHEAD = """
import sys
from dataclasses import replace
from dtq.config import WorkerSettings
from dtq.daemon import ahead
first = WorkerSettings(addresses=(('127.0.0.1', 1),), slots=1, name='one', max_waiting=0)
ahead.begin(first)
begun = ahead._ahead[0][0]
taken = ahead.take_fork_server(replace(first, addresses=(('127.0.0.1', 2),), name=sys.argv[1]))
print(taken is begun, begun._process.poll() is None, ahead._ahead)
taken.close()
"""


@pytest.mark.parametrize(("name", "said"), [("one", "True True []"), ("other", "False False []")])
def test_fork_server_that_was_begun_ahead_is_used_if_it_is_the_right_one(name: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", AHEAD, name], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.strip(), done.stderr) == (said, "")


#: A worker that has its slots forked before it knows its coordinator, and then needs them with the same settings, or
#: with others.
EARLY = """
import os, sys
import psutil
from dtq.client import handover
from dtq.client.inheritance import Inheritance
from dtq.config import WorkerSettings
from dtq.daemon import ahead
from dtq.records import replace
_, tracker = os.pipe()
handover.inherit(Inheritance(streams=True, flags=handover.interpreter_flags(), tracker=tracker))
first = WorkerSettings(addresses=(('127.0.0.1', 1),), slots=2, name='one', max_waiting=0)
ahead.begin(first)
ahead.fork_slots(first)
processes = psutil.Process().children(recursive=True)
taken = ahead.take_fork_server(replace(first, name=sys.argv[1]))
slots = ahead.take_slots(taken)
for slot in slots:
    slot.greet(slot.terms)
    while not slot.channel.gather().messages: pass
print([slot.number for slot in slots], len(processes) > 2)
ahead.end_slots(slots)
taken.close()
print([process for process in processes if process.is_running()])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is a fork server on Linux only")
@pytest.mark.parametrize(("name", "said"), [("one", "[1, 2] True\n[]"), ("other", "[] True\n[]")])
def test_slots_that_were_forked_early_are_used_if_they_are_the_right_ones_and_end(name: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", EARLY, name], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.strip(), done.stderr) == (said, "")


def test_fork_of_the_worker_never_goes_on_as_the_worker() -> None:
    # Given a process that has a fork server forked from itself, and lets it end at once
    program = """if True:
        import contextlib, os
        from dtq.client.inheritance import Inheritance
        from dtq.worker.forking import ForkServer
        from dtq.worker.program import Program
        from dtq.worker.terms import SlotTerms

        terms = SlotTerms(
            worker="w", paths=(), imports=(), preload=(), init=(), max_tasks=None, max_memory=None,
            keep_processes=False, only_registered=False, reload=False, program=Program(),
            inherited=Inheritance(streams=True),
        )
        with contextlib.suppress(OSError):
            made = ForkServer(terms, fork=True)
            made._sock.close()
            print(os.waitstatus_to_exitcode(os.waitpid(made.pid, 0)[1]), flush=True)
        print("went on", flush=True)
    """
    # When
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_S)
    # Then the fork ends, while it reports or when it has, and only the process itself goes on
    assert done.stderr == ""
    assert done.stdout in ("0\nwent on\n", "1\nwent on\n")
