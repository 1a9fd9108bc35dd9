"""The client against a real cluster: processes that run code, crash, and are killed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq import Client, State, TaskCancelled, TaskCrashed, TaskFailed, TaskTimedOut
from dtq.client.outcomes import RemoteTraceback
from tests.cluster import DEADLINE_S, Cluster, until
from tests.tasks import numbers_work as work

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for everything that breaks nothing."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.coordinator()
        made.worker("--path", str(ROOT))
        yield made


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address, authkey_file=cluster.key_file) as made:
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of this test alone, not started."""
    with Cluster(tmp_path) as made:
        yield made


def test_results_of_all_kinds_of_functions_come_back(client: Client) -> None:
    # Given functions that travel by name, by value, and with state
    factor = 3
    handles = [
        client.submit(work.add, 1, b=2),
        client.submit(max, [1, 5, 2]),
        client.submit(lambda x: x * factor, 2),
        client.submit("tests.tasks.numbers_work:square", 4),
    ]
    # When real slots run them; Then each result is right
    assert [handle.result(DEADLINE_S) for handle in handles] == [3, 5, 6, 16]


def test_task_knows_itself(client: Client) -> None:
    # Given a task that asks who it is; When it runs; Then it sees the id that its submitter sees
    handle = client.submit(work.who_am_i)
    assert handle.result(DEADLINE_S) == (handle.id, 1)


def test_own_exception_comes_with_the_remote_traceback(client: Client) -> None:
    # Given a task that raises in a slot
    handle = client.submit(work.inverse, 0, max_retries=0)
    with pytest.raises(ZeroDivisionError) as caught:
        handle.result(DEADLINE_S)
    # Then its submitter gets that exception, and the place where it was raised
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "numbers_work.py" in str(caught.value.__cause__)
    assert handle.status().history[0].failure.exception == "ZeroDivisionError"


@pytest.mark.parametrize(
    ("function", "args", "options", "kind", "sentence"),
    [
        (work.unpicklable, (), {}, Exception, r"the result \(lock\) cannot be pickled"),
        (os._exit, (3,), {"max_crashes": 1}, TaskCrashed, "exit code 3"),
        (os.abort, (), {"max_crashes": 1}, TaskCrashed, "SIGABRT|signal 6"),
        (work.nap, (60,), {"timeout": 0.2}, TaskTimedOut, r"200 ms"),
        ("no_such_module:f", (), {}, Exception, "No module named 'no_such_module'"),
    ],
)
def test_end_without_a_result_has_its_error(
    client: Client, function: object, args: tuple[object, ...], options: dict[str, object], kind: type, sentence: str
) -> None:
    # Given a task that cannot succeed; When it has ended; Then asking for its result says how
    handle = client.submit(function, *args, max_retries=0, **options)  # type: ignore[arg-type,var-annotated]
    assert handle.wait(DEADLINE_S), handle.status()
    with pytest.raises(kind, match=sentence):
        handle.result()
    assert handle.state is State.DEAD


def test_exception_class_that_is_not_here_is_described(client: Client) -> None:
    # Given a task that raises an exception of a class made there, which cannot travel
    def raises() -> None:
        kind = type("Unheard", (Exception,), {"__module__": "nowhere", "lock": threading.Lock()})
        raise kind("of")

    # When its submitter asks; Then it is told in words
    with pytest.raises(TaskFailed, match=r"nowhere\.Unheard: of"):
        client.submit(raises, max_retries=0).result(DEADLINE_S)


def test_running_task_is_cancelled(client: Client) -> None:
    # Given a task that runs
    handle = client.submit(work.nap, 60)
    until(lambda: handle.state is State.RUNNING or None, "the task to run", handle.status)
    # When it is cancelled; Then it ends at once
    assert handle.cancel()
    with pytest.raises(TaskCancelled):
        handle.result(DEADLINE_S)


def test_map_is_lazy_ordered_and_cancelled_when_left(client: Client) -> None:
    # Given an endless iterable
    pulled = itertools.count()
    results = client.map(work.square, pulled, read_ahead=3000)
    # When some of its results are taken, and the reader leaves
    assert list(itertools.islice(results, 5000)) == [n * n for n in range(5000)]
    results.close()
    # Then it was not pulled much further, and what is left is cancelled
    assert next(pulled) < 5000 + 3000 + 200
    (view,) = {view.batch: view for view in client.tasks(function="*numbers_work:square", limit=1)}.values()
    until(lambda: client.batch_status(view.batch).counts.unfinished == 0 or None, "the map to end")


