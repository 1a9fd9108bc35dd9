"""Dependencies of a submission, in the forms that users give: handles, futures, batches, ids.

Client, below `submitting`. A submission may depend on a handle before the handle's task is accepted; a batch, and
whatever a map depends on, is accepted first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from dtq.client.batch_handle import BatchHandle
from dtq.client.futures import TaskFuture
from dtq.client.handle import TaskHandle
from dtq.client.outbox import Awaited
from dtq.errors import InvalidValue
from dtq.model.ids import parse_named

#: Most parents of one submission; whole batches count once.
MOST: Final = 10_000
_WHAT: Final = "it takes handles and ids of tasks and batches"


def awaited(after: Any, check: Callable[[TaskHandle[Any] | BatchHandle[Any]], None]) -> tuple[Awaited, ...]:
    """Dependencies of a submission whose results are arguments of no function.

    Args:
        after: the user's argument: one of them, or several.
        check: makes sure that a handle's task can be waited for.

    Raises:
        InvalidValue: one of them has a wrong type, or they are too many.
        InvalidId: an id is malformed.
        DtqError: a batch was refused.
    """
    one = isinstance(after, str | BatchHandle) or not isinstance(after, Iterable)
    found: Iterable[Any] = (after,) if one else after
    parents = tuple([(parent, False) for each in found if (parent := _parent(each, check)) is not None])
    return few(parents)


def few(parents: tuple[Awaited, ...]) -> tuple[Awaited, ...]:
    """The dependencies of a task, checked for their number.

    Raises:
        InvalidValue: they are too many.
    """
    if len(parents) > MOST:
        why = f"a task waits for at most {MOST:,} others, where a batch counts once"
        raise InvalidValue("what a task waits for", len(parents), why)
    return parents


def _parent(
    given: Any, check: Callable[[TaskHandle[Any] | BatchHandle[Any]], None]
) -> TaskHandle[Any] | tuple[int, int, int] | None:
    """One parent; None if it is known to need no wait."""
    if isinstance(given, str):
        named = parse_named(given)
        whole = named.lo is None or named.hi is None
        return (named.batch, 0, 0) if whole else (named.batch, named.lo or 0, (named.hi or 0) + 1)
    handle = given.task if isinstance(given, TaskFuture) else getattr(given, "_handle", given)  # of an asyncio client
    if isinstance(handle, TaskHandle):
        if not handle._keep():
            return None
        try:
            check(handle)
        except BaseException:
            handle.release()
            raise
        return handle
    if not isinstance(handle, BatchHandle):
        raise InvalidValue("after", repr(given)[:80], _WHAT)
    check(handle)
    handle.accepted()
    number = handle._target.number
    return (number, 0, 0) if number else None  # a batch without tasks has ended


def settled(parents: Sequence[Awaited]) -> tuple[tuple[int, int, int, bool], ...]:
    """The dependencies by their numbers; waits until all of them are accepted.

    Raises:
        DtqError: one of them was refused.
    """
    found = []
    for parent, is_value in parents:
        if isinstance(parent, TaskHandle):
            parent.accepted()
            index = max(0, parent._index)
            found.append((parent._batch, index, index + 1, is_value))
        else:
            found.append((*parent, is_value))
    return tuple(found)
