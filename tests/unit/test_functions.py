"""How functions travel: by name where the name leads back, by value where cloudpickle can, else refused."""

from __future__ import annotations

import functools
import gc
import importlib
import math
import os.path
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dtq.client import functions
from dtq.client.functions import callee, reference, resolve
from dtq.client.payloads import decode_call, encode_call
from dtq.client.tasks import task
from dtq.client.terms import NO_TERMS, Terms
from dtq.errors import CannotImport, CannotUnpickle, InvalidValue, NotImportable
from dtq.model.options import Function, FunctionKind


def plain(x: int) -> int:
    return x + 1


@task(priority=2, max_retries=7, timeout=60, never_retry=[ValueError, "mymodule.Bad"])
def decorated(x: int, y: int = 1) -> int:
    """Adds."""
    return x + y


@task(name="tests.registered")
def registered_task(x: int) -> int:
    return x


class Shape:
    def __init__(self, sides: int) -> None:
        self.sides = sides

    def count(self) -> int:
        return self.sides

    @classmethod
    def square(cls) -> int:
        return cls(4).sides

    @staticmethod
    def name() -> str:
        return "shape"

    def __call__(self, factor: int) -> int:
        return self.sides * factor


def hidden(x: int) -> int:
    return x


shadowed = hidden


def hidden(x: int) -> int:  # type: ignore[no-redef]
    return -x


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (plain, "tests.unit.test_functions:plain"),
        (decorated, "tests.unit.test_functions:decorated"),
        (Shape, "tests.unit.test_functions:Shape"),
        (Shape.square, "tests.unit.test_functions:Shape.square"),
        (Shape.name, "tests.unit.test_functions:Shape.name"),
        (len, "builtins:len"),
        (math.sqrt, "math:sqrt"),
        (os.path.join, "posixpath:join"),
    ],
)
def test_importable_functions_travel_by_name_and_lead_back(function: Callable[..., Any], name: str) -> None:
    # Given a function that can be imported; When it travels
    travelled = reference(function)
    # Then it is its name, which leads back to it
    assert travelled == Function(kind=FunctionKind.IMPORT, name=name)
    assert resolve(travelled) == function


@pytest.mark.parametrize(
    ("function", "args", "result"),
    [
        (lambda x: x + 1, (1,), 2),
        (functools.partial(plain, 4), (), 5),
        (Shape(3).count, (), 3),
        (Shape(3), (5,), 15),
        (shadowed, (6,), 6),
        (str.upper, ("a",), "A"),
        ("x-{}".format, (1,), "x-1"),
    ],
)
def test_other_callables_travel_by_value(function: Callable[..., Any], args: tuple[Any, ...], result: object) -> None:
    # Given something that its name does not lead back to; When it travels
    travelled = reference(function)
    # Then it does by value, and does the same at the other end
    assert travelled.kind is FunctionKind.VALUE
    assert resolve(travelled)(*args) == result


def test_partials_of_importable_functions_travel_without_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an interpreter without the extra
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    # When a partial travels; Then it needs no more than pickle
    assert resolve(reference(functools.partial(plain, 1)))() == 2


def test_lambda_without_cloudpickle_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an interpreter without the extra
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    # When a lambda travels; Then the sentence says why not, and how
    with pytest.raises(NotImportable, match=r"lambda.*dtq\[closures\]"):
        reference(lambda: 1)


def test_closure_is_taken_as_it_is_at_each_submission() -> None:
    # Given a closure whose variable changes between two submissions
    factor = 1

    def scaled(x: int) -> int:
        return x * factor

    first = callee(scaled).function
    factor = 10
    # When it travels again
    second = callee(scaled).function
    # Then each has the value of its moment
    assert resolve(first)(2) == 2
    assert resolve(second)(2) == 20


