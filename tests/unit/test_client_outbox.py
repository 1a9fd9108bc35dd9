"""What travels together, in which pieces, and who has to wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from dtq.client import batch_uploads, outbox
from dtq.client.batch_uploads import BatchUpload
from dtq.client.batches import Batch
from dtq.client.functions import Callee
from dtq.client.handle import Group, TaskHandle
from dtq.client.outbox import Call, Item, Outbox
from dtq.client.tasks import Note
from dtq.client.terms import NO_TERMS, Attribution, Terms
from dtq.client.thread_wakeup import ThreadWakeup
from dtq.errors import ClientClosed, InvalidValue
from dtq.model import pages
from dtq.model.messages import Conditions
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.values import is_description, weight
from dtq.transport import safepickle
from dtq.transport.calls import METHODS

ONE = Spec(function=Function(name="m:one"), options=Options())
TWO = Spec(function=Function(name="m:two"), options=Options())
LARGE = 16 << 20


def item(
    spec: Spec = ONE, blob: bytes = b"x", delay_s: float = 0.0, key: str | None = None, at: float | None = None
) -> Item:
    desk: Any = None
    conditions = None if at is None else Conditions(at=at)
    return Item(TaskHandle(desk, spec), spec, blob, weight(blob), is_description(blob), delay_s, key, conditions)


def gathered(*items: Item, max_message: int = LARGE) -> Call:
    box = Outbox()
    for each in items:
        box.put(each)
    return box.gather(max_message)


def sizes(call: Call) -> list[int]:
    return [pages.count(submission.arguments) for submission in call.submissions]


def test_neighbours_of_one_kind_travel_as_one_batch_in_their_order() -> None:
    # Given tasks of two kinds, in turns
    items = [item(ONE, b"a"), item(ONE, b"b"), item(TWO, b"c"), item(ONE, b"d")]
    # When they travel
    call = gathered(*items)
    # Then only neighbours share a batch, so that the order of the queue is that of the submissions
    assert [pages.unpack(s.arguments) for s in call.submissions] == [[b"a", b"b"], [b"c"], [b"d"]]
    assert [call.specs[s.spec] for s in call.submissions] == [ONE, TWO, ONE]
    assert [type(receiver) for receiver in call.receivers] == [Group, TaskHandle, TaskHandle]


def test_moments_do_not_mix() -> None:
    call = gathered(item(), item(at=5.0), item(at=5.0), item(at=6.0))
    assert [pages.count(s.arguments) for s in call.submissions] == [1, 2, 1]
    assert [s.conditions for s in call.submissions] == [None, Conditions(at=5.0), Conditions(at=6.0)]


def test_labels_and_limits_do_not_mix_and_share_a_spec() -> None:
    # Given tasks of one function that differ in their label and limits
    plain, labelled = item(), item()._replace(attribution=Attribution((), "c1"))
    limited = item()._replace(attribution=Attribution(("api",), ""))

    # When they travel
    call = gathered(plain, labelled, labelled, limited)

    # Then each of them has its own, and they have one spec
    assert [(s.limits, s.label, pages.count(s.arguments)) for s in call.submissions] == [
        ((), "", 1),
        ((), "c1", 2),
        (("api",), "", 1),
    ]
    assert call.specs == [ONE]


def test_function_called_with_labels_and_limits_has_one_spec() -> None:
    # Given
    target = Callee(Function(name="m:one"), Note(name=None, terms=Terms(label="own", priority=2)))

    # When it is called with different labels and limits
    called = [target.called(Terms(label=f"c{n}", limits=("api",))) for n in range(2)]
    plain = target.called(NO_TERMS)

    # Then these stand beside a spec that is the same object; its own label holds where none is given
    assert called[0][0] is called[1][0]
    assert [attribution for _, attribution in called] == [Attribution(("api",), f"c{n}") for n in range(2)]
    assert plain[1] == Attribution((), "own")
    assert plain[0] == called[0][0]
    assert (plain[0].options.priority, plain[0].options.label, plain[0].options.limits) == (2, "", ())


@pytest.mark.parametrize("terms", [Terms(label="\n"), Terms(label="x" * 300), Terms(limits=tuple("abcdefghijklmnopq"))])
def test_labels_and_limits_that_cannot_be_are_refused(terms: Terms) -> None:
    with pytest.raises(InvalidValue):
        Callee(Function(name="m:one"), None).called(terms)


def test_keys_and_delays_are_never_shared() -> None:
    # Given tasks of one kind, with keys and delays
    call = gathered(item(), item(key="k"), item(), item(delay_s=1.0), item(delay_s=1.0), item(delay_s=2.0))
    # When they travel; Then each key is alone, and delays do not mix
    assert sizes(call) == [1, 1, 1, 2, 1]
    assert [s.key for s in call.submissions] == [None, "k", None, None, None]
    assert [s.delay_s for s in call.submissions] == [0, 0, 0, 1.0, 2.0]


def test_batches_have_at_most_a_page() -> None:
    # Given more neighbours than a page holds; When they travel; Then the page's bound holds
    assert sizes(gathered(*[item() for _ in range(pages.PAGE_BLOBS + 1)])) == [pages.PAGE_BLOBS, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: item(key=f"{n}-{'😀' * 400}"),
        lambda n: item(delay_s=float(n)),
        lambda n: item(Spec(function=Function(name=f"m:f{n}"), options=Options(never_retry=("E" * 500,) * 20))),
        lambda n: item(ONE if n % 2 else TWO),
        lambda n: item()._replace(attribution=Attribution((f"{n}-{'l' * 90}",) * 16, "😀" * 100)),
    ],
    ids=["long keys", "delays of their own", "options of their own", "functions in turns", "long labels and limits"],
)
def test_calls_stay_below_the_message_limit_whatever_they_hold_beside_arguments(make: Callable[[int], Item]) -> None:
    box = Outbox()
    for number in range(1_000):
        box.put(make(number))

    count = 0
    while not box.is_empty:
        call = box.gather(64 << 10)
        count += len(call.submissions)
        plain = METHODS["submit"].encode_arguments((call.specs, call.submissions, False))
        assert len(safepickle.dumps(("submit", plain))) <= 64 << 10
    assert count == 1_000


def test_calls_stay_below_the_message_limit_and_numbers_rise() -> None:
    # Given more bytes than a call may carry
    box = Outbox()
    for _ in range(10):
        box.put(item(blob=b"x" * 30_000))
    calls = []
    # When they travel
    while not box.is_empty:
        calls.append(box.gather(200_000))
    # Then several calls carry them, each well below the limit
    assert sum(sum(sizes(call)) for call in calls) == 10
    assert all(sum(len(s.arguments) for s in call.submissions) <= 100_000 for call in calls)
    numbers = [s.number for call in calls for s in call.submissions]
    assert numbers == sorted(set(numbers))


def test_functions_that_travel_by_value_count() -> None:
    # Given tasks whose functions are large, each another one
    box = Outbox()
    for n in range(10):
        function = Function(kind=FunctionKind.VALUE, name="m:f", body=b"%d" % n * 30_000)
        box.put(item(Spec(function=function, options=Options())))
    calls = []
    # When they travel; Then not all in one call
    while not box.is_empty:
        calls.append(box.gather(200_000))
    assert all(sum(len(spec.function.body) for spec in call.specs) <= 100_000 for call in calls)
    assert sum(sum(sizes(call)) for call in calls) == 10


def test_task_larger_than_half_a_message_travels_alone() -> None:
    # Given one that is larger than what calls are filled to; When it travels; Then it does
    assert sizes(gathered(item(blob=b"x" * 150_000), item(), max_message=200_000)) == [1]


def test_put_waits_while_the_outbox_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a full outbox, and somebody who wants to put in one more
    monkeypatch.setattr(outbox, "MAX_WAITING", 2)
    box = Outbox()
    box.put(item())
    box.put(item())
    put = threading.Event()

    def put_one_more() -> None:
        box.put(item())
        put.set()

    thread = threading.Thread(target=put_one_more)
    thread.start()
    assert not put.wait(0.05)
    # When the sender takes something out
    box.gather(LARGE)
    # Then there is room
    assert put.wait(10)
    thread.join()


def test_put_into_a_closed_outbox_is_refused_also_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a full outbox with somebody who waits
    monkeypatch.setattr(outbox, "MAX_WAITING", 1)
    box = Outbox()
    box.put(item())
    errors: list[ClientClosed] = []
    started = threading.Event()

    def put() -> None:
        started.set()
        try:
            box.put(item())
        except ClientClosed as error:
            errors.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    assert started.wait(10)
    # When it is closed; Then the waiting and the later ones are refused
    box.close(ClientClosed("x"))
    thread.join(10)
    assert len(errors) == 1
    with pytest.raises(ClientClosed):
        box.put(item())


# -- feeds --------------------------------------------------------------------------------------------------------


def fed(count: int, **options: Any) -> BatchUpload:
    feed = BatchUpload(Batch(), ONE, follow=True, **options)
    feed.blobs.extend(b"%d" % index for index in range(count))
    feed.put = count
    return feed


def test_first_piece_travels_alone_until_the_batch_has_a_number() -> None:
    # Given a map of three pages
    feed = fed(3 * pages.PAGE_BLOBS)
    # When it is sent, and gets its number
    first = feed.pieces(LARGE)
    feed.batch.on_accepted(7, pages.PAGE_BLOBS, False, [])
    rest = feed.pieces(LARGE)
    feed.over = True
    feed.batch.on_accepted(7, 3 * pages.PAGE_BLOBS, False, [])
    last = feed.pieces(LARGE)
    # Then the others follow together, and an empty piece says that there are no more
    assert [(offset, pages.count(page), seals) for offset, page, seals in first + rest + last] == [
        (0, 1024, False),
        (1024, 1024, False),
        (2048, 1024, False),
        (3072, 0, True),
    ]
    assert feed.sealed


def test_last_piece_seals_where_it_is_known_to_be_the_last() -> None:
    # Given a map that is over before it is sent
    feed = fed(5)
    feed.over = True
    # When it is sent; Then one piece does it all
    assert [(offset, pages.count(page), seals) for offset, page, seals in feed.pieces(LARGE)] == [(0, 5, True)]


def test_stopped_map_sends_nothing_more_and_is_sealed() -> None:
    # Given a map of which something was accepted
    feed = fed(2000)
    feed.pieces(LARGE)
    feed.batch.on_accepted(7, 1024, False, [])
    # When nobody is interested any more; Then what waits is dropped, and the batch ends where it is
    feed.stopped = True
    assert [(offset, pages.count(page), seals) for offset, page, seals in feed.pieces(LARGE)] == [(1024, 0, True)]


def test_map_that_was_refused_at_once_sends_nothing_more() -> None:
    # Given a map whose first piece was refused, so that it has no number
    feed = fed(2000)
    feed.pieces(LARGE)
    feed.stopped = True
    # When the sender looks again; Then there is nothing to seal
    assert feed.pieces(LARGE) == []
    assert feed.sealed


def test_empty_map_is_reported_as_such() -> None:
    # Given a map without items
    box = Outbox()
    feed = fed(0)
    feed.over = True
    box.add(feed)
    # When the sender looks; Then nothing is submitted, and the map is named
    call = box.gather(LARGE)
    assert (call.submissions, call.empty) == ([], [feed])
    assert box.is_empty


def test_pieces_are_bounded_in_bytes() -> None:
    # Given large items
    feed = BatchUpload(Batch(7, 1), ONE, follow=True)
    feed.blobs.extend([b"x" * 1000] * 10)
    # When a call has little room
    # Then a piece has what fits; and where the call is empty, one item at least
    assert [pages.count(page) for _, page, _ in feed.pieces(3500)] == [3]
    assert feed.pieces(999, alone=False) == []
    assert [pages.count(page) for _, page, _ in feed.pieces(999)] == [1]


def test_largest_items_of_two_kinds_never_share_a_call() -> None:
    # Given a large single task and a large item of a map, together more than a message
    box = Outbox()
    feed = BatchUpload(Batch(7, 1), ONE, follow=True)
    feed.blobs.append(b"x" * 150_000)
    box.add(feed)
    box.put(item(blob=b"y" * 150_000))
    # When they travel; Then in two calls, whichever comes first
    assert [sizes(box.gather(200_000)) for _ in range(2)] == [[1], [1]]


def test_feed_is_full_by_what_waits_and_by_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given bounds
    monkeypatch.setattr(batch_uploads, "MAX_FED", 10)
    # When much waits to be sent, or to be read; Then it is full
    assert fed(10).full
    read_ahead = fed(5, window=5)
    assert read_ahead.full
    read_ahead.taken = 1
    assert not read_ahead.full


class _Seen(ThreadWakeup):
    """A wakeup that reports a wait with a bound."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def wait(self, timeout_s: float | None = None) -> bool:
        if timeout_s is not None:
            self.waits.set()
        return super().wait(timeout_s)


