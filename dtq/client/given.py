"""All results of a batch, as the argument of a function: read on demand.

Client, below `payloads`; for the slot. The results lie one behind the other in a mapped file, or in the call itself if
they are few; one page of them is decoded at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from dtq.client.parents import Decoders
from dtq.model import pages
from dtq.model.inputs import RESULT, SEQUENCE_PAGE, ended_of, offsets_of


class Results(Sequence[Any]):
    """The results of a batch, in the order of its tasks: the argument of a function that was given a batch's handle.

    If a task has none (``on_failed="run"``), its exception is in its place.

    Args:
        body: all of them (`model.inputs.SequenceHead`).
        count: their number.
        table: offset of the pages' table in the body.
        decoders: decode them.
        is_json: whether they are JSON.
    """

    def __init__(self, body: memoryview, count: int, table: int, decoders: Decoders, *, is_json: bool) -> None:
        self._body = body
        self._count = count
        self._offsets = offsets_of(body, count, table)
        self._decoders = decoders
        self._is_json = is_json
        self._page = -1
        self._blobs: list[bytes] = []

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._at(at) for at in range(*index.indices(self._count))]
        at = index + self._count if index < 0 else index
        if not 0 <= at < self._count:
            raise IndexError(f"there are {self._count} results")
        return self._at(at)

    def __iter__(self) -> Iterator[Any]:
        return map(self._at, range(self._count))

    def __repr__(self) -> str:
        return f"<Results of {self._count:,} tasks>"

    def _at(self, index: int) -> Any:
        page, place = divmod(index, SEQUENCE_PAGE)
        if page != self._page:
            begin, end = self._offsets[page], self._offsets[page + 1]
            self._blobs = pages.unpack(bytes(self._body[begin:end]))
            self._page = page
        blob = self._blobs[place]
        if blob.startswith(RESULT):
            return self._decoders.result(blob[1:], self._is_json)
        return self._decoders.failure(*ended_of(blob[1:]))
