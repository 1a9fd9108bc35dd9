"""The blocks of the pages in docs, run in their order as a user would type them; read as those of the README are.

Commands of dtq's and programs are forked here: that they begin as they should is proved with the README.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from tests.acceptance.test_readme import Reader, blocks

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "fewest", "libraries"),
    [
        ("asyncio.md", 6, ()),
        ("dependencies.md", 8, ()),
        ("executor.md", 9, ("dask", "joblib", "numpy")),
        ("limits.md", 3, ()),
        ("logs.md", 4, ()),
        ("operating.md", 2, ()),
        ("quickstart.md", 6, ("cloudpickle",)),
        ("report.md", 2, ()),
        ("resources.md", 5, ()),
        ("run.md", 4, ()),
        ("schedules.md", 7, ("cronsim",)),
        ("tasks.md", 2, ()),
        ("testing.md", 7, ()),
        ("terms.md", 5, ()),
        ("top.md", 1, ()),
        ("hooks.md", 4, ("opentelemetry.trace",)),
    ],
    ids=[
        "asyncio",
        "dependencies",
        "executor",
        "limits",
        "logs",
        "operating",
        "quickstart",
        "report",
        "resources",
        "run",
        "schedules",
        "tasks",
        "testing",
        "terms",
        "top",
        "hooks",
    ],
)
def test_every_block_of_the_page_runs_as_written(
    tmp_path: Path, page: str, fewest: int, libraries: tuple[str, ...]
) -> None:
    # Given a page, and the libraries of which it speaks
    for name in libraries:
        try:
            importlib.import_module(name)
        except ImportError:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"{name} is not installed")
    found = list(blocks((DOCS / page).read_text()))
    assert len(found) >= fewest
    # When somebody types what it says, then it does what it shows
    reader = Reader(tmp_path, anew=False)
    try:
        for block in found:
            reader.read(block)
    finally:
        reader.close()
