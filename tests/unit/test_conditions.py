"""Until when something starts, and what its key stands for: as the clients and the in-process queue offer it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest

from dtq import AsyncClient, Client, TaskCancelled, TaskQueue
from dtq.client.conditions import ConditionOptions
from dtq.client.outbox import Item, Outbox
from dtq.client.submitting import Order, SubmitOptions, order
from dtq.client.terms import TaskOptions
from dtq.errors import InvalidValue, KeyConflict, KeyTaken
from dtq.model import pages
from dtq.model.messages import Conditions, Conflict, Unique
from dtq.model.options import Function, Options, Spec
from dtq.testing import InProcessQueue
from tests.tasks import numbers_work as work


@pytest.fixture
def queue() -> Iterator[InProcessQueue]:
    with InProcessQueue() as made:
        yield made


def test_what_expires_says_why_in_its_exception_and_status(queue: InProcessQueue) -> None:
    handle = queue.client.submit(work.square, 2, expires=60)
    batch = queue.client.submit_map(work.square, [1, 2], expires=timedelta(minutes=1))
    assert queue.due_in() is None
    queue.advance(60.0)
    with pytest.raises(
        TaskCancelled, match=r"^task \d(\.0)? was cancelled: it had not started by 1970-01-12 13:47:40 UTC\.$"
    ):
        handle.result(5)
    assert handle.status().reason == "it had not started by 1970-01-12 13:47:40 UTC"
    assert batch.status().reason == "it had not started by 1970-01-12 13:47:40 UTC"
    assert queue.run_all() == []


def test_what_starts_in_time_is_not_cancelled(queue: InProcessQueue) -> None:
    handle = queue.client.submit(work.square, 2, expires=60)
    queue.advance(59.0)
    queue.run_due()
    assert handle.result(5) == 4


def test_moment_may_be_a_datetime_of_any_zone() -> None:
    moment = datetime(2031, 5, 17, 12, 0, tzinfo=UTC)
    assert order(expires=moment).conditions == Conditions(start_by=moment.timestamp())
    naive = datetime(2031, 5, 17, 12, 0)
    assert order(expires=naive).conditions == Conditions(start_by=naive.timestamp())


def test_key_is_free_again_when_its_task_has_started(queue: InProcessQueue) -> None:
    def refresh(n: int) -> str:
        return queue.client.submit(work.square, n, key="refresh", unique="pending").id

    first = refresh(2)
    assert refresh(2) == first
    queue.run_due()
    assert refresh(3) != first


def test_repeat_gets_what_it_asks_for(queue: InProcessQueue) -> None:
    client = queue.client
    first = client.submit(work.square, 2, key="k", unique="unfinished")
    with pytest.raises(KeyTaken, match=r"the key 'k' is taken by batch 1\."):
        client.submit(work.square, 2, key="k", unique="unfinished", on_conflict="error").result(5)
    with pytest.raises(KeyConflict, match="a different submission"):
        client.submit(work.square, 3, key="k", unique=3600).result(5)
    second = client.submit(work.square, 3, key="k", unique="unfinished", on_conflict="replace")
    queue.run_all()
    assert second.result(5) == 9
    with pytest.raises(TaskCancelled, match="it was replaced by 2"):
        first.result(5)


def test_coroutines_and_options_ask_alike(queue: InProcessQueue) -> None:
    async def main() -> tuple[str, str, str]:
        async with queue.async_client() as client:
            asked: dict[str, Any] = {"key": "k", "unique": "pending", "on_conflict": "existing", "expires": 60}
            one = await client.submit(work.square, 2, **asked)
            two = client.submit_nowait(work.square, 2, **asked)
            await two.accepted()
            three = await client.options(**asked).submit(work.square, 2)
            return one.id, two.id, three.id

    assert len(set(asyncio.run(main()))) == 1
    (task,) = queue.assert_submitted(work.square, 2, unique="pending", expires=60, on_conflict="existing")
    assert task.conditions == Conditions(expires_s=60.0, unique=Unique.PENDING)
    with pytest.raises(AssertionError, match="unique is"):
        queue.assert_submitted(work.square, 2, unique="kept")


def test_neighbours_travel_together_only_where_they_ask_the_same() -> None:
    # Given neighbours of one function
    outbox = Outbox()
    spec = Spec(function=Function(name="work:shop"), options=Options())
    asked = [None, None, Conditions(expires_s=1.0), Conditions(expires_s=1.0), Conditions(expires_s=2.0), None]
    for conditions in asked:
        outbox.put(Item(mock.Mock(), spec, b"{}", 2, False, 0.0, None, conditions))

    # When they are sent; Then those that ask the same are one submission
    sent = [(s.conditions, pages.count(s.arguments)) for s in outbox.gather(1 << 20).submissions]
    assert sent == [(None, 2), (asked[2], 2), (asked[4], 1), (None, 1)]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"expires": -1}, "expires"),
        ({"expires": "soon"}, "expires"),
        ({"expires": float("nan")}, "expires"),
        ({"expires": datetime(1969, 1, 1, tzinfo=UTC)}, "expires"),
        ({"key": "k", "unique": "always"}, "unique"),
        ({"key": "k", "unique": -1}, "unique"),
        ({"key": "k", "on_conflict": "fail"}, "on_conflict"),
        ({"unique": "pending"}, "with a key"),
        ({"on_conflict": "replace"}, "with a key"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_the_caller(queue: InProcessQueue, given: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidValue, match=what):
        queue.client.submit(work.square, 2, **given)
    queue.assert_nothing_submitted()


def test_nothing_asked_is_nothing_sent(queue: InProcessQueue) -> None:
    queue.client.options(expires=60).submit(work.square, 1, 2)
    assert order(expires=None, unique=None, on_conflict=None).conditions is None
    assert order(expires=None).over(order(expires=60)).conditions is None
    assert order(priority=1).over(order(expires=60)).conditions == Conditions(expires_s=60.0)
    assert order(key="k", on_conflict="error").conditions == Conditions(on_conflict=Conflict.ERROR)
    assert Order().conditions is None


@pytest.mark.parametrize("method", [Client.submit, AsyncClient.submit, AsyncClient.submit_nowait, TaskQueue.submit])
def test_each_face_has_all_keywords(method: Any) -> None:
    expected = SubmitOptions.__annotations__.keys() | ConditionOptions.__annotations__.keys()
    expected |= TaskOptions.__annotations__.keys()
    assert expected <= inspect.signature(method).parameters.keys()
