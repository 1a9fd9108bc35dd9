"""``dtq graph``: the dependencies of a task, and the tasks that depend on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from dtq.cli import options
from dtq.cli.calling import service
from dtq.cli.click_classes import Command
from dtq.cli.output import one_line, say, write, write_json
from dtq.cli.render_json import counts_json, counts_text
from dtq.errors import UnknownId
from dtq.model.ids import TaskId, parse_named, run_text
from dtq.model.snapshots import GraphNode

#: Default number of shown batches.
_LIMIT: Final = 100


#: Characters with a meaning in labels of Mermaid, and how they are written there.
_ENTITIES: Final = str.maketrans({'"': "'", "<": "#lt;", ">": "#gt;", "#": "#35;"})


def _edge(parent: tuple[int, int, int], sizes: Mapping[int, int]) -> str:
    """The id of a batch's parent.

    Args:
        parent: the tasks.
        sizes: sizes of the batches, by number.
    """
    number, lo, hi = parent
    return run_text(number, lo, hi - lo, single=sizes.get(number) == 1) if hi else str(number)


def _sizes(nodes: Sequence[GraphNode]) -> dict[int, int]:
    return {node.batch: node.size for node in nodes}


def _parents(node: GraphNode) -> list[int]:
    """The batches that a batch waits for."""
    return list(dict.fromkeys([*[parent[0] for parent in node.after], *node.each, *node.given]))


def _edges(node: GraphNode, sizes: Mapping[int, int]) -> list[tuple[int, str]]:
    """The parents of a batch, by the number of theirs: ids of tasks, all of them one by one, or some of them.

    Args:
        node: the batch.
        sizes: sizes of the batches, by number.
    """
    edges = [(parent[0], _edge(parent, sizes)) for parent in node.after]
    edges += [(number, f"{number}.*") for number in node.each]
    return edges + [(number, f"some of {number}") for number in node.given]


def _standing(node: GraphNode) -> str:
    """The states of a batch's tasks: one word if all are in one state."""
    told = counts_text(node.counts)
    return told.partition(" ")[2] if node.size == 1 and "," not in told else told


def tree(nodes: Sequence[GraphNode], asked: int) -> Iterator[str]:
    """The batches as a tree: each below its parent; a batch with several parents is shown once.

    Args:
        nodes: the batches.
        asked: the requested one, which is marked.
    """
    known = {node.batch: node for node in nodes}
    sizes = _sizes(nodes)
    children: dict[int, list[int]] = {}
    for node in sorted(nodes, key=lambda node: node.batch):
        for parent in [parent for parent in _parents(node) if parent in known]:
            children.setdefault(parent, []).append(node.batch)
    roots = [n for n, node in sorted(known.items()) if not any(parent in known for parent in _parents(node))]
    told: set[int] = set()
    #: Lines to write, the last one first: number, its line's prefix, and the prefix of the lines below.
    todo = [(number, "", "") for number in reversed(roots)]
    while todo:
        number, head, below = todo.pop()
        node = known[number]
        again = number in told
        mark = "*" if number == asked else " "
        line = f"{head}{mark}{number}  {one_line(node.function, 60)}"
        if again:
            yield f"{line}  (above)"
            continue
        told.add(number)
        several = [edge for _, edge in _edges(node, sizes)]
        tells = len(several) > 1 or node.each or node.given
        waits = f"  after {', '.join(several[:3])}{' …' if len(several) > 3 else ''}" if tells else ""
        yield f"{line}  {_standing(node)}{waits}"
        below_it = children.get(number, [])
        if len(below_it) == 1 and len([parent for parent in _parents(known[below_it[0]]) if parent in known]) == 1:
            todo.append((below_it[0], f"{below}↓ ", below))  # a chain of any length stays as narrow as its beginning
            continue
        for place, child in reversed(list(enumerate(below_it))):
            last = place == len(below_it) - 1
            todo.append((child, f"{below}{'└─' if last else '├─'}", f"{below}{'  ' if last else '│ '}"))


def dot(nodes: Sequence[GraphNode]) -> Iterator[str]:
    """The batches in the language of Graphviz."""
    sizes = _sizes(nodes)
    yield "digraph tasks {"
    for node in nodes:
        function = node.function.replace("\\", "\\\\")
        label = f"{node.batch} {function}\\n{_standing(node)}".replace('"', "'")
        yield f'  "{node.batch}" [label="{one_line(label)}"];'
    for node in nodes:
        for parent, edge in _edges(node, sizes):
            yield f'  "{parent}" -> "{node.batch}" [label="{edge}"];'
    yield "}"


def mermaid(nodes: Sequence[GraphNode]) -> Iterator[str]:
    """The batches in the language of Mermaid."""
    sizes = _sizes(nodes)
    yield "graph TD"
    for node in nodes:
        label = f"{node.batch} {node.function}: {_standing(node)}".translate(_ENTITIES)
        yield f'  b{node.batch}["{one_line(label)}"]'
    for node in nodes:
        for parent, edge in _edges(node, sizes):
            yield f"  b{parent} -->|{edge}| b{node.batch}"


def _json(nodes: Sequence[GraphNode]) -> dict[str, Any]:
    sizes = _sizes(nodes)
    return {
        "batches": [
            {
                "id": str(node.batch),
                "function": node.function,
                "size": node.size,
                "tasks": counts_json(node.counts),
                "after": [edge for _, edge in _edges(node, sizes)],
                "more": node.more,
            }
            for node in nodes
        ]
    }


@click.command(
    cls=Command,
    examples=(
        ("dtq graph 17", "what 17 waits for and what waits for it, as a tree"),
        ("dtq graph 17 --format dot > graph.dot", "for a picture, with Graphviz"),
    ),
)
@click.argument("task_id", metavar="ID", type=options.ID)
@click.option(
    "--format",
    "form",
    type=click.Choice(["tree", "dot", "mermaid", "json"]),
    default="tree",
    show_default=True,
    help="As a tree in the terminal, or for Graphviz, Mermaid, or a program.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 1_000),
    default=_LIMIT,
    show_default=True,
    help="Show at most N batches, the nearest.",
)
@options.connecting
def graph(task_id: str, form: str, limit: int, addresses: tuple[str, ...], authkey_file: str | None) -> None:
    """Show the dependencies and dependents of a task or batch, and theirs: one batch a line, below its parent.

    The requested batch is marked with *.
    """
    named = parse_named(task_id)
    number = named.batch
    with service(addresses, authkey_file) as queue:
        nodes = queue.graph(number, limit)
    if named.hi is not None and named.hi >= nodes[0].size:
        raise UnknownId(str(TaskId(number, named.hi)))
    if form == "json":
        write_json(_json(nodes))
        return
    lines = {"dot": dot, "mermaid": mermaid}[form](nodes) if form != "tree" else tree(nodes, number)
    for line in lines:
        write(line)
    if len(nodes) >= limit:
        say(f"dtq: only the nearest {limit:,} batches are shown; --limit shows more.")
