"""What travels needs nothing of the main program, or is refused where it is submitted."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from typing import Any, NewType

import pytest

from dtq.client.payloads import decode_call, encode_call
from dtq.errors import CannotPickle

#: Made as if the main program had them.
SOURCE = """
import functools, typing
@functools.lru_cache(maxsize=7)
def children(n):
    return 1 if n < 2 else n * children(n - 1)
class Thing:
    def __init__(self, n): self.n = n
    def __eq__(self, other): return self.n == other.n
class Tools:
    @classmethod
    def of_class(cls, n): return cls().of_property + n
    @staticmethod
    def alone(n): return -n
    @property
    def of_property(self): return 10
    def method(self, n): return n * 2
def plain(n): return Thing(n + offset)
offset = 5
UserId = typing.NewType("UserId", int)
Element = typing.TypeVar("Element")
"""


@pytest.fixture(params=["__main__", "__mp_main__"])
def main(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = type(sys)(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    exec(SOURCE, module.__dict__)
    return module


def decoded_elsewhere(blob: bytes, expression: str) -> str:
    """What a process without that main program gets."""
    code = (
        "import sys\nfrom dtq.client.payloads import decode_call\n"
        "args, kwargs = decode_call(sys.stdin.buffer.read())\n"
        f"print({expression})"
    )
    ran = subprocess.run([sys.executable, "-c", code], input=blob, capture_output=True, check=True, timeout=60)
    return ran.stdout.decode().strip()


def test_functions_with_a_cache_classes_and_functions_of_the_main_program_go_by_value(main: Any) -> None:
    blob = encode_call((main.children, main.Thing(3), main.plain))
    what = "args[0](5), args[0].cache_info().maxsize, args[1].n, args[2](1).n"
    assert decoded_elsewhere(blob, what) == "120 7 3 6"


def test_methods_of_every_kind_of_the_main_program_go_by_value(main: Any) -> None:
    tools = main.Tools
    blob = encode_call((tools.of_class, tools.alone, tools().method, functools.partial(tools.of_class, 3)))
    assert decoded_elsewhere(blob, "args[0](1), args[1](2), args[2](3), args[3]()") == "11 -2 6 13"


def test_function_with_a_cache_that_was_made_in_a_function_goes_by_value() -> None:
    @functools.cache
    def double(n: int) -> int:
        return n * 2

    (found,), _ = decode_call(encode_call((double,)))
    assert found(4) == 8


def test_what_pickle_would_look_for_in_the_main_program_is_refused(main: Any) -> None:
    for value in (main.UserId, [main.UserId]):
        with pytest.raises(CannotPickle, match="main program alone"):
            encode_call((value,))


def test_without_cloudpickle_everything_of_the_main_program_is_refused(
    main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    for value in (main.plain, main.Thing, main.Thing(3), main.children):
        with pytest.raises(CannotPickle, match="main program alone"):
            encode_call((value,))


def test_a_text_that_only_reads_like_the_main_program_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed in (True, False):
        if not installed:
            monkeypatch.setitem(sys.modules, "cloudpickle", None)
        assert decode_call(encode_call(("__main__", {"__mp_main__": 1}))) == (("__main__", {"__mp_main__": 1}), {})


UserId = NewType("UserId", int)


def test_what_a_module_has_goes_by_name_as_before() -> None:
    assert pickle.loads(pickle.dumps(UserId)) is UserId
    assert decode_call(encode_call((UserId, "__main__")))[0][0] is UserId
