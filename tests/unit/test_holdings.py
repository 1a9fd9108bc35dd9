"""What a worker has to report, and whether it may wait for more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.model import pages
from dtq.model.messages import Failed, Failure, Grant, Progress, Released, Succeeded
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.printed import Printed
from dtq.model.states import Outcome
from dtq.worker.chunks import Chunk, Holdings, Outbox, weight

ROOM = 1 << 20
SPEC = Spec(function=Function(kind=FunctionKind.IMPORT, name="m:f", body=b""), options=Options())


@pytest.fixture
def chunk() -> Chunk:
    """A lease of tasks 1.0 to 1.3."""
    grant = Grant(token=7, batch=1, lo=0, hi=4, single=False, attempt=1, spec=1, arguments=pages.pack([b""] * 4))
    return Chunk(grant, SPEC, 0.0)


@pytest.fixture
def holdings(chunk: Chunk) -> Holdings:
    holdings = Holdings()
    holdings.add(chunk)
    return holdings


def done(holdings: Holdings, chunk: Chunk, count: int) -> None:
    results = pages.pack([b""] * count)
    holdings.outbox.add(Succeeded(token=7, lo=chunk.next, results=results, seconds=0.1))
    chunk.next += count


def test_results_of_a_lease_that_goes_on_may_wait_for_more(holdings: Holdings, chunk: Chunk) -> None:
    done(holdings, chunk, 2)
    assert not holdings.urgent


def test_end_of_a_lease_is_urgent(holdings: Holdings, chunk: Chunk) -> None:
    done(holdings, chunk, 4)
    assert holdings.urgent


def test_results_of_a_lease_that_was_taken_back_are_no_hurry(holdings: Holdings, chunk: Chunk) -> None:
    done(holdings, chunk, 2)
    holdings.chunks.clear()
    assert not holdings.urgent


@pytest.mark.parametrize("kind", ["failed", "released", "progress"])
def test_anything_but_results_is_urgent(holdings: Holdings, kind: str) -> None:
    box = holdings.outbox
    if kind == "failed":
        box.add(Failed(token=7, index=0, outcome=Outcome.FAILED, failure=Failure(), seconds=0.1))
    elif kind == "released":
        box.add(Released(token=7, lo=2, hi=4))
    else:
        box.progress[7] = Progress(token=7, index=0, done=1.0, total=2.0)
    assert holdings.urgent


def test_what_did_not_get_across_is_urgent(holdings: Holdings, chunk: Chunk) -> None:
    # Given a report that failed
    done(holdings, chunk, 2)
    holdings.take(ROOM, ROOM)
    # Then it is tried again at once
    assert holdings.urgent
    holdings.acknowledged()
    assert not holdings.urgent


# -- reports of bounded size ------------------------------------------------------------------------------------------

said = st.one_of(
    st.builds(
        lambda token, blobs, talkers: Succeeded(
            token=token,
            lo=0,
            results=pages.pack(blobs),
            seconds=float(len(blobs)),
            printed=tuple([Printed(index=at, head=b"said" * at) for at in sorted(talkers) if at < len(blobs)]),
        ),
        st.integers(1, 3),
        st.lists(st.binary(max_size=300), min_size=1, max_size=9),
        st.sets(st.integers(0, 8)),
    ),
    st.builds(
        lambda token, text: Failed(
            token=token, index=0, outcome=Outcome.FAILED, failure=Failure(message=text), seconds=1.0
        ),
        st.integers(1, 3),
        st.text(max_size=300),
    ),
    st.builds(lambda token: Released(token=token, lo=1, hi=2), st.integers(1, 3)),
)


def blobs_of(outcomes: list[Succeeded | Failed | Released]) -> dict[int, list[object]]:
    """What is said of each lease, in order, result by result."""
    told: dict[int, list[object]] = {}
    for outcome in outcomes:
        if isinstance(outcome, Succeeded):  # each result with what its task has printed
            printed = {each.index: each.head for each in outcome.printed}
            blobs = enumerate(pages.unpack(outcome.results), outcome.lo)
            told.setdefault(outcome.token, []).extend((at, blob, printed.pop(at, None)) for at, blob in blobs)
            assert not printed
        else:
            told.setdefault(outcome.token, []).append(outcome)
    return told


@given(st.lists(said, max_size=12), st.integers(0, 2_000))
def test_reports_have_the_size_they_may_have_and_say_all_in_order(
    outcomes: list[Succeeded | Failed | Released], room: int
) -> None:
    # Given
    outbox = Outbox()
    for outcome in outcomes:
        outbox.add(outcome)

    # When all is reported
    reports = []
    while outbox:
        reports.append(outbox.take(room))

    # Then each report is within its size, or one outcome that cannot be divided
    for report in reports:
        least = len(report) == 1 and (not isinstance(report[0], Succeeded) or pages.count(report[0].results) == 1)
        assert report
        assert sum(map(weight, report)) <= room or least
    # And together they say what has happened, in order
    told = [outcome for report in reports for outcome in report]
    assert blobs_of(told) == blobs_of(outcomes)
    assert outbox.size == 0
    seconds = sum(outcome.seconds for outcome in told if isinstance(outcome, Succeeded))
    assert seconds == pytest.approx(sum(o.seconds for o in outcomes if isinstance(o, Succeeded)))


def test_report_that_failed_goes_again_before_what_came_after(holdings: Holdings, chunk: Chunk) -> None:
    done(holdings, chunk, 2)
    assert [s.lo for s in holdings.take(ROOM, ROOM) if isinstance(s, Succeeded)] == [0]

    done(holdings, chunk, 2)

    assert [s.lo for s in holdings.take(ROOM, ROOM) if isinstance(s, Succeeded)] == [0, 2]


def test_lease_is_held_until_the_last_of_its_outcomes_has_arrived(holdings: Holdings, chunk: Chunk) -> None:
    done(holdings, chunk, 4)

    for _ in range(3):
        holdings.take(0, ROOM)
        holdings.acknowledged()
        assert 7 in holdings.chunks
    holdings.take(0, ROOM)
    holdings.acknowledged()

    assert holdings.chunks == {}


def test_failure_that_is_too_large_for_any_message_says_less(holdings: Holdings) -> None:
    # Given one with everything in it, and room for a part of that
    failure = Failure(exception="m.E", message="m" * 4000, traceback="t" * 32_000, pickled=b"p" * 200_000)
    holdings.outbox.add(Failed(token=7, index=0, outcome=Outcome.FAILED, failure=failure, seconds=0.1))

    # When
    (failed,) = holdings.take(1000, 20_000)

    # Then
    assert weight(failed) <= 20_000
    assert isinstance(failed, Failed)
    assert failed.failure.exception == "m.E"
    assert failed.failure.traceback.startswith("ttt")
    assert not failed.failure.pickled


def test_output_that_is_too_large_for_any_message_is_cut(holdings: Holdings) -> None:
    said = (Printed(index=0, head=b"a" * 50_000, left_out=7, tail=b"z" * 50_000),)
    holdings.outbox.add(Succeeded(token=7, lo=0, results=pages.pack([b"r" * 1000]), seconds=0.1, printed=said))
    (done,) = holdings.take(1000, 20_000)
    assert isinstance(done, Succeeded)
    assert weight(done) <= 20_000
    assert (done.printed[0].size, pages.unpack(done.results)) == (100_007, [b"r" * 1000])
    assert done.printed[0].kept > 18_000
