"""`Service.hello` and `Service.submit`: every sentence of their docstrings, in every house."""

from __future__ import annotations

import math
import time

import pytest

from dtq import __version__
from dtq.core.changes import ArgumentPage
from dtq.errors import ProtocolMismatch, ShuttingDown
from dtq.model import pages
from dtq.model.messages import PROTOCOL, Conditions, Hello, Role, Submission
from dtq.model.snapshots import Selection
from dtq.model.states import State
from tests.contracts.service_scene import Caller, House, spec, until


def count_of(house: House, state: State) -> int:
    return house.coordinator.machine.queue_state.tally[state]


# -- hello ----------------------------------------------------------------------------------------------------------


@pytest.mark.rules(lease_s=9.0, highest_first=True)
def test_hello_is_answered_with_what_the_caller_has_to_know(house: House) -> None:
    welcome = house.client().welcome

    assert (welcome.epoch, welcome.resumed, welcome.version) == (1, False, __version__)
    assert (welcome.lease_s, welcome.heartbeat_s, welcome.highest_first) == (9.0, 3.0, True)
    assert welcome.max_message == 16 << 20


def test_hello_of_a_known_session_resumes_it(house: House) -> None:
    first = house.client()

    second = house.client(first.session)
    first.hang_up()
    third = house.client(first.session)

    assert (second.welcome.resumed, third.welcome.resumed) == (True, True)


def test_hello_of_another_protocol_is_refused_with_both_versions(house: House) -> None:
    stranger = Hello(session="s" * 32, role=Role.CLIENT, protocol=PROTOCOL + 1)

    with pytest.raises(ProtocolMismatch, match=rf"\b{PROTOCOL + 1}\b"):
        Caller(house, stranger)


# -- receipts -------------------------------------------------------------------------------------------------------


def test_accepted_submission_is_on_disk_when_its_receipt_arrives(house: House) -> None:
    client = house.client()

    (receipt,) = client.receipts(client.submission(3, delay_s=60.0), priority=2)

    assert (receipt.batch, receipt.size, receipt.code) == (1, 3, "")
    (stored,) = house.engine.batches([1])
    assert (stored.row.size, stored.row.complete, stored.spec) == (3, True, spec(priority=2))
    (page,) = house.engine.pages(ArgumentPage, 1, 0, 3)
    assert pages.unpack(page.data) == [b"0", b"1", b"2"]


def test_each_submission_of_a_call_has_its_own_receipt_in_their_order(house: House) -> None:
    # Given specs of two functions
    client = house.client()
    submissions = [
        Submission(spec=place, number=number, arguments=pages.pack([b""] * (number + 1)))
        for number, place in enumerate((1, 0, 1))
    ]

    # When
    receipts = client.service.submit([spec("work:a"), spec("work:b")], submissions, False)

    # Then
    assert [(receipt.batch, receipt.size) for receipt in receipts] == [(1, 1), (2, 2), (3, 3)]
    functions = [client.service.batch(number).spec.function.name for number in (1, 2, 3)]
    assert functions == ["work:b", "work:a", "work:b"]


def test_refused_submission_says_why_and_does_no_harm_to_the_others(house: House) -> None:
    # Given
    client = house.client()
    good = client.submission(1)
    arguments = pages.pack([b""])
    bad = [
        Submission(spec=7, number=101, arguments=arguments),
        Submission(spec=0, number=102, arguments=b"no page"),
        Submission(spec=0, number=103, arguments=arguments, batch=99),
        Submission(spec=0, number=104, arguments=arguments, offset=5),
        Submission(spec=0, number=105, arguments=arguments, delay_s=math.inf),
        Submission(spec=0, number=106, arguments=arguments, key="k" * 1000),
        Submission(spec=0, number=107, arguments=pages.pack([b""] * 1025)),
    ]

    # When
    receipts = client.receipts(*bad[:3], good, *bad[3:])

    # Then
    codes = [receipt.code for receipt in receipts]
    if codes[5] == "bad-message":  # found on the wire already
        codes[5] = "invalid-value"
    assert codes == [
        "invalid-value",
        "bad-message",
        "unknown-id",
        "",
        "bad-message",
        "invalid-value",
        "bad-message",
        "bad-message",
    ]
    assert all(receipt.batch == 0 for receipt in receipts if receipt.code)
    assert count_of(house, State.PENDING) == 1


