"""Pickles of plain values only: the encoding of every wire and pipe of dtq.

Unpickling runs code, so a peer's bytes are checked before `pickle.loads` sees them. A message is scalars, str, bytes,
tuples and lists, as a *tree*: the writer keeps no memo, and the reader accepts no opcode that names a class, calls a
function, fills a dict or uses the memo. That leaves no means of attack: no code, no memo bomb (nine bytes that allocate
2 GiB), no colliding dict keys, no value that refers to another a million times. The rest is bounded: nesting by
`MAX_DEPTH`, the number of values by `MAX_VALUES`, everything else by the message's own length. Large blobs are one
opcode each, so the check costs about a microsecond and 0.15 us a value; for a small message that is obviously plain it
costs a quarter of that (`_small_and_plain`).

Used by `connection` in both directions, and by workers for the pipes to their slots.
"""

from __future__ import annotations

import pickle
import re
from itertools import repeat
from struct import Struct, error
from typing import Any, Final

from dtq.errors import BadMessage

#: Deepest nesting of tuples and lists. The deepest message of `model.messages` has 7 levels.
MAX_DEPTH: Final = 16
#: Most values (and brackets) in one message. An empty list is one byte here and 72 in memory, so this bounds the memory
#: that a message can cost beyond its length to about 70 MiB.
MAX_VALUES: Final = 1 << 20

_PROTOCOL: Final = 5
_HEAD: Final = bytes([0x80, _PROTOCOL])
_LENGTH: Final = Struct("<I").unpack_from
_LENGTH_BYTES: Final = 4
_BYTES: Final = pickle.BINBYTES[0]
#: Raised for bytes cut short, a bracket that was never opened, a frame that does not fit, an append to a value that is
#: no list, text that is not UTF-8.
_PROBLEMS: Final = (IndexError, ValueError, OverflowError, EOFError, AttributeError, error, pickle.UnpicklingError)

# Effects of opcodes on the reader. Values below 10 are a scalar of that length, opcode included.
_SHORT, _LONG, _PAIR, _OPEN, _CLOSE, _ONE, _THREE, _LIST, _EXTEND, _APPEND, _FRAME, _STOP, _REFUSED = range(10, 23)


def _table() -> tuple[int, ...]:
    table = [_REFUSED] * 256
    for opcodes, kind in (
        (pickle.NONE + pickle.NEWTRUE + pickle.NEWFALSE + pickle.EMPTY_TUPLE, 1),
        (pickle.BININT1, 2),
        (pickle.BININT2, 3),
        (pickle.BININT, 5),
        (pickle.BINFLOAT, 9),
        # A length of one byte, then the content. LONG1 holds up to 2,039 bits; LONG4 is refused.
        (pickle.SHORT_BINUNICODE + pickle.SHORT_BINBYTES + pickle.LONG1, _SHORT),
        (pickle.BINUNICODE + pickle.BINBYTES, _LONG),
        (pickle.MARK, _OPEN),
        (pickle.TUPLE, _CLOSE),
        (pickle.TUPLE1, _ONE),
        (pickle.TUPLE2, _PAIR),
        (pickle.TUPLE3, _THREE),
        (pickle.EMPTY_LIST, _LIST),
        (pickle.APPENDS, _EXTEND),
        (pickle.APPEND, _APPEND),
        (pickle.FRAME, _FRAME),
        (pickle.STOP, _STOP),
    ):
        for opcode in opcodes:
            table[opcode] = kind
    return tuple(table)


_KINDS: Final = _table()


#: A bytes object of this many bytes need not be part of the message while that is pickled or loaded. The pickler passes
#: such an object through uncopied, behind its length and outside of any frame.
APART: Final = 64 << 10
#: Stands for such an object while the message around it is made.
FILLER: Final = bytes(APART)
#: Reach of the search for such an object into a message, and most bytes behind it.
_NEAR: Final = 128
_BYTES_AT: Final = 1 + 4

#: Most bytes of a small message.
_SMALL: Final = 1 << 10
#: Longest text or blob whose patterns a process compiles at its start, in bytes: each length costs time. It compiles
#: the others, up to 255, after this many small messages with longer ones.
_KNOWN: Final = 64
_PATIENCE: Final = 64
#: First bytes of a pickle, apart from the frame's length, and the offset of the framed bytes.
_FRAMED: Final = _HEAD + pickle.FRAME
_CONTENT_AT: Final = len(_FRAMED) + 8
#: Opcodes that make one value of several; an empty list or tuple is a scalar here.
_BUILDERS: Final = pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3
_STRUCTURE: Final = _BUILDERS + pickle.MARK + pickle.APPEND + pickle.APPENDS


