"""Tasks that wait for tasks on a worker of one slot: by every face, bounded, and with a key only where they may."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq import Client, TaskTimedOut
from dtq.errors import KeyMissing, KeyMissingInTask, SlotsWaiting
from tests.cluster import DEADLINE_S, Cluster, clean_environment, until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator and workers of one slot each, for the queues "default", "bounded" and "strict"."""
    with Cluster(tmp_path_factory.mktemp("cluster"), memory=True) as made:
        made.coordinator()
        made.worker("--tasks-may-submit", "--queue", "default", slots=1)
        made.worker("--tasks-may-submit", "--queue", "bounded", "--max-waiting", "0", "--name", "narrow", slots=1)
        usual = made.environment
        made.environment = clean_environment(tmp_path_factory.mktemp("elsewhere"))  # there, no key is to be found
        made.worker("--queue", "strict", slots=1)
        made.environment = usual
        yield made


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address, authkey_file=cluster.key_file) as made:
        yield made


@pytest.mark.parametrize(
    "face",
    [
        "nested_work:by_result",
        "nested_work:by_map",
        "nested_work:by_batch",
        "nested_work:by_wait",
        "nested_work:by_future",
        "nested_work:by_futures",
        "nested_work:by_executor_map",
        "nested_work:by_awaiting",
        "nested_work:by_async_map",
        "nested_work:by_completed",
        "nested_work:by_futures_completed",
        "nested_work:by_shutdown",
        "nested_work:by_async_wait",
        "nested_work:by_async_completed",
        "nested_work:by_gather",
        "nested_work:by_run_in_executor",
        "nested_work:by_wrapped_future",
        "nested_work:by_short_awaits",
        "nested_work:by_short_async_waits",
        "nested_work:by_joblib",
        "nested_work:by_short_waits",
        "nested_work:by_short_results",
        "nested_work:by_looking_at_handle",
        "nested_work:by_looking_at_state",
        "nested_work:by_looking_at_batch",
        "nested_work:by_looking_at_future",
        "nested_work:by_looking_in_a_loop",
    ],
)
def test_task_that_waits_gives_its_slot_to_others(client: Client, face: str) -> None:
    # Given a worker of one slot; When a task waits for another of the same queue; Then both end
    assert client.submit(face, 7, max_retries=0).result(DEADLINE_S) == 7


def test_tasks_that_wait_for_tasks_that_wait_end(client: Client) -> None:
    assert client.submit("nested_work:fibonacci", 6, max_retries=0).result(DEADLINE_S) == 8


def test_more_tasks_that_wait_than_there_may_be_slots_end(client: Client) -> None:
    # Given many more such tasks than slots, all submitted before the first of their own
    assert list(client.map("nested_work:by_result", range(12), max_retries=0)) == list(range(12))


def test_what_a_task_submits_keeps_its_priority(client: Client) -> None:
    assert client.submit("nested_work:priorities", max_retries=0).result(DEADLINE_S) == [5, 9]


def test_time_limit_goes_on_while_a_task_waits(client: Client, tmp_path: Path) -> None:
    with pytest.raises(TaskTimedOut):
        handle = client.submit("nested_work:wait_for_gate", str(tmp_path / "gate"), timeout=0.5, max_retries=0)
        handle.result(DEADLINE_S)
    (tmp_path / "gate").touch()


def test_where_no_more_slots_may_be_a_sentence_says_so(client: Client, tmp_path: Path) -> None:
    # Given a worker that may have no slot more
    with pytest.raises(SlotsWaiting, match=r"every slot of the worker narrow \(1 of them\) runs a task that waits"):
        client.submit("nested_work:wait_in_queue", "bounded", queue="bounded", max_retries=0).result(DEADLINE_S)
    # Then a task that waits for one of another queue, which others run, is left alone
    handle = client.submit("nested_work:wait_in_queue", "default", queue="bounded", max_retries=0)
    assert handle.result(DEADLINE_S) == 1


def test_task_without_a_key_is_told_how_tasks_may_submit(client: Client) -> None:
    with pytest.raises(KeyMissingInTask, match="Start the worker with --tasks-may-submit") as caught:
        client.submit("nested_work:connect_anyhow", queue="strict", max_retries=0).result(DEADLINE_S)
    assert isinstance(caught.value, KeyMissing)


def test_key_of_tasks_is_in_no_environment_and_no_argument(client: Client) -> None:
    seen, _ = client.submit("nested_work:in_sight", max_retries=0).result(DEADLINE_S)
    assert seen == []


def test_worker_that_ends_lets_what_waits_and_what_runs_end(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    # Given a task that waits for one that runs
    gate = tmp_path / "gate"
    worker = cluster.worker("--tasks-may-submit", "--queue", "ending", slots=1)
    handle = client.submit("nested_work:wait_for_gate", str(gate), "ending", queue="ending", max_retries=0)
    until(lambda: Path(f"{gate}.started").exists(), "both run")
    # When the worker is told to end; Then both end before it
    worker.signal(signal.SIGTERM)
    worker.await_line("finishing running tasks")
    gate.touch()
    assert isinstance(handle.result(DEADLINE_S), int)
    assert worker.ended() == 0
