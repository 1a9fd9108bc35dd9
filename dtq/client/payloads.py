"""Encodes calls and results: pickles that only the submitting client and the executing slot open.

Client, beside `functions`; the slot uses the other half. A call without keywords is the pickled tuple of its arguments,
one with keywords the pickled list ``[arguments, keywords]``; the result None is the empty blob. Calls and results of
registered task types are JSON. This code runs once a task on both ends, so the common case is one call into pickle.

A large payload becomes a value if the caller has a place for values, and its blob a description (`large_payloads`). A
function whose payload was large is expected to have large ones the next time: then nothing is pickled in memory first.

Objects that plain pickle refuses, or would find again only in this very process (definitions of ``__main__``), go
through cloudpickle where the extra ``closures`` is installed; the receiving end is the same.
"""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType, ModuleType
from typing import Any, Final, Protocol, cast

from dtq.client import large_payloads, parents, references
from dtq.client.by_value import THIS_PYTHON, dumps_of, loads_by_value, sentence
from dtq.client.given import Results
from dtq.client.parents import HandlesMet
from dtq.errors import (
    CannotPickle,
    CannotUnpickle,
    ClientClosed,
    ResultCannotPickle,
    StoreError,
    TooLarge,
    Unreachable,
    ValueDamaged,
    ValueGone,
)
from dtq.model.inputs import inputs_of, sequence_of
from dtq.model.messages import Ended
from dtq.model.options import FunctionKind
from dtq.model.values import MARK, MIN_VALUE, named
from dtq.values.base import Values

#: Protocol of all pickles: what Python 3.8 and later read, and the one with cheap bytes.
PICKLE: Final = 5
#: What a pickle has in it when it names something of the main program, whichever of `MAINS` that is. Looked for by
#: `find`: ``in`` first tries to make a number of it, and takes three times as long.
MAIN: Final = b"_main__"
#: From so many bytes on it is looked for from the end. There CPython does without the preparations for the worst case
#: that it makes in the other direction, and takes a third of the time; with so short a word the worst case is no worse.
_LONG: Final = 1 << 10
#: What a pickle has in it where code travels by value.
_BY_VALUE: Final = b"cloudpickle"

#: What is not for a want of pickle where values are written and read.
_NOT_WRITTEN: Final = (HandlesMet, TooLarge, StoreError, Unreachable, ClientClosed)
_NOT_READ: Final = (ValueGone, ValueDamaged, Unreachable, ClientClosed)

_dumps = pickle.dumps
_loads = pickle.loads


def _cloudpickle() -> ModuleType | None:
    try:
        import cloudpickle
    except ImportError:
        return None
    return cast(ModuleType, cloudpickle)


def cloudpickle_dumps() -> Callable[[Any, int], bytes] | None:
    """What pickles by value (see `by_value`), or None without the extra ``closures``."""
    module = _cloudpickle()
    return None if module is None else dumps_of(module)


def dump_by_value(value: Any, reducers: Mapping[type, Callable[[Any], Any]] = MappingProxyType({})) -> bytes:
    """Pickle something with what it needs of the main program in it, as far as cloudpickle is installed.

    Args:
        value: what to pickle.
        reducers: for objects of exactly these types; see `object.__reduce__`.

    Raises:
        Exception: whatever pickling raises, pickle's own errors and those of the value's methods.
        pickle.PicklingError: something of the main program is in it, and cannot go by value.
    """
    return dumps_of(_cloudpickle(), reducers)(value, PICKLE)


