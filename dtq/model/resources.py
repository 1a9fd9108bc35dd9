"""Resources, several slots and tags: workers offer them, and tasks need them.

A resource is a name. A worker offers named units of it, which are handed out one by one (the graphics cards 0 and 1),
or a sum, of which tasks take their parts (32 GB of memory). A task needs a number of units or a part of the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from dtq.config.values import check_resource, check_tag, parse_offer, parse_size
from dtq.errors import InvalidValue
from dtq.model import fields
from dtq.model.fields import RESOURCES, TAGS, UNITS
from dtq.records import dataclass
from dtq.wording import counted

#: Largest amount of a resource.
MOST: Final = (1 << 62) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """An amount of a resource, as a task needs it.

    Attributes:
        name: the resource.
        amount: how many units of it, or how much of the sum; at least 1.
    """

    name: fields.ResourceName
    amount: fields.Amount

    def __post_init__(self) -> None:
        check_resource(self.name)
        if not 1 <= self.amount <= MOST:
            raise InvalidValue(f"how much of {self.name}", self.amount, "it is a whole number from 1")

    def __str__(self) -> str:
        return f"{self.name}={self.amount}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """A worker's share of a resource, or a lease's part of that.

    Attributes:
        name: the resource.
        units: the names of the units; empty for a sum.
        amount: how many units, or how large the sum.
    """

    name: fields.ResourceName
    units: Annotated[tuple[fields.UnitName, ...], UNITS] = ()
    amount: fields.Amount

    def __post_init__(self) -> None:
        check_resource(self.name)
        if self.units and (len(self.units) != self.amount or len(set(self.units)) != self.amount):
            raise InvalidValue(f"the units of {self.name}", ",".join(self.units)[:80], "each has a name of its own")

    def __str__(self) -> str:
        return f"{self.name}={','.join(self.units) or self.amount}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """A task's needs of its worker, beside one slot.

    Attributes:
        resources: the amounts, by name, each name once.
        slots: number of the worker's slots.
        tags: tags that the worker must have, in the order of the alphabet.
    """

    resources: Annotated[tuple[Quantity, ...], RESOURCES] = ()
    slots: fields.TaskSlots = 1
    tags: Annotated[tuple[fields.Tag, ...], TAGS] = ()

    def __post_init__(self) -> None:
        names = [quantity.name for quantity in self.resources]
        if names != sorted(set(names)) or len(names) > RESOURCES.most:
            raise InvalidValue("resources", ", ".join(names)[:80], f"at most {RESOURCES.most}, each once, by name")
        if not 1 <= self.slots <= fields.MAX_SLOTS:
            raise InvalidValue("slots", self.slots, f"it is a whole number from 1 to {fields.MAX_SLOTS:,}")
        for tag in self.tags:
            check_tag(tag)
        if list(self.tags) != sorted(set(self.tags)) or len(self.tags) > TAGS.most:
            raise InvalidValue("tags", ", ".join(self.tags)[:80], f"at most {TAGS.most}, each once, by name")

    def __str__(self) -> str:
        parts = [*map(str, self.resources)]
        if self.slots > 1:
            parts.append(counted(self.slots, "slot"))
        parts += [f"the tag {tag}" for tag in self.tags]
        return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """A worker's resources and tags, beside its slots.

    Attributes:
        resources: by name, each once.
        tags: other properties of the worker.
    """

    resources: Annotated[tuple[Portion, ...], RESOURCES] = ()
    tags: Annotated[tuple[fields.Tag, ...], TAGS] = ()

    def __post_init__(self) -> None:
        names = [portion.name for portion in self.resources]
        if len(names) != len(set(names)) or len(names) > RESOURCES.most:
            raise InvalidValue("resources", ", ".join(names)[:80], f"at most {RESOURCES.most}, each once")


def offers(resources: Iterable[str], tags: Iterable[str]) -> Offers | None:
    """Parse a worker's resources and tags; None for none.

    Args:
        resources: each as in ``gpu=0,1`` or ``memory=32GB``.
        tags: tags.

    Raises:
        InvalidValue: one of them is invalid.
    """
    parsed = [parse_offer(text) for text in resources]
    portions = tuple([Portion(name=name, units=units, amount=amount) for name, units, amount in parsed])
    named = tuple(dict.fromkeys(check_tag(tag) for tag in tags))
    return Offers(resources=portions, tags=named) if portions or named else None


def needs(resources: Mapping[str, Any] | None, slots: int, tags: tuple[str, ...]) -> Needs | None:
    """Parse a task's needs; None for no more than a slot.

    Args:
        resources: by name, the amount: a whole number, or a size (``"4GB"``).
        slots: number of slots.
        tags: tags that the worker must have.

    Raises:
        InvalidValue: one of them is invalid.
    """
    if not resources and slots == 1 and not tags:
        return None
    quantities = [Quantity(name=name, amount=_amount(name, value)) for name, value in (resources or {}).items()]
    return Needs(
        resources=tuple(sorted(quantities, key=lambda quantity: quantity.name)),
        slots=slots,
        tags=tuple(sorted(set(tags))),
    )


def _amount(name: str, value: Any) -> int:
    if isinstance(value, str):
        return parse_size(value, f"how much of {name}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise InvalidValue(f"how much of {name}", repr(value)[:80], "it is a whole number, or a size as in '4GB'")
    return value


def needs_from_json(plain: dict[str, Any]) -> Needs:
    """The needs of these plain values."""
    return Needs(
        resources=tuple(Quantity(**quantity) for quantity in plain["resources"]),
        slots=plain["slots"],
        tags=tuple(plain["tags"]),
    )
