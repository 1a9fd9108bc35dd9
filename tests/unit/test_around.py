"""What runs around each task: in which order, what it is told, and what becomes of its errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import dtq
from dtq.client import around, current
from dtq.errors import HookFailed
from dtq.testing import InProcessQueue
from tests.tasks import numbers_work as work


@pytest.fixture(autouse=True)
def hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hooks but those of the test."""
    monkeypatch.setattr(around, "_hooks", {})


@pytest.fixture
def task() -> Iterator[None]:
    current.serve("lab", lambda done, total: None)
    current.lease(0, "shop:order", "orders")
    current.begin(17, 3, False, 2)
    yield
    current.end()


def told(name: str, said: list[Any]) -> Any:
    """A hook that writes down what happens."""

    @contextmanager
    def hook(task: dtq.CurrentTask) -> Iterator[None]:
        said.append(f"{name} in {task.id}")
        try:
            yield
        except BaseException as error:
            said.append(f"{name} saw {type(error).__name__}")
            raise
        said.append(f"{name} out")

    hook.__qualname__ = name
    return hook


def test_function_without_hooks_is_called_as_it_is() -> None:
    assert around.hooked(work.square) is work.square


@pytest.mark.usefixtures("task")
def test_hooks_are_entered_in_their_order_and_left_in_reverse() -> None:
    said: list[Any] = []
    for name in ("one", "two"):
        dtq.around_task(told(name, said))
    assert around.hooked(work.square)(3) == 9
    assert said == ["one in 17.3", "two in 17.3", "two out", "one out"]


@pytest.mark.usefixtures("task")
def test_hook_is_told_of_the_task() -> None:
    seen: list[dtq.CurrentTask] = []

    @dtq.around_task
    def hook(task: dtq.CurrentTask) -> Iterator[None]:
        seen.append(task)
        yield

    around.hooked(work.square)(3)
    (task,) = seen
    assert (task.name, task.id, task.attempt, task.queue) == ("shop:order", "17.3", 2, "orders")


@pytest.mark.usefixtures("task")
def test_hooks_see_what_the_task_raises_and_cannot_swallow_it() -> None:
    said: list[Any] = []
    dtq.around_task(told("one", said))

    class Swallowing:
        def __enter__(self) -> None:
            return None

        def __exit__(self, *raised: object) -> bool:
            return True

    dtq.around_task(lambda task: Swallowing())
    with pytest.raises(ZeroDivisionError):
        around.hooked(lambda: 1 / 0)()
    assert said == ["one in 17.3", "one saw ZeroDivisionError"]


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(("before", "when"), [(True, "before the task"), (False, "after the task")])
def test_hook_that_fails_is_the_failure_of_the_task_and_the_others_are_left(before: bool, when: str) -> None:
    said: list[Any] = []
    dtq.around_task(told("one", said))

    @dtq.around_task
    def broken(task: dtq.CurrentTask) -> Iterator[None]:
        if before:
            raise OSError("no collector")
        yield
        raise OSError("no collector")

    with pytest.raises(HookFailed, match=rf"broken, which .* failed {when}: OSError: no collector\."):
        around.hooked(work.square)(3)
    assert said[0] == "one in 17.3"
    assert len(said) == 2


def test_hooks_run_in_the_in_process_queue_too() -> None:
    said: list[Any] = []
    dtq.around_task(told("one", said))
    with InProcessQueue() as queue:
        handle = queue.client.submit(work.square, 2)
        queue.run_due()
        assert handle.result(5) == 4
    assert said == ["one in 1", "one out"]


def test_what_cannot_be_called_is_no_hook() -> None:
    with pytest.raises(TypeError, match="decorates functions, not int"):
        dtq.around_task(7)  # type: ignore[type-var]  # what a checker refuses, too
