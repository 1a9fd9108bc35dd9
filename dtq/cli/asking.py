"""Which tasks a verb applies to, and the question before it applies to many.

A verb takes ids, or filters, or ``--all``; filters together narrow the selection. On a terminal a verb on what filters
match asks first, with the count; in a script it does not, unless what it does cannot be undone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

import click

from dtq.client.paging import all_tasks
from dtq.model.service import Service
from dtq.model.snapshots import Selection
from dtq.model.states import FINAL
from dtq.records import replace
from dtq.wording import counted

#: Most lines of a list that are counted before a question says "at least".
COUNTED: Final = 10_000


def which(ids: tuple[str, ...], everything: bool, filtered: bool) -> None:
    """Make sure that a verb that changes tasks names exactly one kind of selection."""
    if ids and (everything or filtered):
        raise click.UsageError("name ids, or use filters, not both.", click.get_current_context())
    if not ids and not everything and not filtered:
        raise click.UsageError("name ids, or use filters, or --all.", click.get_current_context())


def agreed(question: str, count: Callable[[], str], *, yes: bool, no_input: bool, final: bool = False) -> bool:
    """Whether a verb on what filters match may go ahead.

    Args:
        question: the question without its mark, with ``{}`` for the count.
        count: counts what matches, in words; called if there is something to ask. Nothing is asked about nothing.
        yes: whether the answer is yes.
        no_input: whether nothing is asked: then the answer is no, unless it is yes.
        final: whether what the verb does cannot be undone: then a script has to say yes.

    Raises:
        click.UsageError: nothing can be asked, and the answer is no.
    """
    terminal = sys.stdin.isatty() and sys.stderr.isatty()
    asks = terminal and not no_input
    if yes or not (asks or no_input or final):
        return True
    found = count()
    if found.startswith("0 ") and not final:
        return True
    asked = question.format(found)
    if not asks:
        raise click.UsageError(f"this would {asked[0].lower()}{asked[1:]}; add --yes.", click.get_current_context())
    return click.confirm(f"{asked}?", err=True)


def how_many(queue: Service, selection: Selection, *, ended: bool = False) -> str:
    """The number of tasks that match, which have ended or have not; ``at least`` so many if there are many."""
    found = all_tasks(queue, replace(selection, limit=COUNTED))
    count = sum(task.count for task in found if (task.state in FINAL) is ended)
    return f"{'at least ' if len(found) >= COUNTED else ''}{counted(count, 'task')}"
