"""The faster `dataclass`: what it makes is what the standard library makes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import pprint
import subprocess
import sys
from typing import Any

import pytest

from dtq import records


def bodies(decorated: Any, field: Any) -> tuple[type, ...]:
    @decorated(frozen=True, slots=True)
    class Point:
        """A point."""

        x: int
        y: int = 0
        note: str = field(default="", repr=False, compare=False)

    @decorated(frozen=True, slots=True, kw_only=True)
    class Line:
        """A line."""

        ends: tuple[Any, ...] = ()
        names: list[str] = field(default_factory=list)
        length: int

        def __post_init__(self) -> None:
            if self.length < 0:
                raise ValueError(self.length)

    @decorated(frozen=True, slots=True)
    class Nothing:
        """Nothing."""

    @decorated(frozen=True, slots=True, order=True)
    class Version:
        """One that has an order, and another that is more."""

        major: int
        minor: int = 0

    @decorated(frozen=True, slots=True)
    class Release(Version):
        """One that is more than another."""

        note: str = ""
        minor: int = 1

    @decorated(slots=True, kw_only=True)
    class Draft:
        """One that can be changed."""

        lines: list[str] = field(default_factory=list)
        done: bool = False

    return Point, Line, Nothing, Version, Release, Draft


FAST = bodies(records.dataclass, records.field)
USUAL = bodies(dataclasses.dataclass, dataclasses.field)
Point, Line, Nothing, Version, Release, Draft = FAST


@records.dataclass(frozen=True, slots=True)
class Kept:
    """One that pickle finds."""

    number: int
    text: str = ""


@pytest.mark.parametrize(("fast", "usual"), list(zip(FAST, USUAL, strict=True)))
def test_class_has_what_the_standard_library_gives_it(fast: type, usual: type) -> None:
    assert [(f.name, f.type, f.kw_only) for f in dataclasses.fields(fast)] == [
        (f.name, f.type, f.kw_only) for f in dataclasses.fields(usual)
    ]
    described = [
        [(p.name, p.kind, p.annotation, p.default is p.empty) for p in inspect.signature(cls).parameters.values()]
        for cls in (fast, usual)
    ]
    assert described[0] == described[1]
    assert fast.__slots__ == usual.__slots__  # type: ignore[attr-defined]
    assert fast.__match_args__ == usual.__match_args__  # type: ignore[attr-defined]
    assert {name for name in ("__lt__", "__setattr__", "__hash__") if vars(fast).get(name)} == {
        name for name in ("__lt__", "__setattr__", "__hash__") if vars(usual).get(name)
    }


def test_instances_are_compared_shown_and_hashed_by_their_fields() -> None:
    assert Point(1, 2) == Point(x=1, y=2, note="left out") != Point(1, 3)
    assert Point(1, 2) != (1, 2)
    assert Nothing() == Nothing()
    assert len({Point(1), Point(1), Point(2)}) == 2
    assert repr(Point(1, 2, "left out")).endswith("Point(x=1, y=2)")
    assert Kept(1) != Point(1)
    assert dataclasses.replace(Point(1, 2), y=5) == Point(1, 5)


def test_defaults_that_are_made_are_made_each_time() -> None:
    first, second = Line(length=1), Line(length=1)
    assert first.names == []
    assert first.names is not second.names
    with pytest.raises(ValueError, match="-1"):
        Line(length=-1)
    with pytest.raises(TypeError):
        Line(())


def test_instances_are_the_same_however_many_there_were() -> None:
    def wrong(*args: Any, **named: Any) -> str:
        with pytest.raises(TypeError) as caught:
            Fresh(*args, **named)
        return str(caught.value)

    @records.dataclass(frozen=True, slots=True)
    class Fresh:
        """One that nobody has made yet."""

        x: int
        y: int = 0
        names: list[str] = records.field(default_factory=list)

    def made() -> list[object]:
        given = [Fresh(1), Fresh(1, 2), Fresh(y=3, x=1), Fresh(1, 2, ["a"]), Fresh(1, names=[])]
        errors = [wrong(), wrong(1, 2, [], 4), wrong(1, x=2), wrong(1, z=3), wrong(y=2)]
        return [*given, *errors]

    first = made()
    for _ in range(records._FEW):
        Fresh(1)
    assert type(vars(Fresh)["__init__"]).__name__ == "function"
    assert made() == first


def test_instances_are_frozen_and_have_nothing_beside_their_fields() -> None:
    point = Point(1)
    for name in ("x", "other"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(point, name, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert not hasattr(point, "__dict__")
    assert point.x == 1


def test_instances_are_pickled_and_copied() -> None:
    kept = Kept(1, "a")
    assert pickle.loads(pickle.dumps(kept)) == copy.copy(kept) == copy.deepcopy(kept) == kept


def test_instances_have_an_order_where_they_are_to() -> None:
    assert sorted([Version(2), Version(1, 5), Version(1)]) == [Version(1), Version(1, 5), Version(2)]
    assert Version(1) < Version(1, 1) <= Version(1, 1)
    assert Version(2) > Version(1) >= Version(1)
    with pytest.raises(TypeError):
        Version(1) < Release(2)  # noqa: B015 - only of the same class


def test_what_is_not_frozen_can_be_changed_and_has_no_hash() -> None:
    draft = Draft()
    draft.lines.append("a")
    draft.done = True
    assert draft == Draft(lines=["a"], done=True) != Draft()
    with pytest.raises(TypeError, match="unhashable"):
        hash(draft)
    with pytest.raises(AttributeError):
        draft.other = 1


def test_the_standard_library_sees_dataclasses() -> None:
    whole = Release(1, note="first")
    assert dataclasses.is_dataclass(Release)
    assert (
        dataclasses.asdict(Draft(lines=["a"])) == records.asdict(Draft(lines=["a"])) == {"lines": ["a"], "done": False}
    )
    assert dataclasses.astuple(whole) == (1, 1, "first")
    assert dataclasses.replace(whole, major=2) == records.replace(whole, major=2) == Release(2, note="first")
    assert [field.name for field in records.fields(whole)] == [field.name for field in dataclasses.fields(whole)]
    assert pprint.pformat(Kept(1)) == "Kept(number=1, text='')"
    with pytest.raises(TypeError):
        records.replace(whole, other=1)


def test_dataclasses_of_the_standard_library_are_taken_too() -> None:
    usual = USUAL[4](1)
    assert records.is_dataclass(usual)
    assert [field.name for field in records.fields(usual)] == ["major", "minor", "note"]
    assert records.asdict([usual]) == [{"major": 1, "minor": 1, "note": ""}]
    assert records.replace(usual, minor=3) == USUAL[4](1, minor=3)


def test_modules_of_dataclasses_bring_neither_the_standard_librarys_nor_inspect() -> None:
    code = "import sys, dtq.model.messages; print(sorted({'dataclasses', 'inspect'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