def is_interrupt(error: BaseException) -> bool:
    """Whether an error may be Ctrl-C, which is never to be swallowed; elsewhere than in the main thread it is none."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


# -- calls ----------------------------------------------------------------------------------------------------------


def _written(blob: bytes, values: Values | None) -> bytes:
    """A blob that may be large; the description of one that is."""
    return blob if values is None or len(blob) < values.least else large_payloads.written(blob, values)


def encode_call(
    args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, values: Values | None = None, large: bool = False
) -> bytes:
    """The arguments of one call, as a blob.

    Args:
        args: the arguments.
        kwargs: those that have names.
        values: where to write them if they are large; None to have them in the blob whatever they take.
        large: whether they are likely to be.

    Raises:
        HandlesMet: one of them has a handle of a task in it, and that is not for this call.
        CannotPickle: one of them cannot be pickled; says which and why.
        TooLarge, StoreError: they cannot be written there.
    """
    call: Any = [args, dict(kwargs)] if kwargs else args
    if large or references.made:
        return references.encoding(_encode_carefully, call, args, kwargs, values, large)
    try:
        blob = _dumps(call, PICKLE)
        if (blob.find(MAIN) if len(blob) < _LONG else blob.rfind(MAIN)) >= 0:
            blob = _call_by_value(call)
    except HandlesMet:
        raise
    except Exception:  # noqa: BLE001 - pickling runs the arguments' own code, which may raise anything
        blob = _encode_anyway(args, kwargs or {}, call)
    return blob if len(blob) < MIN_VALUE else _written(blob, values)


def _encode_carefully(
    call: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, values: Values | None, large: bool
) -> bytes:
    """As `encode_call`, where there is more to a call than its pickle."""
    if large and values is not None:
        try:
            found = large_payloads.encode(call, values, PICKLE, MAIN)
        except _NOT_WRITTEN:
            raise
        except Exception:  # noqa: BLE001 - as there
            found = None
        if found is not None:
            return found
    try:
        blob = _dumps(call, PICKLE)
        if MAIN in blob:
            blob = _call_by_value(call)
    except HandlesMet:
        raise
    except Exception:  # noqa: BLE001 - as there
        blob = _encode_anyway(args, kwargs or {}, call)
    return blob if len(blob) < MIN_VALUE else _written(blob, values)


def _call_by_value(call: Any) -> bytes:
    blob = dump_by_value(call)
    return THIS_PYTHON + blob if _BY_VALUE in blob else blob


def _encode_anyway(args: tuple[Any, ...], kwargs: Mapping[str, Any], call: Any) -> bytes:
    try:
        return _call_by_value(call)
    except Exception as error:  # as above
        named = [(f"argument {place}", value) for place, value in enumerate(args, 1)]
        named += [(f"the argument {name}", value) for name, value in kwargs.items()]
        raise CannotPickle(*_culprit(named, error)) from error


def _culprit(named: Iterable[tuple[str, Any]], error: Exception) -> tuple[str, str]:
    for what, value in named:
        try:
            dump_by_value(value)
        except Exception as own:  # noqa: BLE001 - as above; this is the one to name
            return f"{what} ({type(value).__name__})", sentence(own)
    return "the arguments together", sentence(error)


def decode_call(blob: bytes, values: Values | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call again.

    Args:
        blob: the call.
        values: where they are read if they are large.

    Raises:
        CannotUnpickle: something in them cannot be made here.
        OtherPython: something in them was sent by value, from another version of Python.
        ValueGone, ValueDamaged: they cannot be read there.
    """
    call: Any = None
    try:
        call = _loads(blob)
    except Exception as error:  # noqa: BLE001 - unpickling runs code of what is unpickled
        with_inputs = inputs_of(blob)
        if with_inputs is not None:
            with parents.reading(with_inputs[1], _Decoders(values)):
                return decode_call(with_inputs[0], values)
        if not blob.startswith(MARK):  # as no pickle does: the common ones are not looked at for it
            call = _decode_by_value(blob, error)
    if type(call) is tuple:
        return call, {}
    if call is None:
        call = references.decode(blob, values, "the task's arguments", _decode_by_value)
        if type(call) is tuple:
            return call, {}
    args, kwargs = call
    return args, kwargs


def _decode_by_value(blob: bytes, error: Exception) -> Any:
    return loads_by_value(blob, error, "the task's arguments")


