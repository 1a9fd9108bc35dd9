"""What is kept of an exception: the user's frames, and none of dtq's own for a mistake that a sentence tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtq.client.functions import resolve
from dtq.errors import CannotImport
from dtq.model.options import Function, FunctionKind
from dtq.worker.failures import describe


def failing(name: str) -> CannotImport:
    """What looking for a function raises that cannot be imported."""
    with pytest.raises(CannotImport) as caught:
        resolve(Function(kind=FunctionKind.IMPORT, name=name, body=b""), "the worker w1")
    called_here = caught.value.__traceback__
    assert called_here is not None
    return caught.value.with_traceback(called_here.tb_next)


@pytest.mark.parametrize("name", ["math:nothing", "no_such_module:work"])
def test_function_that_is_not_there_is_a_sentence(name: str) -> None:
    failure = describe(failing(name), __file__)

    assert failure.message.startswith(f"{name} cannot be imported by the worker w1")
    assert failure.traceback == f"dtq.errors.CannotImport: {failure.message}\n"


def test_module_that_fails_shows_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a module of the user's that raises while it is imported
    (tmp_path / "brittle_module.py").write_text("def setting():\n    return {}['absent']\n\nvalue = setting()\n")
    monkeypatch.syspath_prepend(tmp_path)

    failure = describe(failing("brittle_module:work"), __file__)

    assert "return {}['absent']" in failure.traceback


def test_own_exception_of_a_task_shows_where() -> None:
    try:
        {}["absent"]
    except KeyError as error:
        failure = describe(error, "another file")

    assert '{}["absent"]' in failure.traceback
