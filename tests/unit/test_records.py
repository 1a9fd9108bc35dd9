"""The faster `dataclass`: what it makes is what the standard library makes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest

from dtq import records


def bodies(decorated: Any, keyworded: Any) -> tuple[type, type, type]:
    @decorated(frozen=True, slots=True)
    class Point:
        """A point."""

        x: int
        y: int = 0
        note: str = dataclasses.field(default="", repr=False, compare=False)

    @keyworded(frozen=True, slots=True, kw_only=True)
    class Line:
        """A line."""

        ends: tuple[Any, ...] = ()
        names: list[str] = dataclasses.field(default_factory=list)
        length: int

        def __post_init__(self) -> None:
            if self.length < 0:
                raise ValueError(self.length)

    @decorated(frozen=True, slots=True)
    class Nothing:
        """Nothing."""

    return Point, Line, Nothing


FAST: Any = records.dataclass
USUAL: Any = dataclasses.dataclass
Point, Line, Nothing = bodies(FAST, FAST)
Usual = bodies(USUAL, USUAL)


@records.dataclass(frozen=True, slots=True)
class Kept:
    """One that pickle finds."""

    number: int
    text: str = ""


@pytest.mark.parametrize(("fast", "usual"), list(zip((Point, Line, Nothing), Usual, strict=True)))
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
