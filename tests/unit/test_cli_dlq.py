"""What the commands for dead letters ask of the coordinator, and whom they ask before."""

from __future__ import annotations

import io
import json

import pytest

from dtq.cli.app import run
from dtq.model.snapshots import DeadGroup, DeadSummary, GroupBy, Selection, TaskView
from dtq.model.states import Outcome, State
from tests.unit.cli_scene import BATCH, LETTER, NOW, SPEC, TASK, Captured, NotedCoordinator, noted

__all__ = ["noted"]  # a fixture


def test_dlq_list_passes_filters(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["dead_letters"] = [LETTER]
    filters = ["--function", "m:*", "--exception", "*Error", "--queue", "q", "--older-than", "1h"]
    assert run(["dlq", "list", *filters, "--limit", "5"]) == 0
    asked = Selection(function="m:*", exception="*Error", queue="q", older_than_s=3600.0, limit=6)
    assert noted.calls == [("dead_letters", asked)]
    assert (
        capsys.readouterr().out.splitlines()[1].startswith("17.3  mod:work  '17.3.jpg', size=64  default         2  ")
    )
    assert run(["dlq", "list", "--json"]) == 0
    letters = json.loads(capsys.readouterr().out)["dead_letters"]
    assert [(letter["id"], letter["outcome"], letter["died_at"]) for letter in letters] == [
        ("17.3", "crashed", "2023-11-14T22:13:22.000Z")
    ]
    assert run(["dlq", "list", "-q"]) == 0
    assert capsys.readouterr().out == "17.3\n"


def test_dlq_show_has_the_tracebacks_and_the_last_lines_of_output(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["task"] = TASK
    assert run(["dlq", "show", "17.3"]) == 0
    shown = capsys.readouterr().out
    assert "Attempt 1:\nTraceback:\n  boom\n" in shown
    assert "Attempt 2 printed at last:\nreading\nall of it\n" in shown


def test_dlq_show_of_what_is_no_dead_letter_says_what_it_is(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["task"] = TaskView(batch=17, index=3, state=State.RUNNING, spec=SPEC, submitted_at=NOW)
    assert run(["dlq", "show", "17.3"]) == 65
    assert capsys.readouterr().err == "dtq: task 17.3 is running, not a dead letter. `dtq status` shows any task.\n"
    noted.answers["batch"] = BATCH
    assert run(["dlq", "show", "17"]) == 2
    assert "17 names 1,000 tasks; name one of them, as in 17.0." in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["retry", "purge"])
def test_dlq_verbs_say_exactly_what_they_are_for(verb: str, noted: NotedCoordinator, capsys: Captured) -> None:
    for words, sentence in [
        ([], "name ids, or use filters, or --all."),
        (["17", "--all"], "name ids, or use filters, not both."),
        (["17", "--function", "m:*"], "name ids, or use filters, not both."),
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


def test_dlq_list_by_exception_counts(noted: NotedCoordinator, capsys: Captured) -> None:
    group = DeadGroup(
        name="OSError", count=1_200, newest_at=NOW - 9, batch=17, index=3, single=False, message="no\nroute"
    )
    other = DeadGroup(name="ValueError", count=1, newest_at=NOW - 99, batch=18, index=0, single=True, message="")
    noted.answers["dead_summary"] = DeadSummary(groups=(other, group))
    assert run(["dlq", "list", "--by", "exception", "--outcome", "timed-out", "--label", "x"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["COUNT", "EXCEPTION", "NEWEST", "EXAMPLE", "MESSAGE"]
    shown = rows[1].split()
    assert (shown[:2], shown[-4:]) == (["1,200", "OSError"], ["ago", "17.3", "no", "route"])
    asked = Selection(outcome=Outcome.TIMED_OUT, label="x", limit=0)
    assert noted.calls == [("dead_summary", asked, GroupBy.EXCEPTION)]
    assert run(["dlq", "list", "--by", "exception", "--limit", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["groups"][0]["exception"], shown["groups"][0]["count"], shown["more"]) == ("OSError", 1_200, True)
