"""Pages: many opaque blobs in one ``bytes``.

Arguments and results travel and are stored as pages. Nobody between the submitting client and the executing slot looks
into a blob, and a range of a page is cut out with two slices, whatever it holds: the cost of a blob on its way through
the coordinator is a memcpy.

Layout: a count (4 bytes, big endian), then one length a blob (4 bytes each, little endian), then the blobs. The highest
bit of a length says that the blob is a description (`model.values`), that of the count that there are such blobs.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final

from dtq.errors import BadMessage
from dtq.model import values
from dtq.model.values import Value

#: Most blobs in a page. Bounds the work on one row, one lease and one cut.
PAGE_BLOBS: Final = 1024
_HEAD: Final = 4
_LENGTH: Final = 4
#: Most bytes of a page of nothing but values by themselves; and the number of such pages whose values are remembered.
_MOST_ALONE: Final = _HEAD + PAGE_BLOBS * (_LENGTH + values.ALONE.size)
_PAGES_AT_HAND: Final = 8
_CODE: Final = "I" if array("I").itemsize == _LENGTH else "L"
#: The highest bit of a length; and of the count, in its first byte.
_DESCRIPTION: Final = 1 << 31
_DESCRIPTIONS: Final = b"\x80"


def _marked(raw: bytes | memoryview) -> array[int]:
    """Lengths in a page's encoding."""
    lengths = array(_CODE)
    lengths.frombytes(raw)
    if sys.byteorder == "big":
        lengths.byteswap()
    return lengths


def _lengths(page: bytes, lo: int, hi: int) -> array[int]:
    """The lengths of blobs ``[lo, hi)`` of a page."""
    lengths = _marked(page[_HEAD + lo * _LENGTH : _HEAD + hi * _LENGTH])
    if has_descriptions(page):
        return array(_CODE, [length & ~_DESCRIPTION for length in lengths])
    return lengths


def _head(blobs: int, *, described: bool) -> bytes:
    return (blobs | _DESCRIPTION if described else blobs).to_bytes(_HEAD, "big")


def pack(blobs: Sequence[bytes | memoryview], *, described: bool = False) -> bytes:
    """One page of the blobs, in their order.

    Args:
        blobs: the blobs.
        described: whether descriptions are among them.
    """
    lengths = array(_CODE, map(len, blobs))
    if described:
        for at, blob in enumerate(blobs):
            if blob[: len(values.MARK)] == values.MARK:
                lengths[at] |= _DESCRIPTION
        described = max(lengths, default=0) >= _DESCRIPTION
    if sys.byteorder == "big":
        lengths.byteswap()
    return b"".join((_head(len(blobs), described=described), lengths.tobytes(), *blobs))


def count(page: bytes) -> int:
    """Number of blobs in the page.

    Raises:
        BadMessage: the bytes are not a page.
    """
    blobs = int.from_bytes(page[:_HEAD], "big") & ~_DESCRIPTION
    if len(page) < _HEAD + blobs * _LENGTH:
        raise BadMessage("a page is cut short")
    return blobs


def check(page: bytes) -> int:
    """Number of blobs in a peer's page, after a check that the lengths add up, and that descriptions can be true.

    Raises:
        BadMessage: the bytes are not a page.
    """
    blobs = count(page)
    if _HEAD + blobs * _LENGTH + sum(_lengths(page, 0, blobs)) != len(page):
        raise BadMessage("a page whose lengths do not add up")
    if has_descriptions(page):
        named(page)
    return blobs


def has_descriptions(page: bytes) -> bool:
    """Whether descriptions of values are among the blobs of a page."""
    return page[:1] >= _DESCRIPTIONS


def named(page: bytes) -> list[Value]:
    """The values that the page's descriptions name, with repetitions.

    Raises:
        BadMessage: a description cannot be true.
    """
    if not has_descriptions(page):
        return []
    if len(page) <= _MOST_ALONE and (alone := _alone(page)) is not None:
        return list(alone)
    at = _HEAD + count(page) * _LENGTH
    lengths = _marked(page[_HEAD:at])
    found: list[Value] = []
    for length in lengths:
        end = at + (length & ~_DESCRIPTION)
        if length & _DESCRIPTION:
            found += values.named(page[at:end])
        at = end
    return found


@lru_cache(maxsize=_PAGES_AT_HAND)
def _alone(page: bytes) -> tuple[Value, ...] | None:
    """The values of a page of nothing but values by themselves; None for another page. Several parts of the coordinator
    ask for those of one page.
    """
    blobs = count(page)
    at = _HEAD + blobs * _LENGTH
    size = values.ALONE.size
    if _marked(page[_HEAD:at]).count(_DESCRIPTION | size) != blobs or len(page) - at != blobs * size:
        return None
    alone = values.all_alone(memoryview(page)[at:])
    return None if alone is None else tuple(alone)


def largest(page: bytes) -> int:
    """Bytes of the page's largest blob (a description counts as such); 0 if the page is empty."""
    return max(_lengths(page, 0, count(page)), default=0)


def weight(page: bytes) -> int:
    """Bytes that a page stands for: its own, and those of its blobs' values."""
    if not has_descriptions(page):
        return len(page)
    return len(page) + sum(values.weight(blob) - len(blob) for blob in unpack(page))


def unpack(page: bytes) -> list[bytes]:
    """The blobs of a page."""
    return [page[start:end] for start, end in _ranges(page)]


def parts(page: bytes) -> list[memoryview]:
    """The blobs of a page in place, none of them copied."""
    whole = memoryview(page)
    return [whole[start:end] for start, end in _ranges(page)]


def _ranges(page: bytes) -> Iterable[tuple[int, int]]:
    blobs = count(page)
    return pairwise(accumulate(_lengths(page, 0, blobs), initial=_HEAD + blobs * _LENGTH))


def cut(page: bytes, lo: int, hi: int) -> bytes:
    """The page of blobs ``[lo, hi)`` of a page."""
    blobs = count(page)
    if lo == 0 and hi == blobs:
        return page
    lengths = _lengths(page, 0, hi)
    start = _HEAD + blobs * _LENGTH + sum(lengths[:lo])
    end = start + sum(lengths[lo:hi])
    whole = memoryview(page)  # each slice of it is copied once, into the new page
    own = whole[_HEAD + lo * _LENGTH : _HEAD + hi * _LENGTH]
    described = has_descriptions(page) and max(_marked(own), default=0) >= _DESCRIPTION
    return b"".join((_head(hi - lo, described=described), own, whole[start:end]))


def fitting(page: bytes, lo: int, hi: int, room: int) -> int:
    """Index after the last blob of ``[lo, hi)`` up to which their page has no more than this many bytes; ``lo`` if even
    the first does not fit.
    """
    if len(page) <= room:
        return hi
    room -= _HEAD
    for size in _lengths(page, lo, hi):
        room -= size + _LENGTH
        if room < 0:
            break
        lo += 1
    return lo


def join(pages: Sequence[bytes]) -> bytes:
    """One page of several, in their order."""
    if len(pages) == 1:
        return pages[0]
    total = 0
    lengths: list[memoryview] = []
    bodies: list[memoryview] = []
    for page in pages:
        blobs = count(page)
        body = _HEAD + blobs * _LENGTH
        total += blobs
        whole = memoryview(page)
        lengths.append(whole[_HEAD:body])
        bodies.append(whole[body:])
    described = any(map(has_descriptions, pages))
    return b"".join((_head(total, described=described), *lengths, *bodies))
