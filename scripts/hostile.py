"""Does a worker outlive whatever its tasks do to their process?

Each kind of `tests/tasks/hostile_work.py` alone, then so many in random order over several workers, always with
innocent tasks between them. Says how each ended; ends with 1 where a worker has ended, an innocent task was charged, or
an outcome is not honest.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.cluster import Cluster  # noqa: E402 - found once the path is set
from tests.hostile_rig import Findings, run_kinds  # noqa: E402 - likewise
from tests.producer import Producer  # noqa: E402 - likewise
from tests.tasks.hostile_work import KINDS  # noqa: E402 - likewise


def alone(directory: Path, kinds: list[str]) -> Findings:
    """Each kind by itself, one after the other, on one slot."""
    whole = Findings()
    with Cluster(directory, memory=True) as cluster:
        cluster.coordinator()
        worker = cluster.worker("--path", str(ROOT), slots=1)
        producer = Producer(cluster.service())
        for kind in kinds:
            findings = run_kinds(producer, [worker], [kind])
            whole.outcomes += findings.outcomes
            whole.problems += findings.problems
            print(f"{kind:45} {findings.outcomes[0][1]}", flush=True)
    return whole


def together(directory: Path, runs: int, workers: int, seed: int) -> Findings:
    """So many in random order."""
    drawn = random.Random(seed)  # the same order for the same seed
    kinds = [drawn.choice(list(KINDS)) for _ in range(runs)]
    with Cluster(directory, memory=True) as cluster:
        cluster.coordinator()
        started = [cluster.worker("--path", str(ROOT), slots=2) for _ in range(workers)]
        findings = run_kinds(Producer(cluster.service()), started, kinds)
        if findings.problems:
            print("\n".join(process.output()[-8_000:] for process in started))
    for (kind, outcome), times in sorted(Counter(findings.outcomes).items()):
        print(f"{kind:45} {outcome:10} {times}")
    return findings


def main() -> int:
    """Run both, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="how many in random order")
    parser.add_argument("--workers", type=int, default=4, help="over how many workers")
    parser.add_argument("--seed", type=int, default=1, help="of the order")
    parser.add_argument("--only", nargs="*", choices=sorted(KINDS), help="these kinds alone, and no more")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        first, second = Path(place) / "alone", Path(place) / "together"
        first.mkdir()
        second.mkdir()
        problems = alone(first, options.only or list(KINDS)).problems
        if not options.only:
            problems += together(second, options.runs, options.workers, options.seed).problems
    print("\n".join(["", *problems]) if problems else "\nall as it should be")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
