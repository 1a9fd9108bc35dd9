"""Pickles of a task's exception that restore its class, arguments and attributes.

Client, beside `payloads`; the slot uses the other half. Pickle restores an exception by a call of its class with
``args``, which fails if ``__init__`` takes other arguments than it hands on: here such a class is not called, its
arguments and attributes are set. The cause and context of an exception travel with it.

An importable class travels by name. Any other class (of ``__main__``, of a notebook, of a function) travels by value
through cloudpickle, as results do. If the receiving program has a class of that name, or made the class itself, it gets
its own, so that ``except MyError`` holds. A pickle by value is for the same minor version of Python: a line before it
names the version.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import io
import pickle
import sys
from types import BuiltinFunctionType, MemberDescriptorType, WrapperDescriptorType
from typing import Any, Final

from dtq.client.by_value import THIS_PYTHON
from dtq.client.payloads import MAIN, PICKLE, cloudpickle_dumps, is_interrupt

#: Bounds of a shortened exception: characters of a text, bytes of an attribute.
_SHORT_TEXT: Final = 4_000
_SHORT_BYTES: Final = 4_096
#: The note of a shortened exception.
_NOT_WHOLE: Final = "This exception could not travel whole: arguments and attributes of it were cut or left out."


# -- in the slot ----------------------------------------------------------------------------------------------------


def dump_exception(error: BaseException, most: int) -> bytes:
    """An exception, pickled.

    Args:
        error: the exception.
        most: bytes that the pickle may have. A larger exception, or one that cannot be pickled, goes without its cause
            and context, and then with arguments and attributes cut or left out; a note of the exception says so.

    Returns:
        The pickle; empty if it cannot be pickled.
    """
    for whole, chained in ((True, True), (True, False), (False, False)):
        how = _How(whole, chained)
        try:
            data = _dumped(error, how)
        except BaseException as failure:
            if is_interrupt(failure):
                raise
            continue
        if len(data) <= most:
            return data
    return b""


class _How:
    """The extent to which an exception is pickled.

    Args:
        whole: all of its arguments and attributes; else the short ones.
        chained: its cause and context as well.
    """

    __slots__ = ("chained", "whole")

    def __init__(self, whole: bool, chained: bool) -> None:
        self.whole = whole
        self.chained = chained


class _Pickler(pickle.Pickler):
    """Pickles exceptions its own way, and all else by name."""

    def __init__(self, file: io.BytesIO, how: _How) -> None:
        super().__init__(file, PICKLE)
        self._how = how

    def reducer_override(self, value: Any) -> Any:
        """See `pickle.Pickler`."""
        return _reduced(value, self._how) if isinstance(value, BaseException) else NotImplemented


@functools.cache
def _by_value_pickler() -> Any:
    """The same, except that unimportable classes go by value; None without the extra ``closures``."""
    if cloudpickle_dumps() is None:
        return None
    import cloudpickle

    class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
        def __init__(self, file: io.BytesIO, how: _How) -> None:
            super().__init__(file, PICKLE)
            self._how = how

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, BaseException):
                return _reduced(value, self._how)
            if isinstance(value, type) and not _has_name(value):
                return _class_again, (value.__module__, value.__qualname__, _tracker(value), cloudpickle.dumps(value))
            return super().reducer_override(value)

    return ByValuePickler


def _dumped(error: BaseException, how: _How) -> bytes:
    file = io.BytesIO()
    try:
        _Pickler(file, how).dump(error)
        if MAIN not in file.getvalue() or _by_value_pickler() is None:
            return file.getvalue()
    except Exception:
        if _by_value_pickler() is None:
            raise
    file = io.BytesIO()
    _by_value_pickler()(file, how).dump(error)
    return THIS_PYTHON + file.getvalue()


def _has_name(kind: type) -> bool:
    """Whether every process that can import a class's module finds the class by its name."""
    return kind.__module__ != "__main__" and _found(kind.__module__, kind.__qualname__) is kind


def _found(module: str, qualname: str) -> Any:
    """A module's object of a name; None if it has none."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _tracker(kind: type) -> str:
    """cloudpickle's name of a class, the same in every process that it came to by value; empty for none."""
    import cloudpickle.cloudpickle as inner

    make = getattr(inner, "_get_or_create_tracker_id", None)
    return "" if make is None else str(make(kind))


def _reduced(error: BaseException, how: _How) -> Any:
    """The reduction of an exception; see `object.__reduce_ex__`."""
    kind = type(error)
    reduced = error.__reduce_ex__(PICKLE)
    if isinstance(reduced, str) or len(reduced) > 3:
        return reduced
    make, args, *rest = reduced
    state = rest[0] if rest else None
    slots = _slots(error)
    if not how.whole:
        args, state, slots = _cut(args, state, slots)
    made = _like(error, kind, args) if make is kind and _is_plain(kind) else None
    members: dict[str, Any] = {}
    if made is not None:
        members = _members(error, made) if how.whole else {}
        if not isinstance(kind.__init__, _SLOT):
            make, args = _made_again, (kind, *args)
    chain = (error.__cause__, error.__context__, error.__suppress_context__) if how.chained else (None, None, False)
    if not slots and not members and chain == (None, None, False):
        return (make, args) if state is None else (make, args, state)
    return make, args, (state, slots, members, *chain), None, None, _set_state


