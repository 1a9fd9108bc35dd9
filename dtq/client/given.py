"""All results of a batch, as the argument of a function: read on demand.

Client, below `payloads`; for the slot. The results lie one behind the other in a mapped file, or in the call itself if
they are few; one page of them is decoded at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
        self._result = decoders.results(is_json)
        #: The page that was read last, and the decoder of each of its blobs.
        self._page = -1
        self._blobs: list[bytes] = []
        self._decode = self._result

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
        for page in range(len(self._offsets) - 1):
            blobs, decode = self._read(page)
            yield from map(decode, blobs)

    def __repr__(self) -> str:
        return f"<Results of {self._count:,} tasks>"

    def _at(self, index: int) -> Any:
        page, place = divmod(index, SEQUENCE_PAGE)
        if page != self._page:
            self._blobs, self._decode = self._read(page)
            self._page = page
        return self._decode(self._blobs[place])

    def _read(self, page: int) -> tuple[list[bytes], Callable[[bytes], Any]]:
        """The blobs of a page, and the decoder of each."""
        begin, end = self._offsets[page], self._offsets[page + 1]
        kind, data = bytes(self._body[begin : begin + 1]), bytes(self._body[begin + 1 : end])
        return pages.unpack(data), self._result if kind == RESULT else self._input

    def _input(self, blob: bytes) -> Any:
        if blob.startswith(RESULT):
            return self._result(blob[1:])
        return self._decoders.failure(*ended_of(blob[1:]))
