"""Pickles that open in any process, without the main program of their writer.

Client, below `payloads`. Another process cannot find what ``__main__`` defines, so such objects travel by value,
through cloudpickle where the extra ``closures`` is installed. Some objects would still travel by name (cloudpickle
handles classes and functions; pickle names more kinds): they are refused here, at the caller who can mend them, and not
in a slot, whose own ``__main__`` might even define the same name.
"""

from __future__ import annotations

import functools
import io
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, Final

from dtq.errors import CannotUnpickle, OtherPython
from dtq.wording import PYTHON_VERSION

#: Names of the main program's module: its own, and in processes that multiprocessing starts.
MAINS: Final = ("__main__", "__mp_main__")
#: The type of a function under `functools.lru_cache`.
_CACHED: Final = type(functools.lru_cache(id))


#: Reducers by type; see `object.__reduce__`.
Reducers = Mapping[type, Callable[[Any], Any]]
#: First line of a blob that only the same minor version of Python can read: code travels in that version's compiled
#: form.
THIS_PYTHON: Final = "{}.{}\n".format(*sys.version_info[:2]).encode()
_VERSION: Final = re.compile(rb"\d{1,2}\.\d{1,3}")
_NO_REDUCERS: Final[Reducers] = MappingProxyType({})


def dumps_of(cloudpickle: ModuleType | None, reducers: Reducers = _NO_REDUCERS) -> Callable[[Any, int], bytes]:
    """A pickling function whose pickles need no main program.

    Args:
        cloudpickle: the module, where it is installed.
        reducers: for objects of exactly these types.

    Returns:
        A function of a value and pickle's protocol. It raises any exception of pickling, and `pickle.PicklingError` for
        an object that only the main program defines.
    """
    if cloudpickle is None:
        return functools.partial(_dumped, _Refusing, reducers)
    if MAINS[1] in sys.modules:
        cloudpickle.register_pickle_by_value(sys.modules[MAINS[1]])
    return functools.partial(_dumped, _by_value_pickler(cloudpickle), reducers)


def _dumped(pickler: Callable[[io.BytesIO, int], Any], reducers: Reducers, value: Any, protocol: int) -> bytes:
    file = io.BytesIO()
    made = pickler(file, protocol)
    made.reducers = reducers
    made.dump(value)
    return file.getvalue()


def loads_by_value(blob: bytes, error: Exception, what: str) -> Any:
    """Unpickle a blob by value, with `THIS_PYTHON` before it: no pickle begins like that.

    Args:
        blob: the blob.
        error: the exception of unpickling it without regard to that line.
        what: its noun in the error's sentence.

    Raises:
        OtherPython: it is from another version of Python.
        CannotUnpickle: an object in it cannot be made here.
    """
    python, _, body = blob.partition(b"\n")
    if not _VERSION.fullmatch(python):
        raise CannotUnpickle(what, sentence(error)) from error
    if python + b"\n" != THIS_PYTHON:
        raise OtherPython(what, python.decode("ascii"), PYTHON_VERSION)
    try:
        return pickle.loads(body)
    except Exception as own:
        raise CannotUnpickle(what, sentence(own)) from own


def sentence(error: BaseException) -> str:
    """``Type: message`` of an error, on one line, bounded, without a full stop at its end."""
    try:
        text = " ".join(str(error).split())[:300].rstrip(".")
    except Exception:  # noqa: BLE001 - the error's own code
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Refusing(pickle.Pickler):
    """Refuses to pickle an object that only the main program defines."""

    reducers: Reducers

    def reducer_override(self, value: Any) -> Any:
        """See `pickle.Pickler`."""
        if type(value) in self.reducers:
            return self.reducers[type(value)](value)
        if isinstance(value, type | FunctionType):
            if value.__module__ in MAINS:
                raise _refusal(value, "; the extra dtq[closures] sends it by value")
        elif _is_named_in_main(value):
            raise _refusal(value)
        return NotImplemented


@functools.cache
def _by_value_pickler(cloudpickle: Any) -> Callable[[io.BytesIO, int], pickle.Pickler]:
    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        reducers: Reducers

        def reducer_override(self, value: Any) -> Any:
            if type(value) in self.reducers:
                return self.reducers[type(value)](value)
            if type(value) is _CACHED and (value.__module__ in MAINS or "<locals>" in value.__qualname__):
                return _cached_again, (value.__wrapped__, value.cache_parameters())
            reduced = super().reducer_override(value)
            if reduced is not NotImplemented or isinstance(value, type | FunctionType):
                return reduced
            if type(value) not in self.dispatch_table and _is_named_in_main(value):
                raise _refusal(value)
            return NotImplemented

    return ByValue


def _is_named_in_main(value: Any) -> bool:
    """Whether pickle would look for an object, which is neither class nor function, in the main program."""
    if getattr(value, "__module__", None) not in MAINS:
        return False
    try:
        return isinstance(value.__reduce_ex__(pickle.DEFAULT_PROTOCOL), str)
    except Exception:  # noqa: BLE001 - the object's own code: pickle meets it, too
        return False


def _refusal(value: Any, advice: str = "") -> pickle.PicklingError:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__name__
    return pickle.PicklingError(
        f"{name} is found by its name in the main program alone, which workers do not have{advice}"
    )


def _cached_again(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """A function with a cache of its own, as `functools.lru_cache` makes it."""
    return functools.lru_cache(**parameters)(function)
