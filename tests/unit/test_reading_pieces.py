"""Results of one page that lie elsewhere are read a few at a time, by how many bytes they have."""

from __future__ import annotations

import pytest

from dtq.client import reading
from dtq.client.batches import Part
from dtq.client.reading import pieces
from dtq.model import pages
from dtq.model.messages import Ended
from dtq.model.states import State
from dtq.model.values import Value, describe


def test_a_page_of_large_results_is_cut_by_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a page of small and large results, from task 10 on
    monkeypatch.setattr(reading, "PIECE_BYTES", 1_000)
    sizes = [400, 400, 400, 5_000, 5_000, 100, 100]
    blobs = [describe([Value(7, 64 * n, size)]) for n, size in enumerate(sizes)] + [b"small"] * 3
    ended = Ended(batch=1, lo=10, hi=20, state=State.SUCCEEDED, results=pages.pack(blobs, described=True))

    # Then each piece has as much as fits, or one that is larger; all in order, also of a part of it
    assert [(part.lo, part.hi) for part in pieces(Part(10, 20, ended))] == [
        (10, 12),
        (12, 13),
        (13, 14),
        (14, 15),
        (15, 20),
    ]
    assert [(part.lo, part.hi) for part in pieces(Part(11, 14, ended))] == [(11, 13), (13, 14)]


def test_a_page_of_small_results_stays_whole() -> None:
    ended = Ended(batch=1, lo=0, hi=2, state=State.SUCCEEDED, results=pages.pack([b"x" * 60_000] * 2))
    part = Part(0, 2, ended)
    assert list(pieces(part)) == [part]
