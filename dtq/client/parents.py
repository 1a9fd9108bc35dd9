"""Results of other tasks among the arguments of a call.

Client, below `payloads`; the slot uses the other half. A handle in the arguments pickles as a stand-in, and the call
depends on the handle's task. The coordinator sends the results with the call (`model.inputs`), and the slot replaces
the stand-ins by them. So the values never pass through the client.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final, Protocol

from dtq.errors import CannotPickle, CannotUnpickle
from dtq.model.inputs import RESULT, SEQUENCE, ended_of
from dtq.model.messages import Ended


class HandlesMet(CannotPickle):
    """A handle is among the arguments of a call that must be encoded without waits."""


class Decoders(Protocol):
    """Decodes inputs."""

    def result(self, blob: bytes, is_json: bool) -> Any:
        """A result."""
        ...

    def results(self, is_json: bool) -> Callable[[bytes], Any]:
        """The same, for many of them."""
        ...

    def sequence(self, body: bytes, is_json: bool) -> Any:
        """All results of a batch."""
        ...

    def failure(self, ended: Ended, task: str) -> BaseException:
        """The exception of a task without a result."""
        ...


class ResultOf:
    """Stands for the result of another task in a call that is inspected before it has that result.

    Equal to each of its like, and to a handle.
    """

    stands_for_result: ClassVar[bool] = True

    def __eq__(self, other: object) -> bool:
        return True if getattr(type(other), "stands_for_result", False) else NotImplemented

    def __hash__(self) -> int:
        return hash(ResultOf)

    def __repr__(self) -> str:
        return "<the result of another task>"


class _Here(threading.local):
    """The state of this thread's encoding or decoding.

    Attributes:
        met: the handles met so far in the call that is encoded; None if it may have none.
        keyed: whether it is compared with other calls.
        inputs: of the call that is decoded, with their decoders; None for none.
        made: the decoded inputs.
        looking: whether a call is only inspected.
    """

    met: list[Any] | None = None
    keyed: bool = False
    inputs: tuple[Sequence[bytes], Decoders] | None = None
    made: dict[int, Any]
    looking: bool = False


_here: Final = _Here()

# -- in the client ----------------------------------------------------------------------------------------------------


def is_collecting() -> bool:
    """Whether a call that may have handles is being encoded."""
    return _here.met is not None


def as_it_is(value: Any) -> Any:
    """The pickle of a future that has its result already."""
    return value


def stand_in(handle: Any, is_json: bool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The reduction of a handle.

    Args:
        handle: the handle.
        is_json: whether its task's result travels as JSON.

    Raises:
        HandlesMet: the call may have no handles.
    """
    met = _here.met
    if met is None:
        why = "it is the handle of a task, which can be an argument of `submit`, and nothing else"
        raise HandlesMet("a handle", why)
    place = next((place for place, known in enumerate(met) if known is handle), len(met))
    if place == len(met):
        met.append(handle)
    return input_of, (place, is_json, handle.id if _here.keyed else "")


def collecting(encode: Callable[..., bytes], *arguments: Any, keyed: bool = False) -> tuple[bytes, list[Any]]:
    """Encode a call that may have handles in it.

    Args:
        encode: the encoder.
        arguments: of the encoder.
        keyed: whether it is compared with others of its key: then it names its parents.

    Returns:
        The blob, and the handles in the order of their stand-ins.
    """
    before, _here.met = _here.met, []
    _here.keyed = keyed
    try:
        return encode(*arguments), _here.met
    finally:
        _here.met = before


# -- in the slot ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reading(inputs: Sequence[bytes], decoders: Decoders) -> Iterator[None]:
    """Decode a call that has inputs."""
    before, _here.inputs = _here.inputs, (inputs, decoders)
    _here.made = {}
    try:
        yield
    finally:
        _here.inputs = before
        _here.made = {}


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """Decode calls without their inputs: stand-ins take their places (`ResultOf`)."""
    before, _here.looking = _here.looking, True
    try:
        yield
    finally:
        _here.looking = before


def elements(kinds: Sequence[bool]) -> tuple[Any, ...]:
    """The arguments of a call that has none but its inputs.

    Args:
        kinds: of each, whether it is JSON.

    Raises:
        As `input_of`.
    """
    return tuple([input_of(place, is_json) for place, is_json in enumerate(kinds)])


def input_of(place: int, is_json: bool, task: str = "") -> Any:
    """The input of a stand-in; called while a call is unpickled.

    Raises:
        CannotUnpickle: it is missing, or cannot be made here.
        DtqError: it cannot be read.
    """
    if _here.inputs is None and _here.looking:
        return ResultOf()
    if _here.inputs is None or place >= len(_here.inputs[0]):
        raise CannotUnpickle("the result of another task", "it did not come with the call")
    made = _here.made
    if place not in made:
        inputs, decoders = _here.inputs
        kind, body = inputs[place][:1], inputs[place][1:]
        if kind == RESULT:
            made[place] = decoders.result(body, is_json)
        elif kind == SEQUENCE:
            made[place] = decoders.sequence(body, is_json)
        else:
            ended, its_id = ended_of(body)
            made[place] = decoders.failure(ended, task or its_id)
    return made[place]
