"""Inputs: results of other tasks that travel with a call as its arguments.

A call with inputs is one blob, with a first byte that no pickle has; the blob holds the call itself and its inputs. The
reader of the arguments puts the inputs in their places (`client.parents`). If an input is large, it is a description,
and so is the whole blob: so whoever brings values to a reader finds all of them.
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

#: First byte of a call with inputs; no pickle begins so.
INPUTS: Final = b"\x01"
#: What a call begins with that has inputs, and no arguments but these: how many, and whether each is JSON, a byte each.
ELEMENTS: Final = b"\x02"
#: First byte of an input: a result as it travels; or, of a task without a result, its end.
RESULT: Final = b"r"
FAILURE: Final = b"f"
#: Stands for the result of the task that the slot ran right before (`messages.Grant.behind`).
PREVIOUS: Final = b"p"
#: Likewise, all results of a batch: their number, the offset of the table of their pages, whether they are a value;
#: then the results, or their description.
SEQUENCE: Final = b"s"
_SEQUENCE: Final = struct.Struct("<QQ?")
#: Results in one of their pages, which begins with RESULT where it has results as they are, else with INPUTS; and the
#: first byte of all, as a value may not begin with 0.
SEQUENCE_PAGE: Final = 1024
SEQUENCE_MARK: Final = b"q"
_OFFSET: Final = struct.Struct("<Q")


#: What such a call begins with that is given one result, which is no JSON.
ONE_RESULT: Final = ELEMENTS + b"\x01\x00" + RESULT


def elements_call(kinds: Sequence[bool]) -> bytes:
    """A call that has no arguments but its inputs, before it is given them.

    Args:
        kinds: of each input, whether it is JSON.
    """
    return ELEMENTS + bytes((len(kinds), *kinds))


def elements_of(call: bytes) -> list[bool]:
    """Of each input of such a call, whether it is JSON."""
    return [kind != 0 for kind in call[2 : 2 + call[1]]]


def with_inputs(call: bytes, inputs: Sequence[bytes]) -> bytes:
    """A call with its inputs.

    Args:
        call: its blob.
        inputs: in their order.
    """
    if call.startswith(ELEMENTS):
        if len(inputs) == 1 and not inputs[0].startswith(_NAMING):
            return call + inputs[0]  # as nearly always
        body = call + (inputs[0] if len(inputs) == 1 else pages.pack(inputs, described=True))
    else:
        body = INPUTS + pages.pack([call, *inputs], described=True)
    needed = list(named(call)) if is_description(call) else []
    for each in inputs:
        needed += _named(each)
    return describe(list(dict.fromkeys(needed))[:MAX_VALUES], body) if needed else body


#: What an input begins with that may name values.
_NAMING: Final = (RESULT + MARK, SEQUENCE)


def _named(each: bytes) -> tuple[Value, ...]:
    if each.startswith(RESULT + MARK):
        return named(each[1:])
    if each.startswith(SEQUENCE):
        _, _, is_value, body = sequence_of(each[1:])
        return named(body) if is_value else ()
    return ()


def sequence_input(count: int, table: int, body: bytes, *, is_value: bool) -> bytes:
    """The input that holds all results of a batch.

    Args:
        count: their number.
        table: offset of the table of their pages in the body.
        body: the body; its description if it is a value.
        is_value: whether it is a value.
    """
    return SEQUENCE + _SEQUENCE.pack(count, table, is_value) + body


def sequence_of(body: bytes) -> tuple[int, int, bool, bytes]:
    """Decodes `sequence_input`, given the input without its first byte."""
    count, table, is_value = _SEQUENCE.unpack_from(body)
    return count, table, is_value, body[_SEQUENCE.size :]


def offsets_in(offsets: Sequence[int]) -> bytes:
    """The table of the offsets of pages, with the end of the last one."""
    return b"".join(map(_OFFSET.pack, offsets))


def offsets_of(body: memoryview, count: int, table: int) -> list[int]:
    """Decodes `offsets_in`."""
    end = table + _OFFSET.size * (-(-count // SEQUENCE_PAGE) + 1)
    return [offset for (offset,) in _OFFSET.iter_unpack(body[table:end])]


def failure_input(ended: Ended, task: str) -> bytes:
    """The input of a task without a result.

    Args:
        ended: its end.
        task: its id.
    """
    return FAILURE + pickle.dumps((task, codec(Ended).plain(ended)), 5)


def ended_of(body: bytes) -> tuple[Ended, str]:
    """Decodes `failure_input`, given the input without its first byte."""
    task, plain = pickle.loads(body)
    ended: Ended = codec(Ended, answer=True).decode(plain)
    return ended, task


def with_previous(blob: bytes, result: bytes) -> bytes:
    """A call with a result in the place of `PREVIOUS`.

    Args:
        blob: the call.
        result: the result as it travels; no description.
    """
    found = inputs_of(blob)
    if found is None or PREVIOUS not in found[1]:
        return blob
    return with_inputs(found[0], [RESULT + result if each == PREVIOUS else each for each in found[1]])


def inputs_of(blob: bytes) -> tuple[bytes, list[bytes]] | None:
    """A call and its inputs; None for a call without inputs."""
    if blob.startswith(MARK):
        blob = rest(blob)
    if blob.startswith(ELEMENTS):
        begin = 2 + blob[1]
        body = blob[begin:]
        return blob[:begin], pages.unpack(body) if body and blob[1] != 1 else [body]
    if not blob.startswith(INPUTS):
        return None
    call, *inputs = pages.unpack(blob[1:])
    return call, inputs
