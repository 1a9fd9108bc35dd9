"""The latest number of a key, among those that have it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dtq.model.latest import LatestByKey


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.integers(1, 6)), max_size=60))
def test_latest_is_the_highest_of_those_that_have_the_key(steps: list[tuple[bool, str, int]]) -> None:
    latest = LatestByKey()
    having: dict[str, set[int]] = {"a": set(), "b": set()}
    for add, key, number in steps:
        (latest.add if add else latest.discard)(key, number)
        (having[key].add if add else having[key].discard)(number)
        assert {key: latest.all(key) for key in "ab"} == {k: sorted(v, reverse=True) for k, v in having.items()}
        assert latest == {key: max(numbers) for key, numbers in having.items() if numbers}
    assert latest._others.keys() == {key for key, numbers in having.items() if len(numbers) > 1}
