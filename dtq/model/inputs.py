"""Inputs: results of other tasks that travel with a call which is given them.

A call that has inputs is one blob, that begins as no pickle does; the call itself and its inputs are in it. What reads
its arguments puts them in their places (`client.parents`). Where one of them is large it is a description, and so is
the whole, so that whoever has values brought to where they are read finds all of them.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import Final

from dtq.model import pages
from dtq.model.messages import Ended
from dtq.model.values import MARK, MAX_VALUES, Value, describe, is_description, named, rest
from dtq.model.wire import codec

#: What a call begins with that has inputs; a pickle never does.
INPUTS: Final = b"\x01"
#: What an input begins with: a result as it travels; how the task has ended, where it has no result.
RESULT: Final = b"r"
FAILURE: Final = b"f"
#: Likewise, all results of a batch: how many, where the table of their pages is, whether they are a value; then they
#: themselves, or the description.
SEQUENCE: Final = b"s"
_SEQUENCE: Final = struct.Struct("<QQ?")
#: How many of them are in a page; and what they begin with, as a value may not begin with 0.
SEQUENCE_PAGE: Final = 1024
SEQUENCE_MARK: Final = b"q"
_OFFSET: Final = struct.Struct("<Q")


def with_inputs(call: bytes, inputs: Sequence[bytes]) -> bytes:
    """A call with its inputs.

    Args:
        call: its blob.
        inputs: in their order.
    """
    body = INPUTS + pages.pack([call, *inputs], described=True)
    needed = list(named(call)) if is_description(call) else []
    for each in inputs:
        needed += _named(each)
    return describe(list(dict.fromkeys(needed))[:MAX_VALUES], body) if needed else body


def _named(each: bytes) -> tuple[Value, ...]:
    if each.startswith(RESULT + MARK):
        return named(each[1:])
    if each.startswith(SEQUENCE):
        _, _, is_value, body = sequence_of(each[1:])
        return named(body) if is_value else ()
    return ()


def sequence_input(count: int, table: int, body: bytes, *, is_value: bool) -> bytes:
    """The input that is all results of a batch.

    Args:
        count: how many.
        table: where the places of their pages begin in the body.
        body: the body; its description where it is a value.
        is_value: whether it is.
    """
    return SEQUENCE + _SEQUENCE.pack(count, table, is_value) + body


def sequence_of(body: bytes) -> tuple[int, int, bool, bytes]:
    """The same again, from the input without what that begins with."""
    count, table, is_value = _SEQUENCE.unpack_from(body)
    return count, table, is_value, body[_SEQUENCE.size :]


def offsets_in(offsets: Sequence[int]) -> bytes:
    """The table of where pages begin, and the last one ends."""
    return b"".join(map(_OFFSET.pack, offsets))


def offsets_of(body: memoryview, count: int, table: int) -> list[int]:
    """The same again."""
    end = table + _OFFSET.size * (-(-count // SEQUENCE_PAGE) + 1)
    return [offset for (offset,) in _OFFSET.iter_unpack(body[table:end])]


def failure_input(ended: Ended, task: str) -> bytes:
    """The input of a task that has no result.

    Args:
        ended: how it has ended.
        task: its id.
    """
    return FAILURE + pickle.dumps((task, codec(Ended).plain(ended)), 5)


def ended_of(body: bytes) -> tuple[Ended, str]:
    """The same again, from the input without what that begins with."""
    task, plain = pickle.loads(body)
    ended: Ended = codec(Ended, answer=True).decode(plain)
    return ended, task


def inputs_of(blob: bytes) -> tuple[bytes, list[bytes]] | None:
    """A call and its inputs; None where it has none."""
    if blob.startswith(MARK):
        blob = rest(blob)
    if not blob.startswith(INPUTS):
        return None
    call, *inputs = pages.unpack(blob[1:])
    return call, inputs
