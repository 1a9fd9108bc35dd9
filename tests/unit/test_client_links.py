"""Whether the coordinator still knows the session: generations, cursors, and what the log says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from dtq.client.following import Following, Waiters
from dtq.client.links import Line, Session
from dtq.client.sharing import Shared
from dtq.client.watcher import Watcher
from dtq.errors import SessionUnknown, Unreachable
from dtq.model.messages import Hello, Watched, Welcome

#: What a client has that has put nothing.
NOTHING_SHARED = Shared(lambda *_: b"", lambda: None, lambda: None)


class Flickering:
    """Lines that connect when they are called, as the transport's do."""

    place = "somewhere"
    by_reference = True

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.welcomes: list[tuple[int, bool]] = []
        self.connected = False

    def line(self, hello: Callable[[], Hello], on_welcome: Callable[[Welcome], None]) -> Line:
        self.on_welcome = on_welcome
        made: Any = self
        line: Line = made
        return line

    def lose(self, epoch: int, resumed: bool) -> None:
        """The connection breaks; the next call finds a coordinator that answers so."""
        self.connected = False
        self.welcomes.append((epoch, resumed))

    def connect(self) -> None:
        if not self.connected:
            self.connected = True
            epoch, resumed = self.welcomes.pop(0)
            self.on_welcome(
                Welcome(
                    epoch=epoch,
                    resumed=resumed,
                    lease_s=1,
                    heartbeat_s=1,
                    max_message=1000,
                    highest_first=False,
                    version="",
                )
            )

    def watch(self, cursor: int, wait_s: float) -> Watched:
        self.connect()
        self.calls.append(("watch", cursor))
        return Watched(cursor=cursor + 10, ended=())

    def follow(self, batches: list[int]) -> list[int]:
        self.connect()
        self.calls.append(("follow", batches))
        return []

    def close(self) -> None: ...


class Target:
    """Waits for ever."""

    _waiters: Waiters | None = None

    def _reached(self, level: int) -> bool:
        return False

    def _on_ended(self, ended: object, wakes: object) -> bool:
        return False

    def _on_failed(self, error: object, wakes: object) -> None: ...


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> tuple[Flickering, Watcher, Target]:
    """A watcher of one batch, which the test moves by hand."""
    monkeypatch.setattr("dtq.client.watcher._PAUSE_S", 0.0)
    lines = Flickering()
    lines.lose(1, False)
    following = Following()
    target = Target()
    following.add(7, target, [])
    watcher = Watcher(Session(lines), following, lambda error: pytest.fail(str(error)), NOTHING_SHARED)
    watcher._watch()
    watcher._watch()
    assert lines.calls == [("watch", 0), ("watch", 10)]
    lines.calls.clear()
    return lines, watcher, target


def test_new_coordinator_is_told_what_is_followed_and_sees_a_fresh_cursor(
    scene: tuple[Flickering, Watcher, Target],
) -> None:
    # Given a watcher; When its next call finds a coordinator that does not know the session
    lines, watcher, _ = scene
    lines.lose(2, False)
    watcher._watch()
    # Then it follows anew, and begins from the start
    assert lines.calls == [("follow", [7]), ("watch", 0)]


def test_session_that_another_line_began_anew_is_followed_anew(scene: tuple[Flickering, Watcher, Target]) -> None:
    # Given a coordinator that was restarted, and to which another line of the session has said hello already
    lines, watcher, _ = scene
    lines.lose(2, True)
    # When the watcher reconnects, and is told that the session is known; Then it sees through that
    watcher._watch()
    assert lines.calls == [("follow", [7]), ("watch", 0)]


def test_same_session_after_a_cut_goes_on_where_it_was(scene: tuple[Flickering, Watcher, Target]) -> None:
    # Given a connection that broke, and a coordinator that kept the session
    lines, watcher, _ = scene
    lines.lose(1, True)
    # When the watcher reconnects; Then it goes on
    watcher._watch()
    assert lines.calls == [("watch", 20)]


def test_old_cursor_never_reaches_a_session_that_was_begun_anew(
    scene: tuple[Flickering, Watcher, Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a connection that breaks at the last moment: after it was found good, before the call
    lines, watcher, _ = scene
    connect = lines.connect
    monkeypatch.setattr(lines, "connect", lambda: None)

    def break_and_connect(cursor: int, wait_s: float) -> Watched:
        lines.lose(2, False)
        connect()
        lines.calls.append(("watch", cursor))
        return Watched(cursor=cursor, ended=())

    monkeypatch.setattr(lines, "watch", break_and_connect)
    # When the transport connects within the call; Then the call is not made
    with pytest.raises(SessionUnknown):
        watcher._watch()
    assert lines.calls == []
    # And the next one begins from the start
    monkeypatch.undo()
    watcher._watch()
    assert lines.calls[:2] == [("follow", [7]), ("watch", 0)]


def test_outage_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    # Given two lines of one session
    lines = Flickering()
    lines.lose(1, False)
    session = Session(lines)
    link = session.link()
    link.connect()
    with caplog.at_level(logging.INFO, "dtq.client"):
        # When both lose the coordinator, several times, and it comes back
        for _ in range(3):
            session.lost(Unreachable("somewhere", "connection refused"))
        session.lost(SessionUnknown("x"))
        lines.lose(2, False)
        link.connect()
    # Then that is one line each
    assert [record.getMessage().split(" after ")[0] for record in caplog.records] == [
        "lost the coordinator at somewhere, trying again (connection refused)",
        "the coordinator at somewhere is back",
    ]
