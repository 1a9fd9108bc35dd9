"""How lists and single tasks look: what they ran with, how long, where; on narrow and on wide terminals."""

from __future__ import annotations

import io
import json
import sys

import pytest

from dtq.cli.app import run
from dtq.model.snapshots import TaskView
from dtq.model.states import State
from dtq.records import replace
from tests.unit.cli_scene import LETTER, NOW, SPEC, TASK, Captured, NotedCoordinator, noted

__all__ = ["noted"]  # a fixture

RUN = TaskView(
    batch=17,
    index=0,
    count=50,
    state=State.SUCCEEDED,
    spec=SPEC,
    attempt=1,
    submitted_at=NOW - 60,
    started_at=NOW - 31,
    ended_at=NOW - 30,
    worker="lab-1",
    run_s=0.000_02,
    about=True,
    peak_memory=31 << 20,
)
HELD = TaskView(batch=18, index=4, state=State.PENDING, spec=SPEC, submitted_at=NOW - 9, worker="lab-2", held=True)
DIED = replace(LETTER, started_at=LETTER.died_at - 90, run_s=90.0, worker="lab-1", peak_memory=3 << 29)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, *words: str) -> list[str]:
    """The lines that a command prints on a terminal of this width."""
    screen = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", screen)
        assert run(list(words)) == 0
    return screen.getvalue().splitlines()


def headings(lines: list[str]) -> str:
    return " ".join(lines[0].split())


def test_list_fits_a_narrow_terminal_and_fills_a_wide_one(
    noted: NotedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted.answers["tasks"] = [HELD, RUN, TASK]

    narrow = on_terminal(monkeypatch, 80, "list")
    wide = on_terminal(monkeypatch, 160, "list")

    assert headings(narrow) == "ID STATE FUNCTION ARGUMENTS SINCE RUN TIME WHERE"
    assert headings(wide) == "ID STATE FUNCTION ARGUMENTS QUEUE PRIORITY ATTEMPT SINCE RUN TIME MEMORY WHERE"
    assert max(map(len, narrow)) <= 80
    assert max(map(len, wide)) <= 160
    assert "'17.0.jpg', size=64 …" in wide[2]
    assert "about 20 us" in wide[2]
    assert "31 MiB" in wide[2]
    assert wide[1].endswith("held by lab-2")
    for line, state in zip(narrow[1:], ("pending", "succeeded", "dead"), strict=True):
        assert line.split()[1] == state


def test_dead_letters_fit_a_narrow_terminal_and_fill_a_wide_one(
    noted: NotedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted.answers["dead_letters"] = [DIED]

    narrow = on_terminal(monkeypatch, 80, "dlq", "list")
    wide = on_terminal(monkeypatch, 160, "dlq", "list")

    assert headings(narrow) == "ID FUNCTION ARGUMENTS DIED RUN TIME WHY"
    assert headings(wide) == "ID FUNCTION ARGUMENTS QUEUE ATTEMPTS DIED RUN TIME MEMORY WORKER WHY"
    assert max(map(len, (*narrow, *wide))) <= 160
    assert max(map(len, narrow)) <= 80
    assert "1m 30s" in narrow[1]
    assert wide[1].split()[-4:] == ["1.5", "GiB", "lab-1", "crashed"]


@pytest.mark.parametrize("words", [["status", "17.0"], ["list"], ["dlq", "list"]], ids=" ".join)
def test_arguments_can_be_left_out(noted: NotedCoordinator, capsys: Captured, words: list[str]) -> None:
    noted.answers |= {"task": RUN, "tasks": [RUN], "dead_letters": [DIED]}
    assert run(words) == 0
    assert "size=64" in capsys.readouterr().out

    noted.no_arguments = True
    assert run([*words, "--no-arguments"]) == 0
    assert "ARGUMENTS" not in capsys.readouterr().out.upper()
    assert run([*words, "--no-arguments", "--json"]) == 0
    assert '"arguments": null, "arguments_shortened": false' in capsys.readouterr().out


def test_status_of_tasks_that_were_reported_together_says_that_it_tells_the_mean(
    noted: NotedCoordinator, capsys: Captured
) -> None:
    noted.answers["task"] = replace(RUN, count=1)
    assert run(["status", "17.0"]) == 0
    said = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    said = {name: value.strip() for name, value in said.items()}
    assert said["arguments"] == "'17.0.jpg', size=64"
    assert said["run time"] == "about 20 us, the mean of tasks that were reported together"
    assert said["memory"] == "31 MiB, the peak of its process until then"
    assert said["started"].startswith("about 20")
    assert said["worker"] == "lab-1"


def test_json_has_more_of_long_arguments(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers |= {"task": TASK, "tasks": [TASK]}
    for words, shown in ((["status", "17.3"], 20_000), (["dlq", "show", "17.3"], 20_000), (["list"], 400)):
        noted.size = 20_000
        assert run([*words, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        task = document.get("task") or document["tasks"][0]
        assert len(task["arguments"]) == pytest.approx(shown, abs=100)
        assert task["arguments_shortened"] is (shown == 400)


def test_json_has_what_a_task_was_and_did(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers |= {"tasks": [RUN, HELD], "dead_letters": [DIED]}
    assert run(["list", "--json"]) == 0
    done, held = json.loads(capsys.readouterr().out)["tasks"]
    assert (done["arguments"], done["arguments_shortened"]) == ("'17.0.jpg', size=64", False)
    assert (done["run_time"], done["run_time_is_mean"], done["peak_memory"]) == (0.000_02, True, 31 << 20)
    assert (done["worker"], done["held"]) == ("lab-1", False)
    assert (held["state"], held["held"], held["worker"], held["run_time"]) == ("pending", True, "lab-2", None)

    assert run(["dlq", "list", "--json"]) == 0
    (died,) = json.loads(capsys.readouterr().out)["dead_letters"]
    assert (died["run_time"], died["peak_memory"], died["worker"]) == (90.0, 3 << 29, "lab-1")
    assert died["started_at"] < died["died_at"]
    assert died["arguments"] == "'17.3.jpg', size=64"