def _over(box: Outbox, feed: BatchUpload) -> None:
    feed.over = True
    box.hurry()


@pytest.mark.parametrize("news", [_over, lambda box, _: box.put(item())], ids=["the map is over", "a single task"])
def test_large_values_of_a_map_share_calls(news: Callable[[Outbox, BatchUpload], None], monkeypatch: Any) -> None:
    # Given a map of large values, of which the first was sent at once
    monkeypatch.setattr(outbox, "_GATHER_S", 600.0)
    box, feed = Outbox(), fed(1)
    seen = box._wakeup = _Seen()
    feed.described = True
    box.add(feed)
    box.wait(lambda: False)
    assert sizes(box.gather(LARGE)) == [1]
    # When the next is there
    feed.batch.on_accepted(7, 1, False, [])
    feed.blobs.append(b"1")
    sender = threading.Thread(target=box.wait, args=[lambda: False])
    sender.start()
    # Then the sender waits for others, and need not be woken for them
    assert seen.waits.wait(60)
    assert (box.idle, box.awaits_items) == (True, False)
    feed.blobs.append(b"2")
    # When there are no more, or a single task waits; Then they travel together
    news(box, feed)
    sender.join(60)
    assert not sender.is_alive()
    assert sorted(sizes(box.gather(LARGE)))[-1] == 2
