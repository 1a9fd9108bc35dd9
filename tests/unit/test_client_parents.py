"""Handles among arguments: how calls with them are encoded, travel, and are put together again."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from dtq.client.handle import TaskHandle
from dtq.client.outbox import NOWHERE, Item, Outbox
from dtq.client.parents import HandlesMet, collecting
from dtq.client.payloads import decode_call, encode_call
from dtq.client.sender import _repointed
from dtq.errors import CannotPickle, CannotUnpickle, TaskCrashed
from dtq.model import pages
from dtq.model.inputs import (
    INPUTS,
    RESULT,
    SEQUENCE_MARK,
    SEQUENCE_PAGE,
    failure_input,
    offsets_in,
    sequence_input,
    with_inputs,
)
from dtq.model.messages import Conditions, Ended, Failure, Receipt, Submission
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.states import Outcome, State

SPEC = Spec(function=Function(name="work:shop"), options=Options())
JSON = Spec(function=Function(kind=FunctionKind.REGISTERED, name="mail"), options=Options())


def handle(spec: Spec = SPEC, batch: int = 0, index: int = -1) -> TaskHandle[Any]:
    return TaskHandle(SimpleNamespace(), spec, batch, index)  # type: ignore[arg-type]  # nobody is asked


def result(value: Any) -> bytes:
    return RESULT + pickle.dumps(value)


def test_handles_become_what_came_with_the_call() -> None:
    one, two, mail = handle(), handle(), handle(JSON)
    with pytest.raises(HandlesMet, match="handle of a task"):
        encode_call((one,), {})
    blob, met = collecting(encode_call, ([one, two], one), {"mail": (mail,)})
    assert met == [one, two, mail]

    args, kwargs = decode_call(with_inputs(blob, [result({"a": 1}), RESULT, RESULT + b'["sent"]']))

    assert args == ([{"a": 1}, None], {"a": 1})
    assert args[0][0] is args[1]
    assert kwargs == {"mail": (["sent"],)}


def test_exception_stands_in_the_place_of_a_result_that_is_not() -> None:
    ended = Ended(
        batch=7, lo=3, hi=4, state=State.DEAD, outcome=Outcome.CRASHED, failure=Failure(message="it was killed")
    )
    blob, _ = collecting(encode_call, (handle(),), {})
    ((error,), _) = decode_call(with_inputs(blob, [failure_input(ended, "7")]))
    assert isinstance(error, TaskCrashed)
    assert str(error).startswith("task 7 ")


def test_call_without_its_inputs_is_an_error_of_its_own() -> None:
    blob, _ = collecting(encode_call, (handle(),), {})
    with pytest.raises(CannotUnpickle, match="did not come with the call"):
        decode_call(blob)
    with pytest.raises(CannotUnpickle, match="did not come with the call"):
        decode_call(with_inputs(blob, []))
    assert issubclass(HandlesMet, CannotPickle)


def submissions_of(*items: Item) -> list[Submission]:
    outbox = Outbox()
    for item in items:
        outbox.put(item)
    return outbox.gather(1 << 20).submissions


def item(own: TaskHandle[Any], *parents: Any) -> Item:
    return Item(own, SPEC, b"call", 4, False, 0.0, None, None, parents)


def test_parents_are_named_by_their_numbers_or_by_their_places_in_the_call() -> None:
    known, first, second, third, refused = handle(batch=9, index=4), handle(), handle(), handle(), handle()
    found = submissions_of(
        item(first),
        item(second),
        item(third, (second, True), (known, True), ((5, 0, 0), False)),
        item(handle(), (third, True), (refused, False)),
        item(handle(), (third, True), (refused, False)),
    )
    assert [pages.count(each.arguments) for each in found] == [2, 1, 2]
    after = [each.conditions.after if each.conditions is not None else None for each in found]
    assert after == [
        None,
        ((-1, 1, 2, True), (9, 4, 5, True), (5, 0, 0, False)),
        ((-1, 0, 1, True), (NOWHERE, 0, 1, False)),
    ]


def test_what_is_sent_again_names_its_parents_as_they_are_then() -> None:
    sent = [
        Submission(spec=0, number=number, arguments=b"", conditions=Conditions(after=after))
        for number, after in enumerate(
            [(), ((-1, 0, 1, True),), ((-1, 0, 1, True), (-2, 1, 2, False)), ((-3, 0, 0, True),)]
        )
    ]
    receipts = [
        Receipt(batch=17, size=1), Receipt(batch=0, size=0, code="queue-full"),
        Receipt(batch=0, size=0, code="queue-full"), Receipt(batch=0, size=0, code="queue-full"),
    ]  # fmt: skip
    left = _repointed(sent, receipts, [(sent[1], handle()), (sent[2], handle()), (sent[3], handle())])
    after = [each.conditions.after for each, _ in left if each.conditions is not None]
    assert after == [((17, 0, 1, True),), ((-1, 0, 1, True), (17, 1, 2, False)), ((17, 0, 0, True),)]
    # And where another one between them is accepted
    receipts = [Receipt(batch=0, size=0, code="queue-full"), Receipt(batch=18, size=1), *receipts[2:]]
    left = _repointed(sent, receipts, [(sent[0], handle()), (sent[2], handle()), (sent[3], handle())])
    after = [each.conditions.after for each, _ in left if each.conditions is not None]
    assert after == [(), ((18, 0, 1, True), (-1, 1, 2, False)), ((-2, 0, 0, True),)]


def test_results_of_a_batch_are_read_as_they_are_asked_for() -> None:
    # Given the results of 2,500 tasks, of which one has none
    ended = Ended(batch=7, lo=5, hi=6, state=State.DEAD, outcome=Outcome.CRASHED, failure=Failure(message="gone"))
    blobs = [result(n) for n in range(2_500)]
    blobs[5] = failure_input(ended, "7.5")
    body, offsets = SEQUENCE_MARK, [1]
    for at in range(0, 2_500, SEQUENCE_PAGE):
        page = blobs[at : at + SEQUENCE_PAGE]
        body += INPUTS + pages.pack(page) if at == 0 else RESULT + pages.pack([blob[1:] for blob in page])
        offsets.append(len(body))
    given = sequence_input(2_500, len(body), body + offsets_in(offsets), is_value=False)
    call, _ = collecting(encode_call, (handle(),), {})

    ((results,), _) = decode_call(with_inputs(call, [given]))

    assert (len(results), results[0], results[-1], results[2_047], results[2_048]) == (2_500, 0, 2_499, 2_047, 2_048)
    assert results[1_022:1_026] == [1_022, 1_023, 1_024, 1_025]
    assert isinstance(results[5], TaskCrashed)
    assert [n for n in results if isinstance(n, int)] == [n for n in range(2_500) if n != 5]
    with pytest.raises(IndexError):
        results[2_500]