def test_unchanged_closure_is_the_same_spec_each_time() -> None:
    # Given a closure that does not change; When it is submitted twice under the same terms
    factor = 3

    def scaled(x: int) -> int:
        return x * factor

    # Then it is one spec, which the coordinator keeps once
    assert callee(scaled).spec(NO_TERMS) is callee(scaled).spec(NO_TERMS)


def test_importable_function_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a function that was looked at
    def fresh() -> None: ...

    fresh.__qualname__ = "plain_alias"
    fresh.__module__ = __name__
    globals()["plain_alias"] = fresh
    known = callee(fresh)
    looks: list[object] = []
    monkeypatch.setattr(functions, "_reference", looks.append)
    # When it is submitted many times; Then nobody looks at it again
    assert all(callee(fresh) is known for _ in range(100))
    assert not looks


def test_functions_are_not_kept_alive() -> None:
    # Given a function that was submitted
    def passing() -> int:
        return 1

    callee(passing)
    key = id(passing)
    assert key in functions._known
    # When nobody else has it any more
    del passing
    gc.collect()
    # Then it is forgotten
    assert key not in functions._known


def test_main_program_functions_run_elsewhere(tmp_path: Path) -> None:
    # Given a program that defines function, class and global itself
    script = tmp_path / "program.py"
    script.write_text(
        "import sys\n"
        "from dataclasses import dataclass\n"
        "from dtq.client.functions import reference\n"
        "from dtq.client.payloads import encode_call\n"
        "@dataclass\n"
        "class Point:\n"
        "    x: int\n"
        "def moved(p, by):\n"
        "    return Point(p.x + by)\n"
        "if __name__ == '__main__':\n"
        "    import pickle\n"
        "    f = reference(moved)\n"
        "    call = encode_call((Point(1),), {'by': 2})\n"
        "    sys.stdout.buffer.write(pickle.dumps((f.kind.value, f.name, f.body, call)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, check=True, timeout=60)
    # When another process unpacks function and call
    import pickle

    kind, name, body, blob = pickle.loads(done.stdout)
    function = resolve(Function(kind=FunctionKind(kind), name=name, body=body))
    args, kwargs = decode_call(blob)
    # Then it runs there, classes included
    assert (kind, name) == ("value", "__main__:moved")
    assert function(*args, **kwargs).x == 3


def test_function_by_value_from_another_python_is_refused() -> None:
    # Given a lambda that another Python pickled
    travelled = reference(lambda: 1)
    body = b"3.9\n" + travelled.body.partition(b"\n")[2]
    # When it arrives; Then the sentence names both
    with pytest.raises(CannotUnpickle, match=r"from Python 3\.9, and this is Python 3\."):
        resolve(Function(kind=FunctionKind.VALUE, name="x:y", body=body))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("math:no_such_function", "the module math .* has no no_such_function"),
        ("math:pi", "pi is float, which cannot be called"),
        ("tests.unit.test_functions:Shape.no_method", "has no Shape.no_method"),
    ],
)
def test_function_that_is_not_there_says_who_looked_where(name: str, why: str) -> None:
    # Given a name that leads nowhere; When a worker resolves it
    with pytest.raises(CannotImport, match=why) as caught:
        resolve(Function(name=name), "the worker w1")
    # Then the sentence names the worker, its Python and its path
    assert "the worker w1" in str(caught.value)
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in str(caught.value)
    assert str(sys.path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"), [("1 / 0", "ZeroDivisionError: division by zero"), ("import sys; sys.exit(3)", "SystemExit: 3")]
)
def test_module_that_fails_to_import_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    # Given a module that raises while it is imported, or a script that ends there
    (tmp_path / "raises_at_import.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    # When a function of it is resolved; Then the sentence says what it raised
    with pytest.raises(CannotImport, match=said):
        resolve(Function(name="raises_at_import:f"))


def test_text_names_a_function_that_need_not_exist_here() -> None:
    # Given names alone; When they travel; Then nothing is imported
    assert reference("elsewhere:work") == Function(name="elsewhere:work")
    assert reference("email.send") == Function(kind=FunctionKind.REGISTERED, name="email.send")
    with pytest.raises(InvalidValue, match="module:function"):
        reference("elsewhere:")


def test_what_cannot_be_called_is_refused() -> None:
    # Given the result of a call in place of the function; When it is submitted; Then the mistake is named
    with pytest.raises(TypeError, match="a task is a function, not int"):
        reference(plain(1))  # type: ignore[arg-type]


# -- @task --------------------------------------------------------------------------------------------------------


def test_task_gives_back_the_function_itself() -> None:
    # Given a decorated function; When it is called here
    # Then it is the function, with its signature
    assert isinstance(decorated, types.FunctionType)
    assert decorated(1, y=2) == 3
    assert decorated.__doc__ == "Adds."


def test_task_terms_hold_unless_the_call_says_otherwise() -> None:
    # Given terms of the function
    own = callee(decorated).spec(NO_TERMS).options
    # When a call says something; Then it wins, also by lifting a limit, and the rest stays
    said = callee(decorated).spec(Terms(priority=9, timeout=None)).options
    assert (own.priority, own.max_retries, own.timeout_s) == (2, 7, 60.0)
    assert (said.priority, said.max_retries, said.timeout_s) == (9, 7, None)
    assert own.never_retry == ("ValueError", "mymodule.Bad")


def test_registered_task_travels_as_its_name() -> None:
    # Given a task type with a name; When it travels
    travelled = reference(registered_task)
    # Then it is that name, and its call is JSON
    assert travelled == Function(kind=FunctionKind.REGISTERED, name="tests.registered")
    assert callee(registered_task).encode((1,), {}) == b'{"args":[1],"kwargs":{}}'
    assert resolve(travelled) is registered_task


def test_unregistered_task_type_is_refused() -> None:
    # Given a worker that nobody told of a type; When it resolves it; Then it says so
    with pytest.raises(CannotImport, match="no module imported there registers it"):
        resolve(Function(kind=FunctionKind.REGISTERED, name="never.heard"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"priority": 0}, "priority cannot be 0"),
        ({"priority": "high"}, "priority cannot be .*whole number"),
        ({"max_retries": -1}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "1m"}, "timeout cannot be .*seconds or a timedelta"),
        ({"queue": "two words"}, "queue"),
        ({"queue": 7}, "queue cannot be"),
        ({"jitter": "yes"}, "jitter cannot be"),
        ({"never_retry": [int]}, "never_retry cannot be .*exception classes"),
        ({"never_retry": 7}, "never_retry cannot be"),
        ({"name": "not a name"}, "a task's name"),
    ],
)
def test_wrong_option_is_found_where_it_is_written(options: dict[str, Any], sentence: str) -> None:
    # Given a wrong option; When the module is imported; Then the decorator raises
    with pytest.raises(InvalidValue, match=sentence):
        task(**options)(plain)


def test_true_is_not_taken_for_one() -> None:
    target = callee(importlib.import_module)
    assert target.spec(Terms(keep_results=1)) is target.spec(Terms(keep_results=1))
    assert target.spec(Terms(jitter=True)) is target.spec(Terms(jitter=True))

    with pytest.raises(InvalidValue):
        target.spec(Terms(keep_results=True))


def test_unknown_option_is_a_type_error() -> None:
    # Given an option that does not exist; When it is used; Then it is not ignored
    with pytest.raises(TypeError, match="retries"):
        task(retries=3)  # type: ignore[call-overload]


@pytest.fixture(autouse=True)
def _clean_plain() -> Iterator[None]:
    yield
    vars(plain).pop("__dtq_task__", None)


def test_keywords_travel() -> None:
    # Given a call with keywords; When it travels; Then they arrive as keywords
    assert decode_call(encode_call((1, 2), {"z": 3})) == ((1, 2), {"z": 3})
    assert decode_call(encode_call((), {})) == ((), {})
    assert decode_call(encode_call(([1, {}],))) == (([1, {}],), {})
