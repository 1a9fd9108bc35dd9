"""`Service.batches`: lists of batches, page by page, and how far each is."""

from __future__ import annotations

from typing import Any

import pytest

from dtq.client.paging import all_batches
from dtq.coordinator import batch_list
from dtq.core.pace import Pace
from dtq.model import pages
from dtq.model.messages import Submission
from dtq.model.snapshots import BatchSelection, BatchView, Counts, Selection
from dtq.model.states import State
from tests.contracts.service_scene import Caller, House, spec


def _listed(client: Caller, **selection: Any) -> list[int]:
    """The numbers of the batches that match."""
    return [view.batch for view in all_batches(client.service, BatchSelection(**selection))]


def _submit_many(client: Caller, count: int) -> list[int]:
    """So many batches of one task each, with one call."""
    many = [Submission(spec=0, number=1_000 + n, arguments=pages.pack([b"x"])) for n in range(count)]
    return [receipt.batch for receipt in client.service.submit([spec()], many, False)]


def test_batches_are_listed_newest_first_as_they_stand(house: House) -> None:
    # Given batches that wait, run and have finished
    client, hand = house.client(), house.worker(slots=2)
    finished = client.submit(1)
    hand.succeed(hand.fetch_one())
    (receipt,) = client.receipts(client.submission(3, complete=False), max_retries=0, label="nightly", priority=1)
    running = receipt.batch
    hand.fetch()
    waiting = client.submit(5)

    # Then they are what `batch` says of each
    found = client.service.batches(BatchSelection())
    assert found.before == 0
    assert [view.batch for view in found.batches] == [waiting, running, finished]
    assert list(found.batches) == [client.service.batch(number) for number in (waiting, running, finished)]
    assert [(view.ended, view.finished) for view in found.batches] == [(0, False), (0, False), (1, True)]
    assert found.batches[1].counts == Counts(pending=1, running=2)
    assert found.batches[1].spec.options.label == "nightly"


def test_filters_of_batches_hold_all_at_once(house: House) -> None:
    client, hand = house.client(), house.worker()
    mail = client.submit(2, queue="mail", function="mails:send")
    nightly = client.submit(2, queue="mail", function="mails:sweep", label="nightly")
    other = client.submit(2, label="nightly", priority=1)
    grant = hand.fetch_one()
    assert grant.batch == other
    assert _listed(client) == [other, nightly, mail]
    assert _listed(client, queue="mail") == [nightly, mail]
    assert _listed(client, function="mails:s*d") == [mail]
    assert _listed(client, label="nightly", queue="mail") == [nightly]
    assert _listed(client, state=State.RUNNING) == [other]
    assert _listed(client, state=State.PENDING) == [other, nightly, mail]
    assert _listed(client, older_than_s=60.0) == []
    # and what has ended matches by its final states
    client.service.cancel(Selection(ids=((mail, -1),), limit=0))
    assert _listed(client, state=State.CANCELLED) == [mail]


def test_pages_of_batches_join_without_gap_or_repetition(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given more batches than are read at once, and than one call looks at
    monkeypatch.setattr(batch_list, "_STRETCH", 7)
    monkeypatch.setattr(batch_list, "_LOOKS", 20)
    client = house.client()
    numbers = [*_submit_many(client, 30), client.submit(label="rare"), *_submit_many(client, 40)]
    newest_first = sorted(numbers, reverse=True)

    # Then every page goes on where the one before ended
    for limit in (1, 6, 7, 8, 70, 71, 72, 0):
        assert _listed(client, limit=limit) == newest_first[: limit or None]
    seen: list[BatchView] = []
    before = 0
    while True:
        page = client.service.batches(BatchSelection(limit=9, before=before))
        seen += page.batches
        before = page.before
        # and new batches do not come in between
        _submit_many(client, 2)
        if not before:
            break
    assert [view.batch for view in seen] == newest_first

    # and one that is rare is found, though a call gives up before
    first = client.service.batches(BatchSelection(label="rare"))
    assert (first.batches, first.before > 0) == ((), True)
    assert _listed(client, label="rare") == [numbers[30]]
    assert _listed(client, label="none") == []


def test_pace_of_a_batch_is_that_of_its_last_seconds() -> None:
    # Given a batch that ran fast, paused, and runs slowly
    pace = Pace(100.0, 0)
    assert pace.rate(100.0, 0) is None
    assert pace.rate(102.0, 8) == 4.0
    for second in range(1, 11):
        pace.note(100.0 + second, 10 * second)
    assert pace.rate(110.0, 100) == pytest.approx(10.0)
    pace.note(200.0, 101)
    pace.note(206.0, 103)

    # Then what was before the pause does not count
    assert pace.rate(208.0, 104) == pytest.approx(3 / 8)
    # and a batch of which nothing ends has no pace
    assert pace.rate(900.0, 101) is None


def test_batch_says_its_pace_while_it_runs(house: House) -> None:
    client, hand = house.client(), house.worker(slots=4)
    batch = client.submit(100)
    first, *_ = hand.fetch()
    assert client.service.batch(batch).rate is None
    hand.succeed(first)
    view = client.service.batch(batch)
    assert view.rate is not None
    assert view.rate > 0
    assert view.left_s == pytest.approx((100 - view.ended) / view.rate)
