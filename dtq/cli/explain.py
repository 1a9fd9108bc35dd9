"""``dtq explain``: why a task does not run, or why it died, and what helps."""

from __future__ import annotations

from typing import Any

import click

from dtq.cli import options
from dtq.cli.calling import service
from dtq.cli.click_classes import Command
from dtq.cli.output import paint, write, write_json
from dtq.cli.render_json import task_json
from dtq.model.explanations import Explanation
from dtq.model.ids import parse_named
from dtq.model.text import printable_line
from dtq.wording import counted


@click.command(
    cls=Command,
    examples=(
        ("dtq explain 17", "why it does not run, or why it died; of a batch, one task of each state"),
        ("dtq explain 17.3 --json", "the fourth task of batch 17, as JSON"),
    ),
)
@click.argument("task_id", metavar="ID", type=options.ID)
@options.connecting
@options.as_json
def explain(task_id: str, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool) -> None:
    """Explain why a task does not run, or why it died, when it will run, and what helps."""
    named = parse_named(task_id)
    with service(addresses, authkey_file) as queue:
        found = queue.explain(named.batch, -1 if named.lo is None else named.lo)
    if as_json:
        write_json({"explanations": [explanation_json(each) for each in found]})
        return
    for number, each in enumerate(found):
        if number:
            write()
        _show(each)
    if not found:
        write(f"{task_id} has no tasks yet: its submitter has sent none.")


def explanation_json(found: Explanation) -> dict[str, Any]:
    """An explanation."""
    return {
        "task": task_json(found.task),
        "count": found.count,
        "reasons": list(found.reasons),
        "outlook": found.outlook,
        "remedies": [{"command": remedy.command, "purpose": remedy.purpose} for remedy in found.remedies],
    }


def _show(found: Explanation) -> None:
    task = found.task
    like = f", like {counted(found.count - 1, 'other task', 'other tasks')} of its batch" if found.count > 1 else ""
    write(f"{task.id}  {paint(task.state.value)}  {printable_line(task.spec.function.name)}{like}")
    commands = [printable_line(remedy.command) for remedy in found.remedies]
    width = max(map(len, commands), default=0)
    lines = [("why", printable_line(reason)) for reason in found.reasons]
    lines += [("when", printable_line(found.outlook))] if found.outlook else []
    lines += [
        ("try", f"{command:<{width}}  {printable_line(remedy.purpose)}")
        for command, remedy in zip(commands, found.remedies, strict=True)
    ]
    last = ""
    for name, text in lines:
        write(f"  {'' if name == last else name:<4}  {text}")
        last = name
