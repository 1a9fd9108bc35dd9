"""Functions on their way to real workers: by value from programs that have no module, and what is said where something
cannot be imported or sent."""

from __future__ import annotations

import os
import pickle
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq import Client, NotImportable
from dtq.errors import CannotImport, CannotUnpickle
from tests.cluster import DEADLINE_S, Cluster

PYTHON = platform.python_version()

#: A session as in a notebook: a main program without a file, that goes on line by line.
SESSION = """
from dtq import Client

class Point:
    def __init__(self, x):
        self.x = x

scale = 10

def scaled(point):
    return Point(point.x * scale)

def counter(start):
    def count(step):
        return start + step
    return count

with Client() as queue:
    print(queue.submit(scaled, Point(4)).result(30).x)
    scale = 100
    print([point.x for point in queue.map(scaled, [Point(1), Point(2)])])
    print(queue.submit(counter(5), 6).result(30), queue.submit(lambda x: x + scale, 1).result(30))
"""

#: The same, with exceptions; a second one has only the class of that name, and the ids of the first one's tasks.
RAISING = """
import sys
from dtq import Client

class Refused(Exception):
    seen = 0
    def __init__(self, what):
        super().__init__(f"refused {what}")
        self.what = what

def refuse(what):
    raise Refused(what)

def make():
    class Local(Exception):
        pass
    def refuse_locally():
        raise ExceptionGroup("two", [Local(1), Refused(2)]) from Local(3)
    return Local, refuse_locally

with Client() as queue:
    if len(sys.argv) > 1:
        handle = queue.get(sys.argv[1])
    else:
        handle = queue.submit(refuse, "a tooth", max_retries=0)
    Refused.seen = 7
    try:
        handle.result(30)
    except Refused as error:
        print(error, error.what, error.seen)
    Local, refuse_locally = make()
    try:
        queue.submit(refuse_locally, max_retries=0).result(30)
    except* Local as group:
        print(group.exceptions, type(group.__context__) is Local)
    except* Refused as group:
        print(group.exceptions)
    print(handle.id)
"""

#: A program that may send nothing by value.
WITHOUT_CLOSURES = """
from math import factorial
from dtq import Client, NotImportable

def mine():
    return 1

with Client() as queue:
    for function in (mine, lambda: 1):
        try:
            queue.submit(function)
        except NotImportable as error:
            print(error)
    print(queue.submit(factorial, 5).result(30))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator, a worker that lacks the modules which these tests make, and one without the extra ``closures``."""
    with Cluster(tmp_path_factory.mktemp("cluster"), memory=True) as made:
        made.coordinator()
        made.worker("--name", "rack7", "--queue", "default", slots=1)
        usual = made.environment
        made.environment = without_cloudpickle(made.directory, usual)
        made.worker("--name", "bare", "--queue", "bare", slots=1)
        made.environment = usual
        yield made


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address, authkey_file=cluster.key_file) as made:
        yield made


