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
from dtq.model.inputs import ELEMENTS, ONE_RESULT, elements_of, inputs_of, sequence_of
from dtq.model.messages import Ended
from dtq.model.options import FunctionKind
from dtq.model.values import MARK, MIN_VALUE, named
from dtq.values.base import Values

#: Protocol of all pickles: Python 3.8 and later read it, and it has cheap bytes.
PICKLE: Final = 5
#: Occurs in every pickle that names an object of the main program, by either name of `MAINS`. Searched with `find`:
#: ``in`` first tries to make a number of it, and takes three times as long.
MAIN: Final = b"_main__"
#: A pickle of this many bytes or more is searched from the end. CPython does that without the preparations for the
#: worst case that it makes in the other direction, in a third of the time; with so short a word the worst case is no
#: worse.
_LONG: Final = 1 << 10
#: Occurs in every pickle with code by value.
_BY_VALUE: Final = b"cloudpickle"

#: Errors of writing and reading values, not of pickling.
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
    """cloudpickle's pickling function (see `by_value`), or None without the extra ``closures``."""
    module = _cloudpickle()
    return None if module is None else dumps_of(module)


def dump_by_value(value: Any, reducers: Mapping[type, Callable[[Any], Any]] = MappingProxyType({})) -> bytes:
    """Pickle a value together with the objects of the main program that it needs, if cloudpickle is installed.

    Args:
        value: the value.
        reducers: for objects of exactly these types; see `object.__reduce__`.

    Raises:
        Exception: any exception of pickling, pickle's own and those of the value's methods.
        pickle.PicklingError: it contains an object of the main program that cannot go by value.
    """
    return dumps_of(_cloudpickle(), reducers)(value, PICKLE)


def is_interrupt(error: BaseException) -> bool:
    """Whether an error may be Ctrl-C, which must never be swallowed; outside of the main thread it is none."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


# -- calls ----------------------------------------------------------------------------------------------------------


def _written(blob: bytes, values: Values | None) -> bytes:
    """A blob; its description if it is large."""
    return blob if values is None or len(blob) < values.least else large_payloads.written(blob, values)


def encode_call(
    args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, values: Values | None = None, large: bool = False
) -> bytes:
    """The arguments of one call, as a blob.

    Args:
        args: the arguments.
        kwargs: keyword arguments.
        values: writes them if they are large; None to keep them in the blob whatever their size.
        large: whether they are probably large.

    Raises:
        HandlesMet: one of them contains a handle of a task, which this encoding does not support.
        CannotPickle: one of them cannot be pickled; names it and the reason.
        TooLarge, StoreError: the value cannot be written.
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
    """As `encode_call`, for a call that plain pickling does not cover."""
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
        values: reads them if they are large.

    Raises:
        CannotUnpickle: an object in them cannot be made here.
        OtherPython: an object in them was sent by value, from another version of Python.
        ValueGone, ValueDamaged: the value cannot be read.
    """
    call: Any = None
    try:
        call = _loads(blob)
    except Exception as error:  # noqa: BLE001 - unpickling runs code of what is unpickled
        if blob.startswith(ONE_RESULT):  # as nearly all calls of a map over a map
            return (decode_result(blob[len(ONE_RESULT) :], values),), {}
        with_inputs = inputs_of(blob)
        if with_inputs is not None:
            if with_inputs[0].startswith(ELEMENTS):
                return _elements(*with_inputs, values)
            with parents.reading(with_inputs[1], _Decoders(values)):
                return decode_call(with_inputs[0], values)
        if not blob.startswith(MARK):  # no pickle does: the common ones are not checked further
            call = _decode_by_value(blob, error)
    if type(call) is tuple:
        return call, {}
    if call is None:
        call = references.decode(blob, values, "the task's arguments", _decode_by_value)
        if type(call) is tuple:
            return call, {}
    args, kwargs = call
    return args, kwargs


def _elements(call: bytes, inputs: list[bytes], values: Values | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call that has none but its inputs."""
    kinds = elements_of(call)
    if inputs == [b""]:  # it has not been given them
        return parents.elements(kinds), {}
    with parents.reading(inputs, _Decoders(values)):
        return parents.elements(kinds), {}


