"""Tasks that a worker has put back because they would have had to wait, and leases that must not overtake them.

Worker, below the supervisor. Pure. Leases come in the order of the waiting tasks. When some are put back, leases that
come after them may be on their way: granted before the coordinator knew. Those are put back too, and all of them come
again in their order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dtq.model.messages import Grant


class TakenBack:
    """The tasks that were put back, until the coordinator is known to have the report."""

    def __init__(self) -> None:
        #: By spec, batch and index: the first task of each lease. Tasks of one spec are in the order of these.
        self._firsts: set[tuple[int, int, int]] = set()

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def note(self, grant: Grant, lo: int) -> None:
        """Note that a lease's tasks, from this one on, are put back."""
        self._firsts.add((grant.spec, grant.batch, lo))

    def clear(self) -> None:
        """Forget all: the coordinator knows."""
        self._firsts.clear()

    def overtaking(self, grants: Sequence[Grant]) -> Collection[int]:
        """Those leases of one answer that must be put back: their tokens."""
        if not self._firsts:
            return ()
        if any([(grant.spec, grant.batch, grant.lo) in self._firsts for grant in grants]):
            self.clear()  # they come again, so the coordinator knows
            return ()
        earliest = {spec: (batch, lo) for spec, batch, lo in sorted(self._firsts, reverse=True)}
        after = [g for g in grants if g.spec in earliest and earliest[g.spec] < (g.batch, g.lo)]
        return {grant.token for grant in after}