def without_cloudpickle(directory: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment in which cloudpickle cannot be imported."""
    stub = directory / "without"
    stub.mkdir(exist_ok=True)
    (stub / "cloudpickle.py").write_text("raise ImportError('there is no cloudpickle here')\n")
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, [str(stub), environment.get("PYTHONPATH")]))}


def run(cluster: Cluster, program: str, environment: dict[str, str], *words: str) -> str:
    """Run a program that comes from standard input, as an interactive one does; what it prints."""
    done = subprocess.run(
        [sys.executable, "-", *words],
        input=program,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        cwd=cluster.directory,
        env={**environment, "DTQ_ADDRESS": cluster.address, "DTQ_AUTHKEY_FILE": str(cluster.key_file)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_functions_and_classes_of_a_session_travel_by_value(cluster: Cluster) -> None:
    # Given a session without a file; When it submits what it has defined; Then it gets its own classes back, and each
    # submission has the variables of its moment
    assert run(cluster, SESSION, cluster.environment) == "40\n[100, 200]\n11 101\n"


def test_exceptions_of_a_session_are_caught_as_its_own(cluster: Cluster) -> None:
    # Given a session that catches exceptions which it has defined; When its tasks raise them; Then it catches them, and
    # so does the next session, which finds the task by its id; its class stays as it is
    said = "refused a tooth a tooth 7\n(Local(1),) True\n(Refused('refused 2'),)\n"
    first = run(cluster, RAISING, cluster.environment)
    number = first.split()[-1]
    assert first == f"{said}{number}\n"
    assert run(cluster, RAISING, cluster.environment, number) == first
    # And a command that has no such class says which it was
    told = cluster.command("result", number)
    assert told.returncode == 1
    assert told.stderr.endswith(f"dtq: task {number} failed: __main__.Refused: refused a tooth\n")


def test_without_the_extra_one_sentence_says_what_to_do(cluster: Cluster) -> None:
    # Given a program in an environment without cloudpickle
    said = run(cluster, WITHOUT_CLOSURES, without_cloudpickle(cluster.directory, cluster.environment))
    # When it submits its own functions; Then each is refused with a sentence, and what can be imported runs
    what_to_do = (
        "Put it in a module that the workers can import, or install the extra dtq[closures] to send it by value."
    )
    assert said.splitlines() == [
        f"__main__:mine cannot be imported by name (it is defined in the main program, which workers do not have). "
        f"{what_to_do}",
        f"__main__:<lambda> cannot be imported by name (it is defined in the main program, which workers do not have). "
        f"{what_to_do}",
        "120",
    ]


def test_worker_without_the_extra_says_so(client: Client) -> None:
    # Given a worker without cloudpickle; When a function by value reaches it; Then the failure says what it lacks
    with pytest.raises(CannotUnpickle, match=r"lambda.*needs the extra dtq\[closures\] here too"):
        client.submit(lambda: 1, queue="bare", max_retries=0).result(DEADLINE_S)


@pytest.mark.parametrize("what", ["function", "function by value", "argument"])
def test_missing_module_names_worker_python_and_path(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    # Given a module that only the submitter has
    (tmp_path / "only_here.py").write_text("class Thing:\n    def method(self): pass\n\ndef work(thing=None): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "only_here", raising=False)
    import only_here  # type: ignore[import-not-found]

    # When something of it is sent
    if what == "function":
        handle = client.submit(only_here.work, max_retries=0)
    elif what == "function by value":
        handle = client.submit(only_here.Thing().method, max_retries=0)
    else:
        handle = client.submit(repr, only_here.Thing(), max_retries=0)
    # Then the failure names the worker, its Python and its path
    with pytest.raises(CannotImport) as caught:
        handle.result(DEADLINE_S)
    _, where, why, python, path = caught.value.args
    assert (where, why, python) == ("the worker rack7", "ModuleNotFoundError: No module named 'only_here'", PYTHON)
    assert str(Path(os.__file__).parent) in path
    assert str(tmp_path) not in path
    assert isinstance(caught.value, ImportError)


def test_worker_that_cannot_import_at_its_start_names_its_python_and_path(cluster: Cluster) -> None:
    # Given a worker that is to import a module which is not there; When it starts
    worker = cluster.worker("--name", "rack8", "--import", "not.there", ready=False)
    # Then it ends, and says who looked where
    assert worker.ended() == CannotImport.exit_code
    said = worker.output()
    assert "not.there cannot be imported by the worker rack8: ModuleNotFoundError: No module named 'not'" in said
    assert f"It runs Python {PYTHON} with sys.path ['" in said
    assert str(Path(os.__file__).parent) in said


def test_unpicklable_closure_is_refused_as_pickle_would(client: Client) -> None:
    # Given a closure over what no pickle takes; When it is submitted; Then the error is pickle's, and says which it is
    lock = threading.Lock()
    with pytest.raises(NotImportable, match=r"lambda.*cannot pickle") as caught:
        client.submit(lambda: lock.locked())
    assert isinstance(caught.value, pickle.PicklingError)
