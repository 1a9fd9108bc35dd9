"""The worker's reports: what is refused of them, and what neither stops the others nor ends the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from dtq.errors import (
    BadMessage,
    DtqError,
    InternalError,
    ProtocolMismatch,
    RoleMissing,
    StoreFull,
    TooLarge,
    Unreachable,
    WrongKey,
)
from dtq.model import pages
from dtq.model.dashboard import SlotUse
from dtq.model.messages import Exchange, Failed, Failure, Grant, Orders, Progress, Released, Succeeded
from dtq.model.options import Function, Options, Spec
from dtq.model.states import Outcome
from dtq.worker import link as link_module
from dtq.worker.chunks import Chunk
from dtq.worker.link import Link
from dtq.worker.supervisor import Supervisor
from dtq.worker.terms import SlotTerms, WorkerTerms

DEADLINE_S = 30.0
SPEC = Spec(function=Function(name="m:f"), options=Options())
Says = Callable[[Exchange], Exception | None]


def quiet(_: Exchange) -> None:
    return None


class FakeLine:
    """A coordinator that takes what it likes."""

    def __init__(self) -> None:
        self.refuse: Says = quiet
        self.taken: list[Exchange] = []
        self.refused = 0
        self.accounts: list[list[SlotUse]] = []
        self.grants: list[Grant] = []
        self._moved = threading.Condition()

    def exchange(self, exchange: Exchange) -> Orders:
        error = self.refuse(exchange)
        with self._moved:
            if error is None:
                self.taken.append(exchange)
            else:
                self.refused += 1
            self._moved.notify_all()
        if error is not None:
            raise error
        return Orders(grants=(self.grants.pop(),)) if self.grants else Orders()

    def until(self, look: Callable[[], object], what: str) -> None:
        with self._moved:
            assert self._moved.wait_for(look, DEADLINE_S), f"waited for {what}; taken: {self.taken}"

    def spec(self, number: int) -> Spec:
        raise TooLarge("the function", 2, 1)

    def note_slots(self, wall: float, slots: list[SlotUse]) -> None:
        self.accounts.append(slots)
        raise RuntimeError("nobody wants to know")

    def reconnect(self) -> None:
        return None

    def close(self) -> None:
        return None

    @property
    def succeeded(self) -> list[int]:
        return [s.token for exchange in self.taken for s in exchange.succeeded]

    @property
    def failed(self) -> dict[int, Failed]:
        return {f.token: f for exchange in self.taken for f in exchange.failed}


class Scene:
    """A worker without slots, whose outcomes the test makes up, and its link."""

    def __init__(self) -> None:
        self.supervisor = Supervisor(WorkerTerms(slots=1, slot=SlotTerms(worker="w")))
        self.line = FakeLine()
        self.link = Link(self.supervisor, self.line, FakeLine(), heartbeat_s=0.01, where="nowhere:1")

    def lease(self, token: int) -> None:
        grant = Grant(token=token, batch=token, lo=0, hi=1, single=True, attempt=1, spec=1, arguments=pages.pack([b""]))
        self.supervisor.holdings.add(Chunk(grant, SPEC, 0.0))

    def ended(self, *outcomes: Succeeded | Failed | Released) -> None:
        """All at once."""
        with self.supervisor.lock:
            for outcome in outcomes:
                self.lease(outcome.token)
                self.supervisor.holdings.chunks[outcome.token].next = 1
                self.supervisor.holdings.outbox.add(outcome)
            self.supervisor.announce()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.link.stop()


def success(token: int) -> Succeeded:
    return Succeeded(token=token, lo=0, results=pages.pack([b"result"]), seconds=0.1)


def failure(token: int) -> Failed:
    said = Failure(exception="m.E", message="it", traceback="there", pickled=b"p" * 100)
    return Failed(token=token, index=0, outcome=Outcome.CRASHED, failure=said, seconds=0.1)


def poisoned(error: Exception, *tokens: int) -> Says:
    """Refuses what holds an outcome of one of these leases as it was made."""

    def refuse(exchange: Exchange) -> Exception | None:
        bad = [s for s in exchange.succeeded if s.token in tokens]
        bad_failures = [f for f in exchange.failed if f.token in tokens and f.failure.exception == "m.E"]
        return error if bad or bad_failures else None

    return refuse


@pytest.mark.parametrize(
    "error",
    [TooLarge("a message", 2, 1), BadMessage("no"), InternalError("E"), AttributeError("a slot's words")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("make", [success, failure])
def test_outcome_that_is_refused_is_the_failure_of_its_own_task(
    scene: Scene, error: Exception, make: Callable[[int], Succeeded | Failed]
) -> None:
    # Given a coordinator that does not take one of five outcomes
    scene.line.refuse = poisoned(error, 3)
    scene.ended(success(1), failure(2), make(3), success(4), success(5))

    # When
    scene.link.start()
    scene.line.until(lambda: 3 in scene.line.failed, "the poisoned one")
    scene.line.until(lambda: set(scene.line.succeeded) == {1, 4, 5}, "the others")

    # Then the others arrive as they are, that one as a failure with the reason, and the worker goes on
    assert scene.line.failed[2] == failure(2)
    assert str(error) in scene.line.failed[3].failure.message
    assert scene.line.failed[3].outcome is (Outcome.CRASHED if make is failure else Outcome.FAILED)
    assert scene.supervisor.lifecycle.fatal is None
    heard = len(scene.line.taken)
    scene.line.until(lambda: len(scene.line.taken) > heard + 2, "heartbeats")
    assert scene.supervisor.holdings.chunks == {}


def test_each_result_of_a_page_is_refused_or_taken_by_itself(scene: Scene) -> None:
    # Given four results in one page, one of which is not taken
    poison = pages.pack([b"poison"])

    def refuse(exchange: Exchange) -> Exception | None:
        return TooLarge("it", 2, 1) if any(b"poison" in s.results for s in exchange.succeeded) else None

    scene.line.refuse = refuse
    scene.ended(replace(success(1), results=pages.pack([b"a", b"b", pages.unpack(poison)[0], b"d"])))

    # When
    scene.link.start()
    scene.line.until(lambda: [s.lo for e in scene.line.taken for s in e.succeeded] == [0, 1, 3], "the others")

    # Then
    assert scene.line.failed[1].index == 2


def test_lease_of_which_nothing_is_taken_is_mentioned_no_more(scene: Scene) -> None:
    scene.line.refuse = lambda exchange: BadMessage("no") if exchange.failed or exchange.released else None
    scene.ended(failure(1), Released(token=2, lo=0, hi=1), success(3))

    scene.link.start()
    scene.line.until(lambda: scene.line.succeeded == [3], "the other")
    scene.line.until(lambda: scene.line.taken[-1].holding == (), "a heartbeat without them")

    assert scene.supervisor.lifecycle.fatal is None


def test_lease_whose_function_is_refused_fails(scene: Scene) -> None:
    # Given a lease of two tasks, the function of which no message carries
    page = pages.pack([b"", b""])
    scene.line.grants = [Grant(token=5, batch=5, lo=3, hi=5, single=False, attempt=1, spec=7, arguments=page)]

    # When it arrives
    scene.link.start()
    scene.line.until(lambda: 5 in scene.line.failed, "the failure")

    # Then both tasks fail with the reason, once
    failed = [f for exchange in scene.line.taken for f in exchange.failed]
    assert [f.index for f in failed] == [3, 4]
    assert "could not learn what the task is: the function has 2 bytes" in failed[0].failure.message
    heard = len(scene.line.taken)
    scene.line.until(lambda: len(scene.line.taken) > heard + 1, "heartbeats")
    assert scene.supervisor.holdings.chunks == {}


def test_coordinator_that_refuses_everything_for_a_while_gets_all_unchanged(scene: Scene) -> None:
    # Given
    scene.line.refuse = lambda _: InternalError("NaN")
    scene.ended(success(1), failure(2))
    scene.link.start()
    scene.line.until(lambda: scene.line.refused >= 8, "refusals")

    # When
    scene.line.refuse = quiet
    scene.line.until(lambda: scene.line.succeeded == [1] and 2 in scene.line.failed, "all of it")

    # Then
    assert scene.line.failed[2] == failure(2)
    assert scene.supervisor.lifecycle.fatal is None


def test_progress_that_is_refused_is_left_out(scene: Scene) -> None:
    scene.line.refuse = lambda exchange: BadMessage("no") if exchange.progress else None
    scene.lease(9)
    scene.supervisor.holdings.outbox.progress[9] = Progress(token=9, index=0, done=1.0, total=2.0)
    scene.ended(success(1))

    scene.link.start()
    scene.line.until(lambda: scene.line.succeeded == [1], "the result")

    assert scene.supervisor.lifecycle.fatal is None


@pytest.mark.parametrize("error", [Unreachable("there", "gone"), StoreFull("db", "no"), WrongKey("there", "this")])
def test_coordinator_that_is_away_is_waited_for(scene: Scene, error: DtqError) -> None:
    scene.line.refuse = lambda _: error
    scene.lease(9)
    scene.supervisor.holdings.outbox.progress[9] = Progress(token=9, index=0, done=1.0, total=2.0)
    scene.ended(success(1))
    scene.link.start()
    scene.line.until(lambda: scene.line.refused >= 3, "tries")

    scene.line.refuse = quiet
    scene.line.until(lambda: scene.line.succeeded == [1], "the result")

    assert [p.done for exchange in scene.line.taken for p in exchange.progress] == [1.0]
    assert scene.supervisor.lifecycle.fatal is None


@pytest.mark.parametrize("error", [ProtocolMismatch(3, 2), RoleMissing("k", "work")])
def test_coordinator_that_will_never_listen_ends_the_worker(scene: Scene, error: DtqError) -> None:
    scene.line.refuse = lambda _: error
    scene.link.start()
    scene.line.until(lambda: scene.supervisor.lifecycle.fatal is error, "the end")


def test_defect_in_a_thread_does_not_end_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a defect that shows twice
    defects = iter([KeyError("one"), KeyError("two")])
    honest = scene.supervisor.exchange

    def stumble(**arguments: object) -> Exchange:
        for defect in defects:
            raise defect
        return honest(**arguments)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(scene.supervisor, "exchange", stumble)
    scene.ended(success(1))

    scene.link.start()
    scene.line.until(lambda: scene.line.succeeded == [1], "the result")

    assert scene.supervisor.lifecycle.fatal is None


def test_defect_that_shows_every_time_ends_the_worker_with_a_sentence(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(link_module, "MAX_STUMBLES", 3)
    monkeypatch.setattr(scene.supervisor, "exchange", lambda **_: 1 / 0)
    monkeypatch.setattr(scene.supervisor, "wake", ended.set)

    scene.link.start()

    assert ended.wait(DEADLINE_S)
    assert "again and again" in str(scene.supervisor.lifecycle.fatal)
