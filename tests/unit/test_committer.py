"""Group commit, and what happens when the disk is full: nothing that was acknowledged is lost, nothing else is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dtq.coordinator.committer import Committer, Generation
from dtq.core import invariants
from dtq.core.changes import ArgumentPage, BatchWithdrawn, Change, ResultPage, Stored
from dtq.core.ledger import EndedRange
from dtq.engines.base import Committed
from dtq.engines.memory import MemoryEngine
from dtq.errors import ShuttingDown, StoreError, StoreFull, UnknownId
from dtq.model import pages
from dtq.model.limits import Limit
from dtq.model.messages import Succeeded
from dtq.model.resources import needs
from dtq.model.snapshots import Counts, Selection
from dtq.model.states import State
from dtq.testing import FailingEngine, ManualClock
from tests.contracts.service_scene import DEADLINE_S, SOON_S, House, until
from tests.coordinator_scene import HeldEngine, failing_house

Scene = tuple[House, FailingEngine]
Held = tuple[House, HeldEngine]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again soon."""
    monkeypatch.setattr("dtq.coordinator.committer.RETRY_S", 0.02)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A house over an engine that fails on demand."""
    house, engine = failing_house(tmp_path)
    yield house, engine
    engine.fail(0)
    house.close()
    invariants.check(house.coordinator.machine)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    """A house over an engine whose commits can be held up."""
    engine = HeldEngine()
    house = House("memory", tmp_path, engine=lambda: engine)
    house.coordinator.flush()
    yield house, engine
    engine.fail(0)
    engine.go_on()
    house.close()
    invariants.check(house.coordinator.machine)


def heal(house: House, engine: FailingEngine) -> None:
    """Make room on the disk, and wait until the coordinator has noticed."""
    engine.fail(0)
    until("the store can be written", lambda: house.coordinator.committer.trouble is None)


# -- group commit ---------------------------------------------------------------------------------------------------


def test_calls_that_come_while_a_commit_is_under_way_share_the_next(held: Held) -> None:
    # Given a commit that takes its time
    house, engine = held
    clients = [house.client() for _ in range(9)]
    engine.hold()
    first = house.begin(clients[0].submit)
    assert engine.reached.wait(DEADLINE_S)
    before = len(engine.commits)

    # When others submit meanwhile
    others = [house.begin(client.submit) for client in clients[1:]]
    tally = house.coordinator.machine.queue_state.tally
    until("all are in", lambda: tally[State.PENDING] == 9)
    assert not any(call.done() for call in [first, *others])
    engine.go_on()

    # Then one commit more is enough for them
    assert sorted(call.result(DEADLINE_S) for call in [first, *others]) == list(range(1, 10))
    assert len(engine.commits) == before + 2


def test_submission_is_not_acknowledged_before_it_is_committed(held: Held) -> None:
    house, engine = held
    client = house.client()
    engine.hold()

    call = house.begin(client.submit)

    assert engine.reached.wait(DEADLINE_S)
    assert not call.done()
    assert engine.batches([1]) == []
    engine.go_on()
    assert call.result(DEADLINE_S) == 1
    assert len(engine.batches([1])) == 1


def test_work_is_granted_without_waiting_for_the_disk(held: Held) -> None:
    house, engine = held
    client, hand = house.client(), house.worker()
    engine.hold()
    call = house.begin(client.submit)
    assert engine.reached.wait(DEADLINE_S)

    grant = hand.fetch_one()

    assert pages.unpack(grant.arguments) == [b"0"]
    assert not call.done()


def test_work_that_counts_against_a_limit_is_granted_after_the_commit_that_has_it(held: Held) -> None:
    # Given a limit, a task that counts against it and runs, and one that waits
    house, engine = held
    client, hand = house.client(), house.worker()
    client.service.set_limit(Limit(name="api", concurrency=1))
    client.submit(2, limits=("api",))
    first = hand.fetch_one()
    house.coordinator.flush()
    before = len(engine.commits)
    # When a report brings its end, and is to bring the other one
    engine.hold()
    hand.held.clear()
    done = Succeeded(token=first.token, lo=0, results=first.arguments, seconds=60.0)
    reporting = house.begin(lambda: hand.exchange(succeeded=(done,), more=True))
    assert engine.reached.wait(DEADLINE_S)
    tally = house.coordinator.machine.queue_state.tally
    assert tally[State.RUNNING] == 1
    assert not reporting.done()
    engine.go_on()
    # Then the answer comes with that commit, and needs no other
    (second,) = reporting.result(DEADLINE_S).grants
    assert second.lo == 1
    assert len(engine.commits) == before + 1


def test_look_at_what_is_being_written_waits_for_that_and_for_nothing_more(held: Held) -> None:
    # Given a commit under way, and nothing else that changes
    house, engine = held
    client, looker = house.client(), house.client()
    engine.hold()
    call = house.begin(client.submit)
    assert engine.reached.wait(DEADLINE_S)

    # When somebody asks for what is in it
    looking = house.begin(lambda: looker.service.task(1, 0).state)
    assert not looking.done()
    engine.go_on()

    # Then the answer comes with that commit: nobody has to do anything for it
    assert looking.result(DEADLINE_S) is State.PENDING
    call.result(DEADLINE_S)


def test_report_is_not_acknowledged_before_it_is_committed(held: Held) -> None:
    house, engine = held
    client, hand = house.client(), house.worker()
    client.submit()
    grant = hand.fetch_one()
    house.coordinator.flush()
    engine.hold()

    report = house.begin(lambda: hand.succeed(grant))

    assert engine.reached.wait(DEADLINE_S)
    assert not report.done()
    engine.go_on()
    report.result(DEADLINE_S)
    assert len(engine.pages(ResultPage, 1, 0, 1)) == 1


def test_heartbeat_does_not_wait_for_a_slow_disk(held: Held) -> None:
    house, engine = held
    client, hand = house.client(), house.worker()
    client.submit()
    hand.fetch_one()
    house.coordinator.flush()
    engine.hold()
    call = house.begin(client.submit)
    assert engine.reached.wait(DEADLINE_S)

    hand.exchange()

    assert not call.done()


def test_worker_whose_report_waits_for_the_disk_is_not_silent(held: Held) -> None:
    # Given two workers, of which one waits for its report to be on a disk that hangs
    house, engine = held
    client, waiting, silent = house.client(), house.worker(), house.worker("silent")
    client.submit(2)
    grant = waiting.fetch_one()
    silent.fetch_one()
    house.coordinator.flush()
    engine.hold()
    report = house.begin(lambda: waiting.succeed(grant))
    assert engine.reached.wait(DEADLINE_S)

    # When leases run out, twice
    coordinator = house.coordinator
    clock = coordinator.clock = ManualClock(coordinator.clock.now())
    for _ in range(2):
        clock.advance(max(0.0, coordinator.next_deadline() - clock.now()))
        coordinator.tick()

    # Then
    assert set(coordinator.machine.queue_state.workers) == {waiting.session}
    engine.go_on()
    report.result(DEADLINE_S)
    for _ in range(2):
        clock.advance(max(0.0, coordinator.next_deadline() - clock.now()))
        coordinator.tick()
    assert coordinator.machine.queue_state.workers == {}


def test_news_are_told_when_they_are_durable(held: Held) -> None:
    house, engine = held
    client, hand = house.client(), house.worker()
    client.submit()
    grant = hand.fetch_one()
    house.coordinator.flush()
    engine.hold()
    report = house.begin(lambda: hand.succeed(grant))
    assert engine.reached.wait(DEADLINE_S)

    assert client.watch(wait_s=0.0).ended == ()

    engine.go_on()
    report.result(DEADLINE_S)
    assert len(client.watch().ended) == 1


# -- a full disk ----------------------------------------------------------------------------------------------------


def test_submission_that_cannot_be_written_is_refused_and_never_runs(scene: Scene) -> None:
    # Given a worker that waits, and a disk that is full
    house, engine = scene
    client, hand = house.client(), house.worker()
    house.begin_fetch(hand)
    engine.fail(1_000)

    # When
    with pytest.raises(StoreFull):
        client.submit(3)

    # Then the worker, who may have been quicker than the disk, is told to stop; and nothing is left of it
    until("it is taken back", lambda: house.coordinator.machine.queue_state.tally.unfinished == 0)
    assert client.service.stats().submitted == 0
    heal(house, engine)
    assert hand.fetch() == []
    assert engine.batches([1]) == []
    assert engine.pages(ArgumentPage, 1, 0, 9) == []


def test_what_was_kept_for_a_submission_that_cannot_be_written_is_free(held: Held) -> None:
    # Given a worker with a free slot, which is kept for an urgent task of two that is being written
    house, engine = held
    client, hand = house.client(), house.worker(slots=2)
    client.submit()
    hand.fetch_one()
    plain = client.submit(priority=9)
    engine.hold()
    wide = house.begin(lambda: client.submit(priority=1, needs=needs({}, 2, ())))
    assert engine.reached.wait(DEADLINE_S)
    fetching = house.begin_fetch(hand)
    # When that cannot be written
    engine.fail(1)
    engine.go_on()
    with pytest.raises(StoreFull):
        wide.result(DEADLINE_S)
    # Then the worker, which still waits, is given what is behind it
    (served,) = fetching.result(SOON_S).grants
    assert served.batch == plain


def test_submissions_are_refused_at_once_while_the_disk_is_full(scene: Scene) -> None:
    house, engine = scene
    client = house.client()
    engine.fail(1_000)
    with pytest.raises(StoreFull):
        client.submit()
    failed = engine.failed

    with pytest.raises(StoreFull):
        client.submit()

    assert house.coordinator.machine.queue_state.last_batch == 1  # it was not even looked at
    assert engine.failed <= failed + 1


def test_service_resumes_when_there_is_room_again(scene: Scene) -> None:
    house, engine = scene
    client, hand = house.client(), house.worker()
    engine.fail(1_000)
    with pytest.raises(StoreFull):
        client.submit()

    heal(house, engine)

    batch = client.submit()
    hand.succeed(hand.fetch_one())
    assert client.states(batch, 1) == [State.SUCCEEDED]


def test_refused_submission_is_accepted_when_it_is_repeated_later(scene: Scene) -> None:
    # Given
    house, engine = scene
    client = house.client()
    submission = client.submission(2, key="nightly")
    engine.fail(1_000)
    with pytest.raises(StoreFull):
        client.receipts(submission)

    # When
    heal(house, engine)
    (receipt,) = client.receipts(submission, repeated=True)

    # Then
    assert (receipt.size, receipt.code) == (2, "")
    assert client.service.stats().counts == Counts(pending=2)


def test_outcomes_that_cannot_be_written_are_kept_and_written_later(scene: Scene) -> None:
    # Given running tasks, and a disk that is full
    house, engine = scene
    client, hand = house.client(), house.worker(slots=2)
    batch = client.submit(2, max_retries=0)
    first, second = hand.fetch()
    house.coordinator.flush()
    engine.fail(1_000)

    # When their outcomes are reported
    with pytest.raises(StoreFull):
        hand.succeed(first, b"kept")
    with pytest.raises(StoreFull):
        hand.fail(second)
    assert engine.pages(ResultPage, batch, 0, 1) == []

    # Then they are decided, and on disk as soon as there is room: once
    heal(house, engine)
    assert client.states(batch, 2) == [State.SUCCEEDED, State.DEAD]
    assert pages.unpack(client.service.results(batch, 0, 1)[0].results) == [b"kept"]
    news = client.watch_until(batch, 2)
    assert [(ended.lo, ended.state) for ended in news] == [(0, State.SUCCEEDED), (1, State.DEAD)]


def test_running_work_goes_on_while_the_disk_is_full(scene: Scene) -> None:
    # Given accepted tasks
    house, engine = scene
    client, hand = house.client(), house.worker()
    batch = client.submit(3)
    engine.fail(1_000)

    # When a worker does them meanwhile
    for index in range(3):
        grant = hand.fetch_one()
        assert grant.lo == index
        with pytest.raises(StoreFull):
            hand.succeed(grant)

    # Then
    heal(house, engine)
    assert client.states(batch, 3) == [State.SUCCEEDED] * 3


def test_batch_that_ran_before_it_could_be_written_leaves_no_trace(held: Held) -> None:
    # Given a disk that is slow, and a worker that is quick
    house, engine = held
    client, hand = house.client(), house.worker()
    engine.hold()
    submitting = house.begin(lambda: client.submit(2, max_retries=0))
    assert engine.reached.wait(DEADLINE_S)
    grant = hand.fetch_one()
    report = house.begin(lambda: hand.succeed(grant, b"too early"))
    until("its result is in", lambda: house.coordinator.machine.queue_state.tally[State.SUCCEEDED] == 1)
    hand.fetch_one()

    # When the disk turns out to be full
    engine.fail(1_000)
    engine.go_on()
    for call in (submitting, report):
        with pytest.raises(StoreFull):
            call.result(DEADLINE_S)

    # Then
    heal(house, engine)
    looker = house.client()
    assert looker.service.stats().submitted == 0
    assert looker.service.stats().counts == Counts()
    assert engine.batches([1]) == []
    assert engine.ended(Selection(limit=0), 0.0) == []
    assert client.watch(wait_s=0.0).ended == ()
    assert hand.exchange().drop != ()


def test_whoever_builds_on_a_batch_that_cannot_be_written_is_refused_too(held: Held) -> None:
    # Given a keyed batch whose commit is under way
    house, engine = held
    one, other = house.client(), house.client()
    engine.hold()
    first = house.begin(lambda: one.submit(submission={"key": "nightly"}))
    assert engine.reached.wait(DEADLINE_S)

    # When a second submission with its key arrives before it fails
    second = house.begin(lambda: other.receipts(other.submission(key="nightly"), other.submission(2)))
    until("that is in", lambda: house.coordinator.machine.queue_state.tally[State.PENDING] == 3)
    engine.fail(1)
    engine.go_on()

    # Then nobody has a receipt for a batch that is not there
    for call in (first, second):
        with pytest.raises(StoreFull):
            call.result(DEADLINE_S)
    heal(house, engine)
    assert one.service.stats().counts == Counts()


def test_what_cannot_be_written_and_was_taken_back_is_not_tried_again(scene: Scene) -> None:
    # Given a submission that is too large for what room there is
    house, engine = scene
    seen: list[list[Change]] = []
    commit = engine.commit

    def watched(changes: list[Change], *, insist: bool = False) -> Committed:
        seen.append(list(changes))
        return commit(changes, insist=insist)

    engine.commit = watched  # type: ignore[method-assign,assignment]  # looked at on the way
    client = house.client()
    engine.fail(1)
    with pytest.raises(StoreFull):
        client.submit(submission={"size": 1_000_000})

    # When the next commit comes
    heal(house, engine)
    until("it is tried again", lambda: len(seen) > 1)

    # Then it does not carry the arguments along
    tried = [change for changes in seen[1:] for change in changes]
    assert not any(isinstance(change, Stored) and isinstance(change.row, ArgumentPage) for change in tried)
    assert BatchWithdrawn(1) in tried
    assert house.coordinator.cache._bytes == 0


def test_queries_are_answered_while_the_disk_is_full(scene: Scene) -> None:
    # Given
    house, engine = scene
    client, hand = house.client(), house.worker()
    batch = client.submit(3)
    hand.succeed(hand.fetch_one(), b"old")
    hand.fetch_one()
    engine.fail(1_000)
    with pytest.raises(StoreFull):
        client.submit()

    # Then
    assert client.states(batch, 3) == [State.SUCCEEDED, State.RUNNING, State.PENDING]
    assert client.service.batch(batch).counts == Counts(pending=1, running=1, succeeded=1)
    assert pages.unpack(client.service.results(batch, 0, 3)[0].results) == [b"old"]
    assert len(client.service.tasks(Selection())) == 3


def test_verbs_on_dead_letters_are_refused_while_the_disk_is_full(scene: Scene) -> None:
    # Given
    house, engine = scene
    (batch,) = house.dead_letters()
    client = house.client()
    engine.fail(1_000)
    with pytest.raises(StoreFull):
        client.submit()
    house.coordinator.machine.queue_state.ledger.expired(0.0)  # something waits to be written

    # Then the store's word on them may be old, so they are left alone
    for verb in (client.service.retry_dead, client.service.purge_dead):
        with pytest.raises(StoreFull):
            verb(Selection(ids=((batch, 0),), limit=0))
    heal(house, engine)
    assert client.service.retry_dead(Selection(ids=((batch, 0),), limit=0)) == 1


def test_what_is_told_of_a_task_is_durable_or_an_error(scene: Scene) -> None:
    # Given a task that has ended, which cannot be written
    house, engine = scene
    client, hand = house.client(), house.worker()
    batch = client.submit()
    grant = hand.fetch_one()
    house.coordinator.flush()
    engine.fail(1_000)
    with pytest.raises(StoreFull):
        hand.succeed(grant)

    # Then it is not "unknown", and its result is not given away
    with pytest.raises(StoreFull):
        client.service.task(batch, 0)
    with pytest.raises(StoreFull):
        client.service.batch(batch)


def test_result_that_is_not_durable_is_not_told(scene: Scene) -> None:
    # Given a result that cannot be written, of a batch that goes on
    house, engine = scene
    client, hand = house.client(), house.worker()
    batch = client.submit(2)
    grant = hand.fetch_one()
    house.coordinator.flush()
    engine.fail(1_000)
    with pytest.raises(StoreFull):
        hand.succeed(grant)

    # Then
    assert client.service.results(batch, 0, 2) == []
    heal(house, engine)
    assert len(client.service.results(batch, 0, 2)) == 1


def test_error_is_raised_anew_for_each_caller(scene: Scene) -> None:
    house, engine = scene
    clients = [house.client() for _ in range(3)]
    engine.fail(1_000)

    errors = [house.begin(client.submit).exception(DEADLINE_S) for client in clients]

    assert all(isinstance(error, StoreFull) for error in errors)
    assert len({id(error) for error in errors}) == 3


def test_failed_commit_is_tried_again_by_itself(scene: Scene) -> None:
    house, engine = scene
    client, hand = house.client(), house.worker()
    client.submit()
    grant = hand.fetch_one()
    house.coordinator.flush()
    engine.fail(2)

    with pytest.raises(StoreFull):
        hand.succeed(grant)

    until("it is written", lambda: len(engine.pages(ResultPage, 1, 0, 1)) == 1)
    assert engine.failed == 2


# -- an engine that has space set aside -----------------------------------------------------------------------------


class GivingEngine(FailingEngine):
    """Has something to give back some time after the first commit, and again after that, without any."""

    def __init__(self, again_s: float) -> None:
        super().__init__(MemoryEngine())
        self._again_s = again_s
        self.gave = 0

    def commit(self, changes: Sequence[Change], *, insist: bool = False) -> Committed:
        super().commit(changes, insist=insist)
        self.gave += not changes
        return Committed(again_s=self._again_s if self.gave < 3 else None)


def test_room_is_given_back_some_time_later_without_a_call(tmp_path: Path) -> None:
    engine = GivingEngine(0.01)
    house = House("memory", tmp_path, engine=lambda: engine)
    house.client().submit()

    until("it has given back", lambda: engine.gave == 3)

    house.close()


def test_nothing_is_given_back_before_its_time(tmp_path: Path) -> None:
    engine = GivingEngine(3600.0)
    house = House("memory", tmp_path, engine=lambda: engine)
    client = house.client()
    for _ in range(3):
        client.submit()

    assert engine.gave == 0
    house.close()


class ShortEngine(FailingEngine):
    """Has no room for new work while it is full, but goes on with what it has set aside."""

    def __init__(self) -> None:
        super().__init__(MemoryEngine())
        self.full = False

    def commit(self, changes: Sequence[Change], *, insist: bool = False) -> Committed:
        arguments = any(isinstance(change, Stored) and isinstance(change.row, ArgumentPage) for change in changes)
        if self.full and arguments and not insist:
            raise StoreFull("here", "no room for this")
        super().commit(changes, insist=insist)
        return Committed(shortage=StoreFull("here", "space that was set aside is used") if self.full else None)


@pytest.fixture
def short(tmp_path: Path) -> Iterator[tuple[House, ShortEngine]]:
    """A house over it."""
    engine = ShortEngine()
    house = House("memory", tmp_path, engine=lambda: engine)
    yield house, engine
    house.close()
    invariants.check(house.coordinator.machine)


def test_accepted_work_is_recorded_and_told_with_space_set_aside(short: tuple[House, ShortEngine]) -> None:
    # Given accepted work, and a disk that is full then
    house, engine = short
    client, hand = house.client(), house.worker()
    batch = client.submit(2)
    engine.full = True
    with pytest.raises(StoreFull, match="no room"):
        client.submit()

    # When a worker does what was accepted
    for _ in range(2):
        hand.succeed(hand.fetch_one(), b"done")

    # Then its reports are acknowledged, and everybody hears of them
    assert len(client.watch_until(batch, 2)) > 0
    assert client.states(batch, 2) == [State.SUCCEEDED] * 2
    assert pages.unpack(client.service.results(batch, 0, 1)[0].results)[0] == b"done"
    with pytest.raises(UnknownId):
        client.service.task(99, 0)
    assert client.service.stats().trouble == "store-full"
    with pytest.raises(StoreFull):
        client.submit()


def test_work_is_accepted_again_without_a_call_when_there_is_room(short: tuple[House, ShortEngine]) -> None:
    house, engine = short
    client = house.client()
    engine.full = True
    with pytest.raises(StoreFull):
        client.submit()
    until("the rest is written", lambda: house.coordinator.committer.stuck is None)
    assert house.coordinator.committer.trouble is not None

    engine.full = False

    until("there is no trouble", lambda: house.coordinator.committer.trouble is None)
    assert client.service.stats().trouble == ""
    assert client.submit() > 0


def test_piece_of_a_batch_that_was_accepted_before_is_insisted_on(short: tuple[House, ShortEngine]) -> None:
    # Given a batch that is open
    house, engine = short
    client, hand = house.client(), house.worker()
    batch = client.submit(1, submission={"complete": False})
    grant = hand.fetch_one()
    # When its next piece finds the disk full
    engine.full = True
    with pytest.raises(StoreFull):
        client.submit(1, submission={"batch": batch, "offset": 1})
    # Then it is kept, as the batch has it already, and nothing else waits for it
    until("it is written", lambda: len(engine.pages(ArgumentPage, batch, 0, 2)) == 2)
    hand.succeed(grant, b"done")


def test_durability_none_neither_waits_nor_takes_back_what_it_has_acknowledged(tmp_path: Path) -> None:
    # Given
    house, engine = failing_house(tmp_path, durability="none")
    try:
        client = house.client()
        engine.fail(1)

        # When a submission is acknowledged whose commit fails later
        batch = client.submit(3)
        until("the commit has failed", lambda: engine.failed == 1)

        # Then it is kept and written with the next
        until("it is written", lambda: len(engine.batches([batch])) == 1)
        assert client.states(batch, 3) == [State.PENDING] * 3
    finally:
        house.close()


# -- the end --------------------------------------------------------------------------------------------------------


def test_stop_writes_what_there_is(tmp_path: Path) -> None:
    house, engine = failing_house(tmp_path)
    client, hand = house.client(), house.worker()
    client.submit(2)
    hand.fetch_one()

    assert house.stop()

    engine.open()
    assert any(getattr(row, "token", None) for row in engine.restore())
    house._pool.shutdown()


def test_stop_says_so_when_not_everything_could_be_written(tmp_path: Path) -> None:
    house, engine = failing_house(tmp_path)
    client, hand = house.client(), house.worker()
    client.submit()
    hand.fetch_one()
    house.coordinator.flush()
    engine.fail(1_000)
    with pytest.raises(StoreFull):
        client.submit()

    assert house.stop() is False
    house._pool.shutdown()


def test_calls_after_the_end_hear_so_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    # Given a coordinator that has stopped, under connections that are still there
    house, _ = failing_house(tmp_path)
    client, hand = house.client(), house.worker()
    batch = client.submit()
    grant = hand.fetch_one()
    house.stop()

    # Then
    for call in (
        lambda: hand.succeed(grant),
        lambda: client.service.batch(batch),
        lambda: client.service.results(batch, 0, 1),
        lambda: client.submit(),
    ):
        with pytest.raises((ShuttingDown, StoreError)):
            house.begin(call).result(DEADLINE_S)
    house._pool.shutdown()


class Bench:
    """A committer alone, over an engine, with changes that are made by hand."""

    def __init__(self, engine: HeldEngine, *, wait: bool = True) -> None:
        engine.open()
        self.lock = threading.Lock()
        self.changed = 0
        self.committed = 0
        self.committer = Committer(
            engine,
            self.lock,
            drain=self._drain,
            dirty=lambda: self.changed > 0,
            committed=self._on_committed,
            failed=lambda _: set(),
            wait=wait,
        )
        self.committer.start()

    def _drain(self) -> tuple[list[Change], list[EndedRange]]:
        changes: list[Change] = [BatchWithdrawn(1)] * self.changed
        self.changed = 0
        return changes, []

    def _on_committed(self, _: Generation, changes: list[Change], __: list[EndedRange]) -> None:
        self.committed += len(changes)

    def change(self) -> Generation:
        with self.lock:
            self.changed += 1
            ticket = self.committer.ticket()
        assert ticket is not None
        return ticket


class Broken(HeldEngine):
    """Breaks the contract."""

    def commit(self, changes: object, *, insist: bool = False) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("by", ["caller", "thread"])
def test_committer_that_dies_of_a_bug_is_heard_by_everybody(by: str, caplog: pytest.LogCaptureFixture) -> None:
    # Given an engine that breaks its contract
    bench = Bench(Broken())
    committer = bench.committer
    ticket = bench.change()

    # When a commit is made
    if by == "thread":
        with bench.lock:
            committer.soon()
        until("the thread has tried", lambda: committer.stuck is not None)

    # Then whoever waits for it, or comes later, hears so, and the log has why
    with pytest.raises(StoreError, match="died"):
        committer.settle(ticket)
    with pytest.raises(StoreError, match="died"):
        committer.settle(bench.change())
    assert committer.stop(DEADLINE_S) is False
    assert "ZeroDivisionError" in caplog.text


def test_caller_commits_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a committer whose thread does nothing
    monkeypatch.setattr(Committer, "_run", lambda self: None)
    bench = Bench(HeldEngine())
    bench.change()

    # When
    bench.committer.settle(bench.change())

    # Then it and what came before is in the engine
    assert bench.committed == 2


def test_what_nobody_waits_for_is_committed_soon() -> None:
    bench = Bench(HeldEngine())
    bench.change()

    with bench.lock:
        bench.committer.soon()

    until("it is committed", lambda: bench.committed == 1)
    assert bench.committer.stop(DEADLINE_S)


def test_nothing_is_left_behind_by_callers_that_come_and_go() -> None:
    # Given callers who wait for one another's commits in every order
    bench = Bench(HeldEngine())

    def call() -> None:
        for _ in range(300):
            bench.committer.settle(bench.change())

    # When
    callers = [threading.Thread(target=call, daemon=True) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(DEADLINE_S)

    # Then nobody waits for ever
    assert not any(caller.is_alive() for caller in callers)
    assert bench.committed == 2400
    assert bench.committer.stop(DEADLINE_S)


def test_without_waiting_it_is_committed_all_the_same() -> None:
    # Given durability "none", and a commit of somebody else under way
    engine = HeldEngine()
    bench = Bench(engine, wait=False)
    engine.hold()
    other = threading.Thread(target=lambda: bench.committer.settle(bench.change()))
    other.start()
    assert engine.reached.wait(DEADLINE_S)

    # When
    bench.committer.settle(bench.change())
    engine.go_on()

    # Then
    until("both are committed", lambda: bench.committed == 2)
    other.join(DEADLINE_S)
    assert bench.committer.stop(DEADLINE_S)
