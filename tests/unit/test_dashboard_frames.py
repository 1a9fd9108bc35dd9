"""The dashboard's frames: exactly as large as the terminal, whatever is in them; what is missing is said."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from dtq.dashboard import charts, frames, wording
from dtq.dashboard.board import Board, Link, Opened, Order, Page
from dtq.dashboard.lines import Look, cells, foreign, plain
from dtq.dashboard.tables import shares
from dtq.model.dashboard import Attention, WorkerState
from dtq.model.explanations import Explanation, Remedy
from dtq.model.messages import Failure
from dtq.model.snapshots import Attempt, Counts
from dtq.model.states import Outcome, State
from tests.unit.dashboard_scene import EVIL, NOW, board, evil, failure, history, letter, queue, seen, task, worker

SIZES = [(80, 24), (200, 50), (60, 14), (20, 5)]


def text(of: Board, columns: int = 80, height: int = 24) -> str:
    return "\n".join(plain(line) for line in frames.frame(of, columns, height))


def looks(of: Board, wanted: str, columns: int = 120) -> set[Look]:
    """The looks of the pieces that are this text."""
    return {span.look for line in frames.frame(of, columns, 40) for span in line if span.text.strip() == wanted}


@pytest.mark.parametrize(("columns", "height"), SIZES)
@pytest.mark.parametrize("page", list(Page))
def test_frame_is_as_large_as_the_terminal_and_holds_no_foreign_control(columns: int, height: int, page: Page) -> None:
    # Given that all texts are a stranger's, and there are more of everything than any terminal has lines
    attempt = Attempt(
        number=1, outcome=Outcome.FAILED, started_at=NOW, ended_at=NOW, worker=EVIL,
        failure=Failure(exception=EVIL, message=EVIL, traceback=f"{EVIL}\n" * 50, output=EVIL * 9),
    )  # fmt: skip
    full = board(
        evil(),
        page=page,
        tasks=tuple(task(n, worker=EVIL, reason=EVIL) for n in range(1, 300)),
        letters=tuple(letter(n, exception=EVIL, message=EVIL) for n in range(1, 300)),
        said=EVIL,
    )
    told = Opened(
        task=task(1, history=(attempt,), reason=EVIL),
        explained=Explanation(
            task=task(1), reasons=(EVIL,) * 9, outlook=EVIL, remedies=(Remedy(command=EVIL, purpose=EVIL),)
        ),
        arguments=EVIL,
        printed=f"{EVIL}\n" * 50,
    )
    opened = replace(full, wanted=(1, 0), opened=told, scroll=3)
    asked = replace(full, asked=Order(verb="cancel", what=EVIL))
    typing = replace(full, typing=EVIL, said="")
    away = replace(full, link=Link(address=EVIL, lost_at=0.0, why=EVIL), seen=None)
    for state in (full, opened, asked, typing, away, replace(full, help=True)):
        # When it is drawn
        lines = frames.frame(state, columns, height)
        # Then it fits, and nothing in it but visible characters
        assert len(lines) == height
        for line in lines:
            whole = "".join(span.text for span in line)
            assert cells(whole) <= columns
            assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e]", whole)


@pytest.mark.parametrize("page", list(Page))
def test_terminal_without_unicode_gets_ascii_as_wide(page: Page) -> None:
    full = board(evil(), page=page, tasks=(task(1, worker="名前"),), letters=(letter(1, message="é"),))
    for state in (full, replace(full, help=True), replace(full, typing="x"), replace(full, marked=frozenset({"1.0"}))):
        for before, after in zip(
            frames.frame(state, 80, 24), frames.frame(replace(state, blocks=charts.ASCII), 80, 24), strict=True
        ):
            whole = "".join(span.text for span in after)
            assert whole.isascii()
            assert len(whole) == sum(cells(span.text) for span in before)


def test_markup_of_strangers_is_text() -> None:
    assert foreign("[bold]x[/]\x1b[31m") == "[bold]x[/]\\u001b[31m"
    assert "[bold red]evil" in text(board(seen(queues=(queue("[bold red]evil"),))))


def test_first_screen_has_the_numbers_that_the_coordinator_says() -> None:
    shown = text(board())
    assert "lab:3870  up 2m14s  dtq 0.1.0" in shown
    assert re.search(r"QUEUED +RUNNING +SCHEDULED +DONE 1h +FAILED 1h +DEAD +WORKERS +SLOTS", shown)
    assert re.search(r"\n3 +1 +0 +200 +34 +2 +1 +1/2\n", shown)
    assert re.search(r"\n1m01s old +1\.5/s +0\.2/s +50%\n", shown)
    assert re.search(r"default +3 +1 .* 1m01s +1 +P5 3", shown)
    assert re.search(
        r"DONE/MIN .*\ndefault .* 1m01s +240 +1", text(board(seen(queues=(queue(done_per_min=239.7),))), 120)
    )
    assert re.search(r"lab-1 +working +██·· 1/2 ", shown)
    assert re.search(r"slot 1 +97% +64M +12s 17\.1 mod:work", shown)
    assert re.search(r"1\.0s ago +1 +mod:work +1/4 +lab-1 +Broken: no", shown)


def test_failures_of_one_kind_share_a_line_with_their_number() -> None:
    assert "1,234 times Broken: no" in text(board(seen(failures=(failure(count=1_234),))), 120)


def test_zeros_are_dim_and_states_alone_have_colours() -> None:
    quiet = seen(counts=Counts(), hour_done=0, hour_failed=0, alive=0, slots=0, busy=0, failures=(), workers=())
    assert looks(board(quiet), "0") == {Look.DIM}
    assert Look.DEAD in looks(board(), "2")
    coloured = {span.look for line in frames.frame(board(), 120, 40) for span in line}
    assert coloured <= {
        *(Look.PLAIN, Look.DIM, Look.STRONG, Look.BAR),
        *(Look.PENDING, Look.RUNNING, Look.SCHEDULED, Look.BLOCKED, Look.SUCCEEDED, Look.CANCELLED, Look.DEAD),
    }


def test_empty_parts_say_why_they_are_empty() -> None:
    quiet = board(seen(queues=(), workers=(), failures=(), alive=0), tasks=(), letters=())
    assert "Queues  no task waits or runs: dtq submit" in text(quiet)
    assert "Workers  no worker is connected: dtq worker" in text(quiet)
    assert "Latest failures  no attempt has failed since the start" in text(quiet)
    assert "no worker is connected: dtq worker" in text(replace(quiet, page=Page.WORKERS))
    assert "no task is running" in text(replace(quiet, page=Page.TASKS))
    assert "no dead letters: nothing has used up its retries" in text(replace(quiet, page=Page.DEAD))
    assert "no queue matches the filter" in text(replace(quiet, page=Page.QUEUES, filters={Page.QUEUES: "x"}))


def test_what_needs_attention_stands_with_its_remedy_and_is_counted() -> None:
    said = tuple(Attention(kind="k", text=f"trouble {n} " + "x" * 99, remedy=f"dtq fix {n}") for n in range(9))
    shown = text(board(seen(attention=said)))
    assert "! trouble 0 xxx" in shown
    assert "→ dtq fix 0" in shown
    assert re.search(r"! \d more need attention", shown)
    assert text(board(seen(attention=()))).count("!") == 0


def test_lost_worker_is_red_and_a_lack_of_room_is_said() -> None:
    lost = worker("gone", busy=0, state=WorkerState.LOST)
    assert looks(board(seen(workers=(lost, worker()))), "lost") == {Look.DEAD}
    many = seen(workers=tuple(worker(f"w{n:03}") for n in range(100)), more_workers=50)
    shown = text(board(many))
    left = re.search(r"… (\d+) more", shown)
    assert left is not None
    assert int(left[1]) + len(re.findall(r"\nw\d\d\d", shown)) == 150


def test_header_says_whether_the_coordinator_answers() -> None:
    assert "● live" in text(board())
    silent = replace(board(), link=Link(address="lab:1", heard_at=10.0), monotonic=20.0)
    assert "● no answer for 10s" in text(silent)
    away = replace(board(), link=Link(address="lab:1", lost_at=10.0, why="refused"), monotonic=75.0)
    assert "● reconnecting, away for 1m05s" in text(away)
    assert "3 " in text(away)  # what was seen last stays
    never = Board(link=Link(address="lab:1", lost_at=0.0, why="no coordinator answers"))
    assert "no coordinator answers" in text(never)


def test_cursor_stays_in_sight_in_a_long_list() -> None:
    long = board(page=Page.DEAD, letters=tuple(letter(n) for n in range(1, 200)))
    for at in (0, 77, 198, 10_000):
        lines = frames.frame(replace(long, cursors={Page.DEAD: at}), 80, 24)
        marked = [plain(line) for line in lines if any(span.cursor for span in line)]
        assert len(marked) == 1
        assert f" {min(at, 198) + 1} " in marked[0]


def test_page_of_workers_shows_each_slot() -> None:
    shown = text(board(page=Page.WORKERS))
    assert re.search(r"slot 1 +97% +64M +12s 17\.1 mod:work", shown)
    assert re.search(r"slot 2 +idle", shown)


def test_page_of_a_task_shows_attempts_traceback_and_output() -> None:
    broken = Failure(exception="mod.Broken", message="no", traceback="Traceback:\n  line\tone\n", output="printed\n")
    attempt = Attempt(number=1, outcome=Outcome.FAILED, started_at=NOW - 2, ended_at=NOW, worker="w", failure=broken)
    why = Explanation(
        task=task(17), reasons=("it was given up",), remedies=(Remedy(command="dtq dlq retry 17", purpose="put back"),)
    )
    dead = task(17, state=State.DEAD, history=(attempt,), attempt=1)
    opened = board(
        wanted=(17, 0), opened=Opened(task=dead, explained=why, arguments="'a.jpg', size=64", printed="printed\n")
    )
    shown = text(opened, 100, 40)
    assert re.search(r"task +17\n state +dead", shown)
    assert re.search(r"1 +failed +2\.0s +w +mod.Broken: no", shown)
    assert "traceback of attempt 1\n  Traceback:\n    line    one" in shown
    assert "printed by the latest attempt\n  printed" in shown
    assert re.search(r"arguments +'a.jpg', size=64\n", shown)
    assert re.search(r"why +it was given up\n try +dtq dlq retry 17   put back", shown)


def test_text_of_a_frame_is_plain_and_as_long_as_needed() -> None:
    many = seen(failures=tuple(failure(n) for n in range(10)), workers=tuple(worker(f"w{n}") for n in range(60)))
    shown = frames.text(board(many), 100)
    assert "\x1b" not in shown
    assert "w59" in shown
    assert "more" not in shown
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize(("room", "wanted", "given"), [(10, [3, 3], [3, 3]), (9, [9, 1, 9], [4, 1, 4]), (0, [2], [0])])
def test_room_is_shared_out_and_none_is_wasted(room: int, wanted: list[int], given: list[int]) -> None:
    assert shares(room, wanted) == given


# -- chart --------------------------------------------------------------------------------------------------------


def series(name: str) -> charts.Series:
    return next(one for one in charts.SERIES if one.name == name)


def test_chart_shows_rates_where_they_were() -> None:
    # Given ten done in each of the last three seconds of a minute's plot with a column a second
    past = history(done=(10, 10, 10))
    assert charts.values(past, series("done/s"), NOW, 60, 60) == [0.0] * 57 + [10.0] * 3
    # Then a column of many seconds has their mean, one of a part of a second the rate of that second
    assert charts.values(past, series("done/s"), NOW, 60, 20)[-1] == 10.0
    assert charts.values(past, series("done/s"), NOW, 60, 120)[-7:] == [0.0] + [10.0] * 6
    # And of minutes, a second's part of them
    assert charts.values(history(60, done=(600,)), series("done/s"), NOW, 3_600, 60)[-1] == 10.0


def test_chart_of_a_queue_at_rest_has_its_backlog_and_no_rates() -> None:
    past = history(done=(4, 4), backlog=(9, 7))
    later = NOW + 30
    assert charts.values(past, series("backlog"), later, 60, 60)[-1] == 7.0
    assert charts.values(past, series("done/s"), later, 60, 60)[-1] == 0.0
    assert max(charts.values(past, series("done/s"), later, 60, 60)) == 4.0


def test_chart_marks_where_workers_were_lost() -> None:
    assert charts.marks(history(lost=(0, 1, 0, 2)), NOW, 60, 60) == " " * 57 + "▲ ▲"
    assert charts.marks(history(lost=(0, 0)), NOW, 60, 60) == ""
    assert "▲" in text(board(seen(history=(history(lost=(1, 0, 0)), history(60)))))
    assert "lost" not in text(board())


def test_bars_are_as_high_as_their_values() -> None:
    assert charts.bars([0, 1, 4, 8], 8, 1) == [" ▁▄█"]
    assert charts.bars([0, 1, 4, 8], 8, 2) == ["   █", " ▂██"]
    assert charts.bars([0.0, 0.001, 1.0], 1.0, 1, charts.ASCII) == [" .#"]
    assert charts.bars([0, 0], 0, 1) == ["  "]


def test_history_is_merged_without_gaps_or_repeats() -> None:
    first = history(done=(1, 2, 3))
    news = replace(history(done=(3, 4, 5)), end=NOW + 2)
    (merged,) = charts.merged((first,), (news,))
    assert (merged.done, merged.end) == ((1, 2, 3, 4, 5), NOW + 2)
    (same,) = charts.merged((first,), (replace(history(), end=NOW),))
    assert same.done == (1, 2, 3)
    long = replace(history(done=tuple(range(900))), end=NOW + 900)
    (bounded,) = charts.merged((first,), (long,))
    assert len(bounded.done) == 900


# -- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0s"), (9.96, "10.0s"), (59.9, "59s"), (61, "1m01s"), (3_660, "1h01m"), (90_000, "1d01h")],
)
def test_ages_do_not_jump(seconds: float, shown: str) -> None:
    assert wording.age(seconds) == shown


@pytest.mark.parametrize(("count", "shown"), [(0, "0B"), (2_048, "2.0K"), (64 << 20, "64M"), (3 << 40, "3.0T")])
def test_sizes_are_short(count: int, shown: str) -> None:
    assert wording.size(count) == shown
