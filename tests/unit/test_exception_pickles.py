"""Exceptions on their way: class, arguments and attributes come back, whatever their ``__init__`` makes of them."""

from __future__ import annotations

import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dtq.client.by_value import THIS_PYTHON
from dtq.client.exception_pickles import dump_exception, load_exception

MOST = 256 << 10


class Rewriting(Exception):
    """Hands on something else than it takes."""

    def __init__(self, what: str) -> None:
        super().__init__(f"bad {what}")
        self.what = what


class Keyworded(ValueError):
    """Cannot be called with its ``args``."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Slotted(Rewriting):
    """Has an attribute that stands in a slot."""

    __slots__ = ("place",)


class OfAFile(OSError):
    """Has a base in C that makes attributes of its arguments."""

    def __init__(self, path: str) -> None:
        super().__init__(2, "no such thing", path)


class Bare(OSError):
    """Sets its arguments past its base, as those of smtplib do."""

    def __init__(self, code: int, text: str) -> None:
        self.args = (code, text)
        self.code = code


class Silent(Exception):
    """Hands on nothing, and shows what only it has."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __repr__(self) -> str:
        return f"Silent({self.code})"

    __str__ = object.__str__


class WithNew(Exception):
    """Its ``args`` are what it was called with."""

    def __new__(cls, one: int, two: int) -> WithNew:
        return super().__new__(cls, f"{one} and {two}")


class Members(ExceptionGroup[Exception]):
    """A group whose members are all that it is called with."""

    def __new__(cls, members: list[Exception]) -> Members:
        return super().__new__(cls, f"{len(members)} members", members)


class Reducing(Exception):
    """Knows itself how it comes back."""

    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return Reducing, (self.number,)


class Raising(Exception):
    """Raises when it is to come back."""

    kinds: tuple[type[BaseException], ...] = (ValueError, SystemExit, GeneratorExit)

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        raise self.kinds[self.args[0]]


class NotEvenThere(Exception):
    """Cannot be taken apart."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise SystemExit(3)


class Lying(Exception):
    """Comes back as something that cannot be raised."""

    def __reduce__(self) -> tuple[Any, ...]:
        return str, ("no exception",)


def come_back(error: BaseException) -> BaseException:
    found = load_exception(dump_exception(error, MOST))
    assert found is not None
    return found


def slotted() -> Slotted:
    error = Slotted("tooth")
    error.place = "upper left"
    return error


def noted() -> KeyError:
    error = KeyError("k")
    error.add_note("looked twice")
    return error


@pytest.mark.parametrize(
    "error",
    [
        Rewriting("tooth"),
        Keyworded(7, detail="seven"),
        slotted(),
        OfAFile("/nowhere"),
        Bare(3, "three"),
        Silent(4),
        WithNew(1, 2),
        Reducing(5),
        noted(),
        KeyError(("a", 1)),
        StopIteration(3),
        SystemExit(4),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ModuleNotFoundError("none", name="absent", path="somewhere"),
        FileNotFoundError(2, "none", "one", None, "two"),
        SyntaxError("wrong", ("file", 1, 2, "text")),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_class_text_arguments_and_attributes_come_back(error: BaseException) -> None:
    found = come_back(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.args == error.args
    assert vars(found) == vars(error)
    for name in ("place", "errno", "filename", "filename2", "value", "code", "name", "object", "lineno"):
        assert getattr(found, name, None) == getattr(error, name, None)


def test_members_of_a_group_come_back_each_as_itself() -> None:
    group = BaseExceptionGroup("two", [Keyworded(1, detail="one"), Members([Rewriting("x")])])
    found = come_back(group)
    assert isinstance(found, BaseExceptionGroup)
    first, second = found.exceptions
    assert isinstance(first, Keyworded)
    assert first.detail == "one"
    assert isinstance(second, Members)
    assert str(second.exceptions[0]) == "bad x"


def test_causes_and_contexts_come_back() -> None:
    try:
        try:
            try:
                raise Rewriting("first")
            except Rewriting as first:
                raise Keyworded(2, detail="second") from first
        except Keyworded:
            raise KeyError("third")  # noqa: B904 - the context is what is looked at
    except KeyError as error:
        found = come_back(error)
    second = found.__context__
    assert isinstance(second, Keyworded)
    assert second.__suppress_context__
    assert str(second.__cause__) == "bad first"


def test_exception_that_is_its_own_context_comes_back() -> None:
    error = Rewriting("tooth")
    error.__cause__ = error
    found = come_back(error)
    assert found.__cause__ is found


def test_what_cannot_be_pickled_is_left_out_and_said() -> None:
    error = Keyworded(7, detail="seven")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    found = come_back(error)
    assert isinstance(found, Keyworded)
    assert (found.code, hasattr(found, "lock")) == (7, False)
    assert "left out" in found.__notes__[0]


@pytest.mark.parametrize("make", [lambda text: Rewriting(text), lambda text: ExceptionGroup("g", [Rewriting(text)])])
def test_too_large_exception_keeps_its_type(make: Any) -> None:
    error = make("x" * (1 << 20))
    data = dump_exception(error, MOST)
    assert len(data) <= MOST
    assert type(load_exception(data)) is type(error)


def test_cause_is_left_out_before_the_exception_is_cut() -> None:
    error = Keyworded(7, detail="d" * 10_000)
    error.__cause__ = Rewriting("x" * (1 << 20))
    found = come_back(error)
    assert found.__cause__ is None
    assert found.args == error.args


@pytest.mark.parametrize("error", [Raising(0, "why"), Raising(1, "why"), Raising(2, "why"), Lying()])
def test_exception_that_cannot_be_made_is_none(error: BaseException) -> None:
    error.something = 1  # type: ignore[attr-defined]
    assert load_exception(dump_exception(error, MOST)) is None


def test_exception_that_cannot_be_taken_apart_is_empty() -> None:
    assert dump_exception(NotEvenThere(), MOST) == b""


@pytest.mark.parametrize("data", [b"garbage", b"\x80\x05garbage", b"2.7\n" + pickle.dumps(KeyError(1)), b"3"])
def test_garbage_is_none(data: bytes) -> None:
    assert load_exception(data) is None


def test_class_by_value_is_the_one_that_this_program_made() -> None:
    # Given a class that no name leads to, which has changed since it was made
    class Local(Exception):
        tries = 0

    data = dump_exception(Local("v", 2), MOST)
    Local.tries = 7
    # When its exception comes back; Then it is of that class, as it is now
    found = load_exception(data)
    assert data.startswith(THIS_PYTHON)
    assert type(found) is Local
    assert (found.args, Local.tries) == (("v", 2), 7)


def test_class_by_value_is_the_one_of_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Given an exception of a module that this process had, and another program that has it anew
    (tmp_path / "gone_module.py").write_text("class Lost(Exception):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import gone_module  # type: ignore[import-not-found]

    error = gone_module.Lost("where")
    monkeypatch.delitem(sys.modules, "gone_module")
    data = dump_exception(error, MOST)
    # When it has none of that name; Then the class comes with it. When it has one; Then it is of that
    assert type(load_exception(data)).__name__ == "Lost"
    again = type("gone_module", (), {"Lost": type("Lost", (Exception,), {"__qualname__": "Lost"})})
    monkeypatch.setitem(sys.modules, "gone_module", again)  # type: ignore[arg-type]
    assert type(load_exception(data)) is again.Lost  # type: ignore[attr-defined]
