"""The pytest plugin: fixtures over `dtq.testing`. pytest loads it where dtq is installed, through its entry point.

It is outside of the layers: importing it imports nothing else of dtq, so that a suite without its fixtures pays nothing
for them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

TYPE_CHECKING = False  # true for type checkers

if TYPE_CHECKING:
    from dtq import Client
    from dtq.testing import Cluster, InProcessQueue


@pytest.fixture
def dtq_queue() -> Iterator[InProcessQueue]:
    """A queue in this process with a clock that stands still, for one test. See `dtq.testing.InProcessQueue`."""
    from dtq.testing import InProcessQueue

    with InProcessQueue() as queue:
        yield queue


@pytest.fixture(scope="module")
def dtq_cluster() -> Iterator[Cluster]:
    """A real cluster on a free port, for the tests of one module. See `dtq.testing.Cluster`."""
    from dtq.testing import Cluster

    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def dtq_client(dtq_cluster: Cluster) -> Iterator[Client]:
    """A client of ``dtq_cluster``, for one test."""
    with dtq_cluster.client() as client:
        yield client
