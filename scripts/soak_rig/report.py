"""The figures of a run: a table for people, or values for programs; and for each violation the faults around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from soak_rig.director import MemoryWatch
from soak_rig.explain import Faults
from soak_rig.orders import Order
from soak_rig.plan import COORDINATOR, WORKERS
from soak_rig.records import Records
from soak_rig.verdict import KINDS, Violation

#: How many violations of a kind are shown.
SHOWN: Final = 8


@dataclass(slots=True, kw_only=True)
class Report:
    """What came out.

    Attributes:
        seed: of the run.
        seconds: how long faults happened.
        drained_s: how long the healed cluster took to finish.
        records: everything that is known.
        memory: what processes had.
        faults: what was done.
        violations: what must not be.
        repeats: executions beyond the first, by their reason.
        blame: attempts that tasks were charged with, by their reason.
    """

    seed: int
    seconds: float
    drained_s: float
    records: Records
    memory: MemoryWatch
    faults: Faults | None = None
    violations: list[Violation] = field(default_factory=list)
    repeats: Counter[str] = field(default_factory=Counter)
    blame: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """All of it, as plain values."""
        records = self.records
        orders = list(records.submitted.values())
        acked = [order for order in orders if order.acked_at is not None]
        refused = [order for order in orders if order.refused]
        by_kind = Counter(done.kind for done in records.chronicle.faults)
        return {
            "seed": self.seed,
            "seconds of faults": round(self.seconds, 1),
            "seconds to drain": round(self.drained_s, 1),
            "faults": sum(by_kind.values()),
            "faults by kind": dict(sorted(by_kind.items())),
            "tasks acknowledged": sum(order.order.size for order in acked),
            "tasks refused": sum(order.order.size for order in refused),
            "tasks of unknown outcome": sum(o.order.size for o in orders if o.acked_at is None and not o.refused),
            "tasks of unknown outcome found in the queue": self._recovered(),
            "due times of a schedule": sum((b.key or "").startswith("schedule/") for b in records.batches.values()),
            "tasks that waited for others": self._tasks_with(lambda order: bool(order.after)),
            "tasks under limits": self._tasks_with(lambda order: "limits" in order.options),
            "executions": sum(map(len, records.executions.values())),
            "executions beyond the first": dict(self.repeats.most_common()),
            "attempts charged": dict(self.blame.most_common()),
            "ends": dict(Counter(final.state.value for final in records.finals.values())),
            "dead letters put back": sum(map(len, records.operator.revived.values())),
            "dead letters purged": len(records.operator.purged),
            "ends seen by the follower": records.follower.sights,
            "reports refused since the last start": records.stats.refused,
            "MiB at most": {name: round(self.memory.most(name)) for name in (COORDINATOR, *WORKERS)},
            "MiB at the end": {name: round(self.memory.last(name)) for name in (COORDINATOR, *WORKERS)},
            "violations": {kind: self._count(kind) for kind in KINDS},
            "evidence": [f"{v.kind}: {v.what}{self._near(v)}" for v in self._shown()],
        }

    def _recovered(self) -> int:
        """Tasks whose submission was never acknowledged nor refused, and that were accepted all the same."""
        records = self.records
        return sum(s.acked_at is None and not s.refused and tag in records.executions for s, _, tag in records.tasks())

    def _tasks_with(self, what: Callable[[Order], bool]) -> int:
        orders = (submitted.order for submitted in self.records.submitted.values() if submitted.acked_at is not None)
        return sum(order.size for order in orders if what(order))

    def _count(self, kind: str) -> int:
        return sum(violation.kind == kind for violation in self.violations)

    def _shown(self) -> list[Violation]:
        return [v for kind in KINDS for v in [v for v in self.violations if v.kind == kind][:SHOWN]]

    def _near(self, violation: Violation) -> str:
        if not violation.at or self.faults is None:
            return ""
        lines = [
            f"\n      {done.kind} {done.who}{f' (pid {done.pid})' if done.pid else ''}"
            f" {done.begin:.3f} to {max(done.end, done.back):.3f}"
            for done in self.faults.near(violation.at)
        ]
        return "".join(lines)

    def text(self) -> str:
        """A table."""
        lines = []
        for name, value in self.figures().items():
            if name in ("violations", "evidence"):
                continue
            shown = f"{value:,}" if isinstance(value, int) and name != "seed" else value
            if isinstance(value, dict):
                shown = ", ".join(f"{key} {count:,}" for key, count in value.items()) or "none"
            lines.append(f"{name:<45} {shown}")
        lines.append("")
        lines += [f"{kind:<20} {self._count(kind):>6}   {says}" for kind, says in KINDS.items()]
        lines += [f"\n! {line}" for line in self.figures()["evidence"]]
        return "\n".join(lines)
