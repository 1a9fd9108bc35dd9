"""Pages: many opaque blobs in one ``bytes``.

Arguments and results travel and are stored as pages. Nobody between the submitting client and the executing slot looks
into a blob, and a range of a page is cut out with two slices, whatever it holds: the cost of a blob on its way through
the coordinator is a memcpy.

Layout: a count (4 bytes, big endian), then one length a blob (4 bytes each, little endian), then the blobs.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from dtq.errors import BadMessage

#: Most blobs in a page. Bounds what one row, one lease and one cut have to touch.
PAGE_BLOBS: Final = 1024
_HEAD: Final = 4
_LENGTH: Final = 4
_CODE: Final = "I" if array("I").itemsize == _LENGTH else "L"


def _lengths(raw: bytes) -> array[int]:
    lengths = array(_CODE)
    lengths.frombytes(raw)
    if sys.byteorder == "big":
        lengths.byteswap()
    return lengths


def pack(blobs: Sequence[bytes]) -> bytes:
    """One page of the blobs, in their order."""
    lengths = array(_CODE, map(len, blobs))
    if sys.byteorder == "big":
        lengths.byteswap()
    return b"".join((len(blobs).to_bytes(_HEAD, "big"), lengths.tobytes(), *blobs))


def count(page: bytes) -> int:
    """How many blobs the page holds.

    Raises:
        BadMessage: the bytes are not a page.
    """
    blobs = int.from_bytes(page[:_HEAD], "big")
    if len(page) < _HEAD + blobs * _LENGTH:
        raise BadMessage("a page is cut short")
    return blobs


def check(page: bytes) -> int:
    """How many blobs the page holds, after making sure that the lengths add up: for pages from a peer.

    Raises:
        BadMessage: the bytes are not a page.
    """
    blobs = count(page)
    body = _HEAD + blobs * _LENGTH
    if body + sum(_lengths(page[_HEAD:body])) != len(page):
        raise BadMessage("a page whose lengths do not add up")
    return blobs


def largest(page: bytes) -> int:
    """How many bytes the largest blob of the page has; 0 where it holds none."""
    return max(_lengths(page[_HEAD : _HEAD + count(page) * _LENGTH]), default=0)


def unpack(page: bytes) -> list[bytes]:
    """The blobs of a page."""
    body = _HEAD + count(page) * _LENGTH
    ends = list(accumulate(_lengths(page[_HEAD:body]), initial=body))
    return [page[start:end] for start, end in pairwise(ends)]


def cut(page: bytes, lo: int, hi: int) -> bytes:
    """The page of blobs ``[lo, hi)`` of a page."""
    blobs = count(page)
    if lo == 0 and hi == blobs:
        return page
    body = _HEAD + blobs * _LENGTH
    lengths = _lengths(page[_HEAD:body])
    start = body + sum(lengths[:lo])
    end = start + sum(lengths[lo:hi])
    head = (hi - lo).to_bytes(_HEAD, "big")
    whole = memoryview(page)  # what a slice of it holds is copied once, into the page that is made
    return b"".join((head, whole[_HEAD + lo * _LENGTH : _HEAD + hi * _LENGTH], whole[start:end]))


def fitting(page: bytes, lo: int, hi: int, room: int) -> int:
    """Index after the last blob of ``[lo, hi)`` up to which their page has no more than so many bytes; ``lo`` where not
    even that of the first has."""
    if len(page) <= room:
        return hi
    room -= _HEAD
    for size in _lengths(page[_HEAD + lo * _LENGTH : _HEAD + hi * _LENGTH]):
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
    return b"".join((total.to_bytes(_HEAD, "big"), *lengths, *bodies))