def test_another_process_asks_by_id(client: Client, cluster: Cluster) -> None:
    # Given a task of this process
    handle = client.submit(work.add, 20, 22)
    # When another one asks for its result by its id
    program = f"import dtq; print(dtq.Client().get({handle.id!r}).result({DEADLINE_S}))"
    environment = {**os.environ, "DTQ_ADDRESS": cluster.address, "DTQ_AUTHKEY_FILE": str(cluster.key_file)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=DEADLINE_S
    )
    # Then it gets it; and the program ends although it never closed the client
    assert (done.stdout.strip(), done.stderr) == ("42", "")


def test_program_that_ends_without_closing_has_submitted(client: Client, cluster: Cluster) -> None:
    # Given a program that submits and ends
    before = client.stats().submitted
    program = "import dtq; c = dtq.Client(); [c.submit(abs, -n) for n in range(3000)]"
    environment = {**os.environ, "DTQ_ADDRESS": cluster.address, "DTQ_AUTHKEY_FILE": str(cluster.key_file)}
    # When it has ended
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=DEADLINE_S
    )
    # Then everything it submitted is there
    assert done.stderr == ""
    assert client.stats().submitted == before + 3000


def test_forked_child_is_a_client_of_its_own(client: Client) -> None:
    # Given a client in use, with a handle that has not ended
    held = client.submit(work.nap, 0.3)
    assert held.accepted(DEADLINE_S)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # no pytest beyond this point
        try:
            # When the child of a fork waits for what its parent submitted, and submits itself
            own = [client.submit(work.add, n).result(DEADLINE_S) for n in range(20)]
            os.write(writing, repr((own, held.result(DEADLINE_S))).encode())
        finally:
            os._exit(0)
    os.close(writing)
    mine = [client.submit(work.add, 100 + n).result(DEADLINE_S) for n in range(20)]
    with os.fdopen(reading) as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    # Then both get their own answers, and never the other's
    assert mine == list(range(100, 120))
    assert theirs == repr((list(range(20)), 0.3))
    assert held.result(DEADLINE_S) == 0.3


def test_killed_coordinator_goes_unnoticed_by_those_who_wait(own: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    # Given a client that waits, maps and submits while work goes on
    coordinator = own.coordinator()
    own.worker("--path", str(ROOT))
    with Client(own.address, authkey_file=own.key_file) as client:
        slow = client.submit(work.nap, 1.5)
        assert slow.accepted(DEADLINE_S)
        submitted: list[list[int]] = []
        stop = threading.Event()

        def submit() -> None:
            while not stop.is_set():
                submitted.append([client.submit(work.square, n).result(DEADLINE_S) for n in range(20)])

        thread = threading.Thread(target=submit)
        thread.start()
        results = client.map(work.square, iter(range(60_000)), read_ahead=5000)
        got = list(itertools.islice(results, 10_000))
        # When the coordinator is killed in the middle of it, and started again
        for _ in range(2):
            coordinator.kill()
            coordinator = own.coordinator()
            got += itertools.islice(results, 10_000)
        got += results
        rounds = len(submitted)
        until(lambda: len(submitted) > rounds or None, "the submitting thread to go on")
        stop.set()
        thread.join(DEADLINE_S)
        # Then every result is there, once, in order, and right
        assert got == [n * n for n in range(60_000)]
        assert slow.result(DEADLINE_S) == 1.5
        assert all(round_ == [n * n for n in range(20)] for round_ in submitted)
        assert client.stats().counts.unfinished == 0
    assert "lost the coordinator at" in caplog.text


def test_stopped_coordinator_is_waited_for_by_submissions(own: Cluster) -> None:
    # Given a coordinator that was stopped in good order
    coordinator = own.coordinator()
    own.worker("--path", str(ROOT))
    client = Client(own.address, authkey_file=own.key_file)
    assert client.submit(work.add, 1).result(DEADLINE_S) == 1
    coordinator.signal(signal.SIGTERM)
    assert coordinator.ended() == 0
    # When tasks are submitted meanwhile, and it comes back
    handles = [client.submit(work.add, n) for n in range(100)]
    own.coordinator()
    # Then they run
    assert [handle.result(DEADLINE_S) for handle in handles] == list(range(100))
    client.close()
