"""The terms of ``@task`` of a function of which only the name is known: read from the source, or found by a process."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from dtq.client import declared_terms as declaring
from dtq.client.declared_terms import declared_terms
from dtq.client.tasks import task
from dtq.client.terms import UNSET, Terms
from dtq.model.options import Function, FunctionKind

SHOP = """
import dtq as queueing
from dtq import task
from functools import wraps

@task(priority=2, max_retries=1, timeout=60, retry_delay=0.1)
def order(number): pass

@task
def plain(): pass

def none(): pass

@queueing.task(queue="slow", never_retry=("ValueError",))
async def slowly(): pass

class Counter:
    @staticmethod
    @task(priority=1, name="count")
    def count(): pass

@task(priority=77)
def wrong(): pass

@wraps(none)
def other(): pass

try:
    import absent_module
except ImportError:
    @task(priority=6)
    def in_a_branch(): pass

raise RuntimeError("a script, which is not to be run for a name that it does not have")
"""
#: What has to be run for its terms.
COMPUTED = """
from datetime import timedelta
from dtq import task
print("noise")
SECONDS = 40

@task(timeout=timedelta(minutes=1), never_retry=(ValueError, KeyError))
def spans(): pass

@task(retry_delay=SECONDS)
def constant(): pass

def urgent(function): return task(priority=1)(function)

@urgent
def wrapped(): pass

def _made(): pass
made = task(priority=9)(_made)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "declared_shop.py").write_text(SHOP)
    (tmp_path / "declared_computed.py").write_text(COMPUTED)
    package = tmp_path / "declared_package"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import work as handed_on\nraise RuntimeError('imported')\n")
    (package / "inner.py").write_text("from dtq import task as job\n\n@job(priority=3)\ndef work(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def terms_of(name: str, kind: FunctionKind = FunctionKind.IMPORT) -> dict[str, Any]:
    found = declared_terms(Function(kind=kind, name=name))
    return {key: value for key, value in found._asdict().items() if value is not UNSET}


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("declared_shop:order", {"priority": 2, "max_retries": 1, "timeout": 60, "retry_delay": 0.1}),
        ("declared_shop:plain", {}),
        ("declared_shop:none", {}),
        ("declared_shop:slowly", {"queue": "slow", "never_retry": ("ValueError",)}),
        ("declared_shop:Counter.count", {"priority": 1}),
        ("declared_shop:wrong", {}),
        ("declared_shop:other", {}),
        ("declared_shop:in_a_branch", {"priority": 6}),
        ("declared_shop:nowhere", {}),
        ("declared_package:handed_on", {"priority": 3}),
        ("declared_package.inner:work", {"priority": 3}),
        ("declared_package.absent:work", {}),
        ("declared_absent:work", {}),
        ("math:factorial", {}),
        ("os.path:join", {}),
    ],
)
def test_plain_terms_are_read_without_running_anything(
    name: str, terms: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declaring, "_imported", lambda name: pytest.fail(f"{name} is imported"))
    assert terms_of(name) == terms
    assert not any(module.startswith("declared_") for module in sys.modules)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("spans", {"timeout": 60.0, "never_retry": ("ValueError", "KeyError")}),
        ("constant", {"retry_delay": 40}),
        ("wrapped", {"priority": 1}),
        ("made", {"priority": 9}),
    ],
)
def test_computed_terms_are_found_by_a_process_of_its_own(name: str, terms: dict[str, Any]) -> None:
    assert terms_of(f"declared_computed:{name}") == terms
    assert "declared_computed" not in sys.modules


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "the process that imports its module ended"),
        ("import time; time.sleep(60)", "importing its module took more than 500 ms"),
    ],
)
def test_module_that_cannot_be_imported_leaves_the_defaults_and_says_so(
    modules: Path, body: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(declaring, "IMPORT_S", 0.5 if "sleep" in body else 30.0)
    (modules / "declared_broken.py").write_text(f"import dtq\n{body}\nwork = dtq.task(priority=1)(print)\n")
    with caplog.at_level(logging.WARNING, "dtq.client"):
        assert declared_terms(Function(kind=FunctionKind.IMPORT, name="declared_broken:work")) == Terms()
    hold = "the terms of its @task are not known here, so those given and the defaults hold"
    assert caplog.messages == [f"declared_broken:work: {hold} ({why})"]


def test_module_that_is_imported_is_asked() -> None:
    @task(priority=4, name="declared.here")
    def here() -> None: ...

    globals()["here"] = here
    assert terms_of(f"{__name__}:here") == {"priority": 4}
    assert terms_of("declared.here", FunctionKind.REGISTERED) == {"priority": 4}
    assert terms_of("declared.nowhere", FunctionKind.REGISTERED) == {}
