"""A function that is new to a worker is imported by its idle slots at once, and nothing else comes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dtq import Client
from dtq.errors import CannotImport, TaskCrashed
from tests.cluster import Cluster, until

#: What a module does that says who has imported it.
SIGN = "import os, pathlib\nwith open(pathlib.Path(__file__).with_suffix('.log'), 'a') as file:\n    file.write({})\n"
PID = "f'{os.getpid()}\\n'"


class Scene:
    """A worker with two slots, and a directory with modules."""

    def __init__(self, cluster: Cluster) -> None:
        self.directory = cluster.directory / "modules"
        self.directory.mkdir()
        cluster.coordinator()
        self.worker = cluster.worker("--path", str(self.directory), slots=2)
        self.client = Client(cluster.address, authkey_file=cluster.key_file)
        self.ready()

    def ready(self) -> None:
        """Wait until both slots take work."""
        self.write(
            "both",
            "import time\n"
            "def wait(s): time.sleep(s); return os.getpid()\n"
            "def wait_for(path):\n    while not os.path.exists(path): time.sleep(0.01)\n    return os.getpid()",
        )
        until(lambda: len(set(self.client.map("both:wait", [0.1, 0.1]))) == 2, "both slots")

    def write(self, module: str, text: str) -> Path:
        """Write a module that says who imports it; the file where it does."""
        path = self.directory / f"{module}.py"
        path.write_text(SIGN.format(PID) + text)
        return path.with_suffix(".log")

    def run(self, function: str, *arguments: object) -> object:
        return self.client.submit(function, *arguments, max_retries=0, max_crashes=1).result(30)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Cluster(tmp_path, memory=True) as cluster:
        scene = Scene(cluster)
        with scene.client:
            yield scene


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_function_that_is_new_is_imported_by_the_idle_slot_as_well(scene: Scene) -> None:
    # Given two idle slots
    log = scene.write("fresh", "def pid(): return os.getpid()")
    # When one of them is given a task
    ran = scene.run("fresh:pid")
    # Then the other has its module, too, and neither imports it again
    until(lambda: len(lines(log)) == 2, "the other slot", lambda: lines(log))
    assert str(ran) in lines(log)
    assert len(set(lines(log))) == 2


def test_module_that_fails_is_told_as_if_nobody_had_tried(scene: Scene) -> None:
    # Given a module that fails in another way the second time in a process, and that both slots have tried to import
    log = scene.write(
        "halfway",
        "import sys\n"
        "if hasattr(sys, 'halfway'):\n    raise ImportError('it was imported before')\n"
        "sys.halfway = True\n"
        "raise ImportError('the library is missing')",
    )
    first = scene.client.submit("both:wait", 0.5)
    until(lambda: first.status().state.value == "running", "a slot to be busy")
    with pytest.raises(CannotImport, match="the library is missing"):
        scene.run("halfway:run")
    first_pid = first.result(30)
    until(lambda: len(lines(log)) == 2, "the other slot", lambda: lines(log))
    until(lambda: not psutil.pid_exists(first_pid), "the slot that has failed to be replaced")
    # When a task of it comes to the slot that is in its place
    second = scene.client.submit("both:wait_for", str(scene.directory / "go"))
    until(lambda: second.status().state.value == "running", "the slot that had a task of it to be busy")
    # Then it is told what is wrong
    with pytest.raises(CannotImport, match="the library is missing"):
        scene.run("halfway:run")
    (scene.directory / "go").touch()
    assert lines(log)[1] == str(first_pid) != str(second.result(30))


def test_module_that_ends_its_process_costs_each_slot_once_and_no_other_task(scene: Scene) -> None:
    log = scene.write("deadly", "os.kill(os.getpid(), 9)")
    # When a function is new that no slot survives
    with pytest.raises(TaskCrashed):
        scene.run("deadly:run")
    scene.worker.await_line("died while it imported deadly:run, for which no task had come yet; it is replaced")
    # Then the slots that are started in their place do not try again, and others are not charged with it
    assert len(set(scene.client.map("both:wait", [0.2] * 2, max_crashes=1))) == 2
    assert len(lines(log)) == 2


def test_work_does_not_wait_behind_an_import_that_it_does_not_need(scene: Scene) -> None:
    # Given a module that takes long to import, and one slot that is busy with it
    scene.write("slow", "import time\ntime.sleep(20)\ndef run(): return 1")
    log = scene.directory / "slow.log"
    scene.client.submit("slow:run")
    until(lambda: len(lines(log)) == 2, "both slots to import it", lambda: lines(log))
    # When work comes that needs something else
    begun = time.monotonic()
    scene.run("both:wait", 0)
    # Then the slot that only prepares gives way
    assert time.monotonic() - begun < 10