def _scalars(longest: int) -> re.Pattern[bytes]:
    """A pattern of scalars in a row, each with its content; possessive, for they can be read in one way only.

    Args:
        longest: the longest text or blob among them, in bytes.
    """
    fixed: dict[int, bytes] = {}
    for opcode, length in enumerate(_KINDS):
        if length < _SHORT:
            fixed[length] = fixed.get(length, b"") + re.escape(bytes([opcode]))
    fixed[1] += re.escape(pickle.EMPTY_LIST)
    ways = [b"[%b].{%d}" % (opcodes, length - 1) for length, opcodes in fixed.items()]
    counted = b"|".join(re.escape(bytes([length])) + b".{%d}" % length for length in range(longest + 1))
    strings = re.escape(pickle.SHORT_BINUNICODE + pickle.SHORT_BINBYTES)
    return re.compile(b"(?:%b|[%b](?:%b))++" % (b"|".join(ways), strings, counted), re.DOTALL)


class _Look:
    """Strips the scalars off small messages."""

    def __init__(self) -> None:
        self._patience = _PATIENCE
        self.scalars = _scalars(_KNOWN)

    def learn(self, structure: bytes | bytearray) -> None:
        """Note a message that may have a longer text or blob: after enough of them, compile the patterns for all
        lengths.
        """
        if self._patience and (pickle.SHORT_BINBYTES in structure or pickle.SHORT_BINUNICODE in structure):
            self._patience -= 1
            if not self._patience:
                self.scalars = _scalars(255)


_look: Final = _Look()


class _Sink:
    """The file that a pickler writes to: gathers the written bytes."""

    __slots__ = ("parts", "write")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append


class _Encoder(pickle.Pickler):
    """A pickler without a memo, for many messages; making one costs more than a small message."""

    def __init__(self) -> None:
        self.sink = _Sink()
        super().__init__(self.sink, _PROTOCOL)
        self.fast = True

    def reducer_override(self, value: Any) -> Any:
        """Called for every object that is not of a built-in type: none of them may travel."""
        raise BadMessage(f"a {type(value).__module__}.{type(value).__qualname__} is not plain data")

    def encode(self, value: Any) -> list[bytes]:
        parts = self.sink.parts
        self.dump(value)
        found = parts.copy()
        parts.clear()
        return found


# Unused encoders. Taking and giving back are single list operations, so threads, signal handlers and forks need no
# lock; an encoder whose work was interrupted is not given back.
_idle: Final[list[_Encoder]] = []


def dumps(value: Any) -> bytes:
    """The bytes of a plain value.

    Args:
        value: None, a bool, int, float, str or bytes, or a tuple or list of such. Dicts, sets and bytearrays are not
            checked for here: `loads` refuses them.

    Raises:
        BadMessage: the value contains another type, or itself.
    """
    found = parts(value)
    return found[0] if len(found) == 1 else b"".join(found)


def parts(value: Any) -> list[bytes]:
    """The same bytes in pieces, to be sent one behind the other: large objects are not copied.

    Args:
        value: as for `dumps`.

    Raises:
        BadMessage: likewise.
    """
    try:
        encoder = _idle.pop()
    except IndexError:
        encoder = _Encoder()
    try:
        found = encoder.encode(value)
    except (pickle.PicklingError, ValueError, RecursionError) as problem:
        raise BadMessage(str(problem)) from problem
    _idle.append(encoder)
    return found


def around(value: Any, size: int) -> tuple[bytes, bytes]:
    """The bytes of a plain value before and behind its large content, for which `FILLER` stands.

    Args:
        value: as for `dumps`; `FILLER` is in it, once.
        size: bytes of the content, at least `APART`.

    Raises:
        BadMessage: likewise.
    """
    found = parts(value)
    place = next(place for place, part in enumerate(found) if part is FILLER)
    before = b"".join(found[:place])
    return before[:-_LENGTH_BYTES] + size.to_bytes(_LENGTH_BYTES, "little"), b"".join(found[place + 1 :])


def large_at(head: bytes, size: int) -> tuple[int, int] | None:
    """The position in a message of its first large bytes object, if that is nearly all of it.

    Args:
        head: the message's beginning.
        size: bytes of the whole message.

    Returns:
        Index of its first byte, and its length.
    """
    at = len(_HEAD)
    end = min(len(head), _NEAR) - _BYTES_AT
    while at <= end:
        kind = _KINDS[head[at]]
        if kind == _LONG:
            length = _LENGTH(head, at + 1)[0]
            if head[at] != _BYTES or length < APART:
                return None
            at += _BYTES_AT
            return (at, length) if 0 <= size - at - length <= _NEAR else None
        if kind in (_STOP, _REFUSED):
            return None
        at += kind if kind < _SHORT else 2 + head[at + 1] if kind == _SHORT else 9 if kind == _FRAME else 1
    return None


