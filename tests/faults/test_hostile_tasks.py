"""Every kind of hostile task, among innocent ones: each is one honest outcome, nobody else is charged, no worker ends.

``scripts/hostile.py`` does this for each kind alone, and for hundreds in random order over several workers.
"""

from __future__ import annotations

from pathlib import Path

from tests.cluster import TASKS, Cluster
from tests.hostile_rig import run_kinds
from tests.producer import Producer
from tests.tasks.hostile_work import KINDS


def test_hostile_tasks_are_one_honest_outcome_each(tmp_path: Path) -> None:
    with Cluster(tmp_path, memory=True) as cluster:
        cluster.coordinator()
        worker = cluster.worker("--path", str(TASKS.parent.parent), slots=6)
        findings = run_kinds(Producer(cluster.service()), [worker], list(KINDS))
    assert findings.problems == []
    assert len(findings.outcomes) == len(KINDS) >= 65
