"""`Service.rerun`: ended tasks are submitted once more, as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dtq.core import invariants
from dtq.core.changes import ArgumentPage
from dtq.errors import DtqError, NotEnded, NotRepeatable, QueueFull, ResultExpired, UnknownId
from dtq.model import pages
from dtq.model.inputs import RESULT, inputs_of
from dtq.model.messages import Conditions, Grant, TaskRange
from dtq.model.resources import Needs
from dtq.model.snapshots import Rerun, Selection
from dtq.model.states import State
from dtq.model.values import describe
from tests.contracts.service_scene import Caller, House, until
from tests.contracts.test_service_values import _values


def rerun(caller: Caller, *ids: tuple[int, int], **selection: Any) -> list[Rerun]:
    """Submit once more; the new batches."""
    report = caller.service.rerun(Selection(ids=ids, limit=0, **selection))
    assert report.tasks == sum(each.tasks for each in report.batches)
    assert not report.more
    return list(report.batches)


def ended(caller: Caller, batch: int, state: State, count: int = 1) -> None:
    """Wait until tasks are shown as ended."""
    name = state.value
    until(f"{count} tasks are {name}", lambda: getattr(caller.service.batch(batch).counts, name) == count)


def calls(grants: list[Grant]) -> list[bytes]:
    return [blob for grant in grants for blob in pages.unpack(grant.arguments)]


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.DEAD, State.CANCELLED])
def test_ended_task_is_submitted_once_more_as_it_was(house: House, state: State) -> None:
    # Given an ended task with all kinds of terms
    client, hand = house.client(), house.worker(slots=2)
    terms: dict[str, Any] = {
        "function": "work:shop", "queue": "mail", "priority": 2, "max_retries": 0, "timeout_s": 60.0,
        "limits": ("api",), "label": "nightly", "needs": Needs(slots=2),
    }  # fmt: skip
    batch = client.submit(submission={"key": "once"}, **terms)
    if state is State.CANCELLED:
        client.service.cancel(Selection(ids=((batch, -1),), limit=0))
    elif state is State.DEAD:
        hand.fail(hand.fetch_one())
    else:
        hand.succeed(hand.fetch_one())
    ended(client, batch, state)

    # When it is submitted once more
    (made,) = rerun(client, (batch, -1))

    # Then it is another task, of the same call and terms, and waits; the key stays with the earlier one
    assert (made.earlier, made.tasks) == (batch, 1)
    view = client.service.task(made.batch, 0)
    assert (view.state, view.single, view.attempt, view.key) == (State.PENDING, True, 0, None)
    assert view.spec == client.service.task(batch, 0).spec
    grant = hand.fetch_one()
    assert calls([grant]) == [b"0"]
    hand.succeed(grant)
    ended(client, made.batch, State.SUCCEEDED)
    ended(client, batch, state)


def test_new_tasks_are_on_disk_and_outlive_the_earlier_ones(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit(3, max_retries=0)
    for _ in range(3):
        hand.fail(hand.fetch_one())
    (made,) = rerun(client, (batch, 2), (batch, 0))
    client.service.purge_dead(Selection(limit=0))
    house.restart()
    client, hand = house.client(), house.worker()
    assert client.service.batch(made.batch).counts.pending == 2
    first, second = hand.fetch_one(), None
    hand.succeed(first)
    second = hand.fetch_one()
    assert calls([first, second]) == [b"0", b"2"]
    hand.succeed(second)
    ended(client, made.batch, State.SUCCEEDED, 2)


def test_filters_select_ended_tasks_and_each_batch_makes_one(house: House) -> None:
    # Given ended tasks of several queues, and some that have not ended
    client, hand = house.client(), house.worker()
    some = [client.submit(2, queue="mail", label=label, max_retries=0) for label in ("a", "b")]
    for _ in range(4):
        hand.fail(hand.fetch_one())
    done = client.submit(queue="mail")
    hand.succeed(hand.fetch_one())
    client.submit(queue="other")
    ended(client, done, State.SUCCEEDED)

    # When, Then
    made = rerun(client, state=State.DEAD, queue="mail")
    assert [(each.earlier, each.tasks) for each in made] == [(batch, 2) for batch in some]
    assert [each.earlier for each in rerun(client, label="b")] == [some[1]]
    assert [each.earlier for each in rerun(client, state=State.SUCCEEDED)] == [done]
    assert rerun(client, function="nothing:*") == []


def test_large_arguments_are_kept_by_the_new_task(house: House) -> None:
    # Given a task with an argument that is a value, which died
    client, hand = house.client(), house.worker()
    data = b"x" * 300_000
    draft = _values(client).draft()
    draft.write(data)
    value = draft.finish()
    blob = describe([value])
    batch = client.submit(submission={"arguments": pages.pack([blob], described=True)}, max_retries=0)
    hand.fail(hand.fetch_one())

    # When it is submitted once more, and the earlier one purged
    (made,) = rerun(client, (batch, 0))
    client.service.purge_dead(Selection(limit=0))
    client.hang_up()

    # Then the value is there still
    grant = hand.fetch_one()
    assert calls([grant]) == [blob]
    assert grant.batch == made.batch
    assert bytes(memoryview(_values(house.client()).fetch(value))) == data


def test_results_of_others_are_given_once_more(house: House) -> None:
    # Given tasks that were given results: of a task, of each task of a map, and by themselves
    client, hand = house.client(), house.worker(chains=False)
    parent = client.submit(2)
    for result in (b"r0", b"r1"):
        hand.succeed(hand.fetch_one(), result)
    after = Conditions(after=((parent, 1, 2, True), (parent, 0, 0, False)))
    one = client.submit(submission={"conditions": after})
    each = client.submit(submission={"arguments": pages.pack(()), "conditions": Conditions(each=((parent, False),))})
    own = client.submit(2, submission={"items": ((1, ((parent, 0, 1, True),)),)}, max_retries=0)

    def given() -> list[list[bytes]]:
        found = []
        for _ in range(5):
            grant = hand.fetch_one()
            inputs = [inputs_of(blob) for blob in calls([grant])]
            found += [[part.removeprefix(RESULT) for part in each[1]] if each else [] for each in inputs]
            hand.fail(grant) if grant.batch in kept else hand.succeed(grant)
        return found

    kept = {own}
    first = given()
    assert first == [[b"r1"], [b"r0"], [b"r1"], [], [b"r0"]]
    for batch, state, count in ((one, State.SUCCEEDED, 1), (each, State.SUCCEEDED, 2), (own, State.DEAD, 2)):
        ended(client, batch, state, count)

    # When they are submitted once more, Then they are given the same
    made = rerun(client, (one, -1), (each, -1), (own, -1))
    assert [(m.earlier, m.tasks) for m in made] == [(one, 1), (each, 2), (own, 2)]
    assert given() == first

    # And one of a map over a map alone
    (again,) = rerun(client, (each, 1))
    assert calls([hand.fetch_one()]) == [b"\x02\x01\x00" + RESULT + b"r1"]
    assert again.tasks == 1


def test_what_has_not_ended_or_is_gone_is_one_clear_error(house: House) -> None:
    client, hand = house.client(), house.worker()
    dead, waits = client.submit(max_retries=0), client.submit(2)
    hand.fail(hand.fetch_one())

    def refused(*ids: tuple[int, int], **selection: Any) -> tuple[type[DtqError], str]:
        with pytest.raises(DtqError) as raised:
            rerun(client, *ids, **selection)
        return type(raised.value), str(raised.value)

    assert refused((dead, -1), (waits, -1))[0] is NotEnded
    kind, sentence = refused((waits, 1))
    assert kind is NotEnded
    assert sentence.startswith(f"{waits}.1 is pending: only what has ended can be submitted once more.")
    assert "dead, and left out by the filter" in refused((dead, 0), state=State.SUCCEEDED)[1]
    assert refused((99, -1))[0] is UnknownId
    assert client.service.stats().submitted == 3  # nothing was submitted

    # And where the arguments are gone
    find = house.coordinator.engine.pages

    def without_arguments(kind: Any, *at: Any, **room: Any) -> list[Any]:
        return [] if kind is ArgumentPage else find(kind, *at, **room)

    house.coordinator.engine.pages = without_arguments  # type: ignore[method-assign]  # for this test
    kind, sentence = refused((dead, 0))
    assert kind is NotRepeatable
    assert sentence.startswith(f"{dead} cannot be submitted once more: its arguments are no longer kept.")


def test_task_that_was_let_go_is_no_longer_kept(house: House) -> None:
    client, hand = house.client(), house.worker()
    batch = client.submit(2)
    hand.succeed(hand.fetch_one())
    hand.succeed(hand.fetch_one())
    assert len(client.watch_until(batch, 2)) >= 1
    client.service.let_go([TaskRange(batch=batch, lo=0, hi=2)])
    with pytest.raises((ResultExpired, UnknownId, NotRepeatable)):
        rerun(client, (batch, 0))


@pytest.mark.rules(max_tasks=10)
def test_full_queue_takes_all_or_nothing(house: House) -> None:
    # Given ended batches of seven tasks in all, and a queue with room for five
    client, hand = house.client(), house.worker()
    some = [client.submit(count, max_retries=0) for count in (3, 4)]
    for _ in range(7):
        hand.fail(hand.fetch_one())
    client.submit(5)

    # When they are submitted once more, Then nothing of it is left
    with pytest.raises(QueueFull):
        rerun(client, *((batch, -1) for batch in some))
    assert client.service.stats().counts.pending == 5
    with house.coordinator.lock:
        invariants.check(house.coordinator.machine)
    house.restart()
    client = house.client()
    assert client.service.stats().counts.pending == 5

    # And what has room is taken
    assert [each.tasks for each in rerun(client, (some[0], -1))] == [3]


def test_many_tasks_are_submitted_load_by_load(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given many cancelled tasks, of which a load has few
    monkeypatch.setattr("dtq.coordinator.rerunning._TASKS", 1_500)
    client, hand = house.client(), house.worker()
    batch = client.submit(1_000, submission={"complete": False})
    for offset in range(1_000, 5_000, 1_000):
        (receipt,) = client.receipts(client.submission(1_000, offset=offset, batch=batch, complete=offset == 4_000))
        assert receipt.code == ""
    client.service.cancel(Selection(ids=((batch, -1),), limit=0))
    ended(client, batch, State.CANCELLED, 5_000)

    # When they are submitted once more, Then they make one batch, in their order
    (made,) = rerun(client, (batch, -1))
    assert made.tasks == 5_000
    view = client.service.batch(made.batch)
    assert (view.size, view.complete, view.counts.pending) == (5_000, True, 5_000)
    seen: list[bytes] = []
    while len(seen) < 5_000:
        grants = hand.fetch()
        seen += calls(grants)
        for grant in grants:
            hand.succeed(grant, seconds=1e-6 * (grant.hi - grant.lo))
    assert seen == [b"%d" % index for index in range(5_000)]


def test_what_expires_meanwhile_is_left_out_of_what_filters_match(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given dead letters of three batches, one of which expires right after the filters have matched it
    client, hand = house.client(), house.worker()
    some = [client.submit(2, max_retries=0) for _ in range(3)]
    for _ in range(6):
        hand.fail(hand.fetch_one())
    engine = house.coordinator.engine
    pages_of, batches_of = engine.pages, engine.batches

    def without_pages(kind: Any, batch: int, *at: Any, **room: Any) -> list[Any]:
        return [] if batch == some[1] else pages_of(kind, batch, *at, **room)

    def without_batch(numbers: Any = (), *more: Any, **named: Any) -> list[Any]:
        return [] if list(numbers) == [some[1]] else batches_of(numbers, *more, **named)

    monkeypatch.setattr(engine, "pages", without_pages)
    monkeypatch.setattr(engine, "batches", without_batch)

    # When, Then
    assert [each.earlier for each in rerun(client, state=State.DEAD)] == [some[0], some[2]]


def test_rerun_that_a_kill_cut_short_leaves_nothing_to_run(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a rerun of several loads, and a coordinator that ends in the middle
    monkeypatch.setattr("dtq.coordinator.rerunning._TASKS", 1_000)
    monkeypatch.setattr("dtq.coordinator.rerunning._Rerun.give_up", lambda self: None)
    client = house.client()
    batch = client.submit(1_000, submission={"complete": False})
    for offset in (1_000, 2_000):
        client.receipts(client.submission(1_000, offset=offset, batch=batch, complete=offset == 2_000))
    client.service.cancel(Selection(ids=((batch, -1),), limit=0))
    ended(client, batch, State.CANCELLED, 3_000)
    find = house.coordinator.engine.pages

    def killed(kind: Any, number: int, lo: int, *more: Any, **room: Any) -> list[Any]:
        return [page for page in find(kind, number, lo, *more, **room) if page.lo < 2_000]

    monkeypatch.setattr(house.coordinator.engine, "pages", killed)
    with pytest.raises(NotRepeatable):
        rerun(client, (batch, -1))
    monkeypatch.undo()
    half = client.service.batch(batch + 1)
    assert (half.complete, half.counts.pending) == (False, half.size)

    # When it starts again, Then the half batch is cancelled, and says why
    house.restart()
    view = house.client().service.batch(batch + 1)
    assert (view.complete, view.counts.cancelled, view.reason) == (True, half.size, "not all of it could be submitted")


def test_rerun_that_fails_in_the_middle_cancels_what_it_has_begun(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtq.coordinator.rerunning._TASKS", 1_000)
    client = house.client()
    batch = client.submit(1_000, submission={"complete": False})
    for offset in (1_000, 2_000):
        client.receipts(client.submission(1_000, offset=offset, batch=batch, complete=offset == 2_000))
    client.service.cancel(Selection(ids=((batch, -1),), limit=0))
    ended(client, batch, State.CANCELLED, 3_000)
    find = house.coordinator.engine.pages

    def damaged(kind: Any, number: int, lo: int, *more: Any, **room: Any) -> list[Any]:
        return [page for page in find(kind, number, lo, *more, **room) if page.lo < 2_000]

    monkeypatch.setattr(house.coordinator.engine, "pages", damaged)
    with pytest.raises(NotRepeatable):
        rerun(client, (batch, -1))
    half = client.service.batch(batch + 1)
    assert (half.complete, half.counts.cancelled) == (True, half.size)


def test_large_arguments_that_are_gone_are_one_clear_error(house: House) -> None:
    # Given a dead letter with an argument that is a value, whose file is lost
    client, hand = house.client(), house.worker()
    draft = _values(client).draft()
    draft.write(b"x" * 300_000)
    value = draft.finish()
    batch = client.submit(submission={"arguments": pages.pack([describe([value])], described=True)}, max_retries=0)
    hand.fail(hand.fetch_one())
    place = house.engine.place
    assert place is not None
    for directory in place.paths:
        for path in Path(directory).rglob("*.values"):
            path.unlink()

    # When, Then
    with pytest.raises(NotRepeatable, match="one of its large arguments is no longer kept"):
        rerun(client, (batch, 0))
    assert client.service.stats().submitted == 1
