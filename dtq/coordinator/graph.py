"""The neighbourhood of a batch in the graph of dependencies: its parents, its children, and so on."""

from __future__ import annotations

from typing import Final

from dtq.coordinator import queries
from dtq.coordinator.service import Coordinator
from dtq.core import views
from dtq.core.changes import BatchFlow
from dtq.model.snapshots import BatchView, GraphNode
from dtq.model.weight import first_within

#: Most batches in one answer, and most parents of one batch in it.
MOST: Final = 1_000
_NAMED: Final = 100


def graph(c: Coordinator, number: int, limit: int) -> list[GraphNode]:
    """See `Service.graph`."""
    queries.batch(c, number)
    queries.settle(c)
    most = min(limit or MOST, MOST)
    nodes: dict[int, GraphNode] = {}
    level = [number]
    while level and len(nodes) < most:
        found = _nodes(c, level[: most - len(nodes)])
        nodes.update((node.batch, node) for node in found)
        near = {parent[0] for node in found for parent in node.after}
        near |= {number for node in found for number in (*node.each, *node.given)}
        near |= set(c.engine.children([node.batch for node in found])[: 2 * MOST])
        level = sorted(near - nodes.keys())
    near_nodes = [nodes[number], *(node for at, node in sorted(nodes.items()) if at != number)]
    return list(first_within(near_nodes, c.setup.answer_bytes))


def _nodes(c: Coordinator, numbers: list[int]) -> list[GraphNode]:
    """The kept batches among these; others are left out."""
    found: list[GraphNode] = []
    for stored in c.engine.batches(numbers):
        with c.lock:
            live = c.machine.queue_state.batches.get(stored.row.batch)
            view = views.finished_batch_view(stored.row, stored.spec) if live is None else queries.live_batch(c, live)
        flow = stored.row.flow
        found.append(_node(view, BatchFlow() if flow is None else flow))
    return found


def _node(view: BatchView, flow: BatchFlow) -> GraphNode:
    after = flow.after
    return GraphNode(
        batch=view.batch,
        size=view.size,
        function=view.spec.function.name,
        counts=view.counts,
        after=tuple([parent[:3] for parent in after[:_NAMED]]),
        more=len(after) > _NAMED,
        each=tuple([element[0] for element in flow.each]),
        given=flow.given,
    )
