"""What checkers of types are told: right calls pass under mypy and pyright, wrong ones do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOOD, WRONG = HERE / "good.py", HERE / "wrong.py"
#: How long one checker may take, in seconds; mypy without its cache reads much of dtq.
PATIENCE_S = 110.0


def mypy() -> dict[Path, dict[int, str]]:
    """What mypy objects to: by file and line."""
    # Signatures are all that is wanted of dtq: its bodies are the business of the check of types.
    cache = ["--follow-imports=silent", "--cache-dir=.mypy_cache/typing"]
    words = ["--config-file=setup.cfg", "--no-error-summary", "--output=json", "--hide-error-context", *cache]
    output = run([sys.executable, "-m", "mypy", *words, str(GOOD), str(WRONG)])
    found: dict[Path, dict[int, str]] = {}
    for line in output.splitlines():
        said = json.loads(line)
        if said["severity"] == "error":
            found.setdefault(ROOT / said["file"], {})[said["line"]] = said["message"]
    return found


def pyright() -> dict[Path, dict[int, str]]:
    """What pyright objects to: by file and line."""
    if "CI" not in os.environ:
        pytest.importorskip("pyright", reason="pyright is not installed (it is in the group dev)")
    output = run([sys.executable, "-m", "pyright", "--outputjson", f"--pythonpath={sys.executable}", GOOD, WRONG])
    found: dict[Path, dict[int, str]] = {}
    for said in json.loads(output)["generalDiagnostics"]:
        if said["severity"] == "error":
            found.setdefault(Path(said["file"]), {})[said["range"]["start"]["line"] + 1] = said["message"]
    return found


def run(words: list[str | Path]) -> str:
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("check", [mypy, pyright])
def test_checker_objects_to_what_is_wrong_and_to_nothing_else(check: Callable[[], dict[Path, dict[int, str]]]) -> None:
    # Given files of calls that are right, and calls that are wrong
    lines = WRONG.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    # When a checker reads them
    found = check()
    # Then it objects to the wrong ones, each of them, and to nothing else
    assert found.pop(GOOD, {}) == {}
    objected = found.pop(WRONG)
    assert {number: lines[number - 1] for number in wrong - set(objected)} == {}, "these went unnoticed"
    assert {number: text for number, text in objected.items() if number not in wrong} == {}
    assert found == {}
