"""Dataclasses with slots, as the standard library has them, made in a tenth of the time; and functions on them.

Ground floor: imports nothing of dtq. The standard library compiles six functions for a class, one by one, which takes a
millisecond, and imports `inspect`; each process of dtq has sixty to a hundred such classes, and that was a third of its
start. Here one function is compiled, ``__init__``, and only at the first call of the class; the others are closures, or
the same for all. A class behaves the same, even for the functions of `dataclasses`: their data is made at the first
request. Type checkers see the standard library's decorator.

Annotations are texts: a module of such classes begins with ``from __future__ import annotations``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from reprlib import recursive_repr
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

__all__ = ["asdict", "dataclass", "field", "fields", "is_dataclass", "replace"]

_set: Final = object.__setattr__
#: Stands for an absent default; and for an absent argument, if its default is made anew each time.
_ABSENT: Final = object()
#: The attribute with a class's fields.
_FIELDS: Final = "__record__"
#: Calls of a class until its ``__init__`` is compiled.
_FEW: Final = 30


class Field:
    """One field of a class, with the used part of `dataclasses.Field`."""

    __slots__ = ("compare", "default", "default_factory", "kw_only", "name", "repr", "type")

    def __init__(self, default: Any, default_factory: Any = _ABSENT, repr: bool = True, compare: bool = True) -> None:
        self.name = self.type = ""
        self.kw_only = False
        self.default = default
        self.default_factory = default_factory
        self.repr = repr
        self.compare = compare


# -- attributes of each class ---------------------------------------------------------------------------------------


class _Late:
    """An attribute of a class that is made at its first use: a process needs it of few of its classes."""

    __slots__ = ("_make", "_name", "_owner")

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __set_name__(self, owner: Any, name: str) -> None:
        self._owner, self._name = owner, name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        made = self._make(self._owner)
        setattr(self._owner, self._name, made)
        return made if instance is None or not isinstance(made, FunctionType) else made.__get__(instance, owner)


class _LateInit(_Late):
    """``__init__``, compiled after many calls of a class, or at the first inspection: a process makes few instances of
    most of its classes, and compiling takes as long as thirty calls without.
    """

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        super().__init__(_init)
        self._calls = 0

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None or isinstance(instance, type) or self._calls >= _FEW:  # `inspect` may give the class for it
            return super().__get__(instance, owner)
        self._calls += 1
        return MethodType(self._set_all, instance)

    def _set_all(self, instance: Any, /, *args: Any, **named: Any) -> Any:
        values: dict[str, Any] = {}
        given, rest = iter(args), dict(named)
        for field in self._owner.__record__:
            name = field.name
            if not field.kw_only and (value := next(given, _ABSENT)) is not _ABSENT:
                values[name] = value
            elif name in rest:
                values[name] = rest.pop(name)
            elif field.default_factory is not _ABSENT:
                values[name] = field.default_factory()
            elif field.default is not _ABSENT:
                values[name] = field.default
        if len(values) < len(self._owner.__record__) or rest or next(given, _ABSENT) is not _ABSENT:
            return self._make(self._owner)(instance, *args, **named)  # it raises the right error
        for name, value in values.items():
            _set(instance, name, value)
        if hasattr(instance, "__post_init__"):
            instance.__post_init__()
        return None


def _init(cls: Any) -> FunctionType:
    frozen = "__setattr__" in cls.__dict__
    parameters: list[str] = ["self"]
    body: list[str] = []
    known: dict[str, Any] = {"_set": _set, "_absent": _ABSENT}
    for field in sorted(cls.__record__, key=lambda field: field.kw_only):  # stable: keywords last, as required
        name, value = field.name, field.name
        if field.kw_only and "*" not in parameters:
            parameters.append("*")
        if field.default_factory is not _ABSENT:
            known[f"_make_{name}"] = field.default_factory
            value = f"_make_{name}() if {name} is _absent else {name}"
            parameters.append(f"{name}=_absent")
        elif field.default is not _ABSENT:
            known[f"_default_{name}"] = field.default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
        body.append(f"    _set(self, {name!r}, {value})\n" if frozen else f"    self.{name} = {value}\n")
    if hasattr(cls, "__post_init__"):
        body.append("    self.__post_init__()\n")
    # Compiled first: text that is executed after a Ctrl-C, as the program ends, would make Python forget the reason of
    # the end.
    text = f"def __init__({', '.join(parameters)}):\n{''.join(body) or '    pass'}"
    exec(compile(text, f"<{cls.__qualname__}>", "exec"), known)
    init: FunctionType = known["__init__"]
    init.__annotations__ = {field.name: field.type for field in cls.__record__} | {"return": None}
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    return init


def _standard(cls: Any) -> Any:
    """A class of the standard library's with the same fields."""
    import dataclasses  # it imports `inspect`, and few programs need it

    given: dict[str, Any] = {}
    for field in cls.__record__:
        default = dataclasses.MISSING if field.default is _ABSENT else field.default
        factory = dataclasses.MISSING if field.default_factory is _ABSENT else field.default_factory
        how: Any = {"default": default, "default_factory": factory, "repr": field.repr, "compare": field.compare}
        given[field.name] = dataclasses.field(kw_only=field.kw_only, **how)
    annotations = {field.name: field.type for field in cls.__record__}
    bare = type(cls.__name__, (), {"__annotations__": annotations, **given})
    return dataclasses.dataclass(frozen="__setattr__" in cls.__dict__)(bare)


