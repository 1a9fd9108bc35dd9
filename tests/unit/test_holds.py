"""Holds: a value that was put is kept while a holder is there, and its time longer."""

from __future__ import annotations

import pytest

from dtq.core.changes import HoldEnded, HoldRow, Stored, Totals
from dtq.core.machine import Machine
from dtq.core.queue_state import Rules
from dtq.core.restoring import restore

D = b"d" * 32


@pytest.fixture
def machine() -> Machine:
    return Machine(1, Rules(), Totals())


def held(machine: Machine) -> set[tuple[str, bytes]]:
    return {(row.session, row.digest) for row in machine.queue_state.holds.rows()}


def test_what_two_have_put_lies_once(machine: Machine) -> None:
    holds = machine.queue_state.holds

    assert holds.hold("a", D, b"", 10.0) == b""
    assert holds.hold("a", D, b"first", 10.0) == b"first"
    assert holds.hold("b", D, b"second", 10.0) == b"first"
    holds.release("a", [D, b"never"])
    assert holds.hold("c", D, b"", 10.0) == b"first"
    holds.release("b", [D])
    holds.release("c", [D])
    assert holds.hold("c", D, b"third", 10.0) == b"third"


def test_what_is_held_stays_while_the_holder_is_there_and_its_time_longer(machine: Machine) -> None:
    # Given two holders of whom one leaves, and comes back
    holds = machine.queue_state.holds
    for session in "ab":
        holds.hold(session, D, b"value", 10.0)
        holds.left(session, 5.0)
    holds.back("b")

    # When their time is over
    machine.tick(14.9)
    assert held(machine) == {("a", D), ("b", D)}
    assert machine.next_deadline() <= 15.0
    machine.tick(15.0)

    # Then that of the other is
    assert held(machine) == {("b", D)}


def test_rows_say_what_is_held(machine: Machine) -> None:
    # Given what the machine has written
    holds = machine.queue_state.holds
    holds.hold("a", D, b"value", 10.0)
    holds.hold("b", D, b"value", 10.0)
    assert machine.drain(0.0)[0] == [
        Stored(HoldRow(session=s, digest=D, description=b"value", ttl_s=10.0, until=None)) for s in "ab"
    ]
    holds.release("a", [D])
    holds.left("b", 1.0)
    holds.hold("b", D, b"value", 10.0)  # it is there again
    holds.left("b", 2.0)
    row = HoldRow(session="b", digest=D, description=b"value", ttl_s=10.0, until=12.0)
    assert machine.drain(0.0)[0] == [HoldEnded("a", D), Stored(row)]

    # When another machine begins with that, Then it is held as long; and where the holder was there, its whole time
    later = restore(2, Rules(), Totals(), [row], 5.0)
    assert later.queue_state.holds.rows() == [row]
    there = HoldRow(session="c", digest=D, description=b"value", ttl_s=10.0, until=None)
    again = restore(2, Rules(), Totals(), [there], 5.0).queue_state.holds
    assert [found.until for found in again.rows()] == [15.0]
    again.back("c")
    again.expire(100.0)
    assert again.rows() == [there]
