"""What `pickle_reading` finds in a pickle: groups of items, and things that are known by the name of their class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

#: Longest argument of a constructor that is called, in characters or bytes; and most arguments.
_SHORT: Final = 300
_FEW: Final = 40
#: Longest name of a class that is shown.
_NAME: Final = 120


class Group:
    """Items in their order: of a list, tuple, set, or dict (key and value in turns); or the beginning of a text or of
    bytes.
    """

    __slots__ = ("closed", "items", "kind")

    def __init__(self, kind: str, items: list[Any]) -> None:
        self.kind = kind
        self.items = items
        #: Whether it has all of its items.
        self.closed = kind in ("tuple", "frozenset", "text", "bytes")

    def extend(self, items: list[Any]) -> None:
        """Add items."""
        if not self.closed:
            self.items += items


class Thing:
    """An object that is not looked into.

    Args:
        text: shown for it.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Global(Thing):
    """A class or function, by its name.

    Args:
        module: its module.
        qualname: its name there.
    """

    __slots__ = ("name",)

    def __init__(self, module: str, qualname: str) -> None:
        #: Module and name with a dot between.
        self.name = f"{module}.{qualname}".removeprefix("builtins.")[:_NAME]
        super().__init__(f"<{self.name}>")


def made(what: Global, arguments: tuple[Any, ...]) -> Thing:
    """The object that a constructor makes of its arguments.

    Args:
        what: the constructor.
        arguments: the arguments, as they were found.
    """
    show = _KNOWN.get(what.name)
    if show is not None and len(arguments) <= _FEW and all(map(_is_short, arguments)):
        try:
            return Thing(show(*arguments)[:_SHORT])
        except Exception:  # noqa: BLE001 - no such object can be: the pickle is damaged, or not what it seems
            return Thing(f"<{what.name}>")
    if what.name.startswith("cloudpickle."):
        return Thing("<code sent by value>")
    if what.name in _REBUILDERS and arguments and type(arguments[0]) is Global:
        return Thing(arguments[0].text)
    return Thing(_MAKERS.get(what.name, what.text))


def _is_short(argument: Any) -> bool:
    kind = type(argument)
    if kind in (str, bytes):
        return len(argument) <= _SHORT
    return kind in (float, bool) or (kind is int and abs(argument) < 1 << 63)


def _path(*parts: str) -> str:
    from pathlib import PurePosixPath

    return f"Path({str(PurePosixPath(*parts))!r})"


def _windows_path(*parts: str) -> str:
    from pathlib import PureWindowsPath

    return f"Path({str(PureWindowsPath(*parts))!r})"


def _of_datetime(name: str) -> Callable[..., str]:
    def show(*arguments: Any) -> str:
        import datetime

        return repr(getattr(datetime, name)(*arguments))

    return show


def _decimal(text: str) -> str:
    from decimal import Decimal

    return repr(Decimal(text))


def _complex(real: float, imaginary: float) -> str:
    return repr(complex(real, imaginary))


def _range(*bounds: int) -> str:
    return repr(range(*bounds))


#: Constructors of the standard library that make nothing but a small value of scalars, and how the value is shown.
_KNOWN: Final[dict[str, Callable[..., str]]] = {
    "pathlib.PosixPath": _path,
    "pathlib.PurePosixPath": _path,
    "pathlib._local.PosixPath": _path,
    "pathlib._local.PurePosixPath": _path,
    "pathlib.WindowsPath": _windows_path,
    "pathlib.PureWindowsPath": _windows_path,
    "pathlib._local.WindowsPath": _windows_path,
    "pathlib._local.PureWindowsPath": _windows_path,
    "datetime.datetime": _of_datetime("datetime"),
    "datetime.date": _of_datetime("date"),
    "datetime.time": _of_datetime("time"),
    "datetime.timedelta": _of_datetime("timedelta"),
    "decimal.Decimal": _decimal,
    "complex": _complex,
    "range": _range,
}
#: Functions that rebuild an object of the class that is their first argument.
_REBUILDERS: Final = frozenset(
    {
        "copy_reg._reconstructor",
        "copyreg._reconstructor",
        "copyreg.__newobj__",
        "copyreg.__newobj_ex__",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
    }
)
#: Functions that make an object of a class without naming it.
_MAKERS: Final = {
    "numpy.core.numeric._frombuffer": "<numpy.ndarray>",
    "numpy._core.numeric._frombuffer": "<numpy.ndarray>",
}
