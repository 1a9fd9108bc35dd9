"""What must not overtake what a worker has put back."""

from __future__ import annotations

from dtq.model.messages import Grant
from dtq.model.pages import pack
from dtq.worker.takenback import TakenBack


def grant(token: int, batch: int, lo: int = 0, spec: int = 1) -> Grant:
    return Grant(token=token, batch=batch, lo=lo, hi=lo + 1, single=False, attempt=1, spec=spec, arguments=pack([b"x"]))


def test_what_comes_after_something_that_was_put_back_is_put_back_too() -> None:
    # Given
    back = TakenBack()
    back.note(grant(1, batch=7), 3)

    # When leases arrive that were granted before the coordinator knew
    arrived = [grant(2, batch=7, lo=4), grant(3, batch=8), grant(4, batch=6), grant(5, batch=7, lo=2)]

    # Then those go back that would overtake it
    assert set(back.overtaking(arrived)) == {2, 3}


def test_what_is_more_urgent_is_not_put_back() -> None:
    back = TakenBack()
    back.note(grant(1, batch=7), 3)

    assert not back.overtaking([grant(2, batch=8, spec=2)])


def test_once_it_has_come_again_all_is_in_order() -> None:
    # Given
    back = TakenBack()
    back.note(grant(1, batch=7), 3)

    # When it comes again, with what follows
    overtaking = back.overtaking([grant(2, batch=7, lo=3), grant(3, batch=7, lo=4)])

    # Then neither that nor what comes later goes back
    assert not overtaking
    assert not back.overtaking([grant(4, batch=9)])


def test_once_the_coordinator_knows_nothing_goes_back() -> None:
    back = TakenBack()
    back.note(grant(1, batch=7), 3)

    back.clear()

    assert not back
    assert not back.overtaking([grant(2, batch=8)])
