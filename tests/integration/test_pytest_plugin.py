"""The pytest plugin in suites as its users write them: its fixtures, their messages, and what it costs the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dtq import Client
from dtq.testing import Cluster
from tests.cluster import DEADLINE_S, clean_environment
from tests.tasks import numbers_work

ROOT = Path(__file__).parents[2]

#: A program of a user's, and a suite of tests of it with every fixture.
SHOP = """
from dtq import Client, task

@task(max_retries=2, retry_delay=30)
def deliver(order):
    if order == 13:
        raise OSError("no such street")
    return f"delivered {order}"

def open_shop(queue: Client, orders):
    return [queue.submit(deliver, order, priority=1 if order > 10 else 5) for order in orders]
"""

SUITE = """
import os, shop
from dtq import Client

def test_in_process(dtq_queue):
    handles = shop.open_shop(dtq_queue.client, [1, 12])
    dtq_queue.assert_submitted(shop.deliver, 12, priority=1)
    assert [ran.value for ran in dtq_queue.run_due()] == ["delivered 12", "delivered 1"]
    assert [handle.result() for handle in handles] == ["delivered 1", "delivered 12"]

def test_queue_is_fresh(dtq_queue):
    dtq_queue.assert_nothing_submitted()

def test_retries(dtq_queue):
    shop.open_shop(dtq_queue.client, [13])
    assert [ran.attempt for ran in dtq_queue.run_all()] == [1, 2, 3]

def test_message(dtq_queue):
    shop.open_shop(dtq_queue.client, [1])
    dtq_queue.assert_submitted(shop.deliver, 2)

def test_cluster(dtq_client):
    handles = shop.open_shop(dtq_client, range(3))
    assert [handle.result(30) for handle in handles] == [f"delivered {n}" for n in range(3)]

def test_other_program(dtq_cluster, monkeypatch):
    for name, value in dtq_cluster.environment.items():
        monkeypatch.setenv(name, value)
    with Client() as queue:
        assert queue.submit(os.getpid).result(30) != os.getpid()
        assert queue.stats().submitted == 4
"""


def run_pytest(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as a user does, in a directory of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", *words],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        cwd=directory,
        env=clean_environment(directory) | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A directory with a configuration of its own."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return tmp_path


def test_fixtures_work_in_a_suite_of_a_user(suite: Path) -> None:
    # Given a program and tests of it, with nothing set up
    (suite / "shop.py").write_text(SHOP)
    (suite / "test_shop.py").write_text(SUITE)
    # When they are run
    done = run_pytest(suite, "-q")
    # Then all is as it says, and the one that is wrong says what there is
    assert "1 failed, 5 passed" in done.stdout, done.stdout + done.stderr
    assert "shop:deliver(2) was not submitted. Of that function there is:" in done.stdout
    assert "1  shop:deliver(1): other arguments" in done.stdout


def test_suite_without_dtq_pays_nothing(suite: Path) -> None:
    # Given a suite that has nothing to do with dtq
    (suite / "test_other.py").write_text(
        "import sys\n\n"
        "def test_what_is_there():\n"
        "    assert {name for name in sys.modules if name.startswith('dtq')} <= {'dtq', 'dtq.pytest_plugin'}\n"
        "    assert not {'asyncio', 'sqlite3', 'multiprocessing'} & set(sys.modules)\n"
    )
    # When it is run; Then nothing more of dtq is imported than the plugin
    done = run_pytest(suite, "-q")
    assert "1 passed" in done.stdout, done.stdout
    # And the fixtures are told of in pytest's own list
    listed = run_pytest(suite, "--fixtures", "-q").stdout
    assert all(f"dtq_{name}" in listed for name in ("queue", "client", "cluster [module scope]"))
    assert "A queue in this process" in listed


def test_plugin_is_found_by_pytest_itself(request: pytest.FixtureRequest) -> None:
    found = request.config.pluginmanager.get_plugin("dtq")
    assert found is not None, "install the project anew: pip install --editable ."
    assert found.__name__ == "dtq.pytest_plugin"


def test_cluster_for_one_test_is_killed_with_it(tmp_path: Path) -> None:
    # Given a cluster of this test's, with a store of its own
    with Cluster(slots=1, db=tmp_path / "queue.db", paths=[ROOT]) as cluster:
        pids = set(cluster.pids.values())
        with cluster.client() as client:
            assert list(client.map(numbers_work.square, range(5))) == [0, 1, 4, 9, 16]
        assert set(cluster.environment) == {"DTQ_ADDRESS", "DTQ_AUTHKEY_FILE"}
    # When the block has ended; Then so have its processes
    assert not {pid for pid in pids if os.path.exists(f"/proc/{pid}")}


def test_fixtures_serve_this_suite_too(dtq_cluster: Cluster, dtq_client: Client) -> None:
    assert dtq_client.submit(os.getpid).result(DEADLINE_S) not in {os.getpid(), *dtq_cluster.pids.values()}
