"""How ``dtq graph`` draws what waits for what."""

from __future__ import annotations

from dtq.cli.app import run
from dtq.cli.graph import dot, mermaid, tree
from dtq.model.snapshots import Counts, GraphNode
from tests.unit.cli_scene import Captured, NotedCoordinator, noted

__all__ = ["noted"]  # a fixture

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
    lines = list(tree(chain, 1))
    assert len(lines) == 2999
    assert lines[:2] + lines[-1:] == ["*1  f  blocked", "↓  2  f  blocked", "↓  2999  f  blocked"]


def test_chain_below_a_branch_stays_there() -> None:
    after = {2: 1, 3: 1, 4: 2, 5: 4}
    nodes = [
        GraphNode(batch=n, size=1, function="f", counts=Counts(pending=1), after=((after[n], 0, 1),) if n > 1 else ())
        for n in range(1, 6)
    ]
    assert list(tree(nodes, 4)) == [
        " 1  f  pending",
        "├─ 2  f  pending",
        "│ ↓ *4  f  pending",
        "│ ↓  5  f  pending",
        "└─ 3  f  pending",
    ]


def test_names_mean_nothing_to_graphviz_and_mermaid() -> None:
    node = GraphNode(batch=1, size=1, function=r'm:<b>"]#\n', counts=Counts(pending=1))
    assert r"""  "1" [label="1 m:<b>']#\\n\npending"];""" in list(dot([node]))
    assert r"""  b1["1 m:#lt;b#gt;']#35;\n: pending"]""" in list(mermaid([node]))


def test_task_that_a_batch_does_not_have_has_no_graph(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["graph"] = NODES
    assert run(["graph", "18.3"]) == 65
    assert "no task 18.3 is known" in capsys.readouterr().err
    assert run(["graph", "18.0-0"]) == 0
    assert "*18" in capsys.readouterr().out


def test_pictures_for_graphviz_and_mermaid_name_each_edge() -> None:
    lines = list(dot(NODES))
    assert lines[0], lines[-1] == ("digraph tasks {", "}")
    assert '  "19" -> "20" [label="19.1-2"];' in lines
    assert '  "20" [label="20 shop:\'send\'\\nblocked"];' in lines
    assert "  b19 -->|19.1-2| b20" in list(mermaid(NODES))
    assert "  b20[\"20 shop:'send': blocked\"]" in list(mermaid(NODES))
