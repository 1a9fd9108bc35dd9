"""Registered task types: workers in programs as their users write them, what a handler's answer means, and workers
that run nothing else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq import Client, InvalidValue, State, Worker
from dtq.errors import NotImportable, NotRegistered, OnlyRegistered, ReturnedFalse
from tests.cluster import DEADLINE_S, TASKS, Cluster, Process, until
from tests.tasks import async_work, work

ROOT = Path(__file__).parents[2]

#: The row of the mission as its users write it: no guard, no function of its own module that could be imported.
AS_WRITTEN = """
from dtq import Worker

def my_custom_handler(payload: dict) -> bool:
    with open(payload["path"], "a") as file:
        file.write("handled\\n")
    return payload["fine"]

worker = Worker(worker_id="custom-worker-1")
worker.register_handler("my_task_type", my_custom_handler)
worker.start(poll_interval=1.0)
print("ended", __import__("signal").getsignal(15))
"""

#: A program with a guard, and handlers of all kinds; it leaves a mark each time that its top is run.
GUARDED = """
import os, sys
from dtq import Worker, task

with open("tops.txt", "a") as file:
    file.write(f"{__name__} {sys.argv[1:]}\\n")

class Shop:
    def __init__(self, stock):
        self.stock = stock

    def sell(self, payload):
        return self.stock >= payload["count"]

@task(name="plus")
def plus(a, b=1):
    return a + b

async def slow(payload):
    import asyncio
    await asyncio.sleep(0.001)
    return True

def crash(payload):
    os._exit(3)

def main():
    worker = Worker(slots=1)
    worker.register_handler("sell", Shop(3).sell)
    worker.register_handler("lambda", lambda payload: payload["n"] > 1)
    worker.register_handler("slow", slow)
    worker.register_handler("crash", crash)
    worker.start()

if __name__ == "__main__":
    main()
"""


class Trap:
    """An argument that makes a file where it is unpickled: what a worker of registered types only must never do."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (self.path, os.O_CREAT)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, memory=True) as made:
        made.coordinator()
        yield made


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address, authkey_file=cluster.key_file) as made:
        yield made


class Program(Process):
    """A program of the user's that is a worker."""

    def __init__(self, cluster: Cluster, text: str, *arguments: str, module: bool = False) -> None:
        (cluster.directory / "program.py").write_text(text)
        environment = {
            **cluster.environment,
            "DTQ_ADDRESS": cluster.address,
            "DTQ_AUTHKEY_FILE": str(cluster.key_file),
            "PYTHONUNBUFFERED": "1",
        }
        words = ["-m", "program"] if module else ["program.py"]
        super().__init__("program", list(arguments), cluster.directory, environment, program=words)
        cluster._processes.append(self)


