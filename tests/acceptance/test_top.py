"""``dtq top`` in real terminals, small and large, against a real cluster: before, during and after work and losses."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import terminal
from tests.acceptance.terminal import Terminal, Terminals
from tests.cluster import Cluster, until

SMALL, LARGE = (80, 24), (200, 50)
#: Time after which a killed worker must be shown as lost, in seconds.
LOST_S = 3.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster in which nothing runs yet."""
    terminal.needed()
    with Cluster(tmp_path) as cluster:
        yield cluster


def opened(terminals: Terminals, cluster: Cluster, size: tuple[int, int], **variables: str) -> Terminal:
    environment = {
        **variables,
        **cluster.environment,
        "DTQ_ADDRESS": cluster.address,
        "DTQ_AUTHKEY_FILE": str(cluster.key_file),
    }
    return terminals.open(f"top-{size[0]}", ["top"], size, environment, cluster.directory)


def filled(shown: Terminal, lines: int) -> list[str] | None:
    """The rows of a terminal whose last one has the keys; None if it has not yet."""
    rows = shown.screen().split("\n")[:lines]
    return rows if len(rows) == lines and rows[-1].startswith(" 1-5 pages") else None


def test_top_shows_what_happens_and_survives_what_happens(cluster: Cluster, tmp_path: Path) -> None:
    coordinator = cluster.coordinator()
    with Terminals() as terminals:
        # Given a small terminal, and a large one without colours, before any work
        small, large = opened(terminals, cluster, SMALL), opened(terminals, cluster, LARGE, NO_COLOR="1")
        for shown, (columns, lines) in ((small, SMALL), (large, LARGE)):
            shown.shows("● live", "no task waits or runs", "no worker is connected", "no attempt has failed")
            rows = until(lambda shown=shown, lines=lines: filled(shown, lines), "the whole frame", shown.screen)
            assert max(map(len, rows)) <= columns
            assert rows[0].startswith(f" dtq {cluster.address}")

        # When tasks come, and no worker is there, then that is said with what helps
        gate = tmp_path / "gate"
        words = ["--queue", "gates", "work:until_file", str(tmp_path), "begun", str(gate)]
        for _ in range(2):
            assert cluster.command("submit", *words).returncode == 0
        for shown in (small, large):
            shown.shows("2 tasks wait, and no worker is connected", "→ dtq worker", "unserved")

        # When a worker runs them, then each slot says what it runs, and tasks that fail are among the latest failures
        worker = cluster.worker("--name", "rack-7", slots=2)
        cluster.command("submit", "--max-retries", "0", "work:fail", "\x1b[31m[bold]no\u202e")
        large.shows("slot 1", "slot 2", "work:until_file", "2/2")
        small.type("3")
        small.shows("rack-7", "working", "slot 2", "by state")
        assert re.search(r"slot 1 .*work:until_file", small.screen())
        small.type("4")
        small.shows("running 2", "work:until_file", "rack-7")

        # When the worker is killed, then it is red within three seconds, on each page that shows workers
        small.type("3")
        small.shows("by state")
        worker.kill()
        killed_at = time.monotonic()
        for shown in (small, large):
            shown.shows("rack-7", "lost")
        assert time.monotonic() - killed_at < LOST_S
        assert re.search(r"\x1b\[[\d;]*31[\d;]*m(\x1b\[[\d;]*m)*lost", small.screen(looks=True))
        assert not re.search(r"\x1b\[[\d;]*\b3[1-7]\b[\d;]*m", large.screen(looks=True))
        large.shows("the worker rack-7 was lost", "went back to the queue", "TaskCrashed")

        # When the coordinator is killed, then it is said; and all goes on when it is back
        small.type("1")
        coordinator.kill()
        for shown in (small, large):
            shown.shows("● reconnecting", "gates")
        cluster.coordinator()
        for shown in (small, large):
            shown.shows("● live", "gates")

        # When the work is done, then it is seen; hostile text is only text
        gate.touch()
        cluster.worker("--name", "rack-8", slots=2)
        for shown in (small, large):
            shown.shows("rack-8", "0/2")
        small.type("5")
        small.shows("DIED", "work:fail", "ValueError: \\u001b[31m[bold]no")

        # And a key acts: a dead letter is put back after a question
        small.type("r")
        small.shows("put 1 dead letter back into the queue?")
        small.type("y")
        small.shows("1 dead letter put back")

        # And a terminal may change its size, and is left as it was
        small.resize(100, 30)
        until(lambda: "put back" in small.screen().split("\n")[29], "the footer in the last line", small.screen)
        for shown in (small, large):
            shown.type("q")
            shown.ended()
