"""Row 14 of the catalogue of faults: Pythons and protocols of several versions in one cluster."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import click
import psutil
import pytest
import rich

from dtq.model.messages import PROTOCOL
from tests.cluster import Cluster, Process
from tests.producer import Producer

#: The Pythons that are supported.
SUPPORTED: Final = ("3.11", "3.12", "3.13")
ROOT: Final = Path(__file__).parents[2]
#: Where what dtq needs is installed: pure Python, or compiled for all versions.
LIBRARIES: Final = sorted({str(Path(module.__file__ or "").parents[1]) for module in (click, psutil, rich)})


@functools.cache
def pythons() -> dict[str, str]:
    """The supported Pythons that there are here and that can run dtq, by version."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in SUPPORTED:
        named = shutil.which(f"python{version}")
        for python in [named] * (named is not None) + sorted(map(str, installed.glob(f"{version}.*/bin/python"))):
            if version not in found and python is not None and _runs(python, version):
                found[version] = python
    return found


def _runs(python: str, version: str) -> bool:
    code = "import sys, click, psutil, rich, dtq.cli; print('%d.%d' % sys.version_info[:2])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *LIBRARIES])}
    try:
        done = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def roles() -> list[tuple[str, str, str]]:
    """Coordinator, worker and client: each version once in each role, so that each pair meets in both directions."""
    return [(SUPPORTED[i], SUPPORTED[(i + 1) % 3], SUPPORTED[(i + 2) % 3]) for i in range(3)]


@pytest.mark.parametrize(("coordinator", "worker", "client"), roles())
def test_pythons_of_all_versions_work_together(tmp_path: Path, coordinator: str, worker: str, client: str) -> None:
    """Row 14: a coordinator, a worker and a client of three Pythons: results and failures arrive."""
    missing = [version for version in (coordinator, worker, client) if version not in pythons()]
    if missing:
        pytest.skip(f"there is no Python {', '.join(missing)} here that can run dtq")
    with Cluster(tmp_path) as cluster:
        cluster.environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *LIBRARIES])
        cluster.python = pythons()[coordinator]
        cluster.coordinator()
        cluster.python = pythons()[worker]
        cluster.worker()
        cluster.python = pythons()[client]

        # When the client has work done, then it hears of its results and of its failures
        done = cluster.command("submit", "math:sqrt", "--each", "-", "--wait", input="4\n9\n")
        assert (done.stdout, done.returncode) == ("2.0\n3.0\n", 0), done.stderr
        failed = cluster.command("submit", "work:fail", "no", "--max-retries", "0", "--wait")
        assert failed.returncode == 1
        assert "ValueError: no" in failed.stderr
        # also what this Python submitted,
        producer = Producer(cluster.service())
        assert producer.values(producer.submit("square", [(n,) for n in range(100)])) == [n * n for n in range(100)]
        # and each says what it runs on.
        stats = json.loads(cluster.command("stats", "--json").stdout)["stats"]
        said = (stats["python"], stats["workers"][0]["python"])
        assert [version.rpartition(".")[0] for version in said] == [coordinator, worker]


def test_every_supported_python_meets_every_other() -> None:
    pairs = set(itertools.chain.from_iterable(itertools.permutations(each, 2) for each in roles()))
    assert pairs == set(itertools.permutations(SUPPORTED, 2))


@pytest.mark.parametrize("words", [["worker"], ["stats"]])
def test_older_protocol_is_refused_with_one_sentence(tmp_path: Path, words: list[str]) -> None:
    """Row 14: a worker or a client of an older protocol: an error at once that names both versions."""
    code = """
from dtq.model import messages
messages.PROTOCOL -= 1
messages.Hello.__init__.__kwdefaults__["protocol"] -= 1
from dtq.cli import main
main()
"""
    with Cluster(tmp_path) as cluster:
        cluster.coordinator()
        where = ["--connect", cluster.address, "--authkey-file", str(cluster.key_file)]
        old = Process("old", [*words, *where], tmp_path, cluster.environment, program=("-c", code))

        assert old.ended() == 76
        sentences = old.output().strip().splitlines()
        assert sentences[-1].startswith(f"dtq: this side speaks protocol {PROTOCOL - 1}, the other side {PROTOCOL}.")
        # and those of its own protocol are served.
        assert cluster.command("stats").returncode == 0