class InThread:
    """A worker of this process, in a thread."""

    def __init__(self, worker: Worker, poll_interval: float = 10.0) -> None:
        self.worker = worker
        self.error: BaseException | None = None
        self._poll_interval = poll_interval
        self._thread = threading.Thread(target=self._run, name="test-worker")

    def _run(self) -> None:
        try:
            self.worker.start(self._poll_interval)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def __enter__(self) -> InThread:
        self._thread.start()
        assert self.worker.wait_ready(DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop(finish=False, timeout=DEADLINE_S)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


def worker_of(cluster: Cluster, **options: object) -> Worker:
    options = {"slots": 1, "paths": [ROOT, TASKS], **options}
    return Worker(cluster.address, authkey_file=cluster.key_file, **options)  # type: ignore[arg-type]


# -- programs -----------------------------------------------------------------------------------------------------


def test_program_as_written_runs(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    # Given the program, as it is written
    program = Program(cluster, AS_WRITTEN)
    path = tmp_path / "handled.txt"
    # When tasks of its type are submitted, in any program; Then its handler runs, and its answer counts
    fine = client.submit("my_task_type", {"path": str(path), "fine": True})
    assert fine.result(DEADLINE_S) is True
    (worker,) = client.stats().workers
    assert worker.name == "custom-worker-1"
    bad = client.submit("my_task_type", {"path": str(path), "fine": False}, max_retries=1, retry_delay=0.01)
    assert isinstance(bad.exception(DEADLINE_S), ReturnedFalse)
    assert path.read_text() == "handled\n" * 3
    # When it is told to end; Then it does, as a program that has come to its end
    program.signal(signal.SIGTERM)
    assert program.ended() == 0
    assert program.output() == f"ended {int(signal.SIG_DFL)}\n"


@pytest.mark.parametrize("module", [False, True])
def test_program_with_a_guard_runs_its_top_once_a_slot(cluster: Cluster, client: Client, module: bool) -> None:
    # Given a program whose worker starts under a guard, run as a file or as a module
    program = Program(cluster, GUARDED, "word", module=module)
    # When tasks of all its types are submitted; Then each reaches its handler
    assert client.submit("sell", {"count": 3}, max_retries=0).result(DEADLINE_S) is True
    assert client.submit("plus", 4, b=5).result(DEADLINE_S) == 9
    assert client.submit("slow", {}).result(DEADLINE_S) is True
    assert client.submit("lambda", {"n": 2}).result(DEADLINE_S) is True
    for name, payload in (("sell", {"count": 4}), ("lambda", {"n": 1})):
        with pytest.raises(ReturnedFalse, match=f"the handler of {name} returned False"):
            client.submit(name, payload, max_retries=0).result(DEADLINE_S)
    # And the module's top was run once in the program, and once in the slot, with the program's words
    tops = cluster.directory / "tops.txt"
    assert tops.read_text() == "__main__ ['word']\n__mp_main__ ['word']\n"
    # When a handler takes its slot down; Then the next slot knows the handlers too
    client.submit("crash", {}, max_crashes=1).wait(DEADLINE_S)
    assert client.submit("slow", {}).result(DEADLINE_S) is True
    assert tops.read_text().count("__mp_main__") == 2
    program.signal(signal.SIGINT)
    assert program.ended() == 0


def test_program_that_cannot_be_run_again_ends_with_the_reason(cluster: Cluster) -> None:
    # Given a program whose top fails in a slot
    text = AS_WRITTEN.replace("from dtq", "if __name__ != '__main__':\n    raise OSError('one only')\nfrom dtq", 1)
    # When it is run; Then it ends, and says why
    program = Program(cluster, text)
    assert program.ended() == 1
    assert "OSError: one only" in program.output()


def test_first_signal_lets_a_handler_finish(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    # Given a program whose handler waits for a file
    waits = '    __import__("work").until_file(*payload["wait"])\n'
    text = AS_WRITTEN.replace("    with open", f"{waits}    with open")
    program = Program(cluster, text.replace("from dtq", f"import sys\nsys.path.append({str(TASKS)!r})\nfrom dtq", 1))
    marks, gate, path = tmp_path / "marks", tmp_path / "gate", tmp_path / "handled.txt"
    marks.mkdir()
    wait = [str(marks), "one", str(gate)]
    handle = client.submit("my_task_type", {"path": str(path), "fine": True, "wait": wait})
    until(lambda: any(marks.iterdir()), "the handler to start", program.output)
    # When it is told to end; Then it does when the handler has
    program.signal(signal.SIGTERM)
    assert not handle.wait(0.1)
    gate.touch()
    assert handle.result(DEADLINE_S) is True
    assert program.ended() == 0


# -- a worker in this process -------------------------------------------------------------------------------------


def test_answer_of_a_handler_decides(cluster: Cluster, client: Client) -> None:
    # Given handlers that answer, and one that raises
    worker = worker_of(cluster, worker_id="mine")
    for number, answer in enumerate((True, None, 0, "", {"a": 1})):
        worker.register_handler(f"says.{number}", Says(answer))
    worker.register_handler("no", Says(False))
    worker.register_handler("raises", work.fail)
    with InThread(worker):
        # When tasks are submitted; Then only False and an exception are failures
        for name in worker._handlers:
            handle = client.submit(name, {"payload": 1}, max_retries=1, retry_delay=0.01)
            if name.startswith("says"):
                assert handle.result(DEADLINE_S) == worker._handlers[name]({})
            else:
                assert handle.wait(DEADLINE_S)
                assert handle.state is State.DEAD
                assert handle.status().attempt == 2
        assert {letter.exception for letter in client.dead_letters()} == {"dtq.errors.ReturnedFalse", "ValueError"}
        assert {attempt.worker for attempt in client.get(client.dead_letters()[0].id).status().history} == {"mine"}


class Says:
    """A handler that always says the same."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __call__(self, payload: object) -> object:
        return self.answer


def test_functions_of_modules_are_registered_by_importing_them(cluster: Cluster, client: Client) -> None:
    # Given a worker that imports a module with registered task types
    cluster.worker("--import", "tests.tasks.async_work", "--path", str(ROOT))
    # When they are submitted, by name or by the function itself; Then they run there
    by_name = client.submit("async_work.pid", {})
    by_function = client.submit(async_work.registered_pid, {})
    assert {by_name.result(DEADLINE_S), by_function.result(DEADLINE_S)}.isdisjoint({os.getpid()})
    assert client.submit("async_work.slow", {"a": 1, "b": 2, "sum": 3}).result(DEADLINE_S) is True
    # And one that says False has failed, with the terms of its decorator
    bad = client.submit(async_work.registered_slow, {"a": 1, "b": 2, "sum": 4})
    assert isinstance(bad.exception(DEADLINE_S), ReturnedFalse)
    assert bad.status().attempt == 1


def test_unknown_type_is_a_clear_failure(cluster: Cluster, client: Client) -> None:
    with InThread(worker_of(cluster)):
        error = client.submit("never.heard", {}, max_retries=0).exception(DEADLINE_S)
    assert isinstance(error, NotRegistered)
    assert "the task type never.heard is not known to the worker" in str(error)


def test_worker_starts_and_stops_as_often_as_it_is_told(cluster: Cluster, client: Client) -> None:
    # Given a worker
    worker = worker_of(cluster)
    worker.register_handler("yes", Says(True))
    for _ in range(2):
        with InThread(worker) as running:
            # When it works; Then it cannot be started again meanwhile
            assert client.submit("yes", {}).result(DEADLINE_S) is True
            with pytest.raises(RuntimeError, match="works already"):
                worker.start()
            assert "working" in repr(worker)
        assert running.error is None
    # And nothing of it is left here: no thread, no handler of a signal
    assert not [thread for thread in threading.enumerate() if thread.name in ("dtq-report", "dtq-fetch")]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_stop_without_patience_gives_the_task_back(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    # Given a handler that never ends
    worker = worker_of(cluster)
    worker.register_handler("spin", Spins(str(tmp_path / "marks")))
    (tmp_path / "marks").mkdir()
    with InThread(worker):
        handle = client.submit("spin", {})
        until(lambda: any((tmp_path / "marks").iterdir()), "the handler to start")
        # When the worker is stopped at once
        assert worker.stop(finish=False, timeout=DEADLINE_S)
    # Then the task waits again, and nobody is blamed
    until(lambda: handle.state is State.PENDING, "the task to be given back", handle.status)
    assert (handle.status().failures, handle.status().crashes) == (0, 0)


class Spins:
    """A handler that leaves a mark and never ends."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def __call__(self, payload: object) -> bool:
        work.spin(self.directory, "spinning")
        return True


def test_work_is_answered_at_once_however_long_the_interval(cluster: Cluster, client: Client) -> None:
    # Given a worker that would ask every ten seconds, if it had to ask
    worker = worker_of(cluster)
    worker.register_handler("yes", Says(True))
    with InThread(worker, poll_interval=10.0):
        assert client.submit("yes", {}).result(DEADLINE_S) is True
        # When a task is submitted while it waits; Then it runs at once
        began = time.monotonic()
        assert client.submit("yes", {}).result(DEADLINE_S) is True
        assert time.monotonic() - began < 2.0


def test_interval_bounds_the_call_for_work(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a look at what a worker asks the coordinator
    from dtq.transport.proxy import Proxy

    asked: list[float] = []
    call = Proxy.call

    def looking(self: Proxy, name: str, *arguments: object) -> object:
        if name == "exchange":
            asked.append(arguments[0].wait_s)  # type: ignore[attr-defined]
        return call(self, name, *arguments)

    monkeypatch.setattr(Proxy, "call", looking)
    # When it works with an interval; Then no call waits longer
    with InThread(worker_of(cluster), poll_interval=0.05):
        until(lambda: asked.count(0.05) >= 3, "calls for work", lambda: asked)
    assert max(asked) == 0.05
    # And an interval of nothing is refused
    with pytest.raises(InvalidValue, match="poll_interval"):
        worker_of(cluster).start(poll_interval=0)


def test_what_is_no_handler_is_refused_where_it_is_registered(cluster: Cluster) -> None:
    worker = worker_of(cluster)
    with pytest.raises(TypeError, match="a handler is a function"):
        worker.register_handler("x", 3)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="letters, digits"):
        worker.register_handler("no spaces", Says(True))
    lock = threading.Lock()
    worker.register_handler("x", lambda payload: lock.locked())
    with pytest.raises(NotImportable, match="cannot pickle"):
        worker.start()


# -- nothing else -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["command", "program", "configuration"])
def test_only_registered_runs_nothing_else(cluster: Cluster, client: Client, tmp_path: Path, how: str) -> None:
    # Given a worker of registered task types only
    if how == "program":
        worker = worker_of(cluster, only_registered=True, imports=["tests.tasks.async_work"])
        running: object = InThread(worker)
    else:
        words = ["--only-registered"] if how == "command" else []
        if how == "configuration":
            cluster.environment["DTQ_ONLY_REGISTERED"] = "true"
        cluster.worker("--import", "tests.tasks.async_work", "--path", str(ROOT), *words)
        running = open(os.devnull)  # noqa: SIM115 - something to enter
    with running:  # type: ignore[attr-defined]
        trap = tmp_path / "trap"
        # When functions by name and by value are submitted, with arguments that tell when they are unpickled
        refused = [
            client.submit(work.echo, Trap(str(trap)), max_retries=0),
            client.submit("os:getpid", max_retries=0),
            client.submit(lambda x: x, Trap(str(trap)), max_retries=0),
        ]
        # Then none is run, nor looked at, and each says why
        for handle in refused:
            error = handle.exception(DEADLINE_S)
            assert isinstance(error, OnlyRegistered), error
            assert "runs registered task types only" in str(error)
        assert not trap.exists()
        # And registered ones run
        assert client.submit("async_work.slow", {"a": 1, "b": 2, "sum": 3}).result(DEADLINE_S) is True
    # Given a worker of everything else's, to see that the trap works
    if how == "program":
        cluster.worker("--path", str(ROOT))
        client.submit(work.echo, Trap(str(trap)), max_retries=0).wait(DEADLINE_S)
        assert trap.exists()
