"""Large arguments and results in real slots: as values, whatever a task does to them.

The supervisor's loop is turned by the test; nobody takes what it has to report.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtq.client.payloads import decode_result, encode_call
from dtq.model import pages
from dtq.model.messages import Failed, Grant, Released, Succeeded
from dtq.model.options import Function, Options, Spec
from dtq.model.states import Outcome
from dtq.model.values import Value, is_description, named
from dtq.values.local import LocalValues
from dtq.values.place import SEGMENT_BYTES, Place
from dtq.worker.child import Child
from dtq.worker.forking import ForkServer
from dtq.worker.supervisor import Supervisor
from dtq.worker.terms import SlotTerms, WorkerTerms
from tests.cluster import TASKS, until
from tests.integration.forks import fork_server

MB = 1_000_000
TERMS = SlotTerms(worker="w", paths=(str(TASKS),))


class Scene:
    """A worker with one slot, and somebody who submits to it."""

    def __init__(self, directory: Path, forks: ForkServer | None = None, **terms: Any) -> None:
        self.directory = directory
        self.place = Place((str(directory),), max_value=64 * MB)
        self.values = LocalValues(self.place)
        self.supervisor = Supervisor(WorkerTerms(slots=1, slot=replace(TERMS, place=self.place, **terms)), forks)
        self._token = 0
        self.supervisor._pool.spawn(1)

    def close(self) -> None:
        self.supervisor._close()
        self.values.close()

    @property
    def slot(self) -> Child:
        """The slot."""
        return self.supervisor._children[0]

    def turn(self, look: Callable[[], Any], what: str) -> Any:
        """Turn the loop until something is seen."""

        def turned() -> Any:
            self.supervisor.wake()
            self.supervisor._turn()
            return look()

        return until(turned, what, lambda: (self.supervisor.holdings.outbox.failed, self.supervisor._children))

    def idle(self) -> Child:
        """The slot, when it has nothing to do."""
        return self.turn(lambda: next((c for c in self.supervisor._children if c.idle), None), "an idle slot")

    def lease(self, function: str, calls: list[tuple[Any, ...]], **options: Any) -> int:
        """Have the worker run something; its lease's token."""
        self.idle()
        self._token += 1
        spec = Spec(function=Function(name=f"value_work:{function}"), options=Options(**options))
        page = pages.pack([encode_call(call, None, self.values, True) for call in calls], described=True)
        grant = Grant(
            token=self._token, batch=self._token, lo=0, hi=len(calls), single=len(calls) == 1, attempt=1,
            spec=hash(function) & 0xFFFF, arguments=page,
        )  # fmt: skip
        with self.supervisor.lock:
            self.supervisor.leases.granted([(grant, spec)])
        return self._token

    def outcomes(self, token: int) -> list[Any]:
        """What came of it, when all of it has ended."""
        chunk = self.supervisor.holdings.chunks[token]
        self.turn(lambda: chunk.ended, f"lease {token} to end")
        return [outcome for outcome in self.supervisor.holdings.outbox if outcome.token == token]

    def blobs(self, function: str, calls: list[tuple[Any, ...]], **options: Any) -> list[bytes]:
        """The results of calls, as they are reported."""
        outcomes = self.outcomes(self.lease(function, calls, **options))
        while all(isinstance(outcome, Released) for outcome in outcomes):  # its slot was about to be replaced
            outcomes = self.outcomes(self.lease(function, calls, **options))
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes), outcomes
        found = [blob for outcome in outcomes for blob in pages.unpack(outcome.results)]
        named_in_pages = sum(len(pages.named(outcome.results)) for outcome in outcomes)
        assert named_in_pages == sum(map(is_description, found))
        return found

    def run(self, function: str, *call: Any, **options: Any) -> Any:
        """The result of a call."""
        (blob,) = self.blobs(function, [call], **options)
        return decode_result(blob, self.values)

    def failed(self, function: str, *call: Any, **options: Any) -> Failed:
        """How a call fails."""
        (outcome,) = self.outcomes(self.lease(function, [call], **options))
        assert isinstance(outcome, Failed)
        return outcome

    def acknowledge(self) -> None:
        """All that was done has been reported."""
        with self.supervisor.lock:
            self.supervisor.holdings.take(1 << 30, 1 << 30)
            self.supervisor.holdings.acknowledged()

    def is_held(self, value: Value) -> bool:
        """Whether anybody but the slot has a lock on a segment; the slot is killed for this."""
        with open(self.place.find(value.segment), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    """Has imported what takes longest, once for all slots."""
    with fork_server(replace(TERMS, preload=("numpy",))) as made:
        yield made


@pytest.fixture
def scene(tmp_path: Path, forks: ForkServer) -> Iterator[Scene]:
    made = Scene(tmp_path, forks)
    yield made
    made.close()


def test_large_results_are_values_and_small_ones_are_not(scene: Scene) -> None:
    scene.run("much", 1)  # the module is imported
    sizes = [0, 1000, 200_000, 1000, 100_000, 300_000, 0]

    blobs = scene.blobs("much", [(size,) for size in sizes])

    assert [is_description(blob) for blob in blobs] == [size >= 65_536 for size in sizes]
    assert [decode_result(blob, scene.values) for blob in blobs] == [b"\7" * size for size in sizes]
    assert sum(map(len, blobs)) < 10_000


def test_arguments_are_the_tasks_own_to_write_to(scene: Scene) -> None:
    # Given an array that is mapped, and one that is read
    for count in (2 * MB, 20_000):
        token = scene.lease("total_and_write", [(np.ones(count),)])
        page = scene.supervisor.holdings.chunks[token].grant.arguments
        # When a task writes to it
        (outcome,) = scene.outcomes(token)
        (blob,) = pages.unpack(outcome.results)
        # Then nobody else's has changed
        assert decode_result(blob) == count
        (value,) = pages.named(page)
        (array,), _ = _decoded(scene, page)
        assert value.trailer
        assert float(array.sum()) == count


def _decoded(scene: Scene, page: bytes) -> Any:
    from dtq.client.payloads import decode_call

    return decode_call(pages.unpack(page)[0], scene.values)


def test_nothing_of_a_large_argument_stays(scene: Scene) -> None:
    before = scene.run("resident")
    during = scene.run("resident", b"x" * (40 * MB))
    array = scene.run("total_and_write", np.ones(5 * MB))
    after = scene.run("resident")

    assert array == 5 * MB
    assert during > before + 39 * MB
    assert after < before + 8 * MB


def test_an_array_goes_through_a_slot_in_little_more_than_its_own_size(scene: Scene) -> None:
    # Given a slot
    array = np.ones(7 * MB)
    before = scene.run("peak")
    # When an array goes in and out of it
    assert np.array_equal(scene.run("echo", array), array)
    # Then it was never there twice
    assert scene.run("peak") - before < 1.2 * array.nbytes


def test_a_result_is_as_large_as_values_may_be(scene: Scene) -> None:
    failed = scene.failed("much", 64 * MB)

    assert failed.failure.exception == "dtq.errors.TooLarge"
    assert failed.failure.final
    assert failed.failure.message.startswith("the result has 64,000,0")
    assert scene.run("much", 60 * MB) == b"\7" * (60 * MB)


def test_results_are_held_until_they_are_acknowledged(scene: Scene) -> None:
    # Given results in the slot's segment, one of which was not sent when the slot is killed
    (first,) = scene.blobs("much", [(MB,)])
    (second,) = scene.blobs("much", [(MB,)])
    (value,), (other,) = named(first), named(second)
    assert value.segment == other.segment
    # When the slot ends
    dead = scene.slot
    dead.kill()
    scene.turn(lambda: scene.supervisor._children and scene.slot is not dead, "another slot")
    # Then its segment stays
    assert scene.is_held(value)
    scene.acknowledge()
    assert not scene.is_held(value)


def test_a_full_segment_is_let_go_when_the_supervisor_holds_it(scene: Scene) -> None:
    # Given more results than a segment takes
    blobs = [scene.blobs("much", [(30 * MB,)])[0] for _ in range(4)]
    values = [named(blob)[0] for blob in blobs]
    assert len({value.segment for value in values}) == 2
    first = next(value for value in values if value.end < SEGMENT_BYTES)
    # When all of them were reported, and the slot has done something else
    scene.acknowledge()
    scene.run("much", 1)
    # Then it has the one that has room, and the other one is free
    held = [scene.is_held(value) for value in values]
    assert not held[0]
    assert held[-1]
    assert first.segment == values[0].segment


def test_what_has_not_been_sent_is_found_in_the_memory_that_a_slot_leaves(scene: Scene) -> None:
    # Given a task that closes its slot's descriptors, so that nothing can be sent
    result = scene.run("close_all", MB)
    # Then its result is there all the same, and held
    assert result == b"\7" * MB
    (outcome,) = scene.supervisor.holdings.outbox
    (value,) = pages.named(outcome.results)
    assert scene.is_held(value)
    assert scene.run("much", MB) == b"\7" * MB


def test_a_file_that_has_the_segments_number_is_left_alone(scene: Scene, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    before = scene.run("much", MB)

    assert scene.run("put_a_file_in_its_place", str(theirs), MB) == before
    assert theirs.read_bytes() == b""
    assert scene.run("much", MB) == before


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("cut", (MB,)),
        ("fork_and_return", (MB,)),
        ("fork_in_the_middle", (MB,)),
        ("narrow", (MB, "size")),
        ("narrow", (MB, "descriptors")),
        ("narrow", (MB, "mask")),
        ("unlock", (MB,)),
    ],
)
def test_results_come_whole_whatever_the_task_does(scene: Scene, function: str, arguments: tuple[Any, ...]) -> None:
    scene.run("much", MB)
    found = scene.run(function, *arguments)
    if function == "fork_in_the_middle":
        assert found == [b"\7" * MB, "forked", b"\7" * MB]
    else:
        assert found == b"\7" * MB
    assert scene.run("much", MB, 8) == b"\10" * MB
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in scene.directory.glob("*.values"))


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_nothing_counts_of_a_value_in_the_middle_of_which_the_slot_ends(scene: Scene, how: str) -> None:
    before = scene.run("much", MB)

    failed = scene.failed("end_in_the_middle", MB, how)

    assert failed.outcome is Outcome.CRASHED
    assert scene.run("much", MB) == before


