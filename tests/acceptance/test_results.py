"""Results that refuse to be written: each has its line, and none costs the others theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.home import Home

MODULE = '''
class Mute:
    """Has no repr."""
    def __repr__(self): raise LookupError("nothing to say")

class Leaving:
    """Ends whoever asks for its repr."""
    def __repr__(self): raise SystemExit(5)

class Numeric:
    """Has a repr that is no text."""
    def __repr__(self): return 5

class Wordless(Exception):
    def __str__(self): raise LookupError("nothing to say")

def deep():
    inner = []
    for _ in range(100_000): inner = [inner]
    return inner

MAKE = {
    "long": lambda: 10 ** 5_000, "longest": lambda: -(10 ** 200_000), "mute": Mute, "leaving": Leaving,
    "numeric": Numeric, "nested": lambda: [1, {"a": Mute()}], "nan": lambda: float("nan"),
    "surrogate": lambda: "\\udc80",
    "umlaut": lambda: "\\xfc", "bytes": lambda: b"\\x1b", "huge": lambda: "x" * 10_000_000, "last": lambda: 1,
}

def make(name):
    if name == "wordless": raise Wordless
    return MAKE[name]()
'''
NAMES = (
    "long",
    "longest",
    "mute",
    "leaving",
    "numeric",
    "nested",
    "nan",
    "surrogate",
    "umlaut",
    "bytes",
    "huge",
    "wordless",
    "last",
)
#: What each is in one line; that of the exception is empty.
LINES = {
    "long": "1" + 5_000 * "0",
    "longest": "<int of about 200,001 digits>",
    "mute": "<Mute that cannot be written: LookupError: nothing to say>",
    "leaving": "<Leaving that cannot be written: SystemExit: 5>",
    "numeric": "<Numeric that cannot be written: TypeError: __repr__ returned non-string (type int)>",
    "nested": "[1, {'a': <Mute that cannot be written: LookupError: nothing to say>}]",
    "nan": "nan",
    "surrogate": '"\\udc80"',
    "umlaut": '"ü"',
    "bytes": "b'\\x1b'",
    "huge": '"' + 10_000_000 * "x" + '"',
    "wordless": "",
    "last": "1",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("cluster"))
    (home.work / "awkward.py").write_text(MODULE)
    (home.work / "names").write_text("\n".join(NAMES) + "\n")
    home.coordinator()
    home.worker()
    yield home
    home.close()


def test_every_result_of_a_batch_has_its_line(cluster: Home) -> None:
    # Given tasks whose results cannot be written, or not in the usual way
    done = cluster.dtq("submit", "--wait", "--max-retries", "0", "awkward:make", "--each", "names", PYTHONUTF8="1")
    # When they are printed; Then each is one line, in order, and only the task that failed counts as failed
    assert done.process.returncode == 1
    assert dict(zip(NAMES, done.out.splitlines(), strict=True)) == LINES
    assert done.err.count("\n") == 1
    assert "awkward.Wordless: (the exception's own message cannot be made)" in done.err


def test_every_result_of_a_batch_is_a_line_of_json(cluster: Home) -> None:
    done = cluster.dtq("submit", "--wait", "--json", "--max-retries", "0", "awkward:make", "--each", "names")
    found = dict(zip(NAMES, map(json.loads, done.out.splitlines()), strict=True))
    assert done.process.returncode == 1
    assert found["long"]["repr"] == LINES["long"]
    assert found["mute"]["repr"] == LINES["mute"]
    assert found["surrogate"]["result"] == "\udc80"
    assert found["wordless"]["error"]["exception"] == "awkward.Wordless"
    assert found["last"]["result"] == 1


@pytest.mark.parametrize("name", ["long", "longest", "mute", "leaving", "numeric"])
def test_one_result_is_printed_by_submit_and_by_result(cluster: Home, name: str) -> None:
    done = cluster.dtq("submit", "--wait", "awkward:make", name)
    assert (done.process.returncode, done.out, done.err) == (0, f"{LINES[name]}\n", "")
    task = cluster.id("awkward:make", name)
    cluster.dtq("wait", task)
    assert cluster.dtq("result", task).out == done.out


def test_output_that_takes_only_ascii_gets_json_of_it(cluster: Home) -> None:
    ascii = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    assert cluster.dtq("submit", "--wait", "awkward:make", "umlaut", **ascii).out == '"\\u00fc"\n'


def test_result_of_a_class_that_is_not_here_is_a_sentence(cluster: Home, tmp_path: Path) -> None:
    # Given a result of a class that the command cannot import
    task = cluster.id("awkward:make", "mute")
    cluster.dtq("wait", task)
    (cluster.work / "awkward.py").rename(tmp_path / "awkward.py")
    try:
        done = cluster.dtq("result", task)
    finally:
        (tmp_path / "awkward.py").rename(cluster.work / "awkward.py")
    # Then a sentence says so
    assert (done.process.returncode, done.out) == (65, "")
    assert "cannot be unpickled here: ModuleNotFoundError: No module named 'awkward'" in done.err
