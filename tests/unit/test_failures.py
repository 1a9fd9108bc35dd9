"""What is kept of an exception: the user's frames, and none of dtq's own for a mistake that a sentence tells."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest

from dtq.client.functions import exception_name, resolve
from dtq.errors import (
    BadMessage,
    CannotImport,
    CannotUnpickle,
    DtqError,
    NotRegistered,
    OnlyRegistered,
    OtherPython,
    ResultCannotPickle,
    TooLarge,
    WorkerBroken,
)
from dtq.model.messages import Failure
from dtq.model.options import Function, FunctionKind
from dtq.model.wire import codec
from dtq.transport import safepickle
from dtq.worker.failures import Stage, check, describe, located


def failing(name: str) -> CannotImport:
    """What looking for a function raises that cannot be imported."""
    with pytest.raises(CannotImport) as caught:
        resolve(Function(kind=FunctionKind.IMPORT, name=name, body=b""), "the worker w1")
    called_here = caught.value.__traceback__
    assert called_here is not None
    return caught.value.with_traceback(called_here.tb_next)


@pytest.mark.parametrize("name", ["math:nothing", "no_such_module:work"])
def test_function_that_is_not_there_is_a_sentence(name: str) -> None:
    failure = describe(failing(name), __file__)

    assert failure.message.startswith(f"{name} cannot be imported by the worker w1")
    assert failure.traceback == f"dtq.errors.CannotImport: {failure.message}\n"


def test_module_that_fails_shows_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a module of the user's that raises while it is imported
    (tmp_path / "brittle_module.py").write_text("def setting():\n    return {}['absent']\n\nvalue = setting()\n")
    monkeypatch.syspath_prepend(tmp_path)

    failure = describe(failing("brittle_module:work"), __file__)

    assert "return {}['absent']" in failure.traceback


@pytest.mark.parametrize(("function", "argument"), [(math.sqrt, "x"), ("".join, [1]), (int, None), (lambda: None, 1)])
def test_call_that_never_comes_to_the_users_code_shows_no_frame(function: Any, argument: Any) -> None:
    try:
        function(argument)
    except TypeError as error:
        failure = describe(error, __file__)
    assert failure.traceback == f"TypeError: {failure.message}\n"


def test_own_exception_of_a_task_shows_where() -> None:
    try:
        {}["absent"]
    except KeyError as error:
        failure = describe(error, "another file")

    assert '{}["absent"]' in failure.traceback


class Greedy(str):
    """Text that is not what it says."""

    def __len__(self) -> int:
        return 3

    def encode(self, *_: object) -> bytes:
        raise RuntimeError("no")


class Unspeakable(Exception):
    """Everything that describing it asks for ends the process, or would."""

    def __str__(self) -> str:
        raise SystemExit(3)

    def __reduce__(self) -> str:
        raise KeyboardInterrupt

    def with_traceback(self, _: object) -> Unspeakable:
        raise SystemExit(4)


def raised(error: BaseException) -> BaseException:
    """The error, with a traceback."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - that is what it is for
        return caught


def _caused(inner: Exception) -> Exception:
    outer = ValueError("later")
    outer.__cause__ = inner
    return outer


LONG = "n" * (20 << 20)
AWKWARD = {
    "a long class name": type(LONG, (Exception,), {})("x"),
    "a long module name": type("E", (Exception,), {"__module__": LONG})("x"),
    "a module that is a number": type("E", (Exception,), {"__module__": 5})("x"),
    "many bases": type("E", tuple(type(f"B{n}" + "b" * 9_000, (Exception,), {}) for n in range(60)), {})("x"),
    "a long message": ValueError(LONG),
    "a message of wide characters": ValueError("\U0001f600" * 100_000),
    "surrogates": ValueError("\ud800" * 100_000),
    "surrogates in the module": type("E", (Exception,), {"__module__": "\udcff"})("x"),
    "a text of its own class": type("E", (Exception,), {"__str__": lambda _: Greedy(LONG)})(),
    "no text at all": Unspeakable(),
    "a long note": raised(type("E", (Exception,), {"__notes__": [LONG]})()),
    "a long chain": functools.reduce(lambda inner, _: _caused(inner), range(3_000), ValueError("first")),
    "a large pickle": ValueError(bytes(1 << 20)),
}


