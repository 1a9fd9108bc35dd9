"""What tasks need of a worker beside one slot, and what of that a worker has free.

Rules:

1. A worker *could run* what its whole offer meets. What it could not is not looked at when something is handed to it,
   and holds up nothing there.
2. Of what it could run, the most urgent comes first. Where that does not fit into what is free now, it is kept for: as
   much of each resource as it needs is given to nobody else of this worker; nor are slots, once its resources are
   there and it lacks nothing but these. So all that it needs gathers, and it starts before anything that could have
   stood in its way. What takes nothing of that goes on.
3. A lease with a need holds one task, and has what that needs from its grant to its end. It is never granted ahead of
   free slots. Which units it has got is part of its row, so a restart finds it as it was.

`core.placing` applies them to what waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dtq.model.resources import Needs, Offers, Portion

#: Of how many needs a worker remembers whether it could meet them.
_MOST_KNOWN: Final = 1_000


class Need:
    """What the tasks of a spec need."""

    __slots__ = ("amounts", "name", "needs", "slots", "tags")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.amounts = {quantity.name: quantity.amount for quantity in needs.resources}
        self.slots = needs.slots
        self.tags = frozenset(needs.tags)
        #: The same for the same needs.
        self.name = ";".join([",".join(map(str, needs.resources)), str(needs.slots), ",".join(needs.tags)])

    def line(self, queue: str) -> str:
        """What stands for it in a queue; no queue is called so."""
        return f"{queue} {self.name}"

    def __str__(self) -> str:
        return str(self.needs)


class Room:
    """What a worker offers, and what of that is free.

    Args:
        slots: how many slots it was told to have.
        offers: what it has beside these; None for nothing.
    """

    __slots__ = ("_known", "_order", "offers", "slots", "sums", "tags", "totals", "units")

    def __init__(self, slots: int, offers: Offers | None) -> None:
        self.slots = slots
        self.offers = offers
        resources = () if offers is None else offers.resources
        self.totals = {portion.name: portion.amount for portion in resources}
        self.tags = frozenset(() if offers is None else offers.tags)
        #: What is free: the names of units in the order in which they were offered, and how much of sums.
        self.units = {portion.name: list(portion.units) for portion in resources if portion.units}
        self.sums = {portion.name: portion.amount for portion in resources if not portion.units}
        self._order = {p.name: {unit: place for place, unit in enumerate(p.units)} for p in resources}
        self._known: dict[str, bool] = {}

    def could(self, need: Need) -> bool:
        """Whether the worker could run what needs that, if nothing else ran there."""
        could = self._known.get(need.name)
        if could is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            could = need.slots <= self.slots and need.tags <= self.tags
            could = could and all(self.totals.get(name, 0) >= amount for name, amount in need.amounts.items())
            self._known[need.name] = could
        return could

    def free(self, name: str) -> int:
        """How many units of a resource are free, or how much of the sum."""
        units = self.units.get(name)
        return self.sums.get(name, 0) if units is None else len(units)

    def fits(self, need: Need, beside: Need | None = None) -> bool:
        """Whether there are resources for what needs that, beside what is kept for something else."""
        kept = {} if beside is None else beside.amounts
        return all(self.free(name) - kept.get(name, 0) >= amount for name, amount in need.amounts.items())

    def take(self, need: Need) -> tuple[Portion, ...]:
        """Give it what it needs; there are resources for it."""
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
        """These are taken by a lease of an earlier time; what the worker does not offer any more is passed over."""
        for portion in portions:
            if portion.name in self.units:
                self.units[portion.name] = [u for u in self.units[portion.name] if u not in portion.units]
            elif portion.name in self.sums:
                self.sums[portion.name] -= portion.amount

    def give(self, portions: Iterable[Portion]) -> None:
        """These are free again."""
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
