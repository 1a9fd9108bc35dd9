"""What ``dtq limit``, ``dtq queue``, ``dtq workers``, ``dtq reprioritize`` and filters ask of the coordinator."""

from __future__ import annotations

import json

import pytest

from dtq.cli.app import run
from dtq.model.limits import Limit, LimitView
from dtq.model.messages import WorkerOrder
from dtq.model.queues import Steering, SteeringChange
from dtq.model.snapshots import (
    CancelReport,
    OrderedWorker,
    QueueView,
    Rerun,
    RerunReport,
    ResourceView,
    Selection,
)
from dtq.model.states import State
from dtq.records import replace
from tests.unit.cli_scene import STATS, TASK, Captured, NotedCoordinator, noted
from tests.unit.test_cli_dlq import Terminal

__all__ = ["noted"]  # a fixture


def test_limit_set_says_what_was_given(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["set_limit"] = None
    assert run(["limit", "set", "api", "--concurrency", "10", "--rate", "100/m", "--burst", "5"]) == 0
    assert noted.calls == [("set_limit", Limit(name="api", concurrency=10, starts=100, per_s=60.0, burst=5))]
    assert capsys.readouterr().out == "api: set\n"
    assert run(["limit", "set", "api"]) == 2
    assert "it has a concurrency, a rate, or both" in capsys.readouterr().err


@pytest.mark.parametrize(("rate", "burst"), [("100/m", 1), ("20/s", 1), ("50/s", 3), ("1000/s", 50)])
def test_fast_rates_have_a_burst_that_makes_up_for_what_comes_late(
    noted: NotedCoordinator, rate: str, burst: int
) -> None:
    noted.answers["set_limit"] = None
    assert run(["limit", "set", "api", "--rate", rate]) == 0
    assert noted.calls[0][1].burst == burst


def test_limit_list_shows_use_and_what_waits(noted: NotedCoordinator, capsys: Captured) -> None:
    one = LimitView(limit=Limit(name="api", concurrency=10), names=1, running=7, waiting=0)
    many = Limit(name="tenant-*", starts=10, per_s=90.0, burst=3)
    noted.answers["limits"] = lambda after: [] if after else [one, LimitView(limit=many, names=3, running=1, waiting=5)]
    assert run(["limit", "list"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["LIMIT", "CONCURRENCY", "RATE", "NAMES", "RUNNING", "WAITING", "NEXT"],
        ["api", "10", "7", "0"],
        ["tenant-*", "10/90s,", "burst", "3", "3", "1", "5"],
    ]
    assert run(["limit", "list", "--json"]) == 0
    limits = json.loads(capsys.readouterr().out)["limits"]
    assert [(each["name"], each["concurrency"], each["starts"], each["per"]) for each in limits] == [
        ("api", 10, None, None),
        ("tenant-*", None, 10, 90.0),
    ]


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["pause"], SteeringChange(paused=True)),
        (["resume"], SteeringChange(paused=False, draining=False)),
        (["drain"], SteeringChange(draining=True)),
    ],
)
def test_queue_verbs_say_one_thing(
    words: list[str], change: SteeringChange, noted: NotedCoordinator, capsys: Captured
) -> None:
    noted.answers["steer_queue"] = Steering()
    assert run(["queue", *words, "mail", "other", "-q"]) == 0
    assert noted.calls == [("steer_queue", "mail", change), ("steer_queue", "other", change)]
    assert capsys.readouterr().out == ""


