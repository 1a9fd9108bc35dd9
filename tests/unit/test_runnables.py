"""What a slot calls, for each kind of function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from dtq.client.runnables import runnable
from dtq.errors import ReturnedFalse
from dtq.model.options import Function, FunctionKind

IMPORTED = Function(name="m:f")
REGISTERED = Function(kind=FunctionKind.REGISTERED, name="types.f")


def plain(n: int) -> int:
    return n


async def coroutine(n: int) -> int:
    return n


class Object:
    async def __call__(self, n: int) -> int:
        return n

    async def method(self, n: int) -> int:
        return n


def test_plain_function_is_called_without_a_layer() -> None:
    assert runnable(plain, IMPORTED) is plain
    assert runnable(max, IMPORTED) is max


@pytest.mark.parametrize("function", [coroutine, functools.partial(coroutine), Object(), Object().method])
def test_coroutine_function_runs_to_its_end(function: Callable[..., Any]) -> None:
    # Given a function that gives a coroutine, in one of its forms; When a slot calls it; Then it has the result
    call = runnable(function, IMPORTED)
    assert call(7) == 7
    assert call(n=8) == 8


def test_false_is_a_result_of_a_function_and_a_failure_of_a_task_type() -> None:
    # Given functions that return False
    async def asynchronously() -> bool:
        return False

    # When they travelled by name; Then that is their result
    assert runnable(lambda: False, IMPORTED)() is False
    # When they are registered task types; Then it says that they failed
    for function in (lambda: False, asynchronously):
        with pytest.raises(ReturnedFalse, match=r"the handler of types\.f returned False"):
            runnable(function, REGISTERED)()
    for value in (True, None, 0, "", [1]):
        assert runnable(functools.partial(lambda it: it, value), REGISTERED)() is value
