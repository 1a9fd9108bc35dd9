"""A slot is as new for the next task: one slot, a task that leaves something behind, and one that looks around.

Each kind is left by a task alone; those that change the process through a function of Python's also by one in the
middle of many tiny ones, which share a lease. docs/slots.md has the same table.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import DEADLINE_S, TASKS, Cluster
from tests.producer import Producer
from tests.tasks.left_work import KINDS

#: What a process cannot put back, or nothing can tell: the slot is replaced.
REPLACED = {"audit hook", "open descriptors"}
#: What it can put back only with privileges.
PRIVILEGED = {"hard limit", "nice", "user"}  # and is replaced without them
#: What is changed past Python's functions, or is no function: seen when the lease ends, or a task is not tiny.
LATER = {
    *("timer in C", "environment in C", "another environment", "warnings shown", "descriptor 2", "open descriptors"),
    *(
        "collection callback",
        "trace",
        "profile",
        "trace of threads",
        "profile of threads",
        "trace of memory",
        "sys.monitoring",
    ),
    *(
        "sys.path",
        "sys.path entry gone",
        "import hook",
        "sys.argv",
        "__main__",
        "variable of __main__",
        "sys.stdout",
        "sys.stdin",
    ),
    *("excepthook", "unraisablehook", "displayhook", "threading.excepthook", "builtins", "a builtin replaced"),
    *("logging level", "logging handler", "logging off", "start method", "event loop policy", "decimal template"),
}


class Scene:
    """A coordinator, a worker with one slot, and somebody who submits."""

    def __init__(self, cluster: Cluster) -> None:
        self.coordinator = cluster.coordinator()
        self.worker = cluster.worker(slots=1)
        self.producer = Producer(cluster.service())
        self.clean = self.value("find")

    def values(self, function: str, calls: list[tuple[Any, ...]]) -> list[Any]:
        batch = self.producer.submit(f"left_work:{function}", calls, max_retries=0, max_crashes=1)
        return self.producer.values(batch)

    def value(self, function: str, *arguments: Any) -> Any:
        (value,) = self.values(function, [arguments])
        return value


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Cluster(tmp_path_factory.mktemp("left"), memory=True) as cluster:
        yield Scene(cluster)


@pytest.mark.parametrize("kind", KINDS)
def test_next_task_finds_a_process_as_new(scene: Scene, kind: str) -> None:
    before = scene.value("leave", kind)
    assert scene.value("find") == scene.clean
    if kind not in PRIVILEGED:
        assert (scene.value("pid") != before) == (kind in REPLACED)


@pytest.mark.parametrize("kind", ["sys.path", "warnings shown", "trace", "sys.argv"])
def test_next_task_of_a_lease_finds_a_process_as_new_after_one_that_is_not_tiny(scene: Scene, kind: str) -> None:
    found = scene.values("leave_slowly_or_find", [(number, kind) for number in range(8)])
    assert found == [scene.clean] * 8


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LATER])
def test_tiny_tasks_of_one_lease_do_not_find_what_one_of_them_left(scene: Scene, kind: str) -> None:
    found = scene.values("leave_sometimes", [(number, kind) for number in range(20)])
    assert found == [scene.clean] * 20


def test_what_says_that_it_was_called_is_put_back_without_looking_at_the_rest() -> None:
    """The look after a tiny task, in a program of its own."""
    kinds = [kind for kind in KINDS if kind not in LATER | REPLACED | PRIVILEGED]
    command = [sys.executable, str(TASKS / "left_script.py"), *kinds]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (ended.stdout, ended.stderr) == ("done\n", "")


def test_event_loop_of_a_coroutine_function_is_gone_with_it(scene: Scene) -> None:
    assert scene.value("coroutine") == "done"
    assert scene.value("find") == scene.clean


def test_tasks_have_random_numbers_of_their_own(scene: Scene) -> None:
    """One that seeds the generator for itself does not make those of the next ones."""
    first, *others = scene.values("seeded", [(number,) for number in range(20)])
    again, *later = scene.values("seeded", [(number,) for number in range(20)])
    assert first == again
    assert len({*others, *later}) == 38


@pytest.mark.parametrize("where", ["in Python", "in C"])
@pytest.mark.parametrize(("how", "code"), [("returns", 0), ("raises", 1), ("exits", 3)])
def test_child_that_a_task_forks_is_not_heard_as_the_task(scene: Scene, where: str, how: str, code: int) -> None:
    before = scene.value("pid")
    answers = scene.values("fork", [(f"{where} {how}",)] * 3)
    assert answers == [(before, f"exit {code}")] * 3
    assert scene.values("pid", [()] * 20) == [before] * 20
    if how == "raises":
        scene.worker.await_line("ValueError: in the child")
    assert "slot 1 does not keep" not in scene.worker.output()


def test_children_of_multiprocessing_work(scene: Scene) -> None:
    before = scene.value("pid")
    assert scene.value("fork_by_multiprocessing") == [0, 1, 4, 9]
    assert scene.value("pid") == before


def test_forked_child_that_is_left_ends_with_the_slot(scene: Scene) -> None:
    before = scene.value("fork_and_leave", "sleeps")
    assert scene.value("pid") != before
    scene.worker.await_line("a task of left_work:fork_and_leave left")


def test_forked_child_that_may_stay_is_not_heard_either(cluster: Cluster) -> None:
    producer = Producer(cluster.service())
    (before,) = producer.values(producer.submit("left_work:fork_and_leave", [("returns",)]))
    # While the child comes back into the slot's code, and after it
    for _ in range(5):
        assert set(producer.values(producer.submit("left_work:wait", [(0.001,)] * 20))) == {before}


def test_what_a_module_sets_up_stays_when_a_task_imports_it(cluster: Cluster) -> None:
    """It would not be set up again: the module is imported once."""
    producer = Producer(cluster.service())
    assert producer.values(producer.submit("left_work:set_up", [()])) == [(False, False, False, False)]
    producer.values(producer.submit("left_work:import_lazily", [()]))
    assert producer.values(producer.submit("left_work:set_up", [()])) == [(True, True, True, False)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A worker that lets processes stay."""
    with Cluster(tmp_path_factory.mktemp("stay"), memory=True) as made:
        made.coordinator()
        worker = made.worker("--keep-processes", slots=1)
        yield made
        assert "died" not in worker.output()
