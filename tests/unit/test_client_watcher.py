"""The thread that waits for results, where the coordinator cannot let go of what was read."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dtq.client.following import Following
from dtq.client.links import Session
from dtq.client.sharing import Shared
from dtq.client.watcher import MAX_FAILURES, Watcher
from dtq.errors import DtqError, StoreError, Unreachable
from dtq.model.messages import TaskRange, Watched

#: What a client has that has put nothing.
NOTHING_SHARED = Shared(lambda *_: b"", lambda: None, lambda: None)


class Line:
    """A line to a coordinator that has no news, and fails to let go."""

    def __init__(self, error: DtqError) -> None:
        self.error = error
        self.service = self
        self.asked: list[TaskRange] = []

    def connect(self) -> None:
        pass

    def steady(self, on: bool) -> None:
        pass

    def watch(self, cursor: int, wait_s: float) -> Watched:
        return Watched(cursor=cursor, ended=())

    def let_go(self, read: list[TaskRange]) -> None:
        self.asked += read
        raise self.error


class OneLine:
    """A session that has one line."""

    generation = 0

    def __init__(self, line: Line) -> None:
        self.line = line

    def link(self) -> Line:
        return self.line


def watcher(error: DtqError) -> tuple[Watcher, Following, Line]:
    line, following = Line(error), Following()
    fatal = pytest.fail
    return Watcher(cast(Session, OneLine(line)), following, cast(Any, fatal), NOTHING_SHARED), following, line


def test_store_that_cannot_let_go_is_no_trouble_for_who_waits_for_results() -> None:
    # Given a coordinator whose store cannot be read
    watch, following, line = watcher(StoreError("queue.db", "it cannot be read"))

    # When it is told again and again what was read
    for batch in range(1, MAX_FAILURES + 3):
        following.read.add(batch, 0, 1, 1.0)
        watch._watch()

    # Then nothing is raised, and nothing told twice
    assert [tasks.batch for tasks in line.asked] == list(range(1, MAX_FAILURES + 3))
    assert not following.read


def test_what_could_not_be_told_to_a_coordinator_that_is_away_is_told_later() -> None:
    watch, following, _ = watcher(Unreachable("here:1", "nobody answers"))
    following.read.add(5, 0, 2, 1.0)

    with pytest.raises(Unreachable):
        watch._watch()

    assert following.read.take() == [TaskRange(batch=5, lo=0, hi=2)]
