"""Homes for the acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home in which nothing runs yet."""
    home = Home(tmp_path)
    yield home
    home.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with a coordinator and a worker of two slots, for all tests of a module."""
    home = Home(tmp_path_factory.mktemp("cluster"))
    home.coordinator()
    home.worker("--name", "lab")
    yield home
    home.close()
