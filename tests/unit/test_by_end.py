"""What has ended stands in the order of its end, whatever comes and goes."""

from __future__ import annotations

import math
import random

import pytest

from dtq.engines import by_end
from dtq.engines.by_end import ByEnd, End

ALL = (math.inf, 0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_sorted_list_of_what_is_there(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given small blocks, so that many are made and emptied
    monkeypatch.setattr(by_end, "_BLOCK", 3)
    chance = random.Random(seed)
    ends, there = ByEnd(), set[End]()

    for _ in range(600):
        # When one comes, or one goes
        end = (float(chance.randrange(12)), chance.randrange(3), chance.randrange(5), chance.random() < 0.5)
        if there and (end in there or chance.random() < 0.45):
            gone = chance.choice(sorted(there))
            there.remove(gone)
            ends.remove(gone)
        else:
            there.add(end)
            ends.add(end)

        # Then they are listed from the last on, or from any place on
        assert list(ends.latest_first(ALL)) == sorted(there, reverse=True)
        assert list(ends.latest_first(end[:3])) == sorted((e for e in there if e[:3] < end[:3]), reverse=True)

    for end in sorted(there):
        ends.remove(end)
    assert list(ends.latest_first(ALL)) == []
