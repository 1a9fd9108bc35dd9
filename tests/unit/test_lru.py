"""What is remembered is bounded by its bytes and its number, and the newest always stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dtq.model.lru import SizedLru


def test_what_was_not_used_longest_goes_first() -> None:
    lru: SizedLru[str, int] = SizedLru(most_bytes=10, most_entries=3)
    assert [lru.put("a", 1, 4), lru.put("b", 2, 4)] == [[], []]
    assert (lru.get("a"), lru.get("none")) == (1, None)
    assert lru.put("c", 3, 4) == [("b", 2)]
    assert lru.used("a")
    assert not lru.used("b")
    assert lru.put("d", 4, 0) == []
    assert lru.put("e", 5, 0) == [("c", 3)], "there are three at most"
    lru.pop("a")
    lru.pop("a")
    assert (len(lru), lru.size) == (2, 0)


def test_newest_stays_however_large_it_is() -> None:
    lru: SizedLru[int, str] = SizedLru(most_bytes=10, most_entries=3)
    lru.put(1, "small", 1)
    assert lru.put(2, "large", 1000) == [(1, "small")]
    assert lru.get(2) == "large"
    assert lru.put(3, "small", 1) == [(2, "large")]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12))))
def test_bounds_hold_whatever_comes(puts: list[tuple[int, int]]) -> None:
    lru: SizedLru[int, int] = SizedLru(most_bytes=10, most_entries=3)
    kept: dict[int, int] = {}
    for key, size in puts:
        kept[key] = size
        for gone, value in lru.put(key, size, size):
            assert kept.pop(gone) == value
        assert (lru.size, len(lru)) == (sum(kept.values()), len(kept))
        assert key in kept
        assert len(kept) == 1 or (len(kept) <= 3 and lru.size <= 10)