@pytest.mark.parametrize("what", ["nowhere", "too long", "huge"])
def test_a_slot_that_reports_what_is_not_there_is_killed_and_its_task_blamed(scene: Scene, what: str) -> None:
    failed = scene.failed("lie", MB, what)

    assert failed.outcome is Outcome.CRASHED
    assert "wrote over what its slot and the worker share (message refused: a result " in failed.failure.message
    assert scene.run("much", MB) == b"\7" * MB


def test_a_pipe_in_the_place_of_a_segment_holds_nobody_up(scene: Scene) -> None:
    failed = scene.failed("hang_with_a_pipe", str(scene.directory), MB)

    assert failed.outcome is Outcome.CRASHED


def test_a_result_goes_with_the_others_where_the_disk_is_full(scene: Scene, tmp_path: Path) -> None:
    (blob,) = scene.blobs("fill_the_disk", [(str(tmp_path / "room"), MB)])

    assert not is_description(blob)
    assert decode_result(blob) == b"\7" * MB


def test_a_result_that_fits_nowhere_waits_for_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Given a disk without room for a result that is too large for a message
    scene = Scene(tmp_path, max_result=MB)
    room = tmp_path / "room"
    token = scene.lease("fill_the_disk", [(str(room), 2 * MB)])
    scene.turn(lambda: "waits for room" in caplog.text, "the log")
    assert not scene.supervisor.holdings.chunks[token].ended
    (hindrance,) = scene.supervisor.hindrances()
    assert hindrance.startswith("the result of a task of ")
    assert " waits for room: " in hindrance
    # When it was tried some times, and there is room, Then it is reported
    tries = tmp_path / "room.tries"
    scene.turn(
        lambda: tries.stat().st_size >= 4,
        "more tries",
    )
    room.touch()
    (outcome,) = scene.outcomes(token)
    (blob,) = pages.unpack(outcome.results)
    assert is_description(blob)
    assert caplog.text.count("waits for room") == 1
    assert scene.supervisor.hindrances() == []
    scene.close()


