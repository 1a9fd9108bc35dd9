"""``dtq top`` without a terminal, and ``dtq stats --watch``."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from dtq.cli import watching
from dtq.cli.app import run
from dtq.errors import Unreachable
from tests.unit.cli_scene import STATS, Captured, NotedCoordinator, noted
from tests.unit.dashboard_scene import EVIL, evil, seen

__all__ = ["noted"]  # a fixture


def test_one_frame_is_plain_text_as_wide_as_it_is_told(
    noted: NotedCoordinator, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted.answers["dashboard"] = seen()
    for columns, width in (("80", 80), ("160", 160), ("", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        assert run(["top", "--once"]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(" dtq 127.0.0.1:3870  up 2m14s")
        assert max(map(len, shown.splitlines())) in range(width - 8, width + 1)
        assert "\x1b" not in shown
    # and so is a frame where no terminal is
    assert run(["top"]) == 0
    assert "QUEUED" in capsys.readouterr().out


def test_hostile_names_are_escaped_in_a_frame(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["dashboard"] = evil()
    assert run(["top", "--once"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\u001b[2J" in shown


def test_snapshot_is_json_with_moments_and_ids(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers["dashboard"] = evil()
    assert run(["top", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    told = document["dashboard"]
    assert (document["schema"], told["now"], told["counts"]["pending"]) == (1, "2023-11-14T22:13:20.000Z", 3)
    assert told["failures"][1]["id"] == "1"
    assert told["failures"][1]["at"] == "2023-11-14T22:13:19.000Z"
    assert told["queues"][0]["name"] == EVIL
    assert told["workers"][0]["state"] == "in-trouble"
    assert told["workers"][0]["slots"][0]["id"] == "1.1"
    assert told["history"][0]["done"] == [1, 2, 3]


def test_missing_textual_is_said_with_what_works_without(
    noted: NotedCoordinator, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtq.cli.top.find_spec", lambda name: None)
    monkeypatch.setattr("dtq.cli.top._is_terminal", lambda: True)
    assert run(["top"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'dtq[top]'" in said
    assert "--once" in said
    assert noted.calls == []
    assert run(["top", "--once", "--json"]) == 2


def test_stats_are_shown_again_and_again_until_the_user_ends_it(
    noted: NotedCoordinator, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", pause)
    noted.answers["stats"] = lambda: STATS
    assert run(["stats", "--watch", "--every", "5s"]) == 0
    assert capsys.readouterr().out.count("dead letters  1") == 3
    assert pauses == [5.0, 5.0, 5.0]
    pauses.clear()
    assert run(["stats", "--watch", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["stats"]["dead_letters"] for line in lines] == [1, 1, 1]


def test_stats_that_are_watched_outlive_the_coordinator(
    noted: NotedCoordinator, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a terminal
    monkeypatch.setattr(watching.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    answers: list[object] = [STATS, Unreachable("lab:1", "gone"), STATS]

    def answer() -> object:
        if not answers:
            raise KeyboardInterrupt
        found = answers.pop(0)
        if isinstance(found, Unreachable):
            raise found
        return found

    told: Callable[[], object] = answer
    noted.answers["stats"] = told
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: None)
    assert run(["stats", "--watch"]) == 0
    shown = capsys.readouterr().out
    assert "no coordinator answers at lab:1 (gone)" in shown
    assert "Trying again." in shown
    assert shown.count("dead letters") >= 3
    # But if it never answered, that is the end
    answers += [Unreachable("lab:1", "gone")]
    assert run(["stats", "--watch"]) == 69
