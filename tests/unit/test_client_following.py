"""How news find who waits for them, and who is forgotten."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from dtq.client.batches import Batch
from dtq.client.following import ACCEPTED, ENDED, Following
from dtq.client.handle import Group, TaskHandle
from dtq.client.payloads import encode_result
from dtq.errors import ClientClosed, UnknownId
from dtq.model import pages
from dtq.model.messages import Ended, TaskRange
from dtq.model.options import Function, Options, Spec
from dtq.model.states import State

SPEC = Spec(function=Function(name="m:f"), options=Options())


class HandleClient:
    """As much of a client as a handle needs here."""

    def __init__(self) -> None:
        self.following = Following()


def handle(desk: Any) -> TaskHandle[int]:
    return TaskHandle(desk, SPEC)


def accept(following: Following, batch: int, *targets: Any) -> None:
    for target in targets:
        if isinstance(target, TaskHandle):
            target._on_accepted(batch, -1, [])
        following.add(batch, target, [])


def ended(batch: int, lo: int, *results: int) -> Ended:
    page = pages.pack([encode_result(result) for result in results])
    return Ended(batch=batch, lo=lo, hi=lo + len(results), state=State.SUCCEEDED, results=page)


def test_news_that_overtake_their_receipt_are_kept_for_it() -> None:
    # Given a submission under way, whose task ends before its receipt arrives
    desk = HandleClient()
    following = desk.following
    mine = handle(desk)
    following.expect()
    following.on_news([ended(7, 0, 42)])
    # When the receipt arrives
    with following.lock:
        accept(following, 7, mine)
        following.expected()
    # Then the handle knows
    assert mine.result(0) == 42
    assert following.idle


def test_news_of_strangers_are_not_kept() -> None:
    # Given no submission under way
    desk = HandleClient()
    desk.following.on_news([ended(7, 0, 42)])
    # When a batch of that number is followed later; Then it has not ended
    mine = handle(desk)
    with desk.following.lock:
        accept(desk.following, 7, mine)
    assert not mine.done()


def test_news_kept_for_a_receipt_are_dropped_with_it() -> None:
    # Given news of a batch that the receipt under way was not for
    desk = HandleClient()
    desk.following.expect()
    desk.following.on_news([ended(8, 0, 42)])
    with desk.following.lock:
        desk.following.expected()
    # When it is followed later; Then nothing of it was kept
    mine = handle(desk)
    with desk.following.lock:
        accept(desk.following, 8, mine)
    assert not mine.done()


def test_several_handles_of_one_batch_all_learn() -> None:
    # Given two handles of one batch (a key submitted twice), and a third of another
    desk = HandleClient()
    first, second, other = handle(desk), handle(desk), handle(desk)
    with desk.following.lock:
        accept(desk.following, 7, first, second)
        accept(desk.following, 8, other)
    # When it ends; Then both know, and the other waits
    desk.following.on_news([ended(7, 0, 42)])
    assert (first.result(0), second.result(0), other.done()) == (42, 42, False)
    assert desk.following.unfinished() == [8]


def test_what_is_told_twice_counts_once() -> None:
    # Given a handle that has ended
    desk = HandleClient()
    mine = handle(desk)
    with desk.following.lock:
        accept(desk.following, 7, mine)
    desk.following.on_news([ended(7, 0, 42), ended(7, 0, 43)])
    # When it is asked; Then the first news hold
    assert mine.result(0) == 42


def test_group_gives_each_handle_its_own_result_in_any_pieces() -> None:
    # Given five tasks that travelled together, the handle of one of them thrown away
    desk = HandleClient()
    handles = [handle(desk) for _ in range(5)]
    group = Group(handles, 0)
    with desk.following.lock:
        group._on_accepted(7, [])
        desk.following.add(7, group, [], group.itself)
    del group, handles[2]
    gc.collect()
    # When they end in pieces, some of it told twice, one of them cancelled
    desk.following.on_news([ended(7, 3, 13), ended(7, 1, 11, 12, 13), ended(7, 0, 10)])
    assert desk.following.unfinished() == [7]
    desk.following.on_news([Ended(batch=7, lo=4, hi=5, state=State.CANCELLED)])
    # Then each has its own
    assert [h.id for h in handles] == ["7.0", "7.1", "7.3", "7.4"]
    assert [h.result(0) for h in handles[:3]] == [10, 11, 13]
    assert handles[3].state is State.CANCELLED
    assert desk.following.idle


class SoleHandle(TaskHandle[int]):
    _sole = True


def test_group_is_let_go_when_all_of_it_has_ended() -> None:
    # Given three tasks that travelled together, which nobody but the holders of their handles can ask for
    desk: Any = HandleClient()
    handles = [SoleHandle(desk, SPEC) for _ in range(3)]
    group = Group(handles, 0)
    with desk.following.lock:
        group._on_accepted(7, [])
        desk.following.add(7, group, [], group.itself)
    # When two have ended; Then there is nothing to tell
    desk.following.on_news([ended(7, 0, 10, 11)])
    assert not desk.following.read
    # When all have; Then it is told as one range, once
    desk.following.on_news([ended(7, 2, 12), ended(7, 2, 12)])
    assert desk.following.read.take() == [TaskRange(batch=7, lo=0, hi=3)]
    assert not desk.following.read


def test_group_with_a_handle_of_a_plain_client_stays() -> None:
    desk: Any = HandleClient()
    handles = [SoleHandle(desk, SPEC), handle(desk)]
    group = Group(handles, 0)
    with desk.following.lock:
        group._on_accepted(7, [])
        desk.following.add(7, group, [], group.itself)
    desk.following.on_news([ended(7, 0, 10, 11)])
    assert not desk.following.read


def followed(following: Following, size: int) -> Batch:
    """A batch whose results are kept for a reader."""
    batch = Batch(9, size, complete=True)
    batch.followed = True
    batch.keep_results(ordered=True)
    with following.lock:
        following.add(9, batch, [])
    return batch


def test_batch_that_nobody_reads_is_let_go_as_it_ends() -> None:
    # Given a batch of which two tasks have ended
    following = HandleClient().following
    batch = followed(following, 5)
    following.on_news([ended(9, 0, 10), ended(9, 2, 12)])
    # When nobody is going to read it; Then those are let go, and their results not held here
    following.disown(batch)
    assert sorted(following.read.take(), key=lambda tasks: tasks.lo) == [
        TaskRange(batch=9, lo=0, hi=1),
        TaskRange(batch=9, lo=2, hi=3),
    ]
    assert batch.take(0) is None
    # When the rest ends, with no handle of it anywhere; Then all of it is let go
    del batch
    gc.collect()
    following.on_news([ended(9, 1, 11)])
    assert not following.read
    following.on_news([ended(9, 3, 13, 14)])
    assert following.read.take() == [TaskRange(batch=9, lo=0, hi=5)]
    assert following.idle


def test_batch_that_has_ended_is_let_go_at_once() -> None:
    following = HandleClient().following
    batch = followed(following, 2)
    following.on_news([ended(9, 0, 10, 11)])
    following.disown(batch)
    assert following.read.take() == [TaskRange(batch=9, lo=0, hi=2)]


def test_batch_of_which_nothing_more_is_known_is_forgotten() -> None:
    # Given a batch that nobody reads
    following = HandleClient().following
    batch = followed(following, 2)
    following.disown(batch)
    # When the client ends; Then it is not held any more, and nothing is told of it
    following.fail(ClientClosed("x"))
    assert not following.read
    gone = weakref.ref(batch)
    del batch
    gc.collect()
    assert gone() is None


def test_handles_that_are_gone_are_forgotten() -> None:
    # Given a handle that nobody has any more
    desk = HandleClient()
    mine = handle(desk)
    with desk.following.lock:
        accept(desk.following, 7, mine)
    del mine
    # When the registry is asked what it waits for; Then not for that
    assert desk.following.unfinished() == []


def test_end_of_the_client_reaches_those_who_wait_and_those_to_come() -> None:
    # Given a handle, a group and a batch
    desk = HandleClient()
    following = desk.following
    lone, member, late = handle(desk), handle(desk), handle(desk)
    batch = Batch(9, 5)
    group = Group([member], 0)
    with following.lock:
        accept(following, 7, lone)
        following.add(8, group, [], group.itself)
        following.add(9, batch, [])
    # When the client ends
    following.fail(ClientClosed("x"))
    with following.lock:
        accept(following, 10, late)
    # Then everybody knows why
    for each in (lone, member, late):
        with pytest.raises(ClientClosed):
            each.result(0)
    assert isinstance(batch.error, ClientClosed)


def test_lost_batches_are_an_error_for_their_handles_only() -> None:
    # Given two batches of which the coordinator knows one no more
    desk = HandleClient()
    lost, kept = handle(desk), handle(desk)
    with desk.following.lock:
        accept(desk.following, 7, lost)
        accept(desk.following, 8, kept)
    # When that is told; Then the one raises, and the other waits
    desk.following.lose([7], lambda batch: UnknownId(str(batch)))
    with pytest.raises(UnknownId, match="no task 7"):
        lost.result(0)
    assert not kept.done()


def test_waiters_are_called_once_and_can_be_forgotten() -> None:
    # Given somebody who waits for acceptance and for the end, and somebody who gave up
    desk = HandleClient()
    following = desk.following
    mine = handle(desk)
    called: list[str] = []

    def gave_up() -> None:
        called.append("gave up")

    assert following.subscribe(mine, ACCEPTED, lambda: called.append("accepted"))
    assert following.subscribe(mine, ENDED, lambda: called.append("ended"))
    assert following.subscribe(mine, ENDED, gave_up)
    following.unsubscribe(mine, gave_up)
    wakes: list[Any] = []
    # When it is accepted, and ends
    with following.lock:
        mine._on_accepted(7, -1, wakes)
        following.add(7, mine, wakes)
    for wake in wakes:
        wake()
    assert called == ["accepted"]
    following.on_news([ended(7, 0, 1)])
    # Then each was called once, at its moment; and who comes late is told so
    assert called == ["accepted", "ended"]
    assert not following.subscribe(mine, ENDED, gave_up)
