"""How many slots more a worker has, and when: for each task that waits, within a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from dtq.worker.child import Child
from dtq.worker.extras import KEEP_S, WAIT_S, Extras

NOW = 1000.0
LONG_AGO = NOW - 2 * WAIT_S


@dataclass
class Slot:
    """What is looked at of a slot."""

    number: int
    waiting_since: float | None = None
    chunks: list[str] = field(default_factory=list)
    sound: bool = True
    kill_reason: object = None
    looks: bool = False
    preparing: str = ""
    spread: int = 0

    @property
    def blocked(self) -> bool:
        return self.waiting_since is not None and not self.looks

    @property
    def idle(self) -> bool:
        return self.sound and not self.chunks and not self.preparing

    def awaits(self, name: str) -> bool:
        return self.preparing == name

    def worn_out(self) -> bool:
        return False


def waiting(number: int, since: float = LONG_AGO) -> Slot:
    return Slot(number, since, ["lease"])


def busy(number: int) -> Slot:
    return Slot(number, None, ["lease"])


def children(*slots: Slot) -> Sequence[Child]:
    return [cast("Child", slot) for slot in slots]


@pytest.mark.parametrize(
    ("slots", "missing"),
    [
        ((busy(1), busy(2)), []),
        ((waiting(1, NOW), busy(2)), []),
        ((waiting(1), busy(2)), [3]),
        ((waiting(1), waiting(2)), [3, 4]),
        ((waiting(1), waiting(2), busy(4)), [3]),
        ((waiting(1), waiting(2), waiting(3), busy(4)), [5]),
        ((waiting(1), waiting(2), waiting(3), waiting(4), waiting(5)), []),
    ],
)
def test_each_that_has_waited_has_one_more_within_the_bound(slots: tuple[Slot, ...], missing: list[int]) -> None:
    assert Extras(2, 3).missing(children(*slots), (), NOW) == missing


def test_what_is_going_to_be_started_anyway_counts() -> None:
    assert Extras(2, 3).missing(children(waiting(1), waiting(2)), (3,), NOW) == [4]
    assert Extras(2, 3).missing(children(waiting(1)), (2,), NOW) == [3]


@pytest.mark.parametrize(
    ("slots", "free"),
    [
        ((busy(1), Slot(2)), 2),
        ((busy(1), busy(2)), None),
        ((waiting(1), busy(2), Slot(3)), 3),
        ((busy(1), busy(2), Slot(3)), None),
        ((waiting(1), busy(2), busy(3), Slot(4)), None),
    ],
)
def test_no_more_than_so_many_are_begun_that_do_not_wait(slots: tuple[Slot, ...], free: int | None) -> None:
    found = Extras(2, 3).free(children(*slots), "work:any")
    assert (None if found is None else found.number) == free


@pytest.mark.parametrize(
    ("slots", "capacity"),
    [
        ((busy(1), Slot(2)), 2),
        ((busy(1), Slot(2, sound=False)), 1),
        ((waiting(1), busy(2)), 2),
        ((waiting(1), busy(2), Slot(3)), 3),
        ((busy(1), busy(2), Slot(3)), 2),
        ((waiting(1), waiting(2)), 2),
        ((waiting(1), waiting(2), waiting(3)), 4),
    ],
)
def test_capacity_is_what_can_run_and_one_more_where_all_wait(slots: tuple[Slot, ...], capacity: int) -> None:
    assert Extras(2, 1).capacity(children(*slots)) == capacity


def test_latest_is_ended_where_none_can_be_added_and_none_is_ending() -> None:
    extras = Extras(1, 1)
    first, last = waiting(1), waiting(2, NOW)
    assert extras.latest(children(first)) is None
    assert extras.latest(children(first, busy(2))) is None
    assert extras.latest(children(first, last)) is cast("Child", last)
    first.kill_reason = "for its time limit"
    assert extras.latest(children(first, last)) is None


def test_none_is_ended_where_one_only_looks_again_and_again() -> None:
    extras = Extras(1, 1)
    looks = waiting(1)
    looks.looks = True
    assert extras.missing(children(looks), (), NOW) == [2]
    assert extras.latest(children(looks, waiting(2))) is None
    assert extras.capacity(children(looks, waiting(2))) == 2


def test_slot_that_is_not_needed_stays_for_a_while() -> None:
    extras = Extras(1, 2)
    extras.missing(children(waiting(1)), (), NOW)
    idle = Slot(2)
    assert extras.surplus(children(Slot(1), idle), NOW + KEEP_S / 2) == []
    assert extras.surplus(children(waiting(1), idle), NOW + 2 * KEEP_S) == []
    assert extras.surplus(children(Slot(1), busy(2)), NOW + 2 * KEEP_S) == []
    assert extras.surplus(children(Slot(1), idle), NOW + 2 * KEEP_S) == [cast("Child", idle)]
    assert NOW + KEEP_S in extras.moments(children(Slot(1), idle))


def test_lease_goes_to_a_slot_that_imports_its_function_only_where_none_is_idle() -> None:
    extras = Extras(3, 8)
    idle, other, same = Slot(1), Slot(2, preparing="work:other"), Slot(3, preparing="work:same")
    assert extras.free(children(other, same, idle), "work:same") is cast("Child", idle)
    assert extras.free(children(other, same), "work:same") is cast("Child", same)
    assert extras.free(children(other), "work:same") is None
