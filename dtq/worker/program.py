"""The program around a worker, as its slots need it: registered task types, and the main module.

Worker, used at both ends of a slot's pipe. A handler travels to the slots as a pickle, so an importable one is imported
there. A handler of the main module is found as multiprocessing's *spawn* finds it: the slot runs the main module's file
once, under the name ``__mp_main__``, so that code under ``if __name__ == "__main__"`` is left out; without such a line,
the slot stops running the module where it starts a worker. A handler that no pickle takes (a lambda, a function of a
notebook) goes by value, with the extra ``closures``.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from dtq.client.by_value import sentence
from dtq.client.payloads import PICKLE, cloudpickle_dumps
from dtq.client.tasks import register
from dtq.errors import NotImportable
from dtq.records import dataclass

_MAIN: Final = b"__main__"
#: The name under which a slot runs the main module; multiprocessing's own, which programs already know.
_NAME: Final = "__mp_main__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The program's state for slots.

    Attributes:
        handlers: registered task types, as names and pickled callables.
        module: name of its main module, if it was started with ``-m``; else empty.
        path: its main module's file; empty if slots do without.
        arguments: its ``sys.argv``.
    """

    handlers: tuple[tuple[str, bytes], ...] = ()
    module: str = ""
    path: str = ""
    arguments: tuple[str, ...] = ()


class StartedInSlot(BaseException):
    """The main module, run in a slot, has reached the start of a worker: the slot has all definitions.

    No Exception, so that a program that catches those does not go on.
    """


#: Whether this process is a slot that runs the main module now.
_becoming = False


def stop_in_slot() -> None:
    """Called at the start of a worker: does nothing, except in a slot that runs the main module.

    Raises:
        StartedInSlot: there.
    """
    if _becoming:
        raise StartedInSlot


# -- in the program -------------------------------------------------------------------------------------------------


def this_program(handlers: Mapping[str, Callable[..., Any]]) -> Program:
    """The state of this program for its worker's slots.

    Args:
        handlers: its task types.

    Raises:
        NotImportable: a handler can travel neither by name nor by value.
    """
    module, path = _main()
    packed: list[tuple[str, bytes]] = []
    needs_main = False
    for name, handler in handlers.items():
        body, by_value = _pack(handler, bool(path))
        needs_main = needs_main or (not by_value and _MAIN in body)
        packed.append((name, body))
    if not needs_main:
        return Program(handlers=tuple(packed))
    return Program(handlers=tuple(packed), module=module, path=path, arguments=tuple(sys.argv))


def _main() -> tuple[str, str]:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    if path is None or not os.path.isfile(path):
        return "", ""
    return ("" if spec is None else spec.name), os.path.abspath(path)


def _pack(handler: Callable[..., Any], has_main: bool) -> tuple[bytes, bool]:
    """A handler's pickle, and whether it is by value."""
    try:
        body = pickle.dumps(handler, PICKLE)
        if has_main or _MAIN not in body:
            return body, False
        problem = "it is defined in a main program without a file"
    except Exception as error:  # noqa: BLE001 - pickling runs code of what is pickled; cloudpickle takes more
        problem = sentence(error)
    dumps = cloudpickle_dumps()
    if dumps is None:
        raise NotImportable(_shown(handler), problem, NotImportable.closures)
    try:
        return dumps(handler, PICKLE), True
    except Exception as error:
        raise NotImportable(_shown(handler), sentence(error), "") from error


def _shown(handler: Callable[..., Any]) -> str:
    return f"the handler {getattr(handler, '__qualname__', None) or repr(handler)[:80]}"


# -- in the slot ----------------------------------------------------------------------------------------------------


def become(program: Program) -> None:
    """Take over the program's state: its main module, if needed, then its task types.

    Raises:
        BaseException: any exception of the main module and the handlers' modules.
    """
    if program.path:
        sys.argv[:] = program.arguments
        _run_main(program)
    for name, body in program.handlers:
        register(name, pickle.loads(body))


def initialize(pickled: bytes) -> None:
    """Call the initializer of this program's slots, if any.

    Args:
        pickled: the function and its arguments; empty for none.

    Raises:
        BaseException: any exception of the call, or of unpickling it.
    """
    if pickled:
        function, arguments = pickle.loads(pickled)
        function(*arguments)


def _run_main(program: Program) -> None:
    global _becoming
    module = ModuleType(_NAME)
    module.__file__ = program.path
    if program.module:
        # Also imports the packages above it, for its relative imports.
        module.__spec__ = find_spec(program.module)
        module.__package__ = program.module.rpartition(".")[0]
    sys.modules["__main__"] = sys.modules[_NAME] = module
    code = compile(Path(program.path).read_bytes(), program.path, "exec")
    _becoming = True
    try:
        exec(code, module.__dict__)  # the user's own program
    except StartedInSlot:
        pass
    finally:
        _becoming = False
