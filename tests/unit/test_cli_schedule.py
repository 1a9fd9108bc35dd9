"""What the commands for schedules ask of the coordinator, and what they print."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dtq.cli.app import run
from dtq.client.payloads import call_decoder
from dtq.errors import ScheduleExists
from dtq.model.options import Function, Options, Spec
from dtq.model.schedules import CatchUp, Overlap, Rule, Schedule, ScheduleView
from dtq.model.snapshots import BatchView, Counts
from tests.unit.cli_scene import NOW, Captured, NotedCoordinator, noted

__all__ = ["noted"]  # a fixture

GIVEN = Schedule(
    name="nightly",
    rule=Rule(cron="0 3 * * *", tz="Europe/Prague"),
    spec=Spec(function=Function(name="mod:work"), options=Options()),
    arguments=b"call",
)
VIEW = ScheduleView(
    schedule=GIVEN,
    added_at=NOW - 9000,
    paused=False,
    upcoming=(1_900_000_000.0, 1_900_000_060.0, 1_900_086_400.0),
    last_due=NOW - 60,
    last_batch=17,
    last=BatchView(
        batch=17, size=1, complete=True, spec=GIVEN.spec, counts=Counts(dead=1), submitted_at=NOW - 60, finished_at=NOW
    ),
    made=5,
    skipped=2,
    trouble="",
)


def decoded(schedule: Schedule) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a schedule's call."""
    return call_decoder(schedule.spec.function.kind)(schedule.arguments, None)


def asked(noted: NotedCoordinator) -> Schedule:
    """The schedule that was defined."""
    (defined,) = [call for call in noted.calls if call[0] == "set_schedule"]
    assert isinstance(defined[1], Schedule)
    return defined[1]


