"""The failing file system of the tests: how it is built, and how processes are started on it. See ``shim.c``."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

HERE: Final = Path(__file__).parent
#: What `arm` may have done at the n-th call.
COUNT, FAIL, DIE, TEAR = range(4)

_HEAD: Final = struct.Struct("<c3xIQQQ")


@functools.cache
def built(name: str = "shim") -> Path:
    """One of the libraries here, compiled; skips the test where there is no compiler, but not in CI."""
    compiler = next((found for each in ("gcc", "cc", "clang") if (found := shutil.which(each))), None)
    if sys.platform != "linux" or (compiler is None and not os.environ.get("CI")):
        pytest.skip("such faults are made with a C compiler, on Linux")
    assert compiler is not None, "a C compiler is missing, and this is CI"
    library = Path(tempfile.mkdtemp(prefix="dtq-shim-")) / f"{name}.so"
    words = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / f"{name}.c"), "-ldl", "-lpthread"]
    subprocess.run(words, check=True)
    return library


def environment(store: Path, **more: object) -> dict[str, str]:
    """What a process needs in its environment so that the files of a store are on the failing file system."""
    said = {f"DTQ_SHIM_{name.upper()}": str(value) for name, value in more.items()}
    return {"LD_PRELOAD": str(built()), "DTQ_SHIM_PREFIX": str(store), **said}


def within(store: Path, **more: object) -> list[str]:
    """The same as words before those of a command."""
    return ["env", *(f"{name}={value}" for name, value in environment(store, **more).items())]


def run_scene(store: Path, **terms: object) -> Any:
    """Run ``tests.faults.shim_scene`` on a store, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.shim_scene", str(store), json.dumps(terms)],
        cwd=HERE.parents[1],
        env={**os.environ, **environment(store)},
        stdout=subprocess.PIPE,
        timeout=900,
        check=True,
    )
    return json.loads(done.stdout)


# -- inside of a process that runs on it --------------------------------------------------------------------------


@functools.cache
def _inside() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.shim_count.restype = ctypes.c_long
    library.shim_hit.restype = ctypes.c_char_p
    return library


def arm(call: int, what: int, error: int = 0, calls: int = 1) -> None:
    """Begin to count at zero, and have something happen at the call of that number, and at so many in all."""
    _inside().shim_arm(ctypes.c_long(call), ctypes.c_long(calls), what, error)


def count() -> int:
    """How many calls there have been."""
    return int(_inside().shim_count())


def hit() -> str:
    """The call at which something happened; empty if none was."""
    return bytes(_inside().shim_hit()).decode()


def log_to(path: Path) -> None:
    """Write down every call from now on."""
    _inside().shim_log(os.fsencode(path))


def mark(number: int) -> None:
    """Write down that a commit has been acknowledged."""
    _inside().shim_mark(ctypes.c_long(number))


# -- what it wrote down -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """A call that was written down.

    Attributes:
        kind: O open, W write, S sync, T truncate, U unlink, R rename, D sync of the directory, M a mark.
        path: the file.
        place: where in it, its new size, or the number of a mark.
        data: what was written.
    """

    kind: str
    path: str
    place: int
    data: bytes


def noted(path: Path) -> Iterator[Noted]:
    """What was written down, in order."""
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            kind, name, place, _, size = _HEAD.unpack(head)
            yield Noted(kind=kind.decode(), path=file.read(name).decode(), place=place, data=file.read(size))
