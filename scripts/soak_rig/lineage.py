"""Check of tasks that wait for others: no task starts before what it waits for has ended, a task that never starts as
another one has ended without a result says so truly, and a parent that is put back brings its children back."""

from __future__ import annotations

from collections.abc import Iterator

from dtq.core.elements import CAUSE
from dtq.model.states import State
from soak_rig.explain import EPSILON_S
from soak_rig.records import Execution, Records, Submitted
from soak_rig.verdict import Violation

#: A task: batch and index.
Id = tuple[int, int]


class Lineage:
    """Who waits for whom.

    Args:
        records: everything that is known.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        #: By order, whether a parent of its tasks was (perhaps) put back, or a parent of these, and so on.
        self._restored: dict[tuple[str, int], bool] = {}
        self._orders = {id: submitted for submitted in records.submitted.values() for id in submitted.ids}

    def parents(self, submitted: Submitted) -> Iterator[tuple[Submitted, int]]:
        """The tasks that those of an order wait for."""
        for serial, index in submitted.order.after:
            parent = self._records.submitted[submitted.producer, serial]
            for each in range(parent.order.size) if index < 0 else (index,):
                yield parent, each

    def is_restored(self, id: Id) -> bool:
        """Whether a task may have been cancelled as a parent died, and been brought back with that."""
        submitted = self._orders.get(id)
        return submitted is not None and self._has_come_back(submitted)

    def _has_come_back(self, submitted: Submitted) -> bool:
        key = submitted.producer, submitted.order.serial
        known = self._restored.get(key)
        if known is None:
            revived = self._records.operator.revived
            known = self._restored[key] = any(
                any(id in revived for id in parent.ids[index : index + 1]) or self._has_come_back(parent)
                for parent, index in self.parents(submitted)
            )
        return known

    def excuses(self, submitted: Submitted, why: str) -> bool:
        """Whether the reason for which a task of an order never started is true: a parent has no result."""
        if submitted.order.run_anyway or not why.startswith(CAUSE):
            return False
        named = why.removeprefix(CAUSE).split(" ")[0]
        for parent, index in self.parents(submitted):
            id = parent.ids[index] if index < len(parent.ids) else None
            if id is None or named not in (str(id[0]), f"{id[0]}.{id[1]}"):
                continue
            final = self._records.finals.get(id)
            if final is None or final.state is not State.SUCCEEDED:
                return True
        return False


def check_lineage(records: Records, lineage: Lineage) -> Iterator[Violation]:
    """Children start after their parents' ends."""
    for submitted in records.submitted.values():
        starts = [
            (records.executions[tag][0], tag)
            for tag in submitted.order.tags(submitted.producer)
            if submitted.order.after and records.executions.get(tag)
        ]
        if not starts:
            continue
        child, tag = min(starts, key=lambda start: start[0].start)
        for parent, index in lineage.parents(submitted):
            why = _too_early(records, parent, index, child, submitted.order.run_anyway)
            if why:
                name = parent.order.tag(parent.producer, index)
                yield Violation("before parents", child.start, f"{tag} started at {child.start:.3f}; {name} {why}")


def _too_early(records: Records, parent: Submitted, index: int, child: Execution, run_anyway: bool) -> str:
    """Why a child should not have started; "" where it should."""
    tag = parent.order.tag(parent.producer, index)
    executions = records.executions.get(tag, [])
    id = parent.ids[index] if index < len(parent.ids) else None
    if id is None:
        return "was never acknowledged"
    revived = records.operator.revived.get(id, ())
    final = records.finals.get(id)
    if final is not None and final.state is State.SUCCEEDED and not revived:
        _, _, attempt, pid = final.value
        made = [run for run in executions if (run.attempt, run.pid) == (attempt, pid) and run.end is not None]
        late = not made or min(run.end for run in made if run.end is not None) > child.start + EPSILON_S
        return "had not ended by then" if late else ""
    if not run_anyway and not revived:
        return "has no result"
    before = [run for run in executions if run.start < min([child.start, *revived])]
    open_still = [run for run in before if run.end is not None and run.end > child.start + EPSILON_S]
    return "ran then" if open_still else ""