def _standard_fields(cls: type) -> Any:
    return _standard(cls).__dataclass_fields__


def _standard_params(cls: type) -> Any:
    return _standard(cls).__dataclass_params__


def _comparing(found: list[Field], *, frozen: bool, order: bool) -> dict[str, Any]:
    names = [field.name for field in found if field.compare]
    # One value is compared as it is, several as a tuple; all instances of a class without fields are equal.
    values: Callable[[object], Any] = attrgetter(*names) if names else type

    def __eq__(self: object, other: object) -> bool:
        if other.__class__ is self.__class__:
            return bool(values(self) == values(other))
        return NotImplemented

    def __hash__(self: object) -> int:
        return hash(values(self))

    methods: dict[str, Any] = {"__eq__": __eq__, "__hash__": __hash__ if frozen else None}
    return {**methods, **_ordering(values)} if order else methods


def _ordering(values: Callable[[object], Any]) -> dict[str, Any]:
    def __lt__(self: object, other: object) -> bool:
        return bool(values(self) < values(other)) if other.__class__ is self.__class__ else NotImplemented

    def __le__(self: object, other: object) -> bool:
        return bool(values(self) <= values(other)) if other.__class__ is self.__class__ else NotImplemented

    def __gt__(self: object, other: object) -> bool:
        return bool(values(self) > values(other)) if other.__class__ is self.__class__ else NotImplemented

    def __ge__(self: object, other: object) -> bool:
        return bool(values(self) >= values(other)) if other.__class__ is self.__class__ else NotImplemented

    return {"__lt__": __lt__, "__le__": __le__, "__gt__": __gt__, "__ge__": __ge__}


# -- shared by all classes --------------------------------------------------------------------------------------------


@recursive_repr()
def _repr(self: Any) -> str:
    parts = ", ".join([f"{field.name}={getattr(self, field.name)!r}" for field in self.__record__ if field.repr])
    return f"{self.__class__.__qualname__}({parts})"


def _refuse(self: Any, name: str, what: str) -> None:
    """Raise the standard library's error, unless this is an attribute that a subclass without slots has added."""
    if _FIELDS in type(self).__dict__ or any(field.name == name for field in self.__record__):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {what} field {name!r}")


def _setattr(self: Any, name: str, value: object) -> None:
    _refuse(self, name, "assign to")
    _set(self, name, value)


def _delattr(self: Any, name: str) -> None:
    _refuse(self, name, "delete")
    object.__delattr__(self, name)


def _getstate(self: Any) -> list[object]:
    return [getattr(self, field.name) for field in self.__record__]