class _Decoders:
    """How what a call is given is decoded.

    Args:
        values: where it is read if it is large.
    """

    def __init__(self, values: Values | None) -> None:
        self._values = values

    def result(self, blob: bytes, is_json: bool) -> Any:
        """See `parents.Decoders`."""
        return decode_json_result(blob, self._values) if is_json else decode_result(blob, self._values)

    def sequence(self, body: bytes, is_json: bool) -> Any:
        """See `parents.Decoders`."""
        count, table, is_value, rest = sequence_of(body)
        if is_value:
            if self._values is None:
                raise CannotUnpickle("the results of a batch", "they lie in a segment, which cannot be read here")
            data = memoryview(self._values.fetch(named(rest)[0]))
        else:
            data = memoryview(rest)
        return Results(data, count, table, self, is_json=is_json)

    def failure(self, ended: Ended, task: str) -> BaseException:
        """See `parents.Decoders`."""
        from dtq.client.outcomes import error_of  # few slots ever need it, and it imports much

        return error_of(ended, task)


def encode_value(value: Any, values: Values) -> bytes:
    """The description of anything, written as a value however small it is: what a reference stands for.

    Raises:
        CannotPickle: it cannot be pickled.
        TooLarge, StoreError: it cannot be written.
    """

    def encode() -> bytes:
        try:
            found = large_payloads.encode(value, values, PICKLE, MAIN, least=0)
        except _NOT_WRITTEN:
            raise
        except Exception:  # noqa: BLE001 - as for calls
            found = None
        return large_payloads.written(_call_by_value(value), values) if found is None else found

    try:
        return references.encoding(encode)
    except _NOT_WRITTEN:
        raise
    except Exception as error:
        raise CannotPickle(f"the value ({type(value).__name__})", sentence(error)) from error


# -- results --------------------------------------------------------------------------------------------------------


def encode_result(value: Any, values: Values | None = None, large: bool = False) -> bytes:
    """A result, as a blob.

    Args:
        value: the result.
        values: where to write it if it is large; None to have it in the blob whatever it takes.
        large: whether it is likely to be.

    Raises:
        ResultCannotPickle: it cannot be pickled.
        TooLarge, StoreError: it cannot be written there.
    """
    if value is None:
        return b""
    if large and values is not None:
        try:
            found = large_payloads.encode(value, values, PICKLE, MAIN)
        except _NOT_WRITTEN:
            raise
        except Exception:  # noqa: BLE001 - as below
            found = None
        if found is not None:
            return found
    try:
        blob = _dumps(value, PICKLE)
        if (blob.find(MAIN) if len(blob) < _LONG else blob.rfind(MAIN)) >= 0:
            blob = dump_by_value(value)
    except Exception:  # noqa: BLE001 - pickling runs the result's own code, which may raise anything
        try:
            blob = dump_by_value(value)
        except Exception as error:
            raise ResultCannotPickle(f"the result ({type(value).__name__})", sentence(error)) from error
    return blob if len(blob) < MIN_VALUE else _written(blob, values)


def _no_pickle(_: bytes, error: Exception) -> Any:
    raise error


def decode_result(blob: bytes, values: Values | None = None) -> Any:
    """A result again.

    Args:
        blob: the result.
        values: where it is read if it is large.

    Raises:
        CannotUnpickle: something in it cannot be made here.
        ValueGone, ValueDamaged: it cannot be read there.
    """
    if not blob:
        return None
    try:
        return _loads(blob)
    except BaseException as error:  # an exit in there must not end who only reads, nor the thread that reads for many
        if is_interrupt(error):
            raise
        if not blob.startswith(MARK):  # as no pickle does: the common ones are not looked at for it
            raise CannotUnpickle("the task's result", sentence(error)) from error
    try:
        return large_payloads.decode(blob, values, "the task's result", _no_pickle)
    except _NOT_READ:
        raise
    except BaseException as error:  # as above
        if is_interrupt(error):
            raise
        raise CannotUnpickle("the task's result", sentence(error)) from error


# -- registered task types: JSON ------------------------------------------------------------------------------------