def test_submissions_with_one_number_have_a_receipt_each(house: House) -> None:
    client = house.client()

    receipts = client.receipts(client.submission(1, number=1), client.submission(2, number=1))

    assert [receipt.size for receipt in receipts] == [1, 2]


@pytest.mark.rules(max_tasks=3)
def test_submission_beyond_the_limit_is_refused_and_fits_when_there_is_room(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    client.submit(3)

    # When
    (receipt,) = client.receipts(client.submission(1))

    # Then
    assert (receipt.code, receipt.details) == ("queue-full", (3, 3))
    hand.succeed(hand.fetch_one())
    assert client.submit() == 2


def test_call_without_submissions_is_answered(house: House) -> None:
    assert house.client().service.submit([], [], False) == []


def test_stopping_coordinator_takes_no_submission(house: House) -> None:
    client = house.client()
    house.coordinator.quiesce()

    with pytest.raises(ShuttingDown):
        client.submit()

    assert count_of(house, State.PENDING) == 0


# -- pieces ---------------------------------------------------------------------------------------------------------


def test_pieces_make_one_batch_and_receipts_say_how_much_has_arrived(house: House) -> None:
    # Given
    client = house.client()
    (first,) = client.receipts(client.submission(2, complete=False))

    # When two pieces come in one call
    second, third = client.receipts(
        client.submission(2, offset=2, batch=first.batch, complete=False),
        client.submission(1, offset=4, batch=first.batch),
    )

    # Then
    assert [(r.batch, r.size) for r in (first, second, third)] == [(1, 2), (1, 4), (1, 5)]
    view = client.service.batch(1)
    assert (view.size, view.complete, view.counts.pending) == (5, True, 5)


def test_piece_for_a_batch_that_was_cancelled_is_left_out(house: House) -> None:
    # Given a batch in the middle of its submission, cancelled as a whole, of which nothing runs
    client = house.client()
    (first,) = client.receipts(client.submission(2, complete=False))
    client.service.cancel(Selection(ids=((first.batch, -1),), limit=0))

    # When its submitter, who has not heard of it yet, sends the next
    (receipt,) = client.receipts(client.submission(2, offset=2, batch=first.batch))

    # Then
    assert (receipt.batch, receipt.size, receipt.code) == (first.batch, 2, "")
    assert client.service.batch(first.batch).counts.cancelled == 2


def test_batch_of_a_client_that_is_gone_for_good_has_what_it_has(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    monkeypatch.setattr("dtq.coordinator.sessions.CLIENT_GRACE_S", 0.05)
    client, other = house.client(), house.client()
    (receipt,) = client.receipts(client.submission(2, complete=False))
    hand = house.worker()
    for _ in range(2):
        hand.succeed(hand.fetch_one())
    assert not other.service.batch(receipt.batch).complete

    # When
    client.hang_up()

    # Then it is complete, and so finished
    until("the batch is complete", lambda: other.service.batch(receipt.batch).complete)
    assert other.service.batch(receipt.batch).finished_at is not None


# -- repeated -------------------------------------------------------------------------------------------------------


def test_repeated_call_is_answered_as_the_first_time_and_adds_nothing(house: House) -> None:
    # Given a call whose answer was lost
    client = house.client()
    submissions = [client.submission(2), client.submission(3, complete=False), client.submission(1, delay_s=9.0)]
    receipts = client.receipts(*submissions)

    # When it is repeated on the next connection of the session
    client.hang_up()
    again = house.client(client.session)

    # Then
    assert again.receipts(*submissions, repeated=True) == receipts
    assert count_of(house, State.PENDING) == 5
    assert count_of(house, State.SCHEDULED) == 1


def test_repeated_call_that_never_arrived_is_accepted(house: House) -> None:
    client = house.client()

    (receipt,) = client.receipts(client.submission(2), repeated=True)

    assert (receipt.batch, receipt.size) == (1, 2)


def test_repeated_call_accepts_what_is_new_in_it(house: House) -> None:
    client = house.client()
    first, second = client.submission(1), client.submission(2)
    client.receipts(first)

    receipts = client.receipts(first, second, repeated=True)

    assert [(receipt.batch, receipt.size) for receipt in receipts] == [(1, 1), (2, 2)]


def test_repeated_submission_is_known_after_its_batch_has_finished(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    submission = client.submission(1)
    receipts = client.receipts(submission)
    hand.succeed(hand.fetch_one())
    client.receipts(client.submission(1, delay_s=9.0))

    # Then
    assert client.receipts(submission, repeated=True) == receipts
    assert house.coordinator.machine.queue_state.submitted == 2


def test_repeated_last_piece_is_answered_after_its_batch_has_finished(house: House) -> None:
    # Given a batch whose last receipt was lost, and whose tasks were quick
    client, hand = house.client(), house.worker(slots=2)
    (first,) = client.receipts(client.submission(1, complete=False))
    last = client.submission(1, offset=1, batch=first.batch)
    client.receipts(last)
    for grant in hand.fetch():
        hand.succeed(grant)
    client.receipts(client.submission(1, delay_s=9.0))

    # When
    (receipt,) = client.receipts(last, repeated=True)

    # Then
    assert (receipt.batch, receipt.size, receipt.code) == (first.batch, 2, "")


def test_call_that_arrives_after_its_own_repetition_adds_nothing(house: House) -> None:
    # Given a call that lay in a connection that was cut, and came through after all
    client = house.client()
    lost, newer = client.submission(2), client.submission(1)
    again = house.client(client.session)
    receipts = again.receipts(lost, repeated=True)

    # Then it is answered as its repetition was,
    assert client.receipts(lost) == receipts
    # or refused, where that is long ago.
    again.receipts(newer)
    (receipt,) = client.receipts(lost)
    assert (receipt.batch, receipt.code) == (0, "bad-message")
    assert count_of(house, State.PENDING) == 3


# -- keys -----------------------------------------------------------------------------------------------------------


def test_second_submission_with_a_key_is_answered_with_the_first_s_batch(house: House) -> None:
    one, other = house.client(), house.client()

    first = one.submit(submission={"key": "nightly"})
    second = other.submit(submission={"key": "nightly"})

    assert first == second
    assert other.service.batch(first).key == "nightly"
    assert count_of(house, State.PENDING) == 1


def test_key_is_remembered_as_long_as_its_batch_is(house: House) -> None:
    # Given
    client, hand = house.client(), house.worker()
    batch = client.submit(submission={"key": "nightly"})
    hand.succeed(hand.fetch_one())

    # Then
    assert house.client().submit(submission={"key": "nightly"}) == batch


@pytest.mark.parametrize("finished", [False, True])
def test_key_of_another_function_is_a_conflict(house: House, finished: bool) -> None:
    # Given
    client, hand = house.client(), house.worker()
    batch = client.submit(submission={"key": "nightly"})
    if finished:
        hand.succeed(hand.fetch_one())

    # When
    (receipt,) = client.receipts(client.submission(key="nightly"), function="work:other")

    # Then
    assert (receipt.code, receipt.details) == ("key-conflict", ("nightly", batch))


def test_keys_are_not_mistaken_for_what_repeats_are_recognised_by(house: House) -> None:
    # Given a key that looks like the coordinator's own name for a submission
    client = house.client()
    client.submit(submission={"key": f"{client.session}/77"})

    # When the submission with that number comes, repeated
    (receipt,) = client.receipts(client.submission(2, number=77), repeated=True)

    # Then
    assert (receipt.batch, receipt.size) == (2, 2)


def test_moment_of_the_wall_clock_is_kept_over_a_restart(house: House) -> None:
    # Given what is due in an hour, and what is due in a moment, by the time of day
    client = house.client()
    at = time.time() + 3600
    later = client.submit(2, submission={"conditions": Conditions(at=at)})
    house.restart()
    client, hand = house.client(), house.worker()
    soon = client.submit(submission={"conditions": Conditions(at=time.time() + 0.3)})
    # Then this is handed out, and that is said to wait
    assert hand.fetch_one().batch == soon
    view = client.service.task(later, 1)
    assert (view.state, view.due_at) == (State.SCHEDULED, at)
    assert view.reason.startswith("submitted for 2")
    assert hand.fetch() == []