def test_add_takes_a_rule_a_call_and_terms(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers |= {"set_schedule": "added", "schedule": VIEW}
    words = ["nightly", "0 3 * * *", "mod:work", "1", "deep=true", "--tz", "Europe/Prague", "--overlap", "skip"]
    words += ["--catch-up", "all", "--jitter", "30s", "--until", "2030-01-01T00:00", "-p", "2", "--queue", "q"]
    assert run(["schedule", "add", *words, "--timeout", "5m"]) == 0
    until = datetime(2030, 1, 1, tzinfo=ZoneInfo("Europe/Prague")).timestamp()
    found = asked(noted)
    assert found.rule == Rule(cron="0 3 * * *", tz="Europe/Prague", jitter_s=30.0, until=until)
    assert (found.overlap, found.catch_up) == (Overlap.SKIP, CatchUp.ALL)
    assert found.spec.options == Options(priority=2, queue="q", timeout_s=300.0)
    assert decoded(found) == ((1,), {"deep": True})
    assert noted.calls[0][2:] == (False, False)
    assert capsys.readouterr().out.startswith("nightly added; due 2030-03-17 ")


def test_add_takes_a_period_or_a_moment_instead_of_a_rule(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers |= {"set_schedule": "changed", "schedule": VIEW}
    assert run(["schedule", "add", "x", "--every", "90s", "mod:work", "--replace", "--json"]) == 0
    assert asked(noted).rule == Rule(every_s=90.0)
    assert noted.calls[0][2:] == (True, False)
    said = json.loads(capsys.readouterr().out)
    assert (said["outcome"], said["schedule"]["name"]) == ("changed", "nightly")
    noted.calls.clear()
    assert run(["schedule", "add", "x", "--at", "2030-01-01T08:00", "mod:work", "--json"]) == 0
    assert asked(noted).rule == Rule(at=datetime(2030, 1, 1, 8).timestamp())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x", "mod:work"], "give a RULE (or --every or --at) and MODULE:FUNCTION."),
        (["x", "--every", "5s"], "give MODULE:FUNCTION."),
        (["x", "* * * * *", "work"], "a function cannot be 'work': write module:function"),
        (["x", "--every", "5s", "--at", "2030-01-01", "m:f"], "give one of a cron expression, a period and a moment"),
        (["a b", "--every", "5s", "m:f"], "a schedule's name cannot be 'a b'"),
        (["x", "--at", "tomorrow", "m:f"], "a moment cannot be 'tomorrow': write 2026-12-01T08:00"),
    ],
)
def test_add_says_what_is_wrong(noted: NotedCoordinator, capsys: Captured, words: list[str], sentence: str) -> None:
    assert run(["schedule", "add", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert noted.calls == []


def test_add_of_a_name_that_is_taken_says_how_to_change_it(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["set_schedule"] = ScheduleExists("x")
    assert run(["schedule", "add", "x", "--every", "5s", "m:f"]) == 65
    assert "Add --replace" in capsys.readouterr().err


def test_add_of_what_is_never_due_says_so(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers |= {"set_schedule": "added", "schedule": replace(VIEW, upcoming=())}
    assert run(["schedule", "add", "x", "--at", "2020-01-01", "m:f"]) == 0
    assert capsys.readouterr().err == "dtq: it has no due time to come.\n"


def test_list_shows_the_next_times_and_how_the_last_run_ended(noted: NotedCoordinator, capsys: Captured) -> None:
    paused = replace(
        VIEW,
        schedule=replace(GIVEN, name="often", rule=Rule(every_s=5400.0)),
        paused=True,
        last=None,
        trouble="no room",
    )
    noted.answers["schedules"] = []
    assert run(["schedule", "list"]) == 0
    assert capsys.readouterr().err == "no schedules.\n"
    pages = [[VIEW, paused], []]
    noted.answers["schedules"] = pages
    monkeyed = iter(pages)
    noted.__dict__["schedules"] = lambda after: next(monkeyed)
    assert run(["schedule", "list"]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["SCHEDULE", "WHEN", "FUNCTION", "NEXT", "LAST"]
    assert "0 3 * * * (Europe/Prague)" in first
    assert first.endswith(": dead (17)")
    one, other, third = first.split("  ")[-2].split(", ")
    assert (len(one), len(other), len(third)) == (19, 8, 19)
    assert "every 1h 30m" in second
    assert "paused; no room" in second
    assert second.endswith(": no longer kept (17)")


def test_show_tells_all_of_a_schedule(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["schedule"] = VIEW
    assert run(["schedule", "show", "nightly"]) == 0
    shown = capsys.readouterr().out
    for part in ("when       0 3 * * * (Europe/Prague)", "last run   17, dead", "runs       5, 2 skipped", "mod:work"):
        assert part in shown
    assert run(["schedule", "show", "nightly", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["schedule"]
    assert said["next"][0] == "2030-03-17T17:46:40.000Z"
    assert (said["cron"], said["every"], said["last_id"], said["last"]["dead"]) == ("0 3 * * *", None, "17", 1)


def test_verbs_ask_for_what_they_say(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers |= {"pause_schedule": None, "remove_schedule": None, "run_schedule": 18, "schedule": VIEW}
    for verb in (["pause", "a"], ["resume", "a"], ["remove", "a", "b"], ["run", "a"]):
        assert run(["schedule", *verb]) == 0
    calls = [call for call in noted.calls if call[0] != "schedule"]
    assert calls == [
        ("pause_schedule", "a", True),
        ("pause_schedule", "a", False),
        ("remove_schedule", "a"),
        ("remove_schedule", "b"),
        ("run_schedule", "a"),
    ]
    assert capsys.readouterr().out.splitlines()[2:] == ["2 schedules removed", "18"]


# -- sync ---------------------------------------------------------------------------------------------------------

FILE = """
[schedules.nightly]
cron = "0 3 * * *"
tz = "Europe/Prague"
call = "mod:work"
args = [1, "a"]
kwargs = { deep = true }
overlap = "replace"
options = { queue = "q", timeout = "5m", retry_delay = 3, jitter = true }

[schedules.once]
at = 2030-01-01T08:00:00
tz = "Europe/Prague"
until = 2030-02-01
call = "mod:work"

[schedules.often]
every = "90s"
jitter = 2.5
catch_up = "none"
call = "mod:work"
"""


@pytest.mark.parametrize("dry_run", [False, True])
def test_sync_adds_changes_and_removes(
    noted: NotedCoordinator, capsys: Captured, tmp_path: Path, dry_run: bool
) -> None:
    (tmp_path / "s.toml").write_text(FILE)
    outcomes = {"nightly": "added", "once": "changed", "often": "unchanged"}
    done: list[tuple[str, bool]] = []

    def set_schedule(schedule: Schedule, replace: bool, dry: bool) -> str:
        assert replace
        noted.calls.append(("set_schedule", schedule))
        done.append((schedule.name, dry))
        return outcomes[schedule.name]

    pages = iter([[replace(VIEW, schedule=replace(GIVEN, name=name)) for name in ("often", "other")], []])
    noted.__dict__ |= {"set_schedule": set_schedule, "schedules": lambda after: next(pages)}
    noted.answers["remove_schedule"] = None
    assert run(["schedule", "sync", "s.toml", *(["--dry-run"] if dry_run else [])]) == 0
    # What is done is what is asked for first without doing it
    assert done[:3] == [("nightly", True), ("once", True), ("often", True)]
    assert done[3:] == ([] if dry_run else [("nightly", False), ("once", False)])
    assert (("remove_schedule", "other") in noted.calls) is not dry_run
    lines = ["added: nightly", "changed: once", "removed: other"]
    assert capsys.readouterr().out.splitlines() == [f"would be {line}" if dry_run else line for line in lines]
    # And each is what the file says
    nightly, once, often = [call[1] for call in noted.calls if call[0] == "set_schedule"][:3]
    assert decoded(nightly) == ((1, "a"), {"deep": True})
    assert nightly.spec.options == Options(queue="q", timeout_s=300.0, retry_delay_s=3.0, jitter=True)
    assert nightly.overlap is Overlap.REPLACE
    prague = ZoneInfo("Europe/Prague")
    assert once.rule.at == datetime(2030, 1, 1, 8, tzinfo=prague).timestamp()
    assert once.rule.until == datetime(2030, 2, 1, tzinfo=prague).timestamp()
    assert (often.rule, often.catch_up) == (Rule(every_s=90.0, jitter_s=2.5), CatchUp.NONE)


def test_sync_leaves_others_alone_where_it_is_told_to(
    noted: NotedCoordinator, capsys: Captured, tmp_path: Path
) -> None:
    (tmp_path / "s.toml").write_text("")
    assert run(["schedule", "sync", "s.toml", "--keep"]) == 0
    assert noted.calls == []
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = ", "s.toml: it is no TOML"),
        ("[nightly]", "it has 'nightly'; schedules are tables like [schedules.NAME]"),
        ("[schedules]\nx = 5", "schedule 'x' is no table"),
        ("[schedules.x]\nevery = 5", "schedule 'x' has no call"),
        ("[schedules.x]\nevry = 5\ncall = 'm:f'", "schedule 'x' has 'evry'"),
        ("[schedules.x]\ncall = 'm:f'", "schedule 'x': a schedule's rule cannot be"),
        ("[schedules.x]\nevery = 'often'\ncall = 'm:f'", "schedule 'x': a duration cannot be 'often'"),
        (
            "[schedules.x]\nevery = 5\ncall = 'm:f'\noptions = { delay = 3 }",
            "'delay' is no option of a schedule's calls; its rule says when it is due",
        ),
        ("[schedules.x]\nevery = 5\ncall = 'm:f'\noverlap = 'no'", "overlap cannot be"),
        ("[schedules.x]\nevery = 5\ncall = 'm:f'\nargs = 3", "args is an array"),
    ],
)
def test_file_that_is_none_is_refused_before_anything_is_done(
    noted: NotedCoordinator, capsys: Captured, tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "s.toml").write_text(text)
    assert run(["schedule", "sync", "s.toml"]) == 65
    assert sentence in capsys.readouterr().err
    assert noted.calls == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["* * * * *", "--every", "5s", "m:f"], "dtq: give a RULE, --every or --at, only one of them."),
        (["@daily", "--at", "2030-01-01", "m:f"], "dtq: give a RULE, --every or --at, only one of them."),
        (["m:f", "5"], "dtq: RULE comes before MODULE:FUNCTION."),
        (["m:f"], "dtq: give a RULE (or --every or --at) and MODULE:FUNCTION."),
    ],
)
def test_rule_that_is_missing_or_one_too_many_is_told(capsys: Captured, words: list[str], sentence: str) -> None:
    assert run(["schedule", "add", "nightly", *words]) == 2
    assert capsys.readouterr().err.startswith(sentence)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--after", "dtq: no such option '--after': its call waits for no other task: let the function submit tasks"),
        ("--key", "dtq: no such option '--key': each due time has a key of its own"),
        ("--delay", "dtq: no such option '--delay': its rule says when it is due."),
        ("--evry", "dtq: no such option '--evry'. Did you mean '--every'"),
    ],
)
def test_option_of_submissions_that_no_schedule_has_is_answered_by_what_it_has(
    capsys: Captured, option: str, sentence: str
) -> None:
    assert run(["schedule", "add", "nightly", "--every", "5s", "m:f", option, "1"]) == 2
    assert capsys.readouterr().err.startswith(sentence)


def test_file_that_is_not_there_is_said_to_be(noted: NotedCoordinator, capsys: Captured) -> None:
    assert run(["schedule", "sync", "nowhere.toml"]) == 65
    assert "nowhere.toml: No such file or directory." in capsys.readouterr().err
