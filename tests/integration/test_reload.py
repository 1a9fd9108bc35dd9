"""Code that changes on disk: the next task that needs it runs in a slot that has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq import Client
from dtq.errors import CannotImport
from tests.cluster import Cluster


class Scene:
    """A worker that looks for modules in a directory of its own.

    Args:
        directory: for everything.
        words: more words of the worker's command.
    """

    def __init__(self, cluster: Cluster, *words: str) -> None:
        self.directory = cluster.directory / "modules"
        self.directory.mkdir()
        cluster.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        cluster.coordinator()
        self.worker = cluster.worker("--path", str(self.directory), *words, slots=1)
        self.client = Client(cluster.address, authkey_file=cluster.key_file)

    def write(self, module: str, text: str) -> Path:
        """Write a module, as an editor does: another file takes the name."""
        path = self.directory / f"{module}.py"
        new = path.with_suffix(".new")
        new.write_text(f"import os\n{text}\ndef pid(): return os.getpid()\n")
        new.replace(path)
        return path

    def run(self, function: str) -> object:
        return self.client.submit(function, max_retries=0, max_crashes=1).result(30)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Cluster(tmp_path_factory.mktemp("reload"), memory=True) as cluster:
        scene = Scene(cluster)
        with scene.client:
            yield scene


def test_slot_whose_modules_have_changed_is_replaced_before_the_next_task(scene: Scene) -> None:
    # Given a function, and a module that it uses
    scene.write("inner1", "VALUE = 1")
    scene.write("outer1", "import inner1\ndef value(): return inner1.VALUE")
    assert scene.run("outer1:value") == 1
    before = scene.run("outer1:pid")
    assert scene.run("outer1:pid") == before, "nothing has changed"
    # When either changes
    path = scene.write("inner1", "VALUE = 22")
    assert scene.run("outer1:value") == 22
    scene.worker.await_line(f"{path} has changed since it was imported; the slot is replaced")
    scene.write("outer1", "import inner1\ndef value(): return -inner1.VALUE")
    # Then the next task runs the new code, once, whatever function it is of
    assert scene.run("outer1:value") == -22
    assert scene.run("outer1:pid") != before
    assert scene.client.stats().retries == 0


def test_module_that_a_task_imports_lazily_is_watched_as_well(scene: Scene) -> None:
    scene.write("inner2", "VALUE = 1")
    scene.write("outer2", "def value():\n    import inner2\n    return inner2.VALUE")
    assert scene.run("outer2:value") == 1
    scene.write("inner2", "VALUE = 22")
    assert scene.run("outer2:value") == 22


def test_file_that_is_written_again_as_it_was_changes_nothing(scene: Scene) -> None:
    """Some modules are written anew whenever somebody imports them: slots would replace one another for ever."""
    scene.write("same", "")
    before = scene.run("same:pid")
    scene.write("same", "")
    assert scene.run("same:pid") == before


def test_module_that_a_task_makes_and_imports_costs_no_slot(scene: Scene) -> None:
    scene.write(
        "maker",
        "import importlib, pathlib\n"
        "def make(name):\n"
        "    pathlib.Path(__file__).with_name(f'{name}.py').write_text('VALUE = 5')\n"
        "    return importlib.import_module(name).VALUE, os.getpid()",
    )
    first, second = (scene.client.submit("maker:make", name).result(30) for name in ("made_one", "made_two"))
    assert first == second


def test_module_that_is_changed_while_a_task_has_it_is_noticed(scene: Scene) -> None:
    """Imported and then changed within one task: what was imported is not what the file has when it has ended."""
    scene.write("deep", "VALUE = 1")
    scene.write(
        "long",
        "import pathlib, time\n"
        "def change():\n"
        "    import deep\n"
        "    path = pathlib.Path(deep.__file__)\n"
        "    path.write_text('VALUE = 22')\n"
        "    return deep.VALUE\n"
        "def value():\n"
        "    import deep\n"
        "    return deep.VALUE",
    )
    assert scene.run("long:change") == 1
    assert scene.run("long:value") == 22


def test_function_that_is_new_in_a_module_is_found(scene: Scene) -> None:
    scene.write("outer3", "")
    before = scene.run("outer3:pid")
    scene.write("outer3", "def fresh(): return 'fresh'")
    assert scene.run("outer3:fresh") == "fresh"
    assert scene.run("outer3:pid") != before


def test_new_function_is_found_where_the_file_does_not_look_changed(scene: Scene) -> None:
    """The same time, size and inode: a coarse clock, or a copy that keeps times."""
    path = scene.write("outer4", "def old(): return 1")
    assert scene.run("outer4:old") == 1
    was = path.stat()
    text = path.read_text().replace("old", "new")
    with path.open("r+") as file:
        file.write(text)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    for cached in scene.directory.glob("__pycache__/*"):
        cached.unlink()
    assert scene.run("outer4:new") == 1


def test_module_that_was_missing_is_found_when_it_is_there(scene: Scene) -> None:
    scene.write("other5", "")
    scene.run("other5:pid")
    with pytest.raises(CannotImport):
        scene.run("late5:value")
    scene.write("late5", "def value(): return 3")
    assert scene.run("late5:value") == 3


def test_message_about_a_missing_function_names_the_file(tmp_path: Path) -> None:
    # Given a slot that has imported nothing but one file, and that long after it was written
    with Cluster(tmp_path, memory=True) as cluster, (scene := Scene(cluster)).client:
        path = scene.write("outer6", "")
        os.utime(path, (0.0, 0.0))
        before = scene.run("outer6:pid")
        with pytest.raises(CannotImport, match=rf"the module outer6 \({path}\) has no nosuch"):
            scene.run("outer6:nosuch")
        assert scene.run("outer6:pid") == before, "it is not in the file either, so another slot would not help"


def test_reload_off_keeps_the_old_code_and_says_so(tmp_path: Path) -> None:
    with Cluster(tmp_path, memory=True) as cluster, (scene := Scene(cluster, "--reload", "off")).client:
        path = scene.write("outer7", "def value(): return 1")
        assert scene.run("outer7:value") == 1
        scene.write("outer7", "def value(): return 22\ndef fresh(): return 3")
        assert scene.run("outer7:value") == 1
        told = rf"has no fresh, as this process imported it; {path} has changed since, and --reload is off"
        with pytest.raises(CannotImport, match=told):
            scene.run("outer7:fresh")
