"""``@task``: a function with terms of its own, and optionally a name to be registered under.

Client, beside `functions`. The decorator returns the very function it was given, with a note attached: the function
keeps its signature, a direct call runs it here, its name leads back to it, and a slot calls it without a layer between.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar, Unpack, overload

from dtq.client.terms import TaskOptions, Terms
from dtq.errors import InvalidValue
from dtq.records import dataclass

P = ParamSpec("P")
T = TypeVar("T")

#: The attribute that holds the note.
NOTE: Final = "__dtq_task__"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """The note of ``@task`` about a function.

    Attributes:
        name: the registered name, None if it travels like any function.
        terms: its default terms.
    """

    name: str | None
    terms: Terms


#: Registered task types of this process, by name. A worker fills it by importing its configured modules.
_registered: Final[dict[str, Callable[..., Any]]] = {}


def note_of(function: object) -> Note | None:
    """The note of a function; None without ``@task``."""
    found = getattr(function, NOTE, None)
    return found if isinstance(found, Note) else None


def register(name: str, function: Callable[..., Any]) -> None:
    """QueueState a function as the task type of a name. The last one wins, as with any name in Python.

    Raises:
        InvalidValue: the name is malformed.
    """
    _registered[check_name(name)] = function


def check_name(name: str) -> str:
    """The name of a task type, if valid.

    Raises:
        InvalidValue: it is malformed.
    """
    if not _NAME.fullmatch(str(name)):
        raise InvalidValue("a task's name", str(name)[:80], "it has 1 to 128 letters, digits or _ . -")
    return name


def registrations() -> dict[str, Callable[..., Any]]:
    """The registered task types that this process knows."""
    return dict(_registered)


def registered(name: str) -> Callable[..., Any] | None:
    """The function behind a registered task type, if this process knows it."""
    return _registered.get(name)


@overload
def task(function: Callable[P, T], /) -> Callable[P, T]: ...


@overload
def task(
    function: None = None, /, *, name: str | None = None, **options: Unpack[TaskOptions]
) -> Callable[[Callable[P, T]], Callable[P, T]]: ...


def task(
    function: Callable[P, T] | None = None, /, *, name: str | None = None, **options: Unpack[TaskOptions]
) -> Callable[P, T] | Callable[[Callable[P, T]], Callable[P, T]]:
    """Give a function terms of its own: defaults of every submission of it.

    Args:
        function: the function, if the decorator is used without parentheses.
        name: registers it: tasks carry this name and JSON arguments instead of ``module:function`` and pickles. As with
            every registered task type, a result of False is a failure.
        options: see `TaskOptions`.

    Returns:
        The function itself, or a decorator that returns its argument.

    Raises:
        InvalidValue: one of the options is invalid.
        TypeError: an option is unknown; or the decorated object cannot be called or cannot carry attributes.
    """
    terms = Terms(**options).frozen()
    terms.options()  # a wrong value is reported where it is written

    def decorate(decorated: Callable[P, T]) -> Callable[P, T]:
        if not callable(decorated):
            raise TypeError(f"@task decorates functions, not {type(decorated).__name__}")
        if name is not None:
            register(name, decorated)
        setattr(decorated, NOTE, Note(name=name, terms=terms))
        return decorated

    return decorate if function is None else decorate(function)