@pytest.mark.parametrize("kind", AWKWARD)
def test_whatever_is_raised_is_described_within_bounds(kind: str) -> None:
    failure = describe(raised(AWKWARD[kind]), __file__, Stage.CALL, 1 << 20)
    check(failure)
    plain = codec(Failure).plain(failure)
    assert codec(Failure).decode(safepickle.loads(safepickle.dumps(plain))) == failure
    assert not failure.unable


@pytest.mark.parametrize(
    "failure",
    [
        Failure(exception="x" * 10_000),
        Failure(bases=("x",) * 33),
        Failure(bases=("x" * 10_000,)),
        Failure(message="x" * 5_000),
        Failure(message="\ud800"),
        Failure(traceback="\U0001f600" * 10_000),
        Failure(pickled=bytes(1 << 20)),
        Failure(output="not the slot's to say" * 100),
        Failure(exit_code=3),
        Failure(signal=9),
        Failure(peak_memory=-1),
        Failure(peak_memory=1 << 60),
    ],
)
def test_failure_that_no_slot_describes_is_refused(failure: Failure) -> None:
    with pytest.raises(BadMessage):
        check(failure)


OWN = [
    CannotImport("a module", "nobody", "it is missing", "3.11", "[]"),
    NotRegistered("a type", "nobody"),
    CannotUnpickle("something", "it is not there"),
    OtherPython("a lambda", "3.9", "3.11.7"),
    OnlyRegistered("a function", "nobody"),
    WorkerBroken("nobody", "no reason"),
    ModuleNotFoundError("No module named 'absent'"),
    AttributeError("Can't get attribute 'x' on <module 'y'>"),
    raised(_caused(ImportError("inside"))),
]


@pytest.mark.parametrize("error", OWN, ids=lambda error: type(error).__name__)
def test_stage_alone_tells_whether_a_worker_was_unable(error: BaseException) -> None:
    """What a task raises is its own failure, whatever its class: also what dtq itself raises elsewhere."""
    called = describe(located(error, Stage.CALL, "w"), __file__, Stage.CALL)
    assert (called.unable, called.particular, called.exception) == (False, False, exception_name(type(error)))
    assert describe(located(error, Stage.IMPORT, "w"), __file__, Stage.IMPORT).unable
    rebuilt = describe(located(error, Stage.REBUILD, "w"), __file__, Stage.REBUILD)
    assert (rebuilt.unable, rebuilt.particular) == (True, True)


@pytest.mark.parametrize("error", [TooLarge("the result", 2, 1), ResultCannotPickle("the result", "no")])
def test_result_that_can_never_be_sent_is_told_from_what_a_task_raises(error: DtqError) -> None:
    returned = describe(error, __file__, Stage.RESULT)
    assert (returned.final, returned.unable, returned.particular) == (True, False, False)
    assert not describe(error, __file__, Stage.CALL).final
    assert not describe(OSError("no room"), __file__, Stage.RESULT).final


@pytest.mark.parametrize(
    ("cause", "unable"),
    [
        (ModuleNotFoundError("No module named 'absent'"), True),
        (AttributeError("Can't get attribute 'x' on <module 'y'>"), True),
        (AttributeError("'int' object has no attribute 'x'"), False),
        (TypeError("wrong"), False),
    ],
)
def test_arguments_that_need_what_is_missing_belong_elsewhere(cause: Exception, unable: bool) -> None:
    error = CannotUnpickle("the task's arguments", "they say so")
    error.__cause__ = cause
    failure = describe(located(error, Stage.DECODE, "the worker w"), __file__, Stage.DECODE)
    assert (failure.unable, failure.particular) == (unable, True)
    assert ("a module for the task's arguments cannot be imported by the worker w" in failure.message) == unable
