"""Rows as the SQLite engine keeps them: what an earlier version wrote is still read."""

from __future__ import annotations

import json
from dataclasses import replace

from dtq.core.changes import AttemptRow, BatchFlow
from dtq.engines.rowcodec import ATTEMPT, decode_attempt, decode_batch, encode_attempt, encode_batch, seal
from dtq.model.messages import Failure
from dtq.model.snapshots import Attempt
from dtq.model.states import Outcome
from tests.contracts.engine_rows import batch

ATTEMPT_ROW = AttemptRow(
    batch=7,
    index=3,
    attempt=Attempt(
        number=2,
        outcome=Outcome.CRASHED,
        started_at=1.0,
        ended_at=2.0,
        worker="lab",
        failure=Failure(message="killed", signal=9, peak_memory=1 << 40, output="last \u2603 words\n"),
    ),
)


def test_attempt_comes_back_with_memory_and_output() -> None:
    assert decode_attempt(7, 3, encode_attempt(ATTEMPT_ROW)) == ATTEMPT_ROW.attempt


def test_attempt_without_the_fields_of_later_versions_is_read() -> None:
    # Given an attempt as it was written before there were peak memory and output
    fields = json.loads(encode_attempt(ATTEMPT_ROW)[:-4])
    for name in ("peak_memory", "output", "unable"):
        del fields["failure"][name]
    body = seal(json.dumps(fields).encode(), ATTEMPT, 7, 3)
    # Then it is read, and nothing is made up
    failure = decode_attempt(7, 3, body).failure
    assert (failure.message, failure.signal) == ("killed", 9)
    assert (failure.peak_memory, failure.output, failure.unable) == (None, "", False)


def test_batch_comes_back_with_what_few_have_and_takes_no_more_room_without_it() -> None:
    # Given a row of a batch with and without what few have, with an expiry of its own and without
    plain = batch(7)
    few = BatchFlow(start_by=12.5, lapsed=True, why="it had not started by then \u2603")
    for row in (
        replace(plain, flow=few),
        replace(plain, flow=few, expires_at=99.0),
        replace(plain, size=1 << 40, flow=few),
    ):
        assert decode_batch(7, encode_batch(row), {}) == row

    # Then the common one is no larger for it
    assert decode_batch(7, encode_batch(plain), {}) == plain
    assert len(encode_batch(replace(plain, flow=few))) > len(encode_batch(plain)) == 96
