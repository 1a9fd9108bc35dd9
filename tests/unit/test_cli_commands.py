"""What commands ask of the coordinator and print of its answers, with a coordinator that only takes notes."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dtq.cli.app import run
from dtq.config import WorkerSettings
from dtq.errors import DtqError, ShuttingDown, UnknownId, Unreachable
from dtq.model.messages import Failure
from dtq.model.options import Function, Options, Spec
from dtq.model.snapshots import (
    Attempt,
    BatchView,
    CancelReport,
    Counts,
    DeadLetter,
    QueueView,
    Selection,
    Stats,
    TaskView,
    WorkerView,
)
from dtq.model.states import Outcome, State

NOW = time.time()
SPEC = Spec(function=Function(name="mod:work"), options=Options(priority=2, timeout_s=60.0))
TASK = TaskView(
    batch=17,
    index=3,
    state=State.DEAD,
    spec=SPEC,
    attempt=2,
    failures=1,
    crashes=1,
    submitted_at=1_700_000_000.0,
    started_at=1_700_000_001.5,
    ended_at=1_700_000_002.0,
    worker="lab-1",
    progress=(3.0, 4.0),
    history=(
        Attempt(
            number=1,
            outcome=Outcome.FAILED,
            started_at=1_700_000_000.5,
            ended_at=1_700_000_001.0,
            worker="lab-1",
            failure=Failure(exception="ValueError", message="bad\x1b[2J\nvalue", traceback="Traceback:\n  boom\n"),
        ),
        Attempt(
            number=2,
            outcome=Outcome.CRASHED,
            started_at=1_700_000_001.5,
            ended_at=1_700_000_002.0,
            worker="lab-1",
            failure=Failure(signal=9),
        ),
    ),
)
LETTER = DeadLetter(
    batch=17,
    index=3,
    single=False,
    function="mod:work",
    queue="default",
    attempts=2,
    outcome=Outcome.CRASHED,
    exception="",
    message="",
    submitted_at=1_700_000_000.0,
    died_at=1_700_000_002.0,
)
BATCH = BatchView(
    batch=17, size=1000, complete=True, spec=SPEC, counts=Counts(pending=990, dead=10), submitted_at=NOW - 5, key="k"
)
STATS = Stats(
    counts=Counts(pending=5, dead=1),
    submitted=6,
    retries=2,
    refused=0,
    dead_letters=1,
    queues=(QueueView(name="default", pending=5, scheduled=0, running=0, workers=1),),
    workers=(
        WorkerView(
            session="s",
            name="lab-1",
            host="lab",
            pid=7,
            slots=2,
            busy=1,
            queues=(),
            seen_s=0.5,
            connected_at=NOW - 9,
            running=("17.1",),
            draining=True,
            version="1",
            python="3.11.7",
        ),
    ),
    clients=1,
    epoch=4,
    started_at=NOW - 134,
    now=NOW,
    pid=4242,
    version="0.1.0",
    python="3.11.7",
    store="/var/q.db",
    durability="fsync",
    highest_first=False,
    losses=("12 rows are missing",),
)


class NotedCoordinator:
    """Answers with what it was given and keeps what it was asked; stands in for the transport's Proxy."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:3870"
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {}
        self.made_with: Any = ()

    def __call__(self, addresses: Any, authkey: bytes, hello: Any, *, key_source: str) -> NotedCoordinator:
        self.made_with = (addresses, authkey, key_source)
        return self

    def __enter__(self) -> NotedCoordinator:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            answer = self.answers[name]
            if isinstance(answer, list) and answer and isinstance(answer[0], type | DtqError | Stats):
                answer = answer.pop(0)
            if isinstance(answer, DtqError):
                raise answer
            return answer

        return call


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotedCoordinator:
    """A coordinator that takes notes, and a key to reach it with."""
    coordinator = NotedCoordinator()
    monkeypatch.setattr("dtq.transport.Proxy", coordinator)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DTQ_ADDRESS", "lab:1")
    monkeypatch.setenv("DTQ_AUTHKEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("a key that is long enough")
    (tmp_path / "key").chmod(0o600)
    return coordinator


Captured = pytest.CaptureFixture[str]


def test_connection_options_win_over_variables(noted: NotedCoordinator, tmp_path: Path) -> None:
    noted.answers["stats"] = STATS
    assert run(["stats"]) == 0
    assert noted.made_with == ((("lab", 1),), b"a key that is long enough", str(tmp_path / "key"))
    (tmp_path / "other").write_text("another key, long enough")
    (tmp_path / "other").chmod(0o600)
    assert run(["stats", "--connect", "a:1", "--connect", "b:2", "--authkey-file", str(tmp_path / "other")]) == 0
    assert noted.made_with == ((("a", 1), ("b", 2)), b"another key, long enough", str(tmp_path / "other"))


def test_a_missing_key_is_said_before_anybody_is_called(noted: NotedCoordinator, capsys: Captured) -> None:
    assert run(["stats", "--authkey-file", "nokey"]) == 78
    assert capsys.readouterr().err.startswith("dtq: no authkey found: nokey does not exist. Start a coordinator as ")
    assert noted.made_with == ()


def test_status_of_a_task_shows_its_history(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["task"] = TASK
    assert run(["status", "17.3"]) == 0
    assert noted.calls == [("task", 17, 3)]
    shown = capsys.readouterr().out
    assert "task       17.3\nstate      dead\n" in shown
    assert "priority 2, queue default, 3 retries, at most 1m 0s an attempt" in shown
    assert "2 (after 1 failure, 1 crash)" in shown
    assert "3 of 4 (75%)" in shown
    assert "1  failed   500 ms  lab-1   ValueError: bad\\u001b[2J value" in shown
    assert "2  crashed  500 ms  lab-1   signal 9" in shown


def test_status_as_json_has_every_field(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["task"] = TASK
    assert run(["status", "17.3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    task = document["task"]
    assert (task["id"], task["state"], task["function"], task["priority"]) == ("17.3", "dead", "mod:work", 2)
    assert (task["timeout"], task["due_at"]) == (60.0, None)
    assert (task["submitted_at"], task["started_at"]) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:13:21.500Z")
    assert task["progress"] == {"done": 3.0, "total": 4.0}
    assert [attempt["outcome"] for attempt in task["history"]] == ["failed", "crashed"]
    assert task["history"][0]["message"] == "bad\x1b[2J\nvalue"
    assert task["history"][1]["signal"] == 9


def test_status_of_a_number_is_a_batch_or_its_only_task(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["batch"] = BATCH
    assert run(["status", "17"]) == 0
    assert "tasks      1,000: 990 pending, 10 dead\n" in capsys.readouterr().out
    assert run(["status", "17", "--json"]) == 0
    batch = json.loads(capsys.readouterr().out)["batch"]
    assert (batch["id"], batch["size"], batch["key"], batch["counts"]["dead"]) == ("17", 1000, "k", 10)
    assert run(["status", "17", "-q"]) == 0
    assert capsys.readouterr().out == "unfinished\n"

    noted.answers["batch"] = BatchView(
        batch=17, size=1, complete=True, spec=SPEC, counts=Counts(dead=1), submitted_at=NOW
    )
    noted.answers["task"] = TASK
    assert run(["status", "17", "--quiet"]) == 0
    assert capsys.readouterr().out == "dead\n"


def test_cancel_selects_tasks_and_batches_and_counts(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["cancel"] = CancelReport(cancelled=1, stopping=2, finished=3000)
    assert run(["cancel", "17", "18.4"]) == 0
    assert noted.calls == [("cancel", Selection(ids=((17, -1), (18, 4)), limit=0))]
    assert capsys.readouterr().out == "1 task cancelled, 2 being stopped, 3,000 had ended before\n"
    assert run(["cancel", "17", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "cancelled": 1, "stopping": 2, "finished": 3000}


def test_an_error_of_the_coordinator_is_a_line_and_its_code(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["cancel"] = UnknownId("99")
    assert run(["cancel", "99"]) == 65
    assert capsys.readouterr().err.startswith("dtq: no task 99 is known here")
    noted.answers["stats"] = Unreachable("lab:1", "connection refused")
    assert run(["coordinator", "status"]) == 69
    assert capsys.readouterr().err.startswith("dtq: no coordinator answers at lab:1 (connection refused). Start one ")


def test_list_passes_filters_and_says_when_there_is_more(noted: NotedCoordinator, capsys: Captured) -> None:
    pending = TaskView(
        batch=18, index=0, count=1000, state=State.PENDING, spec=SPEC, submitted_at=NOW, reason="no worker is connected"
    )
    noted.answers["tasks"] = [pending, TASK]
    words = ["list", "--state", "pending", "--queue", "q", "--batch", "18", "--function", "mod:*", "--limit", "1"]
    assert run(words) == 0
    asked = Selection(ids=((18, -1),), state=State.PENDING, queue="q", function="mod:*", limit=2)
    assert noted.calls == [("tasks", asked)]
    streams = capsys.readouterr()
    assert [line.split()[:3] for line in streams.out.splitlines()] == [
        ["ID", "STATE", "FUNCTION"],
        ["18.0-999", "pending", "mod:work"],
    ]
    assert "there are more (--limit)" in streams.err
    assert run(["list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(task["id"], task["count"]) for task in document["tasks"]] == [("18.0", 1000), ("17.3", 1)]
    assert document["more"] is False
    assert run(["list", "-q"]) == 0
    assert capsys.readouterr().out == "18.0-999\n17.3\n"


def test_list_of_nothing_keeps_standard_output_empty(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["tasks"] = []
    assert run(["list"]) == 0
    assert capsys.readouterr() == ("", "no tasks.\n")


def test_stats_show_queues_workers_and_losses(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["stats"] = STATS
    assert run(["stats"]) == 0
    streams = capsys.readouterr()
    assert "coordinator   127.0.0.1:3870, pid 4242, up 2m 14s\n" in streams.out
    assert "store         /var/q.db, durability fsync\n" in streams.out
    assert "tasks         5 pending, 1 dead\n" in streams.out
    assert "default        5          0        0        1\n" in streams.out
    assert "lab-1      1      2  all     500 ms ago  17.1  draining\n" in streams.out
    assert streams.err == "dtq: the store had losses: 12 rows are missing\n"
    assert run(["stats", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["stats"]
    assert document["tasks"] == {
        "scheduled": 0,
        "pending": 5,
        "running": 0,
        "succeeded": 0,
        "dead": 1,
        "cancelled": 0,
    }
    assert document["workers"][0]["queues"] == []
    assert document["losses"] == ["12 rows are missing"]


def test_coordinator_status_is_stats_in_short(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["stats"] = STATS
    assert run(["coordinator", "status"]) == 0
    shown = capsys.readouterr().out
    assert "workers       1 worker with 2 slots\n" in shown
    assert "QUEUE" not in shown
    assert run(["coordinator", "status", "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_coordinator_stop_waits_until_nobody_answers(
    noted: NotedCoordinator, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a coordinator that answers once more, refuses once, and is gone
    monkeypatch.setattr("dtq.cli.coordinator._LOOK_S", 0.0)
    noted.answers["stop"] = None
    noted.answers["stats"] = [STATS, STATS, ShuttingDown("soon"), Unreachable("lab:1", "connection refused")]
    assert run(["coordinator", "stop"]) == 0
    # Then all of that was waited for
    assert [name for name, *_ in noted.calls] == ["stats", "stop", "stats", "stats", "stats"]
    assert capsys.readouterr().out == "stopped\n"


def test_coordinator_stop_gives_up_in_the_end(
    noted: NotedCoordinator, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtq.cli.coordinator._STOP_S", 0.05)
    monkeypatch.setattr("dtq.cli.coordinator._LOOK_S", 0.01)
    noted.answers |= {"stop": None, "stats": STATS}
    assert run(["coordinator", "stop"]) == 124
    assert "the coordinator did not finish within" in capsys.readouterr().err


# -- dead letters -------------------------------------------------------------------------------------------------


def test_dlq_list_passes_filters(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["dead_letters"] = [LETTER]
    filters = ["--function", "m:*", "--exception", "*Error", "--queue", "q", "--older-than", "1h"]
    assert run(["dlq", "list", *filters, "--limit", "5"]) == 0
    asked = Selection(function="m:*", exception="*Error", queue="q", older_than_s=3600.0, limit=6)
    assert noted.calls == [("dead_letters", asked)]
    assert capsys.readouterr().out.splitlines()[1].startswith("17.3  mod:work  default         2  ")
    assert run(["dlq", "list", "--json"]) == 0
    letters = json.loads(capsys.readouterr().out)["dead_letters"]
    assert [(letter["id"], letter["outcome"], letter["died_at"]) for letter in letters] == [
        ("17.3", "crashed", "2023-11-14T22:13:22.000Z")
    ]
    assert run(["dlq", "list", "-q"]) == 0
    assert capsys.readouterr().out == "17.3\n"


def test_dlq_show_has_the_tracebacks(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["task"] = TASK
    assert run(["dlq", "show", "17.3"]) == 0
    assert "Attempt 1:\nTraceback:\n  boom\n" in capsys.readouterr().out


def test_dlq_show_of_what_is_no_dead_letter_says_what_it_is(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["task"] = TaskView(batch=17, index=3, state=State.RUNNING, spec=SPEC, submitted_at=NOW)
    assert run(["dlq", "show", "17.3"]) == 65
    assert capsys.readouterr().err == "dtq: task 17.3 is running, not a dead letter. `dtq status` shows any task.\n"
    noted.answers["batch"] = BATCH
    assert run(["dlq", "show", "17"]) == 2
    assert "17 is a batch of 1,000 tasks; name one of them, as in 17.0." in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["retry", "purge"])
def test_dlq_verbs_say_exactly_what_they_are_for(verb: str, noted: NotedCoordinator, capsys: Captured) -> None:
    for words, sentence in [
        ([], "name ids, or use --all."),
        (["--queue", "q"], "add --all to mean every dead letter that matches."),
        (["17", "--all"], "name ids, or use --all (with filters), not both."),
        (["17", "--function", "m:*"], "name ids, or use --all (with filters), not both."),
    ]:
        assert run(["dlq", verb, *words]) == 2
        assert capsys.readouterr().err == f"dtq: {sentence} See `dtq dlq {verb} --help`.\n"
    assert noted.calls == []


def test_dlq_retry_says_how_many(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["retry_dead"] = 2
    assert run(["dlq", "retry", "17.3", "18"]) == 0
    assert noted.calls.pop() == ("retry_dead", Selection(ids=((17, 3), (18, -1)), limit=0))
    assert capsys.readouterr().out == "2 dead letters put back\n"
    assert run(["dlq", "retry", "--all", "--exception", "OSError", "--json"]) == 0
    assert noted.calls.pop() == ("retry_dead", Selection(exception="OSError", limit=0))
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "retried": 2}


@pytest.mark.parametrize(("verb", "deed"), [("retry", "put back"), ("purge", "purged")])
def test_dlq_dry_run_only_counts(verb: str, deed: str, noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["dead_letters"] = [LETTER, LETTER]
    assert run(["dlq", verb, "--all", "--queue", "q", "--dry-run"]) == 0
    assert noted.calls == [("dead_letters", Selection(queue="q", limit=10_000))]
    assert capsys.readouterr().out == f"2 dead letters would be {deed}\n"


class Terminal(io.StringIO):
    """A terminal whose user has typed something."""

    def isatty(self) -> bool:
        return True


def test_dlq_purge_off_a_terminal_needs_yes(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers |= {"purge_dead": 1, "dead_letters": [LETTER]}
    assert run(["dlq", "purge", "--all"]) == 2
    assert capsys.readouterr().err.startswith("dtq: this would purge 1 dead letter for good; add --yes.")
    assert [name for name, *_ in noted.calls] == ["dead_letters"]
    assert run(["dlq", "purge", "--all", "--yes"]) == 0
    assert noted.calls.pop() == ("purge_dead", Selection(limit=0))
    assert capsys.readouterr().out == "1 dead letter purged\n"


@pytest.mark.parametrize(("answer", "purged"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_dlq_purge_on_a_terminal_asks(
    answer: str, purged: bool, noted: NotedCoordinator, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted.answers |= {"purge_dead": 1, "dead_letters": [LETTER]}
    errors = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", errors)
    assert run(["dlq", "purge", "17.3"]) == 0
    assert "Purge 1 dead letter for good? [y/N]" in errors.getvalue()
    assert (("purge_dead", Selection(ids=((17, 3),), limit=0)) in noted.calls) is purged


def test_dlq_purge_with_no_input_never_asks(noted: NotedCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    noted.answers |= {"purge_dead": 1, "dead_letters": [LETTER]}
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    monkeypatch.setattr("sys.stderr", Terminal())
    assert run(["dlq", "purge", "17.3", "--no-input"]) == 2
    assert [name for name, *_ in noted.calls] == ["dead_letters"]


# -- processes ----------------------------------------------------------------------------------------------------


def _note_runs(monkeypatch: pytest.MonkeyPatch, code: int = 0) -> list[tuple[Any, ...]]:
    runs: list[tuple[Any, ...]] = []

    def note(*settings: Any) -> int:
        runs.append(settings)
        return code

    for name in ("coordinator", "worker", "up"):
        monkeypatch.setitem(__import__("sys").modules, f"dtq.daemon.{name}", SimpleNamespace(run=note))
    return runs


def test_coordinator_start_hands_its_settings_on(noted: NotedCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _note_runs(monkeypatch, code=73)
    words = ["--host", "0.0.0.0", "--port", "0", "--memory", "--durability", "os", "--highest-first", "--lease", "5s"]
    assert run(["coordinator", "start", *words, "--authkey-file", "k", "--keep-results", "2h"]) == 73
    [(settings,)] = runs
    assert (settings.host, settings.port, settings.db, settings.durability) == ("0.0.0.0", 0, None, "os")
    assert (settings.highest_first, settings.lease_s, settings.keep_results_s) == (True, 5.0, 7200.0)
    assert settings.authkey_file == Path("k")


def test_coordinator_start_takes_one_kind_of_store(noted: NotedCoordinator, capsys: Captured) -> None:
    assert run(["coordinator", "start", "--db", "x", "--memory"]) == 2
    assert capsys.readouterr().err.startswith("dtq: use --db or --memory, not both.")


def test_worker_hands_its_settings_on(noted: NotedCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _note_runs(monkeypatch)
    words = ["--connect", "a:1", "--connect", "b:2", "--slots", "3", "--queue", "x", "--queue", "y", "--import", "m"]
    words += ["--path", "lib", "--name", "left", "--max-tasks-per-slot", "9", "--max-memory-per-slot", "1GiB"]
    assert run(["worker", *words, "--grace", "30s"]) == 0
    [(settings,)] = runs
    assert settings == WorkerSettings(
        addresses=(("a", 1), ("b", 2)),
        slots=3,
        queues=("x", "y"),
        imports=("m",),
        paths=(Path.cwd() / "lib", Path.cwd()),
        name="left",
        max_tasks_per_slot=9,
        max_memory_per_slot=2**30,
        grace_s=30.0,
    )


def test_up_hands_both_settings_on(noted: NotedCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _note_runs(monkeypatch)
    assert run(["up", "--slots", "2", "--port", "4000", "--memory"]) == 0
    [(coordinating, working)] = runs
    assert (coordinating.port, coordinating.db, working.slots) == (4000, None, 2)


def test_a_configuration_mistake_is_a_line(noted: NotedCoordinator, capsys: Captured) -> None:
    Path("dtq.toml").write_text("[worker]\nslot = 3\n")
    assert run(["worker"]) == 78
    assert "unknown key 'slot' in [worker]; did you mean 'slots'?" in capsys.readouterr().err
