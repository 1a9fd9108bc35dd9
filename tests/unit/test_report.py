"""The report: what is gathered, its measures, and a page on which no text of a task is anything but text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from dtq.cli.app import run
from dtq.model.dashboard import Dashboard, History, Rates
from dtq.model.messages import Failure
from dtq.model.options import Function
from dtq.model.snapshots import Attempt, Counts, DeadLetter, Selection, TaskView
from dtq.model.states import Outcome, State
from dtq.report.gathering import Facts, gather
from dtq.report.lanes import Bar, bars, lanes
from dtq.report.measures import Series, kinds, series, spread, thinned, times
from dtq.report.page import page
from tests.unit.cli_scene import LETTER, SPEC, STATS, Captured, NotedCoordinator, noted

__all__ = ["noted"]  # a fixture

NOW = 1_700_000_000.0
HOSTILE = "<script>alert('1')</script>\"&\u202e\x1b[2J</title></svg>"
HISTORY = History(
    step_s=1.0, end=NOW, submitted=(9,) * 900, done=(8,) * 890 + (0,) * 10, failed=(1,) * 900, backlog=(5,) * 900
)
MINUTES = replace(HISTORY, step_s=60.0, done=(480,) * 30, submitted=(540,) * 30, failed=(60,) * 30, backlog=(5,) * 30)
SEEN = Dashboard(
    now=NOW, epoch=1, started_at=NOW - 600, pid=1, version="1", python="3", store="s", hour_s=1.0, hour_done=1,
    hour_failed=1, counts=Counts(), rates=Rates(), history=(HISTORY, MINUTES),
)  # fmt: skip


def row(ended_s: float, run_s: float | None = 1.0, count: int = 1, function: str = "mod:work", **view: Any) -> TaskView:
    """Tasks that ended so many seconds before now, after so long a run each."""
    spec = replace(SPEC, function=Function(name=function))
    return TaskView(
        batch=1, index=0, count=count, state=State.SUCCEEDED, spec=spec, submitted_at=NOW - 100, ended_at=NOW - ended_s,
        run_s=run_s, **{"worker": "lab", "attempt": 1} | view,
    )  # fmt: skip


def facts(*rows: TaskView, letters: tuple[DeadLetter, ...] = (), **more: Any) -> Facts:
    whole: dict[str, Any] = {"attempts": (), "since": None, "cut": False, "seen": SEEN} | more
    return Facts(stats=STATS, succeeded=rows, letters=letters, **whole)


# -- measures ---------------------------------------------------------------------------------------------------------


def test_percentiles_count_each_value_as_often_as_it_is_there() -> None:
    of_it = spread([(3.0, 1), (1.0, 98), (2.0, 1), (9.0, 0)])
    assert of_it is not None
    assert (of_it.count, of_it.p50, of_it.p90, of_it.p99, of_it.most) == (100, 1.0, 1.0, 2.0, 3.0)
    assert of_it.mean == pytest.approx(1.03)
    assert spread([]) is None


def test_times_are_those_of_all_and_of_each_function() -> None:
    # Given a task, and a page of four short ones of another function
    found = times([row(10.0, 5.0), row(20.0, 0.5, count=4, function="mod:short"), row(1.0, None, function="mod:old")])
    assert [(one.function, one.runs and one.runs.count) for one in found] == [
        ("all functions", 5), ("mod:short", 4), ("mod:work", 1), ("mod:old", None)
    ]  # fmt: skip
    by_name = {one.function: one for one in found}
    # Then a wait ends with the start
    waits = by_name["mod:work"].waits
    assert waits is not None
    assert waits.most == pytest.approx(100 - 10 - 5)
    waits = by_name["mod:short"].waits
    assert waits is not None
    assert 100 - 20 - 2 <= waits.mean <= 100 - 20 - 0.5
    assert times([]) == []


def test_kinds_of_failures_are_the_most_frequent_first() -> None:
    letters = [replace(LETTER, exception="OSError", index=n, function=f"mod:{n % 2}") for n in range(3)]
    found = kinds([replace(LETTER, exception="", outcome=Outcome.TIMED_OUT), *letters])
    assert [(kind.name, kind.count, kind.functions) for kind in found] == [
        ("OSError", 3, ("mod:0", "mod:1")), ("timed out", 1, ("mod:work",))
    ]  # fmt: skip
    assert found[0].example.index == 0


def test_throughput_is_by_the_second_while_that_is_known() -> None:
    found = series(facts())
    assert found is not None
    assert found.end == pytest.approx(NOW)
    assert 600 <= found.end - found.begin < 610
    assert found.done[0] == pytest.approx(8.0)
    assert found.done[-1] == 0.0
    assert len(found.done) <= 180
    # and by the minute beyond, or a part of it
    long_ago = replace(SEEN, started_at=NOW - 7_200)
    hours = series(facts(seen=long_ago))
    assert hours is not None
    assert (hours.step_s, len(hours.done), hours.done[0]) == (60.0, 30, 8.0)
    lately = series(facts(seen=long_ago, since=NOW - 20.0))
    assert lately is not None
    assert len(lately.done) == 20
    assert series(facts(seen=replace(SEEN, history=()))) is None


def test_thinned_series_keeps_the_sum_and_the_end() -> None:
    whole = Series(begin=0.0, step_s=1.0, submitted=(1.0,) * 7, done=tuple(map(float, range(7))), failed=(0.0,) * 7,
                   backlog=tuple(range(7)))  # fmt: skip
    few = thinned(whole, 3)
    assert (few.begin, few.end, few.step_s) == (-2.0, 7.0, 3.0)
    assert sum(few.done) * few.step_s == sum(whole.done)
    assert few.backlog == (0, 3, 6)


# -- lanes ------------------------------------------------------------------------------------------------------------


def test_tasks_that_overlap_lie_in_different_lanes() -> None:
    def bar(begin: float, end: float, worker: str = "lab") -> Bar:
        return Bar(worker=worker, begin=begin, end=end, function="f")

    found = lanes([bar(5.0, 6.0), bar(0.0, 2.0), bar(1.0, 4.0), bar(1.98, 3.0), bar(0.0, 9.0, "rack")])
    spans = [(lane.worker, lane.number, [(bar.begin, bar.end) for bar in lane.bars]) for lane in found]
    # (of two slots, there are two lanes, whatever the times)
    assert [len(lane.bars) for lane in lanes([bar(0.0, 2.0 + n) for n in range(5)], {"lab": 2})] == [3, 2]
    # Then a report that came late makes no lane, and idle lanes stay idle
    assert spans == [
        ("lab", 1, [(0.0, 2.0), (1.98, 3.0)]),
        ("lab", 2, [(1.0, 4.0), (5.0, 6.0)]),
        ("rack", 1, [(0.0, 9.0)]),
    ]


def test_bars_are_of_tasks_with_known_times_and_of_failed_attempts() -> None:
    attempt = Attempt(number=1, outcome=Outcome.FAILED, started_at=NOW - 9, ended_at=NOW - 8, worker="lab",
                      failure=Failure())  # fmt: skip
    found = bars(facts(row(2.0, 0.5, count=4), row(1.0, None), attempts=(("mod:bad", attempt),)))
    assert [(bar.function, bar.count, bar.failed, NOW - bar.begin, NOW - bar.end) for bar in found] == [
        ("mod:work", 4, False, 4.0, 2.0), ("mod:bad", 1, True, 9.0, 8.0)
    ]  # fmt: skip


# -- gathering and showing --------------------------------------------------------------------------------------------


def row_of(number: int, ended_s: float) -> TaskView:
    return replace(row(ended_s), batch=number)


class _Service:
    """Lists rows, page by page."""

    def __init__(self, rows: list[TaskView]) -> None:
        self._rows = rows
        self.asked: list[int] = []

    def stats(self) -> Any:
        return STATS

    def dashboard(self, since: float) -> Dashboard:
        return SEEN

    def tasks(self, selection: Selection) -> list[TaskView]:
        self.asked.append(selection.limit)
        behind = [row for row in self._rows if selection.after is None or row.place[1:] < selection.after[1:]]
        return behind[: min(selection.limit, 7)]

    def dead_letters(self, selection: Selection) -> list[DeadLetter]:
        return []


def test_gathered_rows_are_bounded_and_of_the_time_that_was_asked_for() -> None:
    rows = [row_of(100 - n, float(n)) for n in range(50)]
    service: Any = _Service(rows)
    whole = gather(service)
    assert ([one.batch for one in whole.succeeded], whole.cut) == ([one.batch for one in rows], False)
    few = gather(service, limit=10)
    assert ([one.batch for one in few.succeeded], few.cut) == ([one.batch for one in rows[:10]], True)
    assert gather(service, limit=50).cut is False
    service.asked.clear()
    lately = gather(service, since_s=10.5)
    assert [one.batch for one in lately.succeeded] == [one.batch for one in rows[:11]]
    assert len(service.asked) == 2


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_page_holds_hostile_texts_as_texts_and_loads_nothing() -> None:
    # Given names and messages that would be more than text
    letter = replace(LETTER, exception=HOSTILE, message=HOSTILE * 50, function=HOSTILE)
    attempt = Attempt(number=1, outcome=Outcome.FAILED, started_at=NOW - 9, ended_at=NOW - 8, worker=HOSTILE,
                      failure=Failure())  # fmt: skip
    hostile = row(2.0, 0.5, function="mod:work", worker=HOSTILE)
    spec = replace(hostile.spec, function=Function(name=f"m:{HOSTILE}"))
    shown = page(
        facts(replace(hostile, spec=spec), row(5.0), letters=(letter,), attempts=((HOSTILE, attempt),)), f"h:1{HOSTILE}"
    )
    tags = _Tags()
    tags.feed(shown)
    # Then there is no tag, attribute or address that was not made here
    assert tags.tags == {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "ul", "li", "b", "table", "tr", "th", "td",
        "svg", "line", "text", "polyline", "rect", "span",
    }  # fmt: skip
    assert not {name for name in tags.attributes if name.startswith("on") or name in ("src", "href", "style")}
    assert "default-src 'none'" in shown
    assert re.search(r"https?:|url\(|@import", shown) is None
    assert "\u202e" not in shown
    assert "\x1b" not in shown
    assert "\\u202e" in shown
    # and each picture is sound
    pictures = re.findall(r"<svg.*?</svg>", shown, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        ElementTree.fromstring(picture)


def test_page_says_what_it_has_nothing_of() -> None:
    shown = page(facts(seen=replace(SEEN, history=())), "lab:1")
    for said in ("has no history yet", "No task has succeeded", "no dead letters", "Nothing with known times"):
        assert said in shown
    assert "there were more" in page(facts(row(1.0), cut=True), "lab:1")


def test_report_is_printed_as_text_and_written_as_a_page(noted: NotedCoordinator, capsys: Captured) -> None:
    noted.answers |= {"stats": STATS, "dashboard": SEEN, "attempts": [], "dead_letters": [LETTER]}
    noted.answers["tasks"] = [row(3.0, 2.0), row(4.0, 0.001, count=500, function="mod:short")]
    assert run(["report", "--since", "1h"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("dtq at 127.0.0.1:3870: 501 tasks that succeeded, and 1 dead letter, that ended since ")
    assert re.search(r"^mod:short +run +500 +1 ms", shown, re.MULTILINE)
    assert re.search(r"^5\d s ago +6\.\d/s +#+\.+ +1/s +5$", shown, re.MULTILINE)
    assert re.search(r"^crashed +1 +#{10} +mod:work +17\.3$", shown, re.MULTILINE)
    assert run(["report", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["report"]
    assert (document["since"], document["cut"], document["throughput"]["done"][0]) == (None, False, 8.0)
    assert [(one["function"], one["runs"]["count"]) for one in document["times"]][:2] == [
        ("all functions", 501), ("mod:short", 500)
    ]  # fmt: skip
    assert [(one["name"], one["count"], one["newest"]["id"]) for one in document["failures"]] == [
        ("crashed", 1, "17.3")
    ]
    assert run(["report", "--json", "--html", "page.html"]) == 2
    capsys.readouterr()
    assert run(["report", "--html", "page.html"]) == 0
    streams = capsys.readouterr()
    assert (streams.out, streams.err.startswith("page.html: ")) == ("", True)
    with open("page.html", encoding="utf-8") as file:
        assert "<td>crashed</td>" in file.read()
    assert run(["report", "--html", "no/such/place.html"]) == 74
