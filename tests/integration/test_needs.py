"""Tasks with needs, on two workers with different offers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq import Client
from tests.cluster import Cluster
from tests.tasks import needy_work


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A worker with two graphics cards, and one with a tag, where the operator has said how many threads."""
    with Cluster(tmp_path_factory.mktemp("cluster"), memory=True) as made:
        made.coordinator()
        made.worker("--name", "cards", "--resource", "gpu=0,1", "--resource", "memory=8GB", slots=4)
        usual = made.environment
        made.environment = {**usual, "OMP_NUM_THREADS": "7"}
        made.worker("--name", "tagged", "--tag", "cuda12", slots=2)
        made.environment = usual
        yield made


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address, authkey_file=cluster.key_file) as made:
        yield made


def test_task_finds_what_it_has(client: Client) -> None:
    asked = {"gpu": 1, "memory": "4GB"}
    found = client.submit("needy_work:have", resources=asked).result(30)
    assert (found["worker"], found["resources"]) == ("cards", {"gpu": (found["cards"],), "memory": 4 * 10**9})
    assert found["threads"] == ["1", "1", "1"]
    # and the terms of @task are asked for likewise
    assert client.submit(needy_work.with_card).result(30)["cards"] in ("0", "1")
    # and the next task in that process has nothing
    after = client.submit("needy_work:have", slots=3).result(30)
    assert (after["worker"], after["resources"], after["cards"]) == ("cards", {}, None)
    assert after["threads"] == ["3", "3", "3"]


def test_tags_choose_the_worker_and_the_operators_threads_stay(client: Client) -> None:
    found = client.submit("needy_work:have", tags=("cuda12",), slots=2).result(30)
    assert (found["worker"], found["threads"]) == ("tagged", ["7", "2", "2"])


def test_wide_task_has_its_slots_for_itself(client: Client) -> None:
    wide = [client.submit("needy_work:span", 0.1, slots=4) for _ in range(2)]
    small = [client.submit("needy_work:span", 0.1, resources={"memory": 1}) for _ in range(4)]
    last = client.submit("needy_work:span", 0.0, slots=4)
    spans = [handle.result(30) for handle in wide]
    others = [handle.result(30) for handle in [*small, last]]
    assert not any(begun < other[1] and other[0] < ended for begun, ended in spans for other in others)
    assert last.result(30)[0] >= max(ended for _, ended in others[:-1])


def test_process_that_has_opened_cards_runs_no_task_with_others(client: Client) -> None:
    # Given a process that sees card 0 for good
    first = client.submit("needy_work:open_cards", resources={"gpu": 1}).result(30)
    # When every slot has had both cards
    found = [client.submit("needy_work:have", resources={"gpu": 1 + n % 2}).result(30) for n in range(8)]
    # Then it has not seen others
    assert {each["cards"] for each in found if each["pid"] == first["pid"]} <= {first["cards"]}
    assert {each["cards"] for each in found} == {"0", "0,1"}


def test_status_says_what_nobody_can_run_and_stats_what_is_offered(cluster: Cluster, client: Client) -> None:
    handle = client.submit("needy_work:have", resources={"gpu": 3})
    shown = cluster.command("status", handle.id)
    assert (
        "no connected worker can ever run it: it needs gpu=3, and the most that one offers of gpu is 2" in shown.stdout
    )
    handle.cancel()
    stats = json.loads(cluster.command("stats", "--json").stdout)["stats"]
    offers = {worker["name"]: (worker["resources"], worker["tags"]) for worker in stats["workers"]}
    assert offers["tagged"] == ({}, ["cuda12"])
    assert offers["cards"][0]["gpu"]["units"] == ["0", "1"]
    assert offers["cards"][0]["memory"]["amount"] == 8 * 10**9
    assert "gpu=0,1" in cluster.command("stats").stdout


def test_shell_asks_for_resources(cluster: Cluster, tmp_path: Path) -> None:
    words = ("submit", "--wait", "--resource", "gpu=2", "--slots", "2", "needy_work:have")
    done = cluster.command(*words)
    assert done.returncode == 0, done.stderr
    assert "0,1" in done.stdout
    wrong = cluster.command("submit", "--resource", "gpu", "needy_work:have")
    assert wrong.returncode == 2
    assert "write NAME=AMOUNT" in wrong.stderr
