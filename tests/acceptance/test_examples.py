"""The programs of docs/examples, run as their users run them: what they print is what the same work comes to when it is
done here, one after the other."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from tests.cluster import clean_environment

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
#: How long one program may take, in seconds; far above what it takes.
PATIENCE_S = 90.0
#: Prints the best three settings of the parameter sweep, as the example does.
SWEEP = """
import itertools, parameter_sweep as example
settings = itertools.product(example.WIDTHS, example.PENALTIES)
for error, (width, penalty) in sorted((example.error(*setting), setting) for setting in settings)[:3]:
    print(f"  width {width:.3g}, penalty {penalty:.1e}: {error:.6f}")
"""


def run(name: str, home: Path, *words: str) -> list[str]:
    """Run an example; the lines it prints. It says nothing else."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=home,
        env=clean_environment(home),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.splitlines()


def load(name: str) -> ModuleType:
    """An example as a module, for its functions."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_thumbnails_are_those_that_one_process_makes(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    example = load("thumbnails")
    # Given pictures, painted here
    there, here = tmp_path / "there", tmp_path / "here"
    for directory in (there, here):
        directory.mkdir()
    names = [Path(example.paint(number, str(directory))).stem for directory in (there, here) for number in range(4)]
    # When the example makes their thumbnails
    lines = run("thumbnails", tmp_path, str(there))
    # Then they are those that are made here, to the byte
    made = {path.stem: path for path in (there / "thumbnails").iterdir()}
    assert set(made) == set(names)
    serial = {name: Path(example.thumbnail(str(here / f"{name}.png"))) for name in made}
    assert {name: path.read_bytes() for name, path in made.items()} == {n: p.read_bytes() for n, p in serial.items()}
    ranked = sorted(serial, key=lambda name: example.brightness(str(serial[name])))
    assert lines == [
        f"the darkest is {ranked[0]}.jpg, the brightest {ranked[-1]}.jpg",
        "4 thumbnails from Python, 4 from the command line",
    ]


def test_thumbnails_paints_pictures_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    assert run("thumbnails", tmp_path)[-1] == "12 thumbnails from Python, 12 from the command line"


def test_word_counts_are_those_of_one_process(tmp_path: Path) -> None:
    # Given the words of the files, counted here
    example = load("word_counts")
    total: Counter[str] = Counter()
    for path in example.files(20):
        total += example.count(path)
    ranked = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    # When the example counts them; Then it prints the same
    expected = [f"{total.total()} words in 20 files; 21 tasks", *[f"{n:6} {word}" for word, n in ranked[:10]]]
    assert run("word_counts", tmp_path, "20") == expected
    assert total.total() > 10_000


def test_parameter_sweep_finds_what_one_process_finds(tmp_path: Path) -> None:
    if importlib.util.find_spec("numpy") is None:
        pytest.skip("numpy is not installed")
    # Given the error of every setting, computed by one process, which is not this one: where numpy was imported before
    # the example sets that it has one thread, its threads wait for one another a hundred times as long as they work
    done = subprocess.run(
        [sys.executable, "-c", SWEEP], capture_output=True, text=True, timeout=PATIENCE_S, cwd=EXAMPLES, check=True
    )
    # When the example looks for the best; Then it finds the same
    expected = done.stdout.splitlines()
    assert len(expected) == 3
    assert run("parameter_sweep", tmp_path) == ["63 settings, 5 folds each; the best:", *expected]


def test_verify_files_finds_the_one_that_is_wrong(tmp_path: Path) -> None:
    # Given which files of the manifest are wrong, looked at here
    example = load("verify_files")
    wrong = [path for path, said in example.manifest().items() if not example.verify({"path": path, "sha256": said})]
    # When the example looks; Then it finds the same
    assert run("verify_files", tmp_path) == [
        *[f"{Path(path).name}: the handler of verify returned False, which is a failure." for path in wrong],
        f"{example.FILES - len(wrong)} files are as they should be, {len(wrong)} is not",
    ]
    assert len(wrong) == 1


def test_index_names_every_example() -> None:
    index = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f"({path.name})" not in index] == []
