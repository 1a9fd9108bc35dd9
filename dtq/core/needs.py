"""Needs of tasks beside one slot, and each worker's free share of its resources.

Rules:

1. A worker *could run* tasks whose needs its whole offer meets. Other tasks are skipped when the worker is given work,
   and hold up nothing there.
2. Of the tasks it could run, the most urgent comes first. If that one does not fit into the worker's free resources,
   they are kept for it: as much of each resource as it needs is given to no other task of this worker; nor are slots,
   once its resources are there and it lacks slots only. So its resources gather, and it starts before any later task
   that could delay it. Tasks that take none of these resources go on.
3. A lease with a need holds one task, and owns its resources from its grant to its end. It is never granted ahead of
   free slots. Its units are part of its row, so a restart finds them unchanged.

`core.placing` applies these rules to waiting tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dtq.model.resources import Needs, Offers, Portion

#: Number of needs of which a worker remembers whether it could meet them.
_MOST_KNOWN: Final = 1_000


class Need:
    """The needs of a spec's tasks."""

    __slots__ = ("amounts", "name", "needs", "slots", "tags")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.amounts = {quantity.name: quantity.amount for quantity in needs.resources}
        self.slots = needs.slots
        self.tags = frozenset(needs.tags)
        #: The same for equal needs.
        self.name = ";".join([",".join(map(str, needs.resources)), str(needs.slots), ",".join(needs.tags)])

    def line(self, queue: str) -> str:
        """The name of their line in a queue; no queue has such a name."""
        return f"{queue} {self.name}"

    def __str__(self) -> str:
        return str(self.needs)


class Room:
    """A worker's resources, and its free ones.

    Args:
        slots: its configured number of slots.
        offers: its other resources; None for none.
    """

    __slots__ = ("_known", "_order", "offers", "slots", "sums", "tags", "totals", "units")

    def __init__(self, slots: int, offers: Offers | None) -> None:
        self.slots = slots
        self.offers = offers
        resources = () if offers is None else offers.resources
        self.totals = {portion.name: portion.amount for portion in resources}
        self.tags = frozenset(() if offers is None else offers.tags)
        #: Free resources: names of units in the order of the offer, and the rest of sums.
        self.units = {portion.name: list(portion.units) for portion in resources if portion.units}
        self.sums = {portion.name: portion.amount for portion in resources if not portion.units}
        self._order = {p.name: {unit: place for place, unit in enumerate(p.units)} for p in resources}
        self._known: dict[str, bool] = {}

    def could(self, need: Need) -> bool:
        """Whether the idle worker could run a task with this need."""
        could = self._known.get(need.name)
        if could is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            could = need.slots <= self.slots and need.tags <= self.tags
            could = could and all(self.totals.get(name, 0) >= amount for name, amount in need.amounts.items())
            self._known[need.name] = could
        return could

    def free(self, name: str) -> int:
        """Number of free units of a resource, or the free part of a sum."""
        units = self.units.get(name)
        return self.sums.get(name, 0) if units is None else len(units)

    def fits(self, need: Need, beside: Need | None = None) -> bool:
        """Whether the free resources meet a need, beside those kept for another one."""
        kept = {} if beside is None else beside.amounts
        return all(self.free(name) - kept.get(name, 0) >= amount for name, amount in need.amounts.items())

    def take(self, need: Need) -> tuple[Portion, ...]:
        """Take the resources of a need, which are free."""
        taken = []
        for name, amount in need.amounts.items():
            units = self.units.get(name)
            if units is None:
                self.sums[name] -= amount
                taken.append(Portion(name=name, amount=amount))
            else:
                taken.append(Portion(name=name, units=tuple(units[:amount]), amount=amount))
                del units[:amount]
        return tuple(taken)

    def took(self, portions: Iterable[Portion]) -> None:
        """Take the resources of a restored lease; those that the worker does not offer any more are skipped."""
        for portion in portions:
            if portion.name in self.units:
                self.units[portion.name] = [u for u in self.units[portion.name] if u not in portion.units]
            elif portion.name in self.sums:
                self.sums[portion.name] -= portion.amount

    def give(self, portions: Iterable[Portion]) -> None:
        """Free these resources."""
        for portion in portions:
            order = self._order.get(portion.name)
            if order is None:
                continue
            units = self.units.get(portion.name)
            if units is None:
                self.sums[portion.name] += portion.amount
            else:
                back = [unit for unit in portion.units if unit in order and unit not in units]
                units[:] = sorted([*units, *back], key=order.__getitem__)
