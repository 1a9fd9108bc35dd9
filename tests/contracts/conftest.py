"""The house in which the service's contract is proved, once a kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dtq.core import invariants
from dtq.core.register import Rules
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
