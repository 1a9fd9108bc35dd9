"""How ``dtq graph`` draws what waits for what."""

from __future__ import annotations

from dtq.cli.graph import dot, mermaid, tree
from dtq.model.snapshots import Counts, GraphNode

NODES = [
    GraphNode(batch=18, size=1, function="shop:pay", counts=Counts(pending=1), after=((17, 0, 1),)),
    GraphNode(batch=17, size=1, function="shop:order", counts=Counts(succeeded=1)),
    GraphNode(batch=19, size=4, function="shop:pack", counts=Counts(running=1, blocked=3), after=((17, 0, 0),)),
    GraphNode(batch=20, size=1, function='shop:"send"', counts=Counts(blocked=1), after=((18, 0, 1), (19, 1, 3))),
]


def test_tree_has_each_batch_below_what_it_waits_for_and_tells_it_once() -> None:
    assert list(tree(NODES, 18)) == [
        " 17  shop:order  succeeded",
        "├─*18  shop:pay  pending",
        '│ └─ 20  shop:"send"  blocked  after 18, 19.1-2',
        "└─ 19  shop:pack  3 blocked, 1 running",
        '  └─ 20  shop:"send"  (above)',
    ]


def test_long_chain_is_drawn_without_recursion() -> None:
    chain = [
        GraphNode(batch=n, size=1, function="f", counts=Counts(blocked=1), after=((n - 1, 0, 1),) if n > 1 else ())
        for n in range(1, 3000)
    ]
    assert len(list(tree(chain, 1))) == 2999


def test_pictures_for_graphviz_and_mermaid_name_each_edge() -> None:
    lines = list(dot(NODES))
    assert lines[0], lines[-1] == ("digraph tasks {", "}")
    assert '  "19" -> "20" [label="19.1-2"];' in lines
    assert '  "20" [label="20 shop:\'send\'\\nblocked"];' in lines
    assert "  b19 -->|19.1-2| b20" in list(mermaid(NODES))
    assert "  b20[\"20 shop:'send': blocked\"]" in list(mermaid(NODES))
