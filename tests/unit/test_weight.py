"""What is weighed is never lighter than the message that it goes into."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dtq.model.messages import Ended, Failure, Grant
from dtq.model.snapshots import Attempt, DeadLetter, QueueView, WorkerView
from dtq.model.weight import first_within, slim, weight
from dtq.model.wire import codec
from dtq.transport import safepickle

texts = st.text(st.characters(codec="utf-8"), max_size=300)
failures = st.builds(
    Failure,
    exception=texts,
    bases=st.lists(texts, max_size=5).map(tuple),
    message=texts,
    traceback=texts,
    output=texts,
    pickled=st.binary(max_size=2000),
)
weighed = st.one_of(
    failures,
    st.builds(Ended, results=st.binary(max_size=300), failure=st.none() | failures),
    st.builds(Grant, arguments=st.binary(max_size=300)),
    st.builds(Attempt, failure=failures),
    st.builds(DeadLetter),
    st.builds(QueueView),
    st.builds(WorkerView),
)


@given(st.lists(weighed, max_size=4))
def test_weight_is_no_less_than_what_is_sent(items: list[object]) -> None:
    plain = [codec(type(item)).plain(item) for item in items]

    assert len(safepickle.dumps(("#RETURN", plain))) <= 100 + sum(map(weight, items))


@given(failures, st.integers(600, 6000))
def test_slim_failure_has_the_size_that_it_may_have(failure: Failure, room: int) -> None:
    made = slim(failure, room)

    assert weight(made) <= max(room, weight(Failure(exception=failure.exception)) + room // 2)
    if weight(failure) <= room:
        assert made == failure


def test_first_of_many_go_as_far_as_there_is_room_and_one_in_any_case() -> None:
    assert list(first_within([b"x" * 100, b"x" * 100, b"x" * 100], 230)) == [b"x" * 100] * 2
    assert list(first_within([b"x" * 1000, b"x"], 10)) == [b"x" * 1000]
    assert list(first_within([], 10)) == []
