"""Adapts functions for a slot: a coroutine function is run to its end, a registered task type's False is a failure.

Client, beside `functions`, for the executing end. Decided once for a function, not once for a task: a plain function is
called without a layer between.
"""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

from dtq.errors import ReturnedFalse
from dtq.model.options import Function, FunctionKind

#: Flag of a coroutine function's code; `inspect.CO_COROUTINE`.
_COROUTINE: Final = 0x80


def runnable(function: Callable[..., Any], travelled: Function) -> Callable[..., Any]:
    """The callable for a task.

    Args:
        function: the function, as `functions.resolve` found it.
        travelled: its kind.

    Returns:
        The function itself; or, for a coroutine function, one that runs its coroutine to its end in an event loop of
        its own; and for a registered task type, one that raises `ReturnedFalse` if it returns False.
    """
    call = _finished(function) if _is_coroutine_function(function) else function
    return _checked(call, travelled.name) if travelled.kind is FunctionKind.REGISTERED else call


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    if type(function) is FunctionType and not function.__dict__:
        return bool(function.__code__.co_flags & _COROUTINE)
    if type(function) is BuiltinFunctionType:
        return False
    import inspect  # a slot that runs plain functions does not import it

    if inspect.iscoroutinefunction(function):
        return True
    return inspect.iscoroutinefunction(type(function).__call__)  # an object with an asynchronous __call__


def _finished(function: Callable[..., Any]) -> Callable[..., Any]:
    import asyncio  # a slot that runs no coroutine does not import it

    def run(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return run


def _checked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if result is False:
            raise ReturnedFalse(name)
        return result

    return run
