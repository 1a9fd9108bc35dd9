"""The worker's lines about its tasks, and the log of dtq's processes as JSON and in a file."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq.daemon.logs import JsonFormatter, start_log
from dtq.errors import BadConfig
from dtq.model.messages import Failure, Grant
from dtq.model.options import Function, Options, Spec
from dtq.model.states import Outcome
from dtq.worker.chunks import Chunk
from dtq.worker.latelog import LateLog
from dtq.worker.task_log import FAILURE_BURST, TaskLog

FAILURE = Failure(exception="ValueError", message="no\nand more", traceback="Traceback:\n  line\nValueError: no\n")


def chunk(lo: int = 3, hi: int = 4) -> Chunk:
    grant = Grant(token=1, batch=17, lo=lo, hi=hi, single=False, attempt=2, spec=1, arguments=b"")
    return Chunk(grant, Spec(function=Function(name="work:shop"), options=Options()), 0.0)


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """The records of a logger."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign]
    logger = logging.getLogger("test.tasks")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_failed_task_is_one_line_and_others_are_none(lines: list[logging.LogRecord]) -> None:
    late = LateLog(logging.getLogger("test.tasks"))
    log = TaskLog(late, verbose=False)
    log.began(chunk(), 1)
    log.succeeded(chunk(), 3, 4, 0.5)
    log.failed(chunk(), 3, Outcome.CANCELLED, FAILURE, 0.5)
    log.failed(chunk(), 3, Outcome.FAILED, FAILURE, 0.5)
    late.write()
    assert [record.getMessage() for record in lines] == [
        "task 17.3 of work:shop failed after 500 ms, attempt 2: ValueError: no"
    ]
    assert vars(lines[0])["task_id"] == "17.3"


def test_verbose_log_has_begin_end_and_traceback(lines: list[logging.LogRecord]) -> None:
    late = LateLog(logging.getLogger("test.tasks"))
    log = TaskLog(late, verbose=True)
    log.began(chunk(3, 9), 1)
    log.succeeded(chunk(3, 9), 3, 8, 0.012)
    log.failed(chunk(3, 9), 8, Outcome.TIMED_OUT, FAILURE, 60.0)
    late.write()
    begun, ended, failed = [record.getMessage() for record in lines]
    assert begun == "tasks 17.3-8 of work:shop, attempt 2: sent to slot 1"
    assert ended == "tasks 17.3-7 of work:shop succeeded in 12 ms"
    assert failed.splitlines()[0] == "task 17.8 of work:shop timed out after 1m, attempt 2: ValueError: no"
    assert failed.endswith("ValueError: no")


def test_flood_of_failures_is_counted(lines: list[logging.LogRecord]) -> None:
    late = LateLog(logging.getLogger("test.tasks"))
    log = TaskLog(late, verbose=False)
    for _ in range(FAILURE_BURST + 50):
        log.failed(chunk(), 3, Outcome.FAILED, FAILURE, 0.5)
    log._room = 1.0
    log.failed(chunk(), 3, Outcome.FAILED, FAILURE, 0.5)
    late.write()
    said = [record.getMessage() for record in lines]
    assert FAILURE_BURST < len(said) < FAILURE_BURST + 10
    assert any("tasks failed before that, without a line" in line for line in said)


def test_json_line_has_what_is_known_and_drives_no_terminal() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.getLogger("dtq.x").makeRecord(
            "dtq.x", logging.ERROR, "f", 1, "task %s: \x1b[31m\u202e", ("17",), sys.exc_info(), extra={"task_id": "17"}
        )
    record.created = 0.25
    line = JsonFormatter("w1").format(record)
    assert line.isascii()
    assert line.isprintable()
    told = json.loads(line)
    assert told.pop("exception").endswith("ValueError: no")
    assert told == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "error",
        "logger": "dtq.x",
        "message": "task 17: \x1b[31m\u202e",
        "task": "17",
        "worker": "w1",
    }


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[logging.Logger]:
    """The logger of dtq's processes, as it was before."""
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("dtq")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    for handler in [handler for handler in logger.handlers if handler not in before[0]]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(before[1])
    logger.propagate = before[2]


def test_log_file_is_appended_to_and_made_anew_after_a_rotation(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "dtq.log"
    path.write_text("before\n")
    monkeypatch.setenv("DTQ_LOG_FILE", str(path))
    monkeypatch.setenv("DTQ_LOG_LEVEL", "warn")
    start_log()
    logger.info("unsaid")
    logger.warning("one")
    path.rename(tmp_path / "dtq.log.1")
    logger.warning("two")
    assert [line[-3:] for line in (tmp_path / "dtq.log.1").read_text().splitlines()] == ["ore", "one"]
    assert path.read_text().endswith("WARNING dtq: two\n")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DTQ_LOG_LEVEL", "loud", "it is one of debug, info, warning, error, critical"),
        ("DTQ_LOG_FORMAT", "xml", "it is one of text, json"),
        ("DTQ_LOG_FILE", "/nowhere/at/all", "the log file /nowhere/at/all cannot be written"),
    ],
)
def test_log_that_cannot_be_is_a_bad_configuration(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadConfig, match=sentence):
        start_log()
