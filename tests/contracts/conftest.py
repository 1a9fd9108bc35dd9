"""Where contracts are proved, once a kind: the house of a service, the executors."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from dtq.core import invariants
from dtq.core.queue_state import Rules
from tests.contracts import executor_kinds
from tests.contracts.executor_kinds import Gate, Kind, closing
from tests.contracts.service_scene import KINDS, House


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "rules(**rules): settings of the coordinator in the house")


@pytest.fixture(params=KINDS)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """A coordinator with its store. ``@pytest.mark.rules(lease_s=...)`` changes its settings."""
    marker = request.node.get_closest_marker("rules")
    rules: dict[str, Any] = marker.kwargs if marker is not None else {}
    built = House(request.param, tmp_path, Rules(**rules))
    yield built
    built.close()
    invariants.check(built.coordinator.machine)


@pytest.fixture(scope="module", params=executor_kinds.PROVED)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """A kind of executor."""
    kind = executor_kinds.KINDS[request.param]()
    yield kind
    kind.close()


@pytest.fixture(scope="module")
def shared(kind: Kind) -> Iterator[Executor]:
    """An executor that many tests use, none of which ends it."""
    with closing(kind.make()) as executor:
        yield executor


@pytest.fixture
def executor(kind: Kind) -> Iterator[Executor]:
    """An executor of the test's own."""
    with closing(kind.make()) as executor:
        yield executor


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Calls that end when the test says so."""
    gate = Gate(tmp_path)
    yield gate
    gate.open()
