"""Ids as people write them, and as lists print them: whatever is printed can be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.errors import InvalidId
from dtq.model.ids import Named, parse_named, run_text


@given(batch=st.integers(1, 10**15 - 1), index=st.integers(0, 10**9), count=st.integers(1, 10**6))
def test_what_a_list_prints_names_those_tasks(batch: int, index: int, count: int) -> None:
    named = parse_named(run_text(batch, index, count))
    assert (named.batch, named.lo, named.hi) == (batch, index, index + count - 1)
    assert (named.index, named.run) == ((index, None) if count == 1 else (None, range(index, index + count)))


def test_a_batch_has_no_index() -> None:
    assert parse_named(" 17 ") == Named(17)
    assert (parse_named("17").index, parse_named("17").run) == (None, None)
    assert parse_named(run_text(17, 0, 1, single=True)) == Named(17)


@pytest.mark.parametrize("text", ["", "17.", "17.0-", "17.-4", "17-19", "17.5-2", "17.0-4-8", "a.0-4", "17.0-4.2"])
def test_anything_else_is_no_id(text: str) -> None:
    with pytest.raises(InvalidId):
        parse_named(text)