def test_a_time_limit_goes_on_where_a_result_waits_for_room(tmp_path: Path) -> None:
    scene = Scene(tmp_path, max_result=MB)

    failed = scene.failed("fill_the_disk", str(tmp_path / "room"), 2 * MB, timeout_s=0.5)

    assert failed.outcome is Outcome.TIMED_OUT
    scene.close()


def test_a_slot_is_told_where_values_are_when_that_changes(scene: Scene, tmp_path: Path) -> None:
    # Given a slot that has a function, and a coordinator that was restarted and keeps values elsewhere
    scene.run("much", MB)
    there = tmp_path / "there"
    there.mkdir()
    place = Place((str(there),))
    scene.supervisor.move(place)
    # When it runs something, Then its result is there
    (blob,) = scene.blobs("much", [(MB,)])
    assert decode_result(blob, LocalValues(place)) == b"\7" * MB
    # And where there is no place at all, with the others
    scene.supervisor.move(None)
    (blob,) = scene.blobs("much", [(MB,)])
    assert decode_result(blob) == b"\7" * MB


def test_nobody_is_blamed_for_results_that_went_with_their_coordinator(scene: Scene, tmp_path: Path) -> None:
    # Given a task that runs while its coordinator is replaced by one that keeps values elsewhere
    token = scene.lease("remove_segments", [(str(scene.directory), MB)])
    other = tmp_path / "there"
    other.mkdir()
    with scene.supervisor.lock:
        child = scene.slot
        child.move(Place((str(other),)))
        chunk = scene.supervisor.holdings.chunks[token]
        segments = scene.supervisor.holdings.segments
    # When its result can no longer be held
    real = segments.hold

    def refuse(lease: int, values: Any, place: Any) -> None:
        real(lease, values, replace(place, paths=(str(tmp_path / "gone"),)))

    segments.hold = refuse  # type: ignore[method-assign]
    scene.turn(lambda: chunk.ended, "the lease to end")
    # Then it goes back
    (released,) = scene.supervisor.holdings.outbox.released
    assert (released.lo, released.hi) == (0, 1)
    assert not child.breach


def test_a_cancel_ends_a_task_whose_result_waits(tmp_path: Path) -> None:
    scene = Scene(tmp_path, max_result=MB)
    token = scene.lease("fill_the_disk", [(str(tmp_path / "room"), 2 * MB)])
    started = time.monotonic()
    scene.turn(lambda: scene.slot.look(time.monotonic()) and scene.slot.running(), "it to run")
    from dtq.model.messages import Cancellation

    with scene.supervisor.lock:
        scene.supervisor.leases.cancel(Cancellation(token=token, index=0))
    (outcome,) = scene.outcomes(token)
    assert outcome.outcome is Outcome.CANCELLED
    assert time.monotonic() - started < 60
    scene.close()
