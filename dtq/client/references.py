"""References: stand-ins in a call for values that were put before.

Client, below `payloads`; the slot uses the other half. A reference pickles as the description of its value, and tells
the encoder of the call, so that the coordinator learns which values the call needs. In the slot, unpickling turns the
reference into the value.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from dtq.client import large_payloads
from dtq.client.by_value import loads_by_value
from dtq.errors import CannotPickle
from dtq.model.values import MAX_VALUES, Value, describe, is_description, named, rest
from dtq.values.base import Values

#: The noun for such a value in errors' sentences.
WHAT: Final = "a value that was put"


class Reference:
    """Stands for a value that was put (`Client.put`), anywhere in the arguments of a call.

    The value is kept at the coordinator while this object lives, and while a task needs it; then for its time to live.
    Copies that travel to other processes, in a result for one, do not keep it.

    Attributes:
        description: of the value, as it travels.
        digest: of the value's content; empty for a copy.
        size: approximate bytes of the value.
    """

    __slots__ = ("__weakref__", "_release", "description", "digest", "size")

    def __init__(self, description: bytes, digest: bytes = b"", release: Callable[[bytes], None] | None = None) -> None:
        global made
        made = True
        self.description = description
        self._release = release
        self.digest = digest
        self.size = sum(value.length for value in dict.fromkeys(named(description)))

    def release(self) -> None:
        """Release the value for this reference; submitted tasks keep it. Once is enough."""
        release, self._release = self._release, None
        if release is not None:
            release(self.digest)

    def __del__(self) -> None:
        self.release()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if _here.apart is not None:
            _here.apart.append(self)
            return _given, (len(_here.apart) - 1,)
        if _here.named is None:
            return Reference, (self.description,)
        _here.named += named(self.description)
        return value_of, (self.description,)

    def __repr__(self) -> str:
        return f"<Reference to a value of {self.size:,} bytes>"


#: Whether this process has ever had a reference: else no call can contain one.
made = False


class _Here(threading.local):
    """The state of this thread's encoding or decoding.

    Attributes:
        named: the values met so far in the call that is encoded; None outside of encoding.
        values: reads the values of the call that is decoded.
        apart: the references met so far in a pickle apart from its call; None outside of that.
        given: their values when that is unpickled.
    """

    named: list[Value] | None = None
    values: Values | None = None
    apart: list[Reference] | None = None
    given: Sequence[Any] = ()


_here: Final = _Here()


def encoding(encode: Callable[..., bytes], *arguments: Any) -> bytes:
    """Encode a call that may have references in it.

    Args:
        encode: the encoder.
        arguments: of the encoder.

    Returns:
        The blob: a description, if it has references.

    Raises:
        CannotPickle: it has too many references.
        Exception: of encoding.
    """
    before, _here.named = _here.named, []
    try:
        blob = encode(*arguments)
        needed = list(dict.fromkeys(_here.named))
    finally:
        _here.named = before
    if not needed:
        return blob
    own = [named(blob)[0]] if is_description(blob) else []
    if len(own) + len(needed) > MAX_VALUES:
        raise CannotPickle("the arguments", f"they have references to {len(needed):,} values, at most {MAX_VALUES:,}")
    return describe([*own, *needed], b"" if own else blob)


@contextlib.contextmanager
def _reading(values: Values | None) -> Iterator[None]:
    before, _here.values = _here.values, values
    try:
        yield
    finally:
        _here.values = before


def apart(dump: Callable[[], bytes]) -> tuple[bytes, tuple[Reference, ...]]:
    """Pickle an object that travels within a call as opaque bytes.

    Args:
        dump: pickles it.

    Returns:
        The pickle, and its references: they become arguments of the call, and are `given` at the unpickling.

    Raises:
        Exception: of pickling.
    """
    before, _here.apart = _here.apart, []
    try:
        return dump(), tuple(_here.apart)
    finally:
        _here.apart = before


@contextlib.contextmanager
def given(values: Sequence[Any]) -> Iterator[None]:
    """Unpickle an object that was pickled `apart`.

    Args:
        values: the values of its references.
    """
    before, _here.given = _here.given, values
    try:
        yield
    finally:
        _here.given = before


def _given(place: int) -> Any:
    return _here.given[place]


def decode(blob: bytes, values: Values | None, what: str, otherwise: Callable[[bytes, Exception], Any]) -> Any:
    """As `large_payloads.decode`, for a description that may contain references."""
    if values is None or (len(named(blob)) == 1 and not rest(blob)):
        return large_payloads.decode(blob, values, what, otherwise)
    with _reading(values):
        return large_payloads.decode(blob, values, what, otherwise)


def value_of(description: bytes) -> Any:
    """The value of a reference; called while a call is unpickled.

    Raises:
        ValueGone: the value is no longer kept.
        DtqError: the value cannot be read.
    """
    if _here.values is None:
        return Reference(description)
    return decode(description, _here.values, WHAT, _by_value)


def _by_value(blob: bytes, error: Exception) -> Any:
    return loads_by_value(blob, error, WHAT)
