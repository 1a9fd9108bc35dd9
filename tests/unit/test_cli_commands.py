"""What commands ask of the coordinator, and print of its answers."""

from __future__ import annotations

import io
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dtq.cli.app import run
from dtq.cli.coordinator import start
from dtq.cli.worker import up, worker
from dtq.config import WorkerSettings
from dtq.errors import ShuttingDown, StoreFull, UnknownId, Unreachable
from dtq.model.explanations import Explanation, Remedy
from dtq.model.snapshots import BatchList, BatchSelection, BatchView, CancelReport, Counts, Selection, TaskView
from dtq.model.states import State
from tests.unit.cli_scene import BATCH, NOW, SPEC, STATS, TASK, Captured, NotedCoordinator, noted

__all__ = ["noted"]  # a fixture


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals stay with pytest, whose process this is."""
    for name in ("coordinator.Signals", "worker.Signals", "worker.SignalPipe"):
        monkeypatch.setattr(f"dtq.cli.{name}", lambda *_: None)


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
    assert "priority 2, queue default, 3 retries, at most 1m an attempt" in shown
    assert "2 (after 1 failure, 1 crash)" in shown
    assert "3 of 4 (75%)" in shown
    assert "1  failed   500 ms           lab-1   ValueError: bad\\u001b[2J value" in shown
    assert "2  crashed  500 ms  1.5 GiB  lab-1   signal 9" in shown
    assert shown.endswith("\nAttempt 2 printed at last:\nreading\nall of it\n")
    assert "Traceback" not in shown


def test_batches_are_a_line_each_with_pace_and_time_left(noted: NotedCoordinator, capsys: Captured) -> None:
    # Given one that runs, one that has finished, and more of them than are wanted
    running = replace(BATCH, counts=Counts(pending=590, succeeded=400, dead=10), rate=23.44, left_s=25.2)
    labelled = replace(SPEC, options=replace(SPEC.options, label="night"))
    counts = Counts(succeeded=3, cancelled=1)
    took = replace(BATCH, batch=16, size=4, spec=labelled, counts=counts, finished_at=BATCH.submitted_at + 2.5)
    noted.answers["batches"] = BatchList(batches=(running, took, replace(BATCH, batch=3)), before=0)

    assert run(["batches", "--limit", "2", "--queue", "mail", "--state", "dead", "--before", "99"]) == 0

    selection = BatchSelection(queue="mail", state=State.DEAD, before=99, limit=3)
    assert noted.calls == [("batches", selection)]
    streams = capsys.readouterr()
    head, first, second = streams.out.splitlines()
    assert head.split() == [
        "ID", "LABEL", "FUNCTION", "ENDED", "DONE", "FAILED", "CANCELLED", "SIZE", "RATE", "LEFT", "SUBMITTED"
    ]  # fmt: skip
    assert first.split()[:9] == ["17", "mod:work", "41%", "400", "10", "0", "1,000", "23.4/s", "25.2"]
    assert second.split()[:9] == ["16", "night", "mod:work", "100%", "3", "0", "1", "4", "took"]
    assert streams.err == "the newest 2 batches; there are more (--limit, or --before 16).\n"
    assert run(["batches", "--limit", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(one["id"], one["rate"], one["left"], one["label"]) for one in document["batches"]] == [
        ("17", 23.44, 25.2, ""),
        ("16", None, None, "night"),
    ]
    assert (document["more"], document["before"]) == (True, 16)


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
    assert [(task["id"], task["count"]) for task in document["tasks"]] == [("18.0-999", 1000), ("17.3", 1)]
    assert document["more"] is False
    assert run(["list", "-q"]) == 0
    assert capsys.readouterr().out == "18.0-999\n17.3\n"


def test_list_of_nothing_keeps_standard_output_empty(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["tasks"] = []
    assert run(["list"]) == 0
    assert capsys.readouterr() == ("", "no tasks.\n")


def test_explain_shows_reasons_outlook_and_commands(noted: NotedCoordinator, capsys: Captured) -> None:
    found = Explanation(
        task=replace(TASK, state=State.SCHEDULED),
        count=3,
        reasons=("backing off\u202e", "it\nfailed"),
        outlook="in 5 s",
        remedies=(
            Remedy(command="dtq status 17", purpose="all"),
            Remedy(command="dtq worker", purpose="more"),
        ),
    )
    noted.answers["explain"] = [found]
    assert run(["explain", "17"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  why   backing off\\u202e",
        "        it\\nfailed",
        "  when  in 5 s",
        "  try   dtq status 17  all",
        "        dtq worker     more",
    ]
    assert run(["explain", "17.3", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["explanations"]
    assert (shown["count"], shown["reasons"][0], shown["remedies"][1]["command"]) == (
        3,
        "backing off\u202e",
        "dtq worker",
    )
    assert noted.calls == [("explain", 17, -1), ("explain", 17, 3)]


def test_stats_show_queues_workers_and_losses(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["stats"] = STATS
    assert run(["stats"]) == 0
    streams = capsys.readouterr()
    assert "coordinator   127.0.0.1:3870, pid 4242, up 2m 14s\n" in streams.out
    assert "store         /var/q.db, durability fsync\n" in streams.out
    assert "tasks         5 pending, 1 dead\n" in streams.out
    assert "default        5          0        0        1  ####################\n" in streams.out
    assert "bar: = running, # pending, ~ scheduled, . blocked\n" in streams.out
    assert "lab-1      1      2  ####....  all     500 ms ago  17.1  draining\n" in streams.out
    assert streams.err == "dtq: the store had losses: 12 rows are missing\n"
    assert run(["stats", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["stats"]
    assert document["tasks"] == {
        "blocked": 0,
        "scheduled": 0,
        "pending": 5,
        "running": 0,
        "succeeded": 0,
        "dead": 1,
        "cancelled": 0,
    }
    assert document["workers"][0]["queues"] == []
    assert document["losses"] == ["12 rows are missing"]


@pytest.mark.parametrize("command", [["stats"], ["coordinator", "status"]])
def test_full_disk_is_seen(noted: NotedCoordinator, capsys: Captured, command: list[str]) -> None:
    error = StoreFull("/var/q.db", "0.5 MiB more have to be free for new work")
    noted.answers["stats"] = replace(STATS, losses=(), trouble=error.code, trouble_text=str(error))
    assert run(command) == 0
    assert capsys.readouterr().err == f"dtq: no new work is accepted (store-full): {error}\n"
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stats"]["trouble"] == {"code": "store-full", "message": str(error)}


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


# -- processes ----------------------------------------------------------------------------------------------------


def _note_runs(monkeypatch: pytest.MonkeyPatch, code: int = 0) -> list[tuple[Any, ...]]:
    runs: list[tuple[Any, ...]] = []

    def note(settings: Any, signals: Any) -> int:
        runs.append((settings,))
        return code

    for name in ("coordinator", "worker", "up"):
        monkeypatch.setitem(sys.modules, f"dtq.daemon.{name}", SimpleNamespace(run=note, Parts=SimpleNamespace))
    return runs


RUN = TaskView(batch=18, index=0, count=47, state=State.PENDING, spec=SPEC, submitted_at=NOW)


def test_status_takes_the_ids_that_list_prints(noted: NotedCoordinator, capsys: Captured) -> None:
    # Given a list with a run of tasks
    noted.answers |= {"tasks": [RUN], "task": replace(RUN, index=46, count=1)}
    assert run(["list", "--quiet"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == "18.0-46"
    # Then its id is one, and its row has the id of all of it
    assert run(["status", printed]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("18.0-46  pending")
    wanted = Selection(ids=tuple((18, index) for index in range(47)), limit=0)
    assert noted.calls[-2:] == [("task", 18, 46), ("tasks", wanted)]
    assert run(["status", printed, "--json"]) == 0
    [task] = json.loads(capsys.readouterr().out)["tasks"]
    assert (task["id"], task["index"], task["count"]) == ("18.0-46", 0, 47)
    assert run(["status", printed, "-q"]) == 0
    assert capsys.readouterr().out == "18.0-46 pending\n"
    # And of a longer run it has the part that is named
    assert run(["status", "18.3-9", "-q"]) == 0
    assert capsys.readouterr().out == "18.3-9 pending\n"
    # And others take it, too
    noted.answers["cancel"] = CancelReport(cancelled=47, stopping=0, finished=0)
    assert run(["cancel", printed]) == 0
    assert noted.calls[-1] == ("cancel", wanted)


def test_a_run_of_tasks_is_bounded(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["cancel"] = None
    assert run(["cancel", "18.0-100000"]) == 2
    assert noted.calls == []
    assert "a run of tasks cannot be 100001: it has at most 100,000; name the batch." in capsys.readouterr().err


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
    Path("lib").mkdir()
    words = ["--connect", "a:1", "--connect", "b:2", "--slots", "3", "--queue", "x", "--queue", "y"]
    words += ["--import", "m", "--preload", "p"]
    words += ["--path", "lib", "--name", "left", "--max-tasks-per-slot", "9", "--max-memory-per-slot", "1GiB"]
    assert run(["worker", *words, "--grace", "30s"]) == 0
    [(settings,)] = runs
    assert settings == WorkerSettings(
        addresses=(("a", 1), ("b", 2)),
        slots=3,
        queues=("x", "y"),
        imports=("m",),
        preload=("p",),
        paths=(Path.cwd() / "lib", Path.cwd()),
        name="left",
        max_tasks_per_slot=9,
        max_memory_per_slot=2**30,
        max_waiting=24,
        grace_s=30.0,
    )


def test_up_takes_every_option_of_both_parts() -> None:
    # Given the options of all three, each as it is described
    described = [{tuple(p.opts): p.to_info_dict() for p in command.params} for command in (start, worker, up)]
    starting, working, both = described
    # Then `up` has those of the others in their words, but for the address: it is its own coordinator's
    connect = ("--connect",)
    assert {**starting, **{name: told for name, told in working.items() if name != connect}} == both


def test_up_passes_on_what_it_was_given(noted: NotedCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _note_runs(monkeypatch)
    monkeypatch.setenv("DTQ_TLS", "")
    starting = [
        "--port",
        "0",
        "--memory",
        "--tls",
        "certificates",
        "--max-message",
        "32MiB",
        "--lease",
        "2500ms",
        "--authkey-file",
        "key",
    ]
    working = ["--slots", "2", "--queue", "a", "--queue", "b", "--path", ".", "--grace", "0", "--keep-processes"]
    assert run(["up", *starting, *working]) == 0
    [(parts,)] = runs
    assert parts.host == "127.0.0.1"
    assert parts.environment["DTQ_TLS"] == str(Path.cwd() / "certificates")
    expected = ["--port=0", "--memory", "--lease=2.500000", f"--max-message={32 << 20}", "--authkey-file=key"]
    assert list(parts.coordinator) == ["coordinator", "start", *expected]
    assert list(parts.worker) == [
        "worker",
        "--slots=2",
        "--queue=a",
        "--queue=b",
        "--path=.",
        "--keep-processes",
        "--grace=0.000000",
        "--authkey-file=key",
    ]


def test_up_reads_a_key_from_standard_input_for_both(noted: NotedCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _note_runs(monkeypatch)
    monkeypatch.setattr("dtq.config.authkey._taken", {})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a key that came by a pipe\n")))
    assert run(["up", "--memory", "--authkey-file", "-"]) == 0
    [(parts,)] = runs
    assert parts.environment["DTQ_AUTHKEY"] == "a key that came by a pipe"
    assert "DTQ_AUTHKEY_FILE" not in parts.environment
    assert not [word for word in (*parts.coordinator, *parts.worker) if "authkey" in word]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--queue 'bad q'", "queue cannot be 'bad q': it has 1 to 64 letters, digits or _ . : / -."),
        ("--queue ''", "queue cannot be '': it has 1 to 64 letters, digits or _ . : / -."),
        ("--path /nonexistent", "path cannot be '/nonexistent': there is no such directory."),
    ],
)
@pytest.mark.parametrize("command", ["worker", "up"])
def test_what_a_worker_cannot_serve_is_refused(
    noted: NotedCoordinator, capsys: Captured, monkeypatch: pytest.MonkeyPatch, command: str, words: str, sentence: str
) -> None:
    _note_runs(monkeypatch)
    assert run([command, *shlex.split(words)]) == 2
    assert capsys.readouterr().err == f"dtq: {sentence}\n"


def test_a_queue_that_cannot_be_is_refused_in_variables_and_filters(
    noted: NotedCoordinator, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    _note_runs(monkeypatch)
    for words in (["list"], ["dlq", "list"], ["dlq", "retry", "--all"]):
        assert run([*words, "--queue", "bad q"]) == 2
        assert "queue cannot be 'bad q'" in capsys.readouterr().err
    monkeypatch.setenv("DTQ_QUEUES", "good, bad q")
    assert run(["worker"]) == 78
    assert "DTQ_QUEUES: queue cannot be 'bad q'" in capsys.readouterr().err


def test_a_configuration_mistake_is_a_line(noted: NotedCoordinator, capsys: Captured) -> None:
    Path("dtq.toml").write_text("[worker]\nslot = 3\n")
    assert run(["worker"]) == 78
    assert "unknown key 'slot' in [worker]; did you mean 'slots'?" in capsys.readouterr().err
