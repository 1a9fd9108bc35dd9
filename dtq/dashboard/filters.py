"""The filter of tasks and dead letters, as it is typed: ``queue:mail error:*Timeout* thumbnail``. Pure."""

from __future__ import annotations

from typing import Any, Final

from dtq.errors import DtqError
from dtq.model import fields
from dtq.model.fields import Text
from dtq.model.ids import parse_named
from dtq.model.snapshots import Selection
from dtq.model.states import State

#: Words before a colon, and the fields of a `Selection` that they stand for.
_FIELDS: Final = {"queue": "queue", "function": "function", "error": "exception", "label": "label"}
_KINDS: Final[dict[str, Any]] = {
    "queue": fields.Label,
    "function": fields.Pattern,
    "exception": fields.Pattern,
    "label": fields.Label,
}


def selection(text: str, state: State | None, limit: int) -> Selection | str:
    """The selection that a filter means.

    Args:
        text: the filter: words apart by blanks. ``queue:NAME``, ``label:TEXT``, ``function:GLOB``, ``error:GLOB``; an
            id; any other word is a part of a function's name.
        state: the state of the tasks.
        limit: how many there may be.

    Returns:
        The selection; or what is wrong with the filter, in a sentence.
    """
    found: dict[str, Any] = {}
    ids: list[tuple[int, int]] = []
    for word in text.split():
        name, colon, value = word.partition(":")
        field = _FIELDS.get(name) if colon else None
        if field is None:
            if (one := _id(word)) is not None:
                ids.append(one)
                continue
            field, value = "function", f"*{word.strip('*')}*"
        if not value:
            continue
        rule: Text = _KINDS[field].__metadata__[0]
        wrong = rule.breach(value)
        if wrong is not None:
            return f"{name} {wrong}"
        found[field] = value
    return Selection(ids=tuple(ids), state=state, limit=limit, **found)


def _id(word: str) -> tuple[int, int] | None:
    try:
        named = parse_named(word)
    except DtqError:
        return None
    return None if named.run is not None else (named.batch, -1 if named.index is None else named.index)