def _setstate(self: Any, state: list[object]) -> None:
    for field, value in zip(self.__record__, state, strict=False):
        _set(self, field.name, value)


def _fields(record: Any) -> Iterable[Any]:
    own = getattr(record, _FIELDS, None)
    if own is not None:
        return tuple(own)
    import dataclasses  # one of the standard library's, whose module is imported then

    return dataclasses.fields(record)


def _is_dataclass(record: object) -> bool:
    return hasattr(record, _FIELDS) or hasattr(record, "__dataclass_fields__")


def _replace(record: Any, /, **changes: Any) -> Any:
    for field in _fields(record):
        if field.name not in changes:
            changes[field.name] = getattr(record, field.name)
    return record.__class__(**changes)


def _asdict(record: Any) -> Any:
    if isinstance(record, list | tuple):
        items = [_asdict(item) for item in record]
        return type(record)(*items) if hasattr(record, "_fields") else type(record)(items)
    if isinstance(record, dict):
        return {name: _asdict(value) for name, value in record.items()}
    if not _is_dataclass(record):
        return record
    return {field.name: _asdict(getattr(record, field.name)) for field in _fields(record)}


# -- the class --------------------------------------------------------------------------------------------------------


def _own_fields(cls: type, kw_only: bool) -> list[Field]:
    found = []
    for name, kind in cls.__annotations__.items():
        if not kind.startswith("ClassVar"):
            given = cls.__dict__.get(name, _ABSENT)
            field = given if type(given) is Field else Field(given)
            field.name, field.type, field.kw_only = name, kind, kw_only
            found.append(field)
    return found


def with_slots(*, frozen: bool, kw_only: bool, order: bool) -> Callable[[type], type]:
    """A decorator that makes a class a dataclass with slots.

    Args:
        frozen: whether its attributes cannot be set afterwards.
        kw_only: whether its ``__init__`` takes keywords only.
        order: whether its instances have an order.
    """

    def made(cls: Any) -> type:
        inherited = {field.name: field for field in getattr(cls, _FIELDS, ())}
        own = {field.name: field for field in _own_fields(cls, kw_only)}
        found = list({**inherited, **own}.values())
        methods: dict[str, Any] = {
            "__init__": _LateInit(),
            "__repr__": _repr,
            **_comparing(found, frozen=frozen, order=order),
            "__getstate__": _getstate,
            "__setstate__": _setstate,
            "__replace__": _replace,
            "__match_args__": tuple([field.name for field in found if not field.kw_only]),
            "__dataclass_fields__": _Late(_standard_fields),
            "__dataclass_params__": _Late(_standard_params),
        }
        if frozen:
            methods |= {"__setattr__": _setattr, "__delattr__": _delattr}
        rest = {name: value for name, value in cls.__dict__.items() if name not in own and name not in _UNSLOTTED}
        space = {**methods, **rest, _FIELDS: found, "__slots__": tuple([name for name in own if name not in inherited])}
        bare: type = type(cls)(cls.__name__, cls.__bases__, space)
        bare.__qualname__ = cls.__qualname__
        return bare

    return made


#: Attributes of a class without slots.
_UNSLOTTED: Final = ("__dict__", "__weakref__")

if TYPE_CHECKING:
    from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
else:
    asdict, fields, is_dataclass, replace = _asdict, _fields, _is_dataclass, _replace

    def field(
        *, default: Any = _ABSENT, default_factory: Any = _ABSENT, repr: bool = True, compare: bool = True
    ) -> Any:
        """The standard library's."""
        return Field(default, default_factory, repr, compare)

    def dataclass(*, frozen: bool = False, slots: bool, kw_only: bool = False, order: bool = False) -> Any:
        """The standard library's, of classes that have slots.

        Args:
            frozen: as the standard library's.
            slots: True.
            kw_only: as the standard library's.
            order: likewise.
        """
        if not slots:
            raise TypeError("the standard library has those without slots")
        return with_slots(frozen=frozen, kw_only=kw_only, order=order)
