"""What a worker has to report, and whether it may wait for more."""

from __future__ import annotations

import pytest

from dtq.model import pages
from dtq.model.messages import Failed, Failure, Grant, Progress, Released, Succeeded
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.states import Outcome
from dtq.worker.chunks import Chunk, Holdings

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
    holdings.take(ROOM)
    # Then it is tried again at once
    assert holdings.urgent
    holdings.acknowledged()
    assert not holdings.urgent