def encode_json_call(
    args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, values: Values | None = None, large: bool = False
) -> bytes:
    """The arguments of one call of a registered task type; see `encode_call`.

    Raises:
        CannotPickle: they are not JSON.
        TooLarge, StoreError: they cannot be written there.
    """
    try:
        blob = json.dumps({"args": args, "kwargs": kwargs or {}}, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CannotPickle("the arguments of a registered task type", f"not JSON ({error})") from error
    return blob if len(blob) < MIN_VALUE else _written(blob, values)


def decode_json_call(blob: bytes, values: Values | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of a registered task type again; see `decode_call`.

    Raises:
        CannotUnpickle: they are not ``{"args": [...], "kwargs": {...}}``.
        ValueGone, ValueDamaged: they cannot be read there.
    """
    if blob.startswith(MARK):
        blob = large_payloads.contents(blob, values, "the task's arguments")
    try:
        call = json.loads(blob)
        return tuple(call.get("args", ())), dict(call.get("kwargs", {}))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CannotUnpickle("the task's arguments", sentence(error)) from error


def encode_json_result(value: Any, values: Values | None = None, large: bool = False) -> bytes:
    """A result of a registered task type; see `encode_result`.

    Raises:
        ResultCannotPickle: it is not JSON.
        TooLarge, StoreError: it cannot be written there.
    """
    if value is None:
        return b""
    try:
        blob = json.dumps(value, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultCannotPickle("the result of a registered task type", f"not JSON ({error})") from error
    return blob if len(blob) < MIN_VALUE else _written(blob, values)


def decode_json_result(blob: bytes, values: Values | None = None) -> Any:
    """A result of a registered task type again; see `decode_result`.

    Raises:
        CannotUnpickle: it is not JSON.
        ValueGone, ValueDamaged: it cannot be read there.
    """
    if blob.startswith(MARK):
        blob = large_payloads.contents(blob, values, "the task's result")
    try:
        return json.loads(blob) if blob else None
    except (ValueError, RecursionError) as error:
        raise CannotUnpickle("the task's result", sentence(error)) from error


#: Encodes calls, where it is settled how.
Encode = Callable[[tuple[Any, ...], Mapping[str, Any] | None], bytes]


class EncodeCall(Protocol):
    """How calls of a kind of function are encoded; see `encode_call`."""

    def __call__(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        values: Values | None = None,
        large: bool = False,
        /,
    ) -> bytes:
        """The call, as a blob."""
        ...


class DecodeCall(Protocol):
    """How calls of a kind of function are decoded; see `decode_call`."""

    def __call__(self, blob: bytes, values: Values | None = None, /) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments."""
        ...


class DecodeResult(Protocol):
    """How results of a kind of function are decoded; see `decode_result`."""

    def __call__(self, blob: bytes, values: Values | None = None, /) -> Any:
        """The result."""
        ...


class EncodeResult(Protocol):
    """How results of a kind of function are encoded; see `encode_result`."""

    def __call__(self, value: Any, values: Values | None = None, large: bool = False, /) -> bytes:
        """The result, as a blob."""
        ...


def call_encoder(kind: FunctionKind) -> EncodeCall:
    """How calls of a kind of function are encoded."""
    return encode_json_call if kind is FunctionKind.REGISTERED else encode_call


def call_decoder(kind: FunctionKind) -> DecodeCall:
    """How calls of a kind of function are decoded, in the slot."""
    return decode_json_call if kind is FunctionKind.REGISTERED else decode_call


def result_encoder(kind: FunctionKind) -> EncodeResult:
    """How results of a kind of function are encoded, in the slot."""
    return encode_json_result if kind is FunctionKind.REGISTERED else encode_result


def result_decoder(kind: FunctionKind, values: Values | None = None) -> Callable[[bytes], Any]:
    """How results of a kind of function are decoded.

    Args:
        kind: the kind.
        values: where large ones are read.
    """
    decode: DecodeResult = decode_json_result if kind is FunctionKind.REGISTERED else decode_result
    return decode if values is None else partial(_with, decode, values)


def _with(decode: DecodeResult, values: Values, blob: bytes) -> Any:
    return decode(blob, values)
