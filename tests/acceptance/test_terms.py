"""Terms of ``@task`` hold for a command that names the function, and what the command says holds above them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from dtq import AsyncClient, Client
from tests.acceptance.home import Home
from tests.looping import looped

MODULE = """
from datetime import timedelta
from dtq import task

@task(priority=2, max_retries=1, timeout=60, retry_delay=0.1, queue="shop")
def order(number): pass

@task(priority=3, timeout=timedelta(minutes=2), never_retry=KeyError)
def parcel(number): pass
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("cluster"))
    (home.work / "terms_shop.py").write_text(MODULE)
    (home.work / "numbers").write_text("1\n2\n")
    home.coordinator()
    yield home
    home.close()


def options_of(cluster: Home, *words: str) -> dict[str, object]:
    found: dict[str, object] = cluster.data("status", cluster.id(*words))["task"]
    return found


def test_terms_of_the_function_hold_where_the_command_says_nothing(cluster: Home) -> None:
    # Given @task with plain values, and with values that have to be computed; When a command names the function, from
    # where its module is
    plain = options_of(cluster, "terms_shop:order", "4")
    computed = options_of(cluster, "terms_shop:parcel", "4")
    # Then its terms hold
    assert (plain["priority"], plain["max_retries"], plain["timeout"], plain["queue"]) == (2, 1, 60, "shop")
    assert (computed["priority"], computed["max_retries"], computed["timeout"]) == (3, 3, 120)


def test_what_the_command_says_holds_above_them(cluster: Home) -> None:
    found = options_of(cluster, "terms_shop:order", "4", "-p", "9", "--queue", "other")
    assert (found["priority"], found["max_retries"], found["queue"]) == (9, 1, "other")


def test_terms_hold_for_files_of_calls(cluster: Home) -> None:
    batch = cluster.id("terms_shop:order", "--each", "numbers")
    assert cluster.data("status", f"{batch}.1")["task"]["priority"] == 2


def test_defaults_hold_where_the_module_is_not_found(cluster: Home) -> None:
    command = cluster.dtq("submit", "elsewhere:order", "4")
    assert (command.process.returncode, command.err) == (0, "")
    found = cluster.data("status", command.out.strip())["task"]
    assert (found["priority"], found["max_retries"]) == (5, 3)


def test_module_is_found_where_the_command_is_told_to_look(cluster: Home) -> None:
    # Given a module that is not where the command runs, and a directory that is not there
    (cluster.work / "apart").mkdir()
    (cluster.work / "apart" / "terms_apart.py").write_text(MODULE)
    # When it is told where the module is; Then the terms of @task hold
    found = options_of(cluster, "terms_apart:order", "4", "--path", "apart")
    assert (found["priority"], found["max_retries"], found["queue"]) == (2, 1, "shop")
    wrong = cluster.dtq("submit", "terms_apart:order", "4", "--path", "nowhere")
    assert wrong.process.returncode == 2
    assert "path cannot be 'nowhere': there is no such directory" in wrong.err


@looped
async def test_clients_that_name_the_function_do_the_same(cluster: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given programs that find the module, and only name its function
    monkeypatch.syspath_prepend(cluster.work)
    said = cluster.dtq("coordinator", "status").out
    address = re.search(r"127\.0\.0\.1:\d+", said)[0]  # type: ignore[index]
    with Client(address, authkey_file=cluster.key) as client:
        assert client.submit("terms_shop:order", 1).status().spec.options.priority == 2
        assert client.submit("terms_shop:order", 1, priority=8).status().spec.options.priority == 8
    async with AsyncClient(address, authkey_file=cluster.key) as client:
        handle = await client.submit("terms_shop:parcel", 1)
        assert (await handle.status()).spec.options.timeout_s == 120
