"""``@around_task``: hooks that run around each task of a worker, for traces, metrics and error reports.

Client, because user code imports it, beside `tasks`; the worker's slot calls it. A module registers its hooks when it
is imported: by ``dtq worker --import``, or with the module of a task. In a process that runs no tasks hooks do nothing.
Without hooks, a slot calls the function with no layer between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Final, TypeVar

from dtq.client.by_value import sentence
from dtq.client.current import CurrentTask, current_task
from dtq.errors import HookFailed

#: A hook's context manager for one task.
Manager = AbstractContextManager[Any, Any]
Hook = TypeVar("Hook", bound=Callable[[CurrentTask], Manager | Iterator[Any]])

#: The hooks of this process, in the order of their registration, by name: a module that is imported anew replaces its
#: own.
_hooks: Final[dict[str, Callable[[CurrentTask], Manager]]] = {}


def around_task(hook: Hook) -> Hook:
    """Run a context manager around each task of this process, from now on.

    Hooks registered first are entered first, and left last. An exception in a hook is the task's failure, `HookFailed`;
    a hook sees the task's exception, and cannot swallow it.

    Args:
        hook: called with the current task before each task; returns a context manager, or is a generator function that
            yields once, as for `contextlib.contextmanager`.

    Returns:
        The hook itself.

    Raises:
        TypeError: the hook cannot be called.
    """
    if not callable(hook):
        raise TypeError(f"@around_task decorates functions, not {type(hook).__name__}")
    import inspect  # a process without hooks does not import it

    made: Any = contextmanager(hook) if inspect.isgeneratorfunction(hook) else hook
    _hooks[_name(hook)] = made
    return hook


def _name(hook: object) -> str:
    module = getattr(hook, "__module__", type(hook).__module__)
    return f"{module}:{getattr(hook, '__qualname__', None) or repr(hook)}"


# -- for the slot ---------------------------------------------------------------------------------------------------


def registered_hooks() -> tuple[tuple[str, Callable[[CurrentTask], Manager]], ...]:
    """The hooks of this process with their names, in their order."""
    return tuple(_hooks.items())


def hooked(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call with the hooks around it; the call itself without hooks."""
    hooks = registered_hooks()
    if not hooks:
        return call

    def run(*args: Any, **kwargs: Any) -> Any:
        task = current_task()
        entered: list[tuple[str, Manager]] = []
        try:
            for name, hook in hooks:
                entered.append((name, _entered(name, hook, task)))
            value = call(*args, **kwargs)
        except BaseException as error:
            _leave(entered, type(error), error, error.__traceback__)
            raise
        _leave(entered, None, None, None)
        return value

    return run


def _entered(name: str, hook: Callable[[CurrentTask], Manager], task: CurrentTask) -> Manager:
    try:
        manager = hook(task)
        manager.__enter__()
    except Exception as error:
        raise HookFailed(name, "before the task", sentence(error)) from error
    return manager


def _leave(
    entered: list[tuple[str, Manager]],
    kind: type[BaseException] | None,
    raised: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Leave all entered hooks, the last first, as they are left after this exception.

    Raises:
        HookFailed: one has failed; the others were left all the same.
    """
    failed: HookFailed | None = None
    while entered:
        name, manager = entered.pop()
        try:
            manager.__exit__(kind, raised, trace)
        except Exception as error:  # noqa: BLE001 - the edge to user code
            if error is raised:
                continue  # it was re-raised by hand
            if failed is None:
                failed = HookFailed(name, "after the task", sentence(error))
                failed.__cause__ = error
    if failed is not None:
        raise failed
