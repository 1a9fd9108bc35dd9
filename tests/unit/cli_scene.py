"""A coordinator that only takes notes, and answers to give it: for tests of what commands ask and print."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from dtq.errors import DtqError
from dtq.model.messages import Failure, WorkerOrder
from dtq.model.options import Function, Options, Spec
from dtq.model.snapshots import (
    Attempt,
    BatchView,
    Counts,
    DeadLetter,
    QueueView,
    Selection,
    Stats,
    TaskArguments,
    TaskView,
    WorkerView,
)
from dtq.model.states import Outcome, State

NOW = time.time()
SPEC = Spec(function=Function(name="mod:work"), options=Options(priority=2, timeout_s=60.0))
TASK = TaskView(
    batch=17,
    index=3,
    state=State.DEAD,
    spec=SPEC,
    attempt=2,
    failures=1,
    crashes=1,
    submitted_at=1_700_000_000.0,
    started_at=1_700_000_001.5,
    ended_at=1_700_000_002.0,
    worker="lab-1",
    progress=(3.0, 4.0),
    history=(
        Attempt(
            number=1,
            outcome=Outcome.FAILED,
            started_at=1_700_000_000.5,
            ended_at=1_700_000_001.0,
            worker="lab-1",
            failure=Failure(exception="ValueError", message="bad\x1b[2J\nvalue", traceback="Traceback:\n  boom\n"),
        ),
        Attempt(
            number=2,
            outcome=Outcome.CRASHED,
            started_at=1_700_000_001.5,
            ended_at=1_700_000_002.0,
            worker="lab-1",
            failure=Failure(signal=9, peak_memory=3 << 29, output="reading\nall of it\n"),
        ),
    ),
)
LETTER = DeadLetter(
    batch=17,
    index=3,
    single=False,
    function="mod:work",
    queue="default",
    attempts=2,
    outcome=Outcome.CRASHED,
    exception="",
    message="",
    submitted_at=1_700_000_000.0,
    died_at=1_700_000_002.0,
)
BATCH = BatchView(
    batch=17, size=1000, complete=True, spec=SPEC, counts=Counts(pending=990, dead=10), submitted_at=NOW - 5, key="k"
)
STATS = Stats(
    counts=Counts(pending=5, dead=1),
    submitted=6,
    retries=2,
    refused=0,
    dead_letters=1,
    queues=(QueueView(name="default", pending=5, scheduled=0, running=0, workers=1),),
    workers=(
        WorkerView(
            session="s",
            name="lab-1",
            host="lab",
            pid=7,
            slots=2,
            busy=1,
            queues=(),
            seen_s=0.5,
            connected_at=NOW - 9,
            running=("17.1",),
            draining=True,
            order=WorkerOrder.DRAIN,
            version="1",
            python="3.11.7",
        ),
    ),
    clients=1,
    epoch=4,
    started_at=NOW - 134,
    now=NOW,
    pid=4242,
    version="0.1.0",
    python="3.11.7",
    store="/var/q.db",
    durability="fsync",
    highest_first=False,
    losses=("12 rows are missing",),
)


class NotedCoordinator:
    """Answers with what it was given and keeps what it was asked; stands in for the transport's Proxy."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:3870"
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {}
        self.made_with: Any = ()
        self.no_arguments, self.size = False, 0

    def __call__(
        self, addresses: Any, authkey: bytes, hello: Any, *, key_source: str, tls: Any = None
    ) -> NotedCoordinator:
        self.made_with = (addresses, authkey, key_source)
        return self

    def __enter__(self) -> NotedCoordinator:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self) -> None:
        pass

    def arguments(self, tasks: list[tuple[int, int]], most: int) -> list[TaskArguments]:
        """Those of every task: a file of its own. Not noted: commands ask for them beside what they are for."""
        if self.no_arguments:
            raise AssertionError("the arguments are not wanted")
        assert most <= 64 << 10
        blobs = {at: pickle.dumps([(f"{at[0]}.{at[1]}.jpg" + self.size * "g",), {"size": 64}], 5) for at in tasks}
        return [
            TaskArguments(batch=batch, index=index, kept=True, blob=blob[:most], size=len(blob))
            for (batch, index), blob in blobs.items()
        ]

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            if arguments and isinstance(arguments[0], Selection) and arguments[0].after is not None:
                return []  # how a list goes on that has ended
            self.calls.append((name, *arguments))
            answer = self.answers[name]
            if isinstance(answer, list) and answer and isinstance(answer[0], type | DtqError | Stats):
                answer = answer.pop(0)
            if isinstance(answer, DtqError):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return call


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NotedCoordinator:
    """A coordinator that takes notes, and a key to reach it with."""
    coordinator = NotedCoordinator()
    monkeypatch.setattr("dtq.transport.Proxy", coordinator)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DTQ_ADDRESS", "lab:1")
    monkeypatch.setenv("DTQ_AUTHKEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("a key that is long enough")
    (tmp_path / "key").chmod(0o600)
    return coordinator


Captured = pytest.CaptureFixture[str]
