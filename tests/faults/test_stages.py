"""Who is to blame is told by the stage in which a call ended, never by the class of what was raised.

What the task's own code raises is the task's failure. That a worker lacks something is said only where a function is
made, or arguments are; such a task is tried elsewhere, and the worker goes on with everything else.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dtq.client.payloads import encode_call
from dtq.core.quarantine import MOST_ERRORS
from dtq.model import pages
from dtq.model.messages import Submission
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.snapshots import Attempt
from dtq.model.states import Outcome, State
from tests.cluster import Cluster
from tests.producer import Producer

ELSEWHERE = b"3.9\n"


@pytest.fixture(scope="module")
def producer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Producer]:
    """A submitter to a coordinator with one worker of one slot; at the end, the worker is still there."""
    with Cluster(tmp_path_factory.mktemp("stages"), memory=True) as cluster:
        cluster.coordinator()
        worker = cluster.worker(slots=1)
        yield Producer(cluster.service())
        assert worker.popen.poll() is None


def submit(producer: Producer, function: Function, blob: bytes, size: int = 1, **options: int) -> int:
    """A batch of calls whose arguments are given as they travel."""
    spec = Spec(function=function, options=Options(**options))  # type: ignore[arg-type]  # numbers only
    number = 1_000 + len(producer.acknowledged)
    (receipt,) = producer.service.submit(
        [spec], [Submission(spec=0, number=number, arguments=pages.pack([blob] * size))], False
    )
    producer.acknowledged[receipt.batch] = size
    return receipt.batch


def history(producer: Producer, batch: int) -> tuple[Attempt, ...]:
    """All attempts of a task that ends as a dead letter."""
    ended = producer.finish(batch)
    assert {one.state for one in ended.values()} == {State.DEAD}, ended
    return producer.service.task(batch, 0).history


@pytest.mark.parametrize(
    "kind",
    ["CannotImport", "NotRegistered", "CannotUnpickle", "OnlyRegistered", "WorkerBroken", "WrongKey",
     "ModuleNotFoundError"],
)  # fmt: skip
def test_what_a_task_raises_is_its_own_failure(producer: Producer, kind: str) -> None:
    # Given a function that has run here, When its calls raise what a worker may say of itself, more often in a row than
    # a broken worker would
    batch = producer.submit("rude_work:raise_own", [(kind,)] * (MOST_ERRORS + 2), max_retries=0)
    # Then each ran once, and failed
    attempts = history(producer, batch)
    assert [(attempt.number, attempt.outcome) for attempt in attempts] == [(1, Outcome.FAILED)]
    assert attempts[0].failure.exception in (kind, f"dtq.errors.{kind}")
    assert not attempts[0].failure.unable
    # And the worker goes on
    assert len(producer.values(producer.submit("rude_work:pid", [()]))) == 1


def test_function_by_value_of_another_python_belongs_elsewhere(producer: Producer) -> None:
    function = Function(kind=FunctionKind.VALUE, name="__main__:<lambda>", body=ELSEWHERE + b"code")
    batch = submit(producer, function, encode_call(()), max_retries=0, max_crashes=2)
    attempts = history(producer, batch)
    assert len(attempts) == 2, "not the first worker's word alone"
    assert all(attempt.failure.unable and attempt.failure.particular for attempt in attempts)
    assert "was sent by value from Python 3.9, and this is Python 3." in attempts[-1].failure.message
    # And however many there are, they break no worker
    submit(producer, function, encode_call(()), size=MOST_ERRORS + 2, max_retries=0, max_crashes=1)
    assert len(producer.values(producer.submit("rude_work:pid", [()]))) == 1


@pytest.mark.parametrize(
    "blob", [ELSEWHERE + b"\x80\x05N.", b"\x80\x05cno_such_module\nthing\n."], ids=["python", "module"]
)
def test_arguments_that_cannot_be_made_here_belong_elsewhere(producer: Producer, blob: bytes) -> None:
    # Given a function that runs here
    function = Function(name="rude_work:pid")
    producer.values(producer.submit("rude_work:pid", [()]))
    # When more calls of it in a row than break a worker have arguments from somewhere else
    batch = submit(producer, function, blob, size=MOST_ERRORS + 2, max_retries=0, max_crashes=2)
    attempts = history(producer, batch)
    # Then each was tried twice, and the worker runs the others
    assert [attempt.failure.unable for attempt in attempts] == [True, True]
    assert any(text in attempts[-1].failure.message for text in ("from Python 3.9", "No module named"))
    assert len(producer.values(producer.submit("rude_work:pid", [()]))) == 1
