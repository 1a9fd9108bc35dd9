"""Lines of a file of calls that have terms of their own: each makes a task beside the batch of the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from dtq.cli.calls import Call
from dtq.client.client_core import ClientCore
from dtq.client.functions import callee
from dtq.client.handle import TaskHandle
from dtq.client.submitting import Order, order, submit
from dtq.errors import InvalidValue
from dtq.model.options import Function

#: Most lines with terms of their own in one file: they are kept until the others have been submitted.
MOST: Final = 100_000


class OwnTerms:
    """The lines with terms of their own.

    Args:
        name: the function.
        below: the terms of the command line, which are those of a line that sets no others.
    """

    def __init__(self, name: str | Function, below: Order) -> None:
        self._name = name
        self._below = below
        self._calls: list[tuple[Call, Order]] = []
        self._latest: Order | None = None

    def check(self, terms: Mapping[str, Any]) -> None:
        """Check the terms of the next line.

        Raises:
            InvalidValue: they are invalid.
        """
        if self._below.own_key is not None:
            raise InvalidValue("a line", "terms of its own", "--key is for one batch; give each line a key")
        if len(self._calls) >= MOST:
            raise InvalidValue("a file", f"more than {MOST:,} lines with terms of their own", "divide it")
        try:
            made = order(**terms).over(self._below)
        except TypeError as error:
            raise InvalidValue("a term", ", ".join(terms)[:80], str(error)) from None
        callee(self._name).spec(made.terms)
        _ = made.delay_s, made.own_key, made.conditions
        self._latest = made

    def others(self, calls: Iterable[Call]) -> Iterator[Call]:
        """The lines without terms of their own; the others are kept."""
        for call in calls:
            if not call.terms:
                yield call
            elif self._latest is not None:
                self._calls.append((call, self._latest))

    def submit(self, queue: ClientCore) -> list[TaskHandle[Any]]:
        """Submit the kept lines, in their order."""
        return [submit(queue, self._name, made, call.args, call.kwargs) for call, made in self._calls]
