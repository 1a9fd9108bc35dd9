"""Rules of movement: only what the table lists happens, and the counts follow every move."""

from __future__ import annotations

import pytest

from dtq.core.states import TRANSITIONS, IllegalMove, Move, Tally
from dtq.model.snapshots import Counts
from dtq.model.states import FINAL, State

LISTED = [(state, move, to) for state, moves in TRANSITIONS.items() for move, to in moves.items()]
UNLISTED = [(state, move) for state, moves in TRANSITIONS.items() for move in Move if move not in moves]


def tally_with(state: State | None) -> Tally:
    tally = Tally()
    if state is not None:
        tally.recall("q", state, 1)
    return tally


def test_transitions_cover_every_state() -> None:
    assert set(TRANSITIONS) == {None, *State}


@pytest.mark.parametrize(("state", "move", "to"), LISTED)
def test_move_that_is_listed_moves_the_count(state: State | None, move: Move, to: State | None) -> None:
    tally = tally_with(state)

    assert tally.move("q", state, move) is to

    assert tally.counts() == Counts(**({} if to is None else {to.value: 1}))


@pytest.mark.parametrize(("state", "move"), UNLISTED)
def test_move_that_is_not_listed_is_refused_and_counts_nothing(state: State | None, move: Move) -> None:
    tally = tally_with(state)
    before = tally.counts()

    with pytest.raises(IllegalMove, match=move.name):
        tally.move("q", state, move)

    assert tally.counts() == before


def test_running_is_only_reached_by_a_lease_of_a_task_that_waits_to_be_handed_out_or_for_another() -> None:
    reached = {(state, move) for state, move, to in LISTED if to is State.RUNNING}
    assert reached == {(State.PENDING, Move.LEASED), (State.BLOCKED, Move.LEASED)}


def test_final_states_are_only_left_by_operators_or_by_a_withdrawal() -> None:
    left = {(state, move) for state, move, _ in LISTED if state in FINAL and move is not Move.WITHDRAWN}

    assert left == {
        (State.DEAD, Move.REVIVED),
        (State.DEAD, Move.PURGED),
        (State.CANCELLED, Move.BROUGHT_BACK),
    }


def test_every_task_can_be_stopped_until_it_has_ended() -> None:
    for state in set(State) - FINAL:
        assert TRANSITIONS[state][Move.CANCELLED] is State.CANCELLED


def test_tally_counts_each_queue_apart_and_all_together() -> None:
    # Given two queues
    tally = Tally()
    tally.move("a", None, Move.ACCEPTED, 3)
    tally.move("b", None, Move.DELAYED, 2)

    # When one of them moves
    tally.move("a", State.PENDING, Move.LEASED, 2)

    # Then
    assert tally.queues() == {
        "a": {State.BLOCKED: 0, State.SCHEDULED: 0, State.PENDING: 1, State.RUNNING: 2},
        "b": {State.BLOCKED: 0, State.SCHEDULED: 2, State.PENDING: 0, State.RUNNING: 0},
    }
    assert tally.counts() == Counts(scheduled=2, pending=1, running=2)
    assert tally.unfinished == 5


def test_tally_forgets_a_queue_that_has_nothing_unfinished() -> None:
    # Given
    tally = Tally()
    tally.move("a", None, Move.ACCEPTED)
    tally.move("a", State.PENDING, Move.LEASED)

    # When
    tally.move("a", State.RUNNING, Move.SUCCEEDED)

    # Then: a user who makes up queue names does not fill the memory
    assert tally.queues() == {}
    assert tally[State.SUCCEEDED] == 1
    assert tally.unfinished == 0
