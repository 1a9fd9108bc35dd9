"""Selections of tasks: ids in all the forms that users have, and filters.

Client, between the faces and the service's `Selection`.
"""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

from dtq.client.batch_handle import BatchHandle
from dtq.client.handle import TaskHandle
from dtq.client.terms import Span, seconds
from dtq.errors import InvalidId, InvalidValue
from dtq.model.ids import TaskId, parse_id
from dtq.model.snapshots import BatchSelection, Selection
from dtq.model.states import Outcome, State

#: A task or batch, in the forms that users give: ``"17.3"``, ``"17"``, 17, a `TaskId`, or a handle.
Named = str | int | TaskId | TaskHandle[Any] | BatchHandle[Any]


class Filters(TypedDict, total=False):
    """Common properties of tasks.

    Attributes:
        queue: their queue.
        function: name of their function, as a glob (``"mymodule:*"``).
        exception: name of their last exception, as a glob.
        outcome: how their last unsuccessful attempt ended: ``"failed"``, ``"crashed"`` or ``"timed out"``.
        label: their label.
        older_than: in their state for at least so long, in seconds or as a timedelta.
    """

    queue: str | None
    function: str | None
    exception: str | None
    outcome: Outcome | str | None
    label: str | None
    older_than: Span | None


class BatchFilters(TypedDict, total=False):
    """Common properties of batches.

    Attributes:
        state: the state of at least one of their tasks.
        queue: their queue.
        function: name of their function, as a glob.
        label: their label.
        older_than: submitted at least so long ago, in seconds or as a timedelta.
        before: a batch; only those that were submitted before it: where an earlier list ended.
    """

    state: State | str | None
    queue: str | None
    function: str | None
    label: str | None
    older_than: Span | None
    before: Named | None


def parsed(id: Named) -> tuple[int, int | None]:
    """Batch and index of an id; the index is None if it names the batch.

    Raises:
        InvalidId: the id is malformed.
    """
    if isinstance(id, TaskHandle | BatchHandle):
        id = id.id
    if isinstance(id, TaskId):
        return id.batch, None if id.single else id.index
    return parse_id(str(id))


def batch_number(id: Named) -> int:
    """The number of a batch.

    Raises:
        InvalidId: the id is malformed, or that of one task of a batch.
    """
    number, index = parsed(id)
    if index is not None:
        raise InvalidId(f"{number}.{index} (one task: the batch is {number})")
    return number


def select_batches(limit: int, **filters: Unpack[BatchFilters]) -> BatchSelection:
    """The selection of batches that match every given argument.

    Raises:
        InvalidId: ``before`` is no batch's id.
        InvalidValue: the state, or a time, is invalid.
        TypeError: there is no such filter.
    """
    unknown = [name for name in filters if name not in BatchFilters.__annotations__]
    if unknown:
        known = ", ".join(BatchFilters.__annotations__)
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}; the filters are {known}")
    older_than, before = filters.get("older_than"), filters.get("before")
    return BatchSelection(
        queue=filters.get("queue"),
        function=filters.get("function"),
        label=filters.get("label"),
        state=_state(filters.get("state")),
        older_than_s=None if older_than is None else seconds(older_than, "older_than"),
        before=0 if before is None else batch_number(before),
        limit=limit,
    )


def select(
    ids: tuple[Named, ...], state: State | str | None = None, limit: int = 0, **filters: Unpack[Filters]
) -> Selection:
    """The selection of tasks that match every given argument.

    Raises:
        InvalidId: an id is malformed.
        InvalidValue: the state, or a time, is invalid.
        TypeError: there is no such filter: without it, more tasks would match than the caller meant.
    """
    unknown = [name for name in filters if name not in Filters.__annotations__]
    if unknown:
        known = ", ".join(Filters.__annotations__)
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}; the filters are {known}")
    named = [parsed(id) for id in ids]
    older_than = filters.get("older_than")
    return Selection(
        ids=tuple((number, -1 if index is None else index) for number, index in named),
        state=_state(state),
        queue=filters.get("queue"),
        function=filters.get("function"),
        exception=filters.get("exception"),
        outcome=_outcome(filters.get("outcome")),
        label=filters.get("label"),
        older_than_s=None if older_than is None else seconds(older_than, "older_than"),
        limit=limit,
    )


def choose(ids: tuple[Named, ...], all: bool = False, **filters: Unpack[Filters]) -> Selection:
    """As `select`, for a verb that changes tasks: an empty selection does not mean all.

    Raises:
        InvalidValue: no argument was given, and ``all`` was not set.
    """
    selection = select(ids, **filters)
    if selection == Selection(limit=0) and not all:
        raise InvalidValue(
            "a selection", "nothing", "give ids, or something that the tasks have in common, or all=True"
        )
    return selection


def _outcome(outcome: Outcome | str | None) -> Outcome | None:
    try:
        return Outcome(outcome.replace("-", " ")) if isinstance(outcome, str) else outcome
    except ValueError:
        raise InvalidValue("an outcome", outcome, "it is failed, crashed or timed out") from None


def _state(state: State | str | None) -> State | None:
    try:
        return State(state) if isinstance(state, str) else state
    except ValueError:
        raise InvalidValue("a state", state, f"it is one of {', '.join(s.value for s in State)}") from None
