"""Source bundles: which files travel, how they are unpacked, and what is refused."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from dtq.cli.own_code import own_code
from dtq.client import source_bundles, unpacking
from dtq.client.source_bundles import digest_of, hidden_names, of_directory, of_file
from dtq.errors import BadFile, BundleTooLarge, CannotUnpickle, InvalidValue

FILES = (("pkg/__init__.py", b""), ("pkg/mod.py", b"X = 1\n"), ("script.py", b"def f(): return 1\n"))
DIGEST = digest_of(FILES)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a program's source, and much that is none."""
    for path in (
        *("script.py", "pkg/__init__.py", "pkg/mod.py", "data/a.csv", "data/deep/b.csv", "notes.txt"),
        *(".hidden.py", ".git/hook.py", "__pycache__/x.py", ".venv/lib/y.py", "node_modules/z.py", "x.egg-info/p.py"),
        *("theirs/pyvenv.cfg", "theirs/lib/w.py"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("def f(): return 1\n")
    (tmp_path / "linked").symlink_to(tmp_path / "pkg")
    (tmp_path / "round").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_python_files_travel_and_what_is_asked_for(project: Path) -> None:
    source = ["pkg/__init__.py", "pkg/mod.py", "script.py"]
    assert [path for path, _ in of_directory(".")] == source
    assert [path for path, _ in of_directory(".", ["*.csv"])] == ["data/a.csv", "data/deep/b.csv", *source]
    assert of_directory(str(project), ["data/*.csv", "no"])[0][0] == "data/a.csv"
    assert [path for path, _ in of_directory(".", ["*.csv"], ["deep", "pkg/mod.py", "s*.py"])] == [
        "data/a.csv",
        "pkg/__init__.py",
    ]
    assert of_file("pkg/mod.py") == (("mod.py", b"def f(): return 1\n"),)
    # The same files are the same bundle, whatever their times are
    before = digest_of(of_directory("."))
    os.utime("script.py", (1, 1))
    assert digest_of(of_directory(".")) == before
    (project / "script.py").write_text("def f(): return 2\n")
    assert digest_of(of_directory(".")) != before


def test_what_is_too_large_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_bundles, "MAX_BYTES", 1000)
    (project / "big.csv").write_bytes(b"x" * 2000)
    with pytest.raises(BundleTooLarge, match=r"the largest are big\.csv \(1,001 bytes\)"):
        of_directory(".", ["*.csv"])
    monkeypatch.setattr(source_bundles, "MAX_ENTRIES", 3)
    with pytest.raises(BundleTooLarge, match="more than 3 files"):
        of_directory(".")
    with pytest.raises(BadFile, match="no Python file"):
        of_directory("data/deep")


@pytest.mark.parametrize(
    ("text", "here", "why"),
    [
        ("./none.py:f", False, "there is no file ./none.py"),
        ("./script.py:g", False, "script.py has no g"),
        ("script.py:", False, "write module:function"),
        ("none:f", True, "there is no none.py in this directory"),
        ("pkg.mod:g", True, "pkg/mod.py has no g"),
        ("../up.py:f", True, "with --here the file is in this directory"),
        ("two-words.py:f", False, "is no name of a module"),
        ("random.py:f", False, "the standard library has a module random"),
    ],
)
def test_functions_that_are_not_there_are_refused_here(project: Path, text: str, here: bool, why: str) -> None:
    for name in ("two-words.py", "random.py", "../up.py"):
        Path(name).write_text("def f(): return 1\n")
    with pytest.raises(InvalidValue, match=why):
        own_code(text, here, ())


def test_functions_by_file_and_by_module(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert own_code("math:sqrt", False, ()) == ("math:sqrt", None)
    assert own_code("./pkg/mod.py:f", False, ()) == ("mod:f", of_file("pkg/mod.py"))
    assert own_code("./pkg/mod.py:f", True, ()) == ("pkg.mod:f", of_directory("."))
    # One whose names cannot be known is taken
    for text in (
        "from pkg.mod import *\n",
        "def __getattr__(name): ...\n",
        "if 1:\n    def anything(): ...\n",
        "x = (",
    ):
        (project / "lazy.py").write_text(text)
        assert own_code("lazy.py:anything", False, ()).name == "lazy:anything"
    (project / "lazy.py").unlink()
    # A stray file that the standard library hides is told of
    (project / "queue.py").write_text("")
    own_code("script:f", True, ())
    assert "workers do not find queue.py" in capsys.readouterr().err
    assert hidden_names(of_directory(".")) == ["queue"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ((("../evil.py", b""),), "would not be below its own directory"),
        ((("/etc/evil.py", b""),), "would not be below its own directory"),
        ((("a/../../b.py", b""),), "would not be below its own directory"),
        ((("a//b.py", b""),), "would not be below its own directory"),
        ((("", b""),), "would not be below its own directory"),
        ((("a\0.py", b""),), "would not be below its own directory"),
        ((("..\\b.py", b""),), "would not be below its own directory"),
        ((("a.py", b""), ("a.py", b"x")), "two files of one name"),
        ((("a", b""), ("a/b.py", b"x")), "two files of one name"),
        ((("a.py", "text"),), "is no list of files"),
        ([("a.py", b"")], "is no list of files"),
        ({"a.py": b""}, "is no list of files"),
        ((("a.py", b"other"),), "is not the one that its digest names"),
        (tuple((f"{n}.py", b"") for n in range(source_bundles.MAX_FILES + 1)), "is larger than"),
    ],
)
def test_a_bundle_that_dtq_does_not_make_is_refused(value: object, why: str) -> None:
    with pytest.raises(CannotUnpickle, match=why):
        unpacking.checked(value, DIGEST, "mod:f")


def test_a_bundle_is_unpacked_once_and_made_anew_if_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = Path(unpacking._unpacked(FILES, DIGEST))
    assert place.parent == tmp_path / "dtq" / "bundles"
    assert {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*.py")} == dict(FILES)
    inode = place.stat().st_ino
    assert unpacking._unpacked(FILES, DIGEST) == str(place)
    assert place.stat().st_ino == inode
    # When a file of it is cut, as by a loss of power, then it is whole again
    (place / "script.py").write_bytes(b"")
    assert (Path(unpacking._unpacked(FILES, DIGEST)) / "script.py").read_bytes() == FILES[2][1]
    # And what nobody has used for long goes
    old = place.with_name("old")
    old.mkdir()
    os.utime(old, (1, 1))
    unpacking._unpacked((("other.py", b""),), digest_of((("other.py", b""),)))
    assert not old.exists()
    assert place.exists()


def test_a_process_that_is_killed_while_it_unpacks_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def dying(place: str, files: source_bundles.Files) -> None:
        Path(place, "script.py").write_bytes(b"def f(")
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        unpacking._write = dying
        unpacking._unpacked(FILES, DIGEST)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = list((tmp_path / "dtq" / "bundles").glob(".new-*"))
    assert len(left) == 1
    assert (Path(unpacking._unpacked(FILES, DIGEST)) / "script.py").read_bytes() == FILES[2][1]
    # Its half is removed later, when nobody can be at work on it
    os.utime(left[0], (time.time() - 7200,) * 2)
    unpacking._unpacked((("other.py", b""),), digest_of((("other.py", b""),)))
    assert not left[0].exists()


def test_many_processes_unpack_a_bundle_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write = unpacking._write

    def noted(place: str, files: source_bundles.Files) -> None:
        (tmp_path / f"wrote-{os.getpid()}").touch()
        write(place, files)

    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            unpacking._write = noted
            place = Path(unpacking._unpacked(FILES, DIGEST))
            os._exit(any((place / path).read_bytes() != content for path, content in FILES))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert len(list(tmp_path.glob("wrote-*"))) == 1


def test_without_a_cache_a_bundle_is_unpacked_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = Path(unpacking._unpacked(FILES, DIGEST))
    assert place.parent == tmp_path
    assert (place / "pkg" / "mod.py").read_bytes() == b"X = 1\n"