def _is_plain(kind: type[BaseException]) -> bool:
    """Whether a class leaves the reduction of its exceptions to its base in C."""
    own = kind.__reduce_ex__ is not object.__reduce_ex__ or not isinstance(kind.__reduce__, _METHOD)
    return not (own or kind in copyreg.dispatch_table)


#: The types of methods of C classes: of ordinary ones, and of those for Python's slots.
_METHOD: Final = type(BaseException.__reduce__)
_SLOT: Final = WrapperDescriptorType
_BUILTIN: Final = BuiltinFunctionType
#: Members that the arguments cover, and one that may be anything: the object without the attribute.
_NO_MEMBERS: Final = frozenset(("message", "exceptions", "obj"))


def _like(error: BaseException, kind: type[BaseException], args: tuple[Any, ...]) -> BaseException | None:
    """The exception that `_made_again` makes of these arguments; None if it differs from this one."""
    try:
        made = _made_again(kind, *args)
    except Exception:  # noqa: BLE001 - a base in C may want something else, and arguments have code of their own
        return None
    return made if len(made.args) == len(error.args) else None


def _native_members(kind: type[BaseException]) -> dict[str, Any]:
    """The members of a class's base in C, by their names."""
    bases = [vars(base) for base in kind.__mro__ if base.__module__ == "builtins"]
    members = {name: found for base in bases for name, found in base.items() if isinstance(found, MemberDescriptorType)}
    return {name: found for name, found in members.items() if name not in _NO_MEMBERS}


def _members(error: BaseException, made: BaseException) -> dict[str, Any]:
    """Values of those members that the arguments do not cover: the name of a file."""
    members = _native_members(type(error)).items()
    return {name: value for name, found in members if (value := found.__get__(error)) is not found.__get__(made)}


def _slots(error: BaseException) -> dict[str, Any]:
    """The attributes in slots, which pickle forgets of exceptions."""
    names: list[str] = copyreg._slotnames(type(error))  # type: ignore[attr-defined]
    return {name: getattr(error, name) for name in names if hasattr(error, name)}


def _cut(args: tuple[Any, ...], state: Any, slots: dict[str, Any]) -> tuple[tuple[Any, ...], Any, dict[str, Any]]:
    """The short ones of arguments and attributes."""
    short = tuple(map(_shortened, args))
    kept = {name: value for name, value in state.items() if _size(value) <= _SHORT_BYTES} if type(state) is dict else {}
    notes = [*kept.get("__notes__", ()), _NOT_WHOLE]
    return short, {**kept, "__notes__": notes}, {name: _shortened(value) for name, value in slots.items()}


def _shortened(value: Any) -> Any:
    if isinstance(value, str | bytes) and len(value) > _SHORT_TEXT:
        return value[:_SHORT_TEXT]
    if isinstance(value, list | tuple) and all(isinstance(item, BaseException) for item in value):
        return value  # the members of a group are cut themselves
    return value if _size(value) <= 2 * _SHORT_TEXT else f"<{type(value).__name__}, left out>"


def _size(value: Any) -> int:
    try:
        return len(pickle.dumps(value, PICKLE))
    except Exception:  # noqa: BLE001 - pickling runs the value's own code
        return sys.maxsize


# -- at the client --------------------------------------------------------------------------------------------------


def load_exception(data: bytes) -> BaseException | None:
    """An exception again.

    Args:
        data: the pickle.

    Returns:
        The exception; None if it cannot be made here.

    Raises:
        KeyboardInterrupt: Ctrl-C, in the main thread.
    """
    if data[:1] != b"\x80":
        python, _, data = data.partition(b"\n")
        if python + b"\n" != THIS_PYTHON:
            return None
    try:
        error = pickle.loads(data)
    except BaseException as failure:
        if is_interrupt(failure):
            raise
        return None
    return error if issubclass(type(error), BaseException) else None


def _made_again(kind: type[BaseException], *args: Any) -> BaseException:
    """An exception with these ``args``; no ``__init__`` of Python code is called."""
    bases = [vars(base) for base in kind.__mro__]
    new = next(base["__new__"] for base in bases if isinstance(base.get("__new__"), _BUILTIN))
    init = next(base["__init__"] for base in bases if isinstance(base.get("__init__"), _SLOT))
    error: BaseException = new(kind, *args)
    init(error, *args)
    return error


def _set_state(error: BaseException, whole: tuple[Any, dict[str, Any], dict[str, Any], Any, Any, bool]) -> None:
    state, slots, members, cause, context, suppress = whole
    if state is not None:
        error.__setstate__(state)
    for name, value in slots.items():
        object.__setattr__(error, name, value)
    for name, found in _native_members(type(error)).items():
        if name in members:
            with contextlib.suppress(AttributeError, TypeError):  # some cannot be set
                found.__set__(error, members[name]) if members[name] is not None else found.__delete__(error)
    error.__cause__ = cause
    error.__context__ = context
    error.__suppress_context__ = suppress


def _class_again(module: str, qualname: str, tracker: str, body: bytes) -> Any:
    """A class that came by value: this program's own of that name, or the one it made before; else a new one."""
    named = _found(module, qualname)
    if isinstance(named, type) and named.__qualname__ == qualname:
        return named
    import cloudpickle.cloudpickle as inner

    own = getattr(inner, "_DYNAMIC_CLASS_TRACKER_BY_ID", {}).get(tracker)
    return own if own is not None else pickle.loads(body)
