"""Where modules are looked for by name: the same order for a slot and for the command that submits."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from dtq.client.import_path import find_modules

LIBRARY = os.path.dirname(os.__file__)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories "here", "given" and "installed" with modules; this process is in the first, imports from the last."""
    for name, modules in {
        "here": ("shop_a", "shop_b"),
        "given": ("shop_b", "shop_c"),
        "installed": ("shop_a", "shop_b", "shop_c"),
    }.items():
        (tmp_path / name).mkdir()
        for module in modules:
            (tmp_path / name / f"{module}.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [LIBRARY, f"{LIBRARY}/lib-dynload", str(tmp_path / "installed")])
    return tmp_path


def found(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def test_directories_given_come_first_then_the_library_then_here_then_what_is_installed(places: Path) -> None:
    find_modules([str(places / "given")])
    assert found("shop_b") == found("shop_c") == places / "given"
    assert found("shop_a") == places / "here"
    assert str(places / "here") == sys.path[sys.path.index(f"{LIBRARY}/lib-dynload") + 1]


def test_looking_twice_adds_nothing(places: Path) -> None:
    find_modules([str(places / "given")])
    before = list(sys.path)
    find_modules([str(places / "given")])
    assert sys.path == before


def test_directory_that_is_gone_is_not_looked_in(places: Path) -> None:
    (places / "gone").mkdir()
    os.chdir(places / "gone")
    (places / "gone").rmdir()
    before = list(sys.path)
    find_modules()
    assert sys.path == before