def test_queue_purge_asks_before_it_cancels_what_waits(noted: NotedCoordinator, capsys: Captured) -> None:
    view = QueueView(name="mail", pending=3, scheduled=1, running=2, workers=1, paused=True, weight=2)
    noted.answers["queues"] = lambda after: [] if after else [view]
    noted.answers["cancel"] = CancelReport(cancelled=2, stopping=0, finished=0)
    assert run(["queue", "purge", "mail"]) == 2
    assert "this would cancel 4 tasks of mail; add --yes." in capsys.readouterr().err
    assert run(["queue", "purge", "mail", "--yes"]) == 0
    assert capsys.readouterr().out == "6 tasks cancelled\n"
    cancelled = [call[1] for call in noted.calls if call[0] == "cancel"]
    assert {selection.state for selection in cancelled} == {State.PENDING, State.SCHEDULED, State.BLOCKED}
    assert {selection.queue for selection in cancelled} == {"mail"}
    assert run(["queue", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["mail", "3", "1", "2", "1", "2", "paused"]


def test_reprioritize_takes_ids_as_list_prints_them_or_filters(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["reprioritize"] = 3
    assert run(["reprioritize", "17.3-5", "-p", "2"]) == 0
    assert noted.calls == [("reprioritize", Selection(ids=((17, 3), (17, 4), (17, 5)), limit=0), 2)]
    noted.calls.clear()
    filters = ["--label", "nightly", "--queue", "q", "--state", "pending", "--older-than", "1h", "--batch", "17"]
    assert run(["reprioritize", "--all", *filters, "-p", "2", "--json"]) == 0
    asked = Selection(ids=((17, -1),), state=State.PENDING, queue="q", label="nightly", older_than_s=3600.0, limit=0)
    assert noted.calls == [("reprioritize", asked, 2)]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["reprioritized"] == 3


@pytest.mark.parametrize("verb", [["cancel"], ["reprioritize", "-p", "1"], ["rerun"]])
def test_verbs_say_exactly_what_they_are_for(verb: list[str], noted: NotedCoordinator, capsys: Captured) -> None:
    for words, sentence in [
        ([], "name ids, or use filters, or --all."),
        (["17", "--all"], "name ids, or use filters, not both."),
        (["17", "--label", "x"], "name ids, or use filters, not both."),
    ]:
        assert run([*verb, *words]) == 2
        assert sentence in capsys.readouterr().err
    assert noted.calls == []


def test_workers_are_ordered_by_names_or_all(noted: NotedCoordinator, capsys: Captured) -> None:
    ends = OrderedWorker(name="lab\u202e1", session="s", order=WorkerOrder.DRAIN, busy=2)
    noted.answers["order_workers"] = [ends]
    assert run(["workers", "drain", "lab*", "x"]) == 0
    assert capsys.readouterr().out == "lab\\u202e1: takes no more tasks, and ends (2 tasks of it run)\n"
    assert run(["workers", "resume", "--all"]) == 0
    assert capsys.readouterr().out == "lab\\u202e1: is ending already, and cannot be called back\n"
    assert noted.calls == [
        ("order_workers", ["lab*", "x"], WorkerOrder.DRAIN),
        ("order_workers", [], WorkerOrder.WORK),
    ]
    for words, sentence in [([], "name workers, or use --all."), (["x", "--all"], "or use --all, not both.")]:
        assert run(["workers", "stop", *words]) == 2
        assert sentence in capsys.readouterr().err
    assert run(["workers", "stop", "x" * 300]) == 2
    assert len(noted.calls) == 2


def test_workers_list_shows_what_each_has_and_does(noted: NotedCoordinator, capsys: Captured) -> None:
    lab = STATS.workers[0]
    gpu = ResourceView(name="gpu", units=("0", "1"), amount=2, free_units=("1",), free=1)
    other = replace(lab, name="lib", order=WorkerOrder.WORK, trouble="no room", tags=("ssd",), resources=(gpu,))
    noted.answers["stats"] = replace(STATS, workers=(lab, other))
    assert run(["workers", "list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["WORKER", "HOST", "PID", "BUSY", "QUEUES", "OFFERS", "SINCE", "VERSION", "STATE"]
    assert rows[1].split() == ["lab-1", "lab", "7", "1/2", "all", "9", "s", "1", "draining"]
    assert "gpu=0,1 (1 free), ssd" in rows[2]
    assert rows[2].endswith("in-trouble: no room")
    assert run(["workers", "list", "--json"]) == 0
    assert [each["state"] for each in json.loads(capsys.readouterr().out)["workers"]] == ["draining", "in-trouble"]


@pytest.mark.parametrize(
    ("verb", "question", "call"),
    [
        (["cancel"], "Cancel 3 tasks?", "cancel"),
        (["reprioritize", "-p", "1"], "Give 3 tasks the priority 1?", "reprioritize"),
        (["rerun"], "Submit 1 task once more?", "rerun"),
    ],
)
def test_verbs_on_what_filters_match_ask_on_a_terminal_with_the_count(
    verb: list[str], question: str, call: str, noted: NotedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given three tasks that have not ended, and one that has
    noted.answers |= {
        "tasks": lambda selection: [] if selection.after else [replace(TASK, state=State.PENDING, count=3), TASK],
        "cancel": CancelReport(cancelled=3, stopping=0, finished=0),
        "reprioritize": 3,
        "rerun": RerunReport(tasks=1, batches=(Rerun(earlier=17, batch=18, tasks=1),)),
    }

    # When somebody says no, or yes, or need not be asked
    for answer, flags, asked, done in [
        ("n\n", ["--label", "x"], True, False),
        ("y\n", ["--label", "x"], True, True),
        ("", ["--all", "--yes"], False, True),
        ("", ["17"], False, True),
    ]:
        noted.calls.clear()
        errors = Terminal()
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        monkeypatch.setattr("sys.stderr", errors)
        assert run([*verb, *flags]) == 0
        assert (question in errors.getvalue()) is asked
        assert any(name == call for name, *_ in noted.calls) is done
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert run([*verb, "--all", "--no-input"]) == 2


def test_nothing_is_asked_about_nothing(noted: NotedCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    noted.answers |= {"tasks": [], "cancel": CancelReport(cancelled=0, stopping=0, finished=0)}
    errors = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(""))
    monkeypatch.setattr("sys.stderr", errors)
    assert run(["cancel", "--label", "x"]) == 0
    assert run(["cancel", "--label", "x", "--no-input"]) == 0
    assert errors.getvalue() == ""


def test_rerun_prints_the_new_ids(noted: NotedCoordinator, capsys: Captured) -> None:
    made = (Rerun(earlier=17, batch=20, tasks=2), Rerun(earlier=18, batch=21, tasks=1))
    noted.answers["rerun"] = RerunReport(tasks=3, batches=made)
    assert run(["rerun", "17.3-4", "18"]) == 0
    assert noted.calls == [("rerun", Selection(ids=((17, 3), (17, 4), (18, -1)), limit=0))]
    assert capsys.readouterr() == ("20\n21\n", "3 ended tasks submitted once more.\n")
    assert run(["rerun", "--state", "dead", "--exception", "OSError", "--json"]) == 0
    assert noted.calls[-1] == ("rerun", Selection(state=State.DEAD, exception="OSError", limit=0))
    assert json.loads(capsys.readouterr().out)["batches"][0] == {"earlier": 17, "batch": 20, "tasks": 2}
