"""The blocks of docs/executor.md, run in their order as a user would type them; read as those of the README are."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_readme import Reader, blocks

PAGE = Path(__file__).parents[2] / "docs" / "executor.md"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody who types what the page says, and has the libraries of which it speaks."""
    for name in ("dask", "joblib"):
        try:
            importlib.import_module(name)
        except ImportError:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"{name} is not installed")
    reader = Reader(tmp_path)
    yield reader
    reader.close()


def test_every_block_of_the_page_runs_as_written(reader: Reader) -> None:
    found = list(blocks(PAGE.read_text()))
    assert len(found) >= 7
    for block in found:
        reader.read(block)
