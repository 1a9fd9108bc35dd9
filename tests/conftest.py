"""What the suites share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.driver import Driver


@pytest.fixture
def machine() -> Iterator[Driver]:
    """A machine with default rules; its invariants hold after every command, and at the end."""
    driver = Driver()
    yield driver
    driver.check()
