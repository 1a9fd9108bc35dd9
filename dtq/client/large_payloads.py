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

#: From so many bytes on a buffer lies beside the pickle.
_BESIDE: Final = 16 << 10


class _Body:
    """A file that a pickle is written to: kept in memory until it is large, and a value from then on.

    Args:
        values: where values are written.
        word: what the pickle must not have in it, but for large bytes, which name nothing.
        least: from how many bytes on it is large.
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
        """Make it a value, with what it has so far."""
        if self.draft is None:
            self.draft = self._values.draft()
            for part in self._parts:
                self.draft.write(part)
            self._parts = []
        return self.draft

    def blob(self) -> bytes:
        """What it has, where it is no value."""
        return b"".join(self._parts)


def encode(what: Any, values: Values, protocol: int, word: bytes, least: int | None = None) -> bytes | None:
    """Pickle something, into a value where it is large.

    Args:
        what: the call or the result.
        values: where values are written.
        protocol: pickle's.
        word: what must not be named in it.
        least: from how many bytes on it becomes a value; None for `Values.least`.

    Returns:
        The blob; None where that word is in it.

    Raises:
        DtqError: the value cannot be written.
        Exception: whatever pickling raises.
    """
    least = values.least if least is None else least
    body = _Body(values, word, least)
    buffers: list[memoryview] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer that is large and lies in one piece; pickle takes the others."""
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
    """The description of a blob that is large, written as a value.

    Raises:
        DtqError: it cannot be written.
    """
    draft = values.draft()
    try:
        draft.write(blob)
        return describe([draft.finish()])
    except BaseException:
        draft.abandon()
        raise


def contents(blob: bytes, values: Values | None, what: str) -> bytes:
    """The blob that a description stands for; it has no buffers.

    Raises:
        DtqError: it cannot be read.
    """
    value, body = _opened(blob, values, what)
    if value is None or values is None:
        return body
    return bytes(memoryview(values.fetch(value)))


def decode(blob: bytes, values: Values | None, what: str, otherwise: Callable[[bytes, Exception], Any]) -> Any:
    """What a description stands for, unpickled.

    Args:
        blob: the description.
        values: where values are read.
        what: what it is, for the error's sentence.
        otherwise: makes something of a blob that is no pickle, and of the error that taking it for one has raised.

    Raises:
        DtqError: it cannot be read.
        Exception: whatever unpickling raises.
    """
    value, body = _opened(blob, values, what)
    try:
        if value is None or values is None:
            return pickle.loads(body)
        if value.trailer:
            part, buffers = layout.divide(value, values.fetch(value))
            return pickle.loads(part, buffers=buffers)
        with values.stream(value) as file:
            return pickle.load(file)
    except DtqError:
        raise
    except Exception as error:  # noqa: BLE001 - unpickling runs code of what is unpickled
        return otherwise(contents(blob, values, what), error)


def _opened(blob: bytes, values: Values | None, what: str) -> tuple[Value | None, bytes]:
    """The value that a description stands for; or what it has beside those that it names."""
    if values is None:
        raise CannotUnpickle(what, "it lies in a segment, which cannot be read here")
    body = rest(blob)
    first = named(blob)[0]
    return (None, body) if body else (first, b"")