def _decode_by_value(blob: bytes, error: Exception) -> Any:
    return loads_by_value(blob, error, "the task's arguments")


class _Decoders:
    """Decodes a call's inputs.

    Args:
        values: reads them if they are large.
    """

    def __init__(self, values: Values | None) -> None:
        self._values = values

    def result(self, blob: bytes, is_json: bool) -> Any:
        """See `parents.Decoders`."""
        return decode_json_result(blob, self._values) if is_json else decode_result(blob, self._values)

    def results(self, is_json: bool) -> Callable[[bytes], Any]:
        """See `parents.Decoders`."""
        return partial(decode_json_result if is_json else decode_result, values=self._values)

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
    """The description of an object, written as a value whatever its size: the value of a reference.

    Raises:
        CannotPickle: the object cannot be pickled.
        TooLarge, StoreError: the value cannot be written.
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
        values: writes it if it is large; None to keep it in the blob whatever its size.
        large: whether it is probably large.

    Raises:
        ResultCannotPickle: it cannot be pickled.
        TooLarge, StoreError: the value cannot be written.
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
        values: reads it if it is large.

    Raises:
        CannotUnpickle: an object in it cannot be made here.
        ValueGone, ValueDamaged: the value cannot be read.
    """
    if not blob:
        return None
    try:
        return _loads(blob)
    except BaseException as error:  # an exit in there must not end a reader, nor the thread that reads for many
        if is_interrupt(error):
            raise
        if not blob.startswith(MARK):  # no pickle does: the common ones are not checked further
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
        TooLarge, StoreError: the value cannot be written.
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
        ValueGone, ValueDamaged: the value cannot be read.
    """
    with_inputs = inputs_of(blob)
    if with_inputs is not None:
        return _elements(*with_inputs, values)
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
        TooLarge, StoreError: the value cannot be written.
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
        ValueGone, ValueDamaged: the value cannot be read.
    """
    if blob.startswith(MARK):
        blob = large_payloads.contents(blob, values, "the task's result")
    try:
        return json.loads(blob) if blob else None
    except (ValueError, RecursionError) as error:
        raise CannotUnpickle("the task's result", sentence(error)) from error


#: Encodes calls, with all choices made.
Encode = Callable[[tuple[Any, ...], Mapping[str, Any] | None], bytes]


class EncodeCall(Protocol):
    """Encodes calls of a kind of function; see `encode_call`."""

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
    """Decodes calls of a kind of function; see `decode_call`."""

    def __call__(self, blob: bytes, values: Values | None = None, /) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments."""
        ...


class DecodeResult(Protocol):
    """Decodes results of a kind of function; see `decode_result`."""

    def __call__(self, blob: bytes, values: Values | None = None, /) -> Any:
        """The result."""
        ...


class EncodeResult(Protocol):
    """Encodes results of a kind of function; see `encode_result`."""

    def __call__(self, value: Any, values: Values | None = None, large: bool = False, /) -> bytes:
        """The result, as a blob."""
        ...


def call_encoder(kind: FunctionKind) -> EncodeCall:
    """The encoder of calls of a kind of function."""
    return encode_json_call if kind is FunctionKind.REGISTERED else encode_call


def call_decoder(kind: FunctionKind) -> DecodeCall:
    """The decoder of calls of a kind of function, in the slot."""
    return decode_json_call if kind is FunctionKind.REGISTERED else decode_call


def result_encoder(kind: FunctionKind) -> EncodeResult:
    """The encoder of results of a kind of function, in the slot."""
    return encode_json_result if kind is FunctionKind.REGISTERED else encode_result


def result_decoder(kind: FunctionKind, values: Values | None = None) -> Callable[[bytes], Any]:
    """The decoder of results of a kind of function.

    Args:
        kind: the kind.
        values: reads large ones.
    """
    decode: DecodeResult = decode_json_result if kind is FunctionKind.REGISTERED else decode_result
    return decode if values is None else partial(_with, decode, values)


def _with(decode: DecodeResult, values: Values, blob: bytes) -> Any:
    return decode(blob, values)