def loads_around(before: bytes, content: memoryview, after: bytes) -> Any:
    """The plain value of a message whose large content is elsewhere: the value has the given object.

    Args:
        before: the bytes before the content.
        content: the content.
        after: the bytes behind it.

    Raises:
        BadMessage: as for `loads`.
    """
    before = before[:-_BYTES_AT]
    try:
        _check(before + pickle.NONE + after)  # the check is done with a scalar in its place
        return pickle.loads(before + pickle.NEXT_BUFFER + after, buffers=(content,))
    except _PROBLEMS as problem:
        raise BadMessage("its opcodes do not fit together") from problem


def loads(data: bytes | bytearray | memoryview) -> Any:
    """The plain value that `dumps` made the bytes of.

    Args:
        data: any bytes, from any source.

    Raises:
        BadMessage: the bytes are not a plain value; nothing was built of them.
    """
    try:
        if not _small_and_plain(data):
            _check(data)
        return pickle.loads(data)
    except _PROBLEMS as problem:
        raise BadMessage("its opcodes do not fit together") from problem


def _small_and_plain(data: bytes | bytearray | memoryview) -> bool:
    """Whether a message is plain at first sight: it is small, and without its scalars only a few opcodes that build
    tuples and lists are left, so few that it cannot be nested too deep. The unpickler finds out whether they fit
    together. `_check` decides about all other messages.

    From left to right the pattern takes whole scalars, and leaves one byte each; if all of the rest are opcodes without
    content, it has met every opcode, and no content.
    """
    if len(data) > _SMALL or data[: len(_FRAMED)] != _FRAMED:
        return False
    structure = _look.scalars.sub(b"", data[_CONTENT_AT:])
    if structure[-1:] != pickle.STOP or structure[:-1].translate(None, _STRUCTURE):
        _look.learn(structure)
        return False
    return len(structure) < MAX_DEPTH or len(structure.translate(None, b"(ae")) <= MAX_DEPTH


def _check(data: bytes | bytearray | memoryview) -> None:
    """Walk over the opcodes as the unpickler will, keeping only the depth of each value.

    The common opcodes are handled here, without a call, because this runs for every message.
    """
    if data[:2] != _HEAD:
        raise BadMessage("it is not a pickle of protocol 5")
    kinds = _KINDS
    at = 2
    frames: list[list[int]] = [[]]  # the values before each open bracket, and those after the last one
    depths = frames[0]
    push = depths.append
    for _ in repeat(None, MAX_VALUES):
        kind = kinds[data[at]]
        if kind < _SHORT:
            push(0)
            at += kind
        elif kind == _SHORT:
            push(0)
            at += 2 + data[at + 1]
        elif kind == _LONG:
            push(0)
            at += 5 + _LENGTH(data, at + 1)[0]
        elif kind == _PAIR:
            second = depths.pop()
            first = depths[-1]
            depths[-1] = 1 + (first if first > second else second)
            at += 1
        elif kind < _FRAME:
            depths = _bracket(kind, frames)
            push = depths.append
            at += 1
        elif kind == _FRAME:
            at += 9
        else:
            break
    else:
        raise BadMessage(f"it holds more than {MAX_VALUES} values")
    if kind == _REFUSED:
        raise BadMessage(f"opcode {data[at]:#04x} is not one of plain data")
    _check_end(frames, len(data) - at - 1)


def _bracket(kind: int, frames: list[list[int]]) -> list[int]:
    """The effects of the rarer opcodes on the frames; returns the last frame, which goes on."""
    if kind == _OPEN:
        if len(frames) > MAX_DEPTH:
            raise _too_deep()
        frames.append([])
    elif kind == _LIST:
        frames[-1].append(1)
    elif kind in (_CLOSE, _EXTEND):
        depth = 1 + max(frames.pop())
        frames[-1].append(depth if kind == _CLOSE else max(depth, frames[-1].pop()))
    elif kind == _APPEND:
        depth = 1 + frames[-1].pop()
        frames[-1].append(max(depth, frames[-1].pop()))
    else:
        depth = 1 + max([frames[-1].pop() for _ in range(1 if kind == _ONE else 3)])
        frames[-1].append(depth)
    if frames[-1] and frames[-1][-1] > MAX_DEPTH:
        raise _too_deep()
    return frames[-1]


def _check_end(frames: list[list[int]], rest: int) -> None:
    """Check that one value is left at the end; its depth is the greatest of all."""
    if rest or len(frames) != 1 or len(frames[0]) != 1:
        raise BadMessage("it is not exactly one value")
    if frames[0][0] > MAX_DEPTH:
        raise _too_deep()


def _too_deep() -> BadMessage:
    return BadMessage(f"it is nested deeper than {MAX_DEPTH} levels")
