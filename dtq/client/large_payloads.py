"""Calls and results that are too large for a page: written as values while they are pickled, and read back in place.

Client, below `payloads`, of which the slot uses the other half. Pickle passes large bytes through unchanged and offers
the buffers of arrays beside the pickle (protocol 5), so both are copied once: from the object to the segment.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Final

from dtq.errors import CannotUnpickle, DtqError
from dtq.model.values import MIN_VALUE, Value, describe, named, rest
from dtq.values import layout
from dtq.values.base import Draft, Values

#: A buffer of this many bytes or more lies beside the pickle.
_BESIDE: Final = 16 << 10


class _Body:
    """A file for a pickle: kept in memory until it is large, and a value from then on.

    Args:
        values: writes values.
        word: a word that must not occur in the pickle, except in large bytes, which name nothing.
        least: a pickle of this many bytes or more is large.
    """

    def __init__(self, values: Values, word: bytes, least: int) -> None:
        self._values = values
        self._word = word
        self._least = least
        self._parts: list[bytes] = []
        self._size = 0
        self.draft: Draft | None = None
        #: Whether that word was in it.
        self.tainted = False

    def write(self, data: Any, /) -> int:
        """As of a file."""
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        if size < MIN_VALUE:
            data = bytes(data)
            self.tainted = self.tainted or data.find(self._word) >= 0
        if self.draft is not None:
            return self.draft.write(data)
        if size + self._size >= self._least:
            return self.begin().write(data)
        self._parts.append(data)
        self._size += size
        return size

    def begin(self) -> Draft:
        """Make it a value, with its content so far."""
        if self.draft is None:
            self.draft = self._values.draft()
            for part in self._parts:
                self.draft.write(part)
            self._parts = []
        return self.draft

    def blob(self) -> bytes:
        """Its content, if it is no value."""
        return b"".join(self._parts)


def encode(what: Any, values: Values, protocol: int, word: bytes, least: int | None = None) -> bytes | None:
    """Pickle an object, into a value if it is large.

    Args:
        what: the call or the result.
        values: writes values.
        protocol: pickle's.
        word: a word that must not occur in it.
        least: a pickle of this many bytes or more becomes a value; None for `Values.least`.

    Returns:
        The blob; None if that word is in it.

    Raises:
        DtqError: the value cannot be written.
        Exception: any exception of pickling.
    """
    least = values.least if least is None else least
    body = _Body(values, word, least)
    buffers: list[memoryview] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer that is large and contiguous; pickle takes the others."""
        try:
            raw = buffer.raw()
        except BufferError:
            return True
        if raw.nbytes < _BESIDE:
            return True
        buffers.append(raw)
        return False

    try:
        pickle.Pickler(body, protocol, buffer_callback=beside).dump(what)
        if body.tainted:
            _abandoned(body)
            return None
        if body.draft is None and sum(raw.nbytes for raw in buffers) + len(blob := body.blob()) < least:
            return pickle.dumps(what, protocol) if buffers else blob
        return describe([layout.finish(body.begin(), buffers)])
    except BaseException:
        _abandoned(body)
        raise


def _abandoned(body: _Body) -> None:
    if body.draft is not None:
        body.draft.abandon()


def written(blob: bytes, values: Values) -> bytes:
    """The description of a large blob, written as a value.

    Raises:
        DtqError: the blob cannot be written.
    """
    draft = values.draft()
    try:
        draft.write(blob)
        return describe([draft.finish()])
    except BaseException:
        draft.abandon()
        raise


def contents(blob: bytes, values: Values | None, what: str) -> bytes:
    """The blob that a description without buffers stands for.

    Raises:
        DtqError: the value cannot be read.
    """
    value, body = _opened(blob, values, what)
    if value is None or values is None:
        return body
    return bytes(memoryview(values.fetch(value)))


def decode(blob: bytes, values: Values | None, what: str, otherwise: Callable[[bytes, Exception], Any]) -> Any:
    """The unpickled object of a description.

    Args:
        blob: the description.
        values: reads values.
        what: its noun in the error's sentence.
        otherwise: decodes a blob that is no plain pickle, given also the exception of unpickling it.

    Raises:
        DtqError: the value cannot be read.
        Exception: any exception of unpickling.
    """
    value, body = _opened(blob, values, what)
    try:
        if value is None or values is None:
            return pickle.loads(body)
        if value.trailer:
            part, buffers = layout.divide(value, values.fetch(value))
            return pickle.loads(part, buffers=buffers)
        with values.stream(value) as file:
            data = getattr(file, "data", None)  # of a value that is in memory (`WholeValue`)
            return pickle.load(file) if data is None else pickle.loads(data)
    except DtqError:
        raise
    except Exception as error:  # noqa: BLE001 - unpickling runs code of what is unpickled
        return otherwise(contents(blob, values, what), error)


def _opened(blob: bytes, values: Values | None, what: str) -> tuple[Value | None, bytes]:
    """The value that a description stands for; or its content beside its named values."""
    if values is None:
        raise CannotUnpickle(what, "it lies in a segment, which cannot be read here")
    body = rest(blob)
    first = named(blob)[0]
    return (None, body) if body else (first, b"")
