"""Inputs: results of other tasks that travel with a call which is given them.

A call that has inputs is one blob, that begins as no pickle does; the call itself and its inputs are in it. What reads
its arguments puts them in their places (`client.parents`). Where one of them is large it is a description, and so is
the whole, so that whoever has values brought to where they are read finds all of them.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Final

from dtq.model import pages
from dtq.model.messages import Ended
from dtq.model.values import MARK, MAX_VALUES, describe, is_description, named, rest
from dtq.model.wire import codec

#: What a call begins with that has inputs; a pickle never does.
INPUTS: Final = b"\x01"
#: What an input begins with: a result as it travels; how the task has ended, where it has no result.
RESULT: Final = b"r"
FAILURE: Final = b"f"


def with_inputs(call: bytes, inputs: Sequence[bytes]) -> bytes:
    """A call with its inputs.

    Args:
        call: its blob.
        inputs: in their order.
    """
    body = INPUTS + pages.pack([call, *inputs], described=True)
    needed = list(named(call)) if is_description(call) else []
    for each in inputs:
        if each.startswith(RESULT + MARK):
            needed += named(each[1:])
    return describe(list(dict.fromkeys(needed))[:MAX_VALUES], body) if needed else body


def failure_input(ended: Ended) -> bytes:
    """The input of a task that has no result."""
    return FAILURE + pickle.dumps(codec(Ended).plain(ended), 5)


def ended_of(body: bytes) -> Ended:
    """How a task has ended, from its input without what that begins with."""
    ended: Ended = codec(Ended, answer=True).decode(pickle.loads(body))
    return ended


def inputs_of(blob: bytes) -> tuple[bytes, list[bytes]] | None:
    """A call and its inputs; None where it has none."""
    if blob.startswith(MARK):
        blob = rest(blob)
    if not blob.startswith(INPUTS):
        return None
    call, *inputs = pages.unpack(blob[1:])
    return call, inputs
