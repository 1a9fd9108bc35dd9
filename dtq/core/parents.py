"""Parents: the dependencies with which a batch is submitted, as values."""

from __future__ import annotations

from dtq.core.changes import BatchFlow, Element, Parent
from dtq.records import dataclass


def holder_of(batch: int) -> str:
    """The holder's name for a batch's given value: all results of another batch, written as one value."""
    return f"batch-{batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """The dependencies of a new batch.

    Attributes:
        parents: the tasks; all of them were accepted, and are kept.
        run_anyway: whether it runs although a parent ends without a result.
        lost: if a parent has ended so, and the batch does not run anyway, the reason why it never starts; else "".
        each: the batches whose tasks its own wait for one by one.
        gone: its tasks ``[lo, hi)`` that never start because their own parents have ended without a result, and why.
        items: the parents of single tasks, by index.
        lost_items: why some of these tasks never start, by index.
    """

    parents: tuple[Parent, ...] = ()
    run_anyway: bool = False
    lost: str = ""
    each: tuple[Element, ...] = ()
    gone: tuple[tuple[int, int, str], ...] = ()
    items: tuple[tuple[int, tuple[Parent, ...]], ...] = ()
    lost_items: tuple[tuple[int, str], ...] = ()

    @property
    def size(self) -> int | None:
        """How many tasks the batch has, where what they wait for says it."""
        return min([size for _, size, _ in self.each]) if self.each else None


def given_to(flow: BatchFlow) -> set[int]:
    """The batches whose results the function of a batch is given."""
    return {parent[0] for parent in flow.after if parent[3]} | {element[0] for element in flow.each}
