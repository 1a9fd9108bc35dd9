"""Pages: what was packed is unpacked, cut and joined as the list of blobs would be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.errors import BadMessage
from dtq.model import pages

BLOBS = st.lists(st.binary(max_size=40), max_size=30)


@given(BLOBS)
def test_packed_blobs_come_back_the_same(blobs: list[bytes]) -> None:
    page = pages.pack(blobs)

    assert pages.unpack(page) == blobs
    assert pages.count(page) == len(blobs)
    assert pages.check(page) == len(blobs)


@given(BLOBS, st.data())
def test_cut_page_holds_the_range(blobs: list[bytes], data: st.DataObject) -> None:
    # Given a range of the page
    lo = data.draw(st.integers(0, len(blobs)))
    hi = data.draw(st.integers(lo, len(blobs)))

    # When it is cut out, Then it is the page of those blobs
    assert pages.cut(pages.pack(blobs), lo, hi) == pages.pack(blobs[lo:hi])


def test_cut_of_everything_is_the_page_itself() -> None:
    page = pages.pack([b"a", b"b"])

    assert pages.cut(page, 0, 2) is page


@given(st.lists(BLOBS, min_size=1, max_size=5))
def test_joined_pages_hold_all_blobs_in_order(parts: list[list[bytes]]) -> None:
    joined = pages.join([pages.pack(blobs) for blobs in parts])

    assert joined == pages.pack([blob for blobs in parts for blob in blobs])


@given(BLOBS, st.data())
def test_cut_anywhere_and_joined_again_is_the_page(blobs: list[bytes], data: st.DataObject) -> None:
    page = pages.pack(blobs)
    middle = data.draw(st.integers(0, len(blobs)))

    assert pages.join([pages.cut(page, 0, middle), pages.cut(page, middle, len(blobs))]) == page


@given(st.binary(max_size=60))
def test_any_bytes_are_a_page_or_refused(data: bytes) -> None:
    # When bytes of a peer are checked, Then they are either exactly the page of what they hold, or refused
    try:
        pages.check(data)
    except BadMessage:
        return
    assert pages.pack(pages.unpack(data)) == data


@given(BLOBS, st.data())
def test_page_cut_short_or_too_long_is_refused(blobs: list[bytes], data: st.DataObject) -> None:
    page = pages.pack(blobs)
    cut = page[: data.draw(st.integers(0, len(page) - 1))]

    for wrong in (cut, page + b"x"):
        with pytest.raises(BadMessage):
            pages.check(wrong)


def test_announced_count_beyond_the_page_is_refused_at_once() -> None:
    # Given four bytes that announce four milliard blobs
    with pytest.raises(BadMessage, match="cut short"):
        pages.count(b"\xff\xff\xff\xff")


def test_empty_bytes_are_refused_as_a_page() -> None:
    with pytest.raises(BadMessage):
        pages.check(b"")
