"""Values on their way between a worker and its coordinator: what waits for what, and what is done about trouble."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dtq.errors import NotPermitted, SessionUnknown, StoreFull, Unreachable, ValueGone
from dtq.model import pages
from dtq.model.messages import Failed, Grant, Released, Succeeded, ValuesOffer, Welcome
from dtq.model.options import Function, Options, Spec
from dtq.model.values import Value, describe, named
from dtq.values.local import LocalValues
from dtq.values.place import Place
from dtq.values.wire import WireValues
from dtq.worker import downloads as downloads_module
from dtq.worker.chunks import Chunk, Holdings
from dtq.worker.copies import Copies
from dtq.worker.downloads import Downloads
from dtq.worker.transfers import Transfers
from dtq.worker.valueline import ValueLine
from tests.cluster import DEADLINE_S, until

KB = 1000
SPEC = Spec(function=Function(name="m:f"), options=Options())
OFFER = ValuesOffer(max_value=100_000 * KB, checked=True)


class Coordinator:
    """Values at a coordinator, in memory; each call can be held, or fail."""

    def __init__(self) -> None:
        self.segments: dict[int, bytearray] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.failures: list[Exception] = []
        self.full = False
        self.gate = threading.Event()
        self.gate.set()
        self.reconnects = 0
        self._closed = threading.Event()

    def put(self, segment: int, data: bytes, offset: int = 0) -> Value:
        """Something to be read."""
        self._write(segment, offset, data)
        return Value(segment, offset, len(data))

    def _write(self, segment: int, offset: int, data: bytes) -> None:
        memory = self.segments.setdefault(segment, bytearray())
        memory.extend(bytes(max(0, offset + len(data) - len(memory))))
        memory[offset : offset + len(data)] = data

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        while not self.gate.wait(0.01):
            if self._closed.is_set():
                raise Unreachable("here", "closed")
        if self.failures:
            failure = self.failures.pop(0)
            raise failure

    def write_value(self, segment: int, offset: int, data: bytes) -> None:
        self._called("write", segment, offset, len(data))
        if self.full:
            raise StoreFull("/there", "full")
        self._write(segment, offset, data)

    def read_value(self, segment: int, offset: int, length: int) -> bytes:
        self._called("read", segment, offset, length)
        if segment not in self.segments:
            raise ValueGone(length)
        return bytes(self.segments[segment][offset : offset + length])

    def reconnect(self) -> None:
        self.reconnects += 1

    def close(self) -> None:
        self._closed.set()

    def content(self, value: Value) -> bytes:
        """What a value has."""
        return bytes(self.segments[value.segment][value.offset : value.end])


def welcome(epoch: int = 1, chunk: int = 16 * KB) -> Welcome:
    return Welcome(
        epoch=epoch, resumed=True, lease_s=10.0, heartbeat_s=1.0, max_message=chunk + 1024, highest_first=False,
        version="1", values=OFFER,
    )  # fmt: skip


class Fetching:
    """Downloads of a worker."""

    def __init__(self, directory: Path, most: int) -> None:
        self.coordinator = Coordinator()
        self.line = ValueLine(self.coordinator)
        self.line.on_welcome(welcome())
        self.lock = threading.Lock()
        self.news = threading.Condition(self.lock)
        self.ready: list[int] = []
        self.without_room: list[int] = []
        self.copies = Copies(str(directory), most)
        values = WireValues(self.line, max_value=1 << 40, checked=True)
        self.downloads = Downloads(
            values, self.line, self.copies, self.lock, self._into(self.ready), self._into(self.without_room)
        )
        self.files = LocalValues(Place((str(directory),), copies=str(directory)))

    def _into(self, where: list[int]) -> Callable[[int], None]:
        def add(token: int) -> None:
            where.append(token)
            self.news.notify_all()

        return add

    def fetch(self, token: int, *values: Value, own: bool = False) -> bool:
        """Have values that tasks of a lease refer to; or that are the arguments of these."""
        with self.lock:
            return self.downloads.fetch(token, values if own else (), () if own else values)

    def let_go(self, token: int) -> None:
        with self.lock:
            self.downloads.let_go(token)

    def wait(self, look: Callable[[], Any]) -> None:
        with self.lock:
            assert self.news.wait_for(look, DEADLINE_S), (self.ready, self.without_room, self.coordinator.calls)


@pytest.fixture
def fetching(tmp_path: Path) -> Iterator[Fetching]:
    made = Fetching(tmp_path, 1000 * KB)
    yield made
    made.downloads.close()


def test_values_are_fetched_once_for_all_leases(fetching: Fetching) -> None:
    # Given two leases that need the same value, and one of which needs another too
    one, other = fetching.coordinator.put(1, b"1" * 40 * KB), fetching.coordinator.put(2, b"2" * 20 * KB)
    fetching.coordinator.gate.clear()
    assert not fetching.fetch(7, one)
    assert not fetching.fetch(8, one, other, one)
    fetching.coordinator.gate.set()
    # Then each is fetched once, and is there for both
    fetching.wait(lambda: len(fetching.ready) == 2)
    assert sum(length for _, _, _, length in fetching.coordinator.calls if length > 1) == 60 * KB
    assert bytes(memoryview(fetching.files.fetch(one))) == b"1" * 40 * KB
    assert bytes(memoryview(fetching.files.fetch(other))) == b"2" * 20 * KB
    # And at once for a third
    assert fetching.fetch(9, one, other)


def test_small_values_do_not_wait_for_large_ones(fetching: Fetching) -> None:
    large, small = fetching.coordinator.put(1, b"1" * 900 * KB), fetching.coordinator.put(2, b"2" * 20 * KB)
    fetching.coordinator.gate.clear()
    fetching.fetch(1, large)
    fetching.fetch(2, small)
    fetching.coordinator.gate.set()

    fetching.wait(lambda: len(fetching.ready) == 2)

    assert fetching.ready == [2, 1]


def test_files_that_are_open_are_few_however_many_are_fetched(fetching: Fetching, tmp_path: Path) -> None:
    values = [fetching.coordinator.put(n, bytes([1 + n % 250]) * 40 * KB) for n in range(60)]
    parts: list[int] = []
    real = fetching.coordinator.read_value

    def read_value(segment: int, offset: int, length: int) -> bytes:
        parts.append(len(list(tmp_path.glob("*.part"))))
        return real(segment, offset, length)

    fetching.coordinator.read_value = read_value  # type: ignore[method-assign]
    fetching.fetch(1, *values)
    fetching.wait(lambda: fetching.ready == [1])

    assert 2 <= max(parts) <= downloads_module.AT_ONCE


def test_a_value_that_is_gone_is_left_to_the_slot(fetching: Fetching) -> None:
    fetching.fetch(1, Value(5, 0, 70 * KB))
    fetching.wait(lambda: fetching.ready == [1])

    with pytest.raises(ValueGone):
        fetching.files.fetch(Value(5, 0, 70 * KB))


def test_a_coordinator_that_is_away_is_waited_for(fetching: Fetching) -> None:
    value = fetching.coordinator.put(1, b"1" * 40 * KB)
    fetching.coordinator.failures += [Unreachable("here", "gone"), SessionUnknown(), Unreachable("here", "gone")]

    fetching.fetch(1, value)
    fetching.wait(lambda: fetching.ready == [1])

    assert bytes(memoryview(fetching.files.fetch(value))) == b"1" * 40 * KB
    assert fetching.coordinator.reconnects == 1


def test_what_no_lease_needs_is_not_fetched_any_more(fetching: Fetching, tmp_path: Path) -> None:
    # Given a large value that is being fetched for a lease
    value = fetching.coordinator.put(1, b"1" * 900 * KB)
    after = fetching.coordinator.put(2, b"2" * 20 * KB)
    fetching.coordinator.gate.clear()
    fetching.fetch(1, value)
    # When the lease is taken back
    fetching.let_go(1)
    fetching.coordinator.gate.set()
    # Then that stops, and what there was of it goes
    fetching.fetch(2, after)
    fetching.wait(lambda: fetching.ready == [2])
    assert sum(segment == 1 for _, segment, *_ in fetching.coordinator.calls) <= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{2:016x}-0.value"]


def test_what_is_needed_stays_and_what_was_needed_longest_ago_goes(tmp_path: Path) -> None:
    # Given room for three values, of which one is in use
    fetching = Fetching(tmp_path, 300 * KB)
    values = [fetching.coordinator.put(n, bytes([n + 1]) * 100 * KB) for n in range(5)]
    for token, value in enumerate(values[:3]):
        fetching.fetch(token, value)
        fetching.wait(lambda token=token: token in fetching.ready)  # type: ignore[misc]
    fetching.let_go(1)
    fetching.let_go(2)
    # When two more come
    for token in (3, 4):
        fetching.fetch(token, values[token])
        fetching.wait(lambda token=token: token in fetching.ready)  # type: ignore[misc]
    # Then the one in use is still there
    assert set(fetching.copies.keys()) == {(0, 0), (3, 0), (4, 0)}
    with pytest.raises(ValueGone):
        fetching.files.fetch(values[1])
    # And one that is larger than all the room is fetched all the same, and goes when it was used
    large = fetching.coordinator.put(9, b"9" * 400 * KB)
    fetching.fetch(9, large)
    fetching.wait(lambda: 9 in fetching.ready)
    assert len(memoryview(fetching.files.fetch(large))) == 400 * KB
    for token in (0, 3, 4, 9):
        fetching.let_go(token)
    assert fetching.copies.size <= 300 * KB
    fetching.downloads.close()


def test_the_argument_of_a_task_goes_with_its_lease_and_what_it_refers_to_stays(fetching: Fetching) -> None:
    # Given two leases with an argument each, and one of both
    one, other, both = [fetching.coordinator.put(n, bytes([n + 1]) * 40 * KB) for n in range(3)]
    fetching.fetch(1, one, both, own=True)
    fetching.fetch(2, other, both, own=True)
    fetching.wait(lambda: len(fetching.ready) == 2)
    # When one is over, and another one refers to what was an argument
    fetching.let_go(1)
    fetching.fetch(3, other)
    # Then its argument is gone at once
    assert set(fetching.copies.keys()) == {(1, 0), (2, 0)}
    until(lambda: _is_gone(fetching.files, one), "its file to go")
    # And when all are over only what was referred to is there
    fetching.let_go(2)
    fetching.let_go(3)
    assert list(fetching.copies.keys()) == [(1, 0)]
    assert fetching.copies.size == 40 * KB


def test_a_lease_is_given_back_where_there_is_no_room_for_it(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a full disk
    monkeypatch.setattr(downloads_module, "NO_ROOM_S", 0.0)
    old = fetching.coordinator.put(1, b"1" * 40 * KB)
    fetching.fetch(1, old)
    fetching.wait(lambda: fetching.ready == [1])
    fetching.let_go(1)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dtq.worker.downloads.os.write", full)
    # When a value is to be fetched
    fetching.fetch(2, fetching.coordinator.put(2, b"2" * 40 * KB))
    # Then it was tried again without what nobody needs, and the lease goes back
    fetching.wait(lambda: fetching.without_room == [2])
    assert list(fetching.copies.keys()) == []
    assert fetching.ready == [1]


def _is_gone(files: LocalValues, value: Value) -> bool:
    try:
        files.fetch(value)
    except ValueGone:
        return True
    return False


class Sending:
    """The transfers of a worker whose slots have results."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(directory))
        self.coordinators: list[Coordinator] = []
        self.welcomed: list[Callable[[Welcome], None]] = []
        self.lock = threading.Lock()
        self.news = threading.Condition(self.lock)
        self.holdings = Holdings()
        self.transfers = Transfers(
            OFFER,
            self._connect,
            self.holdings,
            self.lock,
            on_ready=lambda token: None,
            on_no_room=lambda token: None,
            announce=self.news.notify_all,
            most_inline=100 * KB,
        )
        for on_welcome in self.welcomed:
            on_welcome(welcome())
        self.files = LocalValues(self.transfers.place)

    def _connect(self, on_welcome: Callable[[Welcome], None]) -> Coordinator:
        self.coordinators.append(Coordinator())
        self.welcomed.append(on_welcome)
        return self.coordinators[-1]

    @property
    def coordinator(self) -> Coordinator:
        """Where results go."""
        return self.coordinators[1]

    def lease(self, token: int, tasks: int = 1) -> Chunk:
        arguments = pages.pack([b""] * tasks)
        grant = Grant(
            token=token, batch=token, lo=0, hi=tasks, single=False, attempt=1, spec=1, arguments=arguments,
        )  # fmt: skip
        chunk = Chunk(grant, SPEC, 0.0)
        chunk.place = self.transfers.place
        with self.lock:
            self.holdings.add(chunk)
        return chunk

    def result(self, data: bytes) -> bytes:
        draft = self.files.draft()
        draft.write(data)
        return describe([draft.finish()])

    def ended(self, outcome: Succeeded | Failed | Released) -> None:
        """Something has happened to a task."""
        with self.lock:
            chunk = self.holdings.chunks[outcome.token]
            chunk.next = chunk.end
            if not self.transfers.takes(outcome):
                self.holdings.outbox.add(outcome)

    def succeeded(self, token: int, lo: int, *blobs: bytes) -> None:
        self.ended(Succeeded(token=token, lo=lo, results=pages.pack(blobs, described=True), seconds=1.0))

    def reported(self, count: int) -> list[Any]:
        """What is to be reported, when there is so much."""
        with self.lock:
            assert self.news.wait_for(lambda: len(self.holdings.outbox) >= count, DEADLINE_S)
            return list(self.holdings.outbox)

    def until(self, look: Callable[[], Any]) -> None:
        with self.lock:
            assert self.news.wait_for(look, DEADLINE_S)

    def contents(self, outcome: Succeeded) -> list[bytes]:
        return [self.coordinator.content(value) for value in pages.named(outcome.results)]

    def close(self) -> None:
        self.transfers.close()


@pytest.fixture
def sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sending]:
    made = Sending(tmp_path, monkeypatch)
    yield made
    made.close()


def test_a_result_is_reported_when_it_has_arrived_and_others_before(sending: Sending) -> None:
    # Given a large result of one lease, and a small one of another
    sending.lease(1)
    sending.lease(2)
    sending.coordinator.gate.clear()
    sending.succeeded(1, 0, sending.result(b"r" * 70 * KB))
    sending.succeeded(2, 0, b"small")
    assert [outcome.token for outcome in sending.reported(1)] == [2]
    # When the large one has arrived
    sending.coordinator.gate.set()
    # Then it is reported, as what is there
    first = sending.reported(2)[1]
    assert sending.contents(first) == [b"r" * 70 * KB]
    (value,) = pages.named(first.results)
    assert value.crc


def test_what_follows_of_the_same_lease_waits(sending: Sending) -> None:
    sending.lease(1, 5)
    sending.coordinator.gate.clear()
    sending.succeeded(1, 0, sending.result(b"a" * 70 * KB), b"small")
    sending.succeeded(1, 2, b"small")
    sending.succeeded(1, 3, sending.result(b"b" * 70 * KB))
    sending.ended(Released(token=1, lo=4, hi=5))
    assert not sending.holdings.outbox
    # Nor is the lease over as long as something of it waits
    with sending.lock:
        sending.holdings.acknowledged()
    assert 1 in sending.holdings.chunks

    sending.coordinator.gate.set()

    outcomes = sending.reported(4)
    assert [getattr(outcome, "lo", None) for outcome in outcomes] == [0, 2, 3, 4]
    assert pages.unpack(outcomes[0].results)[1] == b"small"
    assert sending.contents(outcomes[2]) == [b"b" * 70 * KB]
    assert not sending.holdings.waiting


def test_a_small_result_does_not_wait_for_a_large_one(sending: Sending) -> None:
    sending.lease(1)
    sending.lease(2)
    sending.coordinator.gate.clear()
    sending.succeeded(1, 0, sending.result(b"1" * 2000 * KB))
    sending.succeeded(2, 0, sending.result(b"2" * 70 * KB))
    sending.coordinator.gate.set()

    assert [outcome.token for outcome in sending.reported(2)] == [2, 1]


def test_sending_stops_with_the_lease(sending: Sending) -> None:
    sending.lease(1)
    sending.lease(2)
    sending.coordinator.gate.clear()
    sending.succeeded(1, 0, sending.result(b"1" * 2000 * KB))
    with sending.lock:
        sending.holdings.forget(1)
    sending.coordinator.gate.set()
    sending.succeeded(2, 0, sending.result(b"2" * 70 * KB))

    (outcome,) = sending.reported(1)
    assert outcome.token == 2
    assert sum(kind == "write" for kind, *_ in sending.coordinator.calls) < 10


def test_a_full_coordinator_and_one_that_is_away_are_waited_for(
    sending: Sending, caplog: pytest.LogCaptureFixture
) -> None:
    sending.lease(1)
    sending.coordinator.failures += [StoreFull("/there", "full"), StoreFull("/there", "full"), Unreachable("x", "away")]

    sending.succeeded(1, 0, sending.result(b"r" * 170 * KB))

    assert sending.contents(sending.reported(1)[0]) == [b"r" * 170 * KB]
    assert caplog.text.count("has no room for them") == 1
    assert caplog.text.count("has room for results again") == 1


def test_a_result_that_fits_goes_with_the_report_where_there_is_no_room(sending: Sending) -> None:
    # Given a coordinator that has no room, and an array among results that fit into a message
    sending.lease(1, 3)
    array = sending.files.draft()
    array.write(b"a" * 80 * KB)
    described = describe([array.finish(bytes(16))])
    sending.coordinator.failures += [StoreFull("/there", "full")] * 3
    # When they are sent
    sending.succeeded(1, 0, sending.result(b"r" * 70 * KB), described, b"small")
    # Then what is a pickle goes with the report, and the others have waited
    (outcome,) = sending.reported(1)
    blobs = pages.unpack(outcome.results)
    assert (blobs[0], blobs[2]) == (b"r" * 70 * KB, b"small")
    (value,) = named(blobs[1])
    assert (value.length, value.trailer) == (80 * KB + 16, 16)
    assert len([call for call in sending.coordinator.calls if call[0] == "write"]) > 3


def test_what_fits_does_not_wait_for_what_finds_no_room(sending: Sending) -> None:
    # Given a coordinator without room, for which a large result waits
    sending.lease(1)
    sending.lease(2)
    sending.coordinator.full = True
    sending.succeeded(1, 0, sending.result(b"1" * 200 * KB))
    sending.until(lambda: sending.transfers.stalled)
    # When there is another, which may go with the report
    sending.succeeded(2, 0, sending.result(b"2" * 70 * KB))
    # Then it does, and the first waits
    (outcome,) = sending.reported(1)
    assert (outcome.token, pages.unpack(outcome.results)) == (2, [b"2" * 70 * KB])
    # And it goes when there is room; from then on nothing waits
    sending.coordinator.full = False
    first = sending.reported(2)[1]
    assert (first.token, sending.contents(first)) == (1, [b"1" * 200 * KB])
    sending.until(lambda: not sending.transfers.stalled)


def test_a_result_that_waits_for_room_can_be_cancelled(sending: Sending) -> None:
    # Given results that find no room: one of a lease of its own, and one behind another
    sending.lease(1)
    sending.lease(2, 2)
    sending.coordinator.full = True
    sending.succeeded(1, 0, sending.result(b"1" * 200 * KB))
    sending.succeeded(2, 0, sending.result(b"2" * 200 * KB))
    sending.succeeded(2, 1, sending.result(b"3" * 200 * KB))
    sending.until(lambda: sending.transfers.stalled == 2)
    # When those that end a lease are cancelled; Then they go back, each in its turn; the other is not
    with sending.lock:
        assert [sending.transfers.cancel(*task) for task in ((1, 0), (2, 0), (2, 1), (3, 0))] == [
            True, False, True, False,
        ]  # fmt: skip
    assert sending.reported(1) == [Released(token=1, lo=0, hi=1, started=1)]
    sending.coordinator.full = False
    _, kept, back = sending.reported(3)
    assert sending.contents(kept) == [b"2" * 200 * KB]
    assert back == Released(token=2, lo=1, hi=2, started=1)


def test_what_a_coordinator_has_lost_is_sent_again(sending: Sending) -> None:
    """It was restarted after a power cut, in the middle of a value."""
    sending.lease(1)
    sending.coordinator.gate.clear()
    sending.succeeded(1, 0, sending.result(b"r" * 200 * KB))
    real = sending.coordinator.write_value
    lost: list[int] = []

    def write_value(segment: int, offset: int, data: bytes) -> None:
        if offset >= 100 * KB and not lost:
            lost.append(segment)
            sending.coordinator.segments[segment][:] = bytes(len(sending.coordinator.segments[segment]))
            sending.welcomed[1](welcome(epoch=2))
        real(segment, offset, data)

    sending.coordinator.write_value = write_value  # type: ignore[method-assign]
    sending.coordinator.gate.set()

    assert sending.contents(sending.reported(1)[0]) == [b"r" * 200 * KB]


def test_a_result_that_is_refused_is_the_failure_of_its_task_alone(sending: Sending) -> None:
    # Given two results of a lease, of which the first is refused for good
    sending.lease(1, 3)
    sending.coordinator.failures += [NotPermitted("writing"), NotPermitted("writing")]
    # When they are sent
    sending.succeeded(1, 0, sending.result(b"a" * 70 * KB), sending.result(b"b" * 70 * KB), b"small")
    # Then the others are reported
    failed, second, third = sending.reported(3)
    assert isinstance(failed, Failed)
    assert failed.index == 0
    assert failed.failure.exception == "dtq.errors.NotPermitted"
    assert sending.contents(second) == [b"b" * 70 * KB]
    assert pages.unpack(third.results) == [b"small"]


def test_a_result_that_was_spoilt_here_fails_its_task(sending: Sending) -> None:
    sending.lease(1)
    blob = sending.result(b"a" * 70 * KB)
    (value,) = named(blob)
    with open(sending.transfers.place.find(value.segment), "r+b") as file:
        file.seek(100)
        file.write(b"b")

    sending.succeeded(1, 0, blob)

    (failed,) = sending.reported(1)
    assert isinstance(failed, Failed)
    assert failed.failure.exception == "dtq.errors.ValueDamaged"


def test_nothing_more_is_asked_for_while_much_waits(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtq.worker.chunks.MAX_UNSENT", 100 * KB)
    sending.coordinator.gate.clear()
    for token in (1, 2):
        sending.lease(token)
        assert not sending.holdings.burdened
        sending.succeeded(token, 0, sending.result(b"r" * 70 * KB))
    assert sending.holdings.burdened

    sending.coordinator.gate.set()
    sending.reported(2)
    assert not sending.holdings.burdened


def test_what_is_given_up_goes_back(sending: Sending) -> None:
    sending.lease(1, 4)
    sending.coordinator.gate.clear()
    sending.succeeded(1, 0, sending.result(b"r" * 70 * KB))
    sending.succeeded(1, 1, b"", b"")
    sending.ended(Released(token=1, lo=3, hi=4))
    with sending.lock:
        sending.holdings.give_up()

    (released,) = sending.reported(1)
    assert (released.lo, released.hi, released.started) == (0, 4, 4)
    assert not sending.holdings.waiting
    sending.coordinator.gate.set()


def test_a_coordinator_that_is_restarted_may_have_other_limits(sending: Sending) -> None:
    sending.transfers.adapt(ValuesOffer(max_value=5 * KB, checked=False))

    assert (sending.transfers.place.max_value, sending.transfers.place.checked) == (5 * KB, False)


def test_the_directory_goes_with_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sending = Sending(tmp_path, monkeypatch)
    assert Path(sending.transfers.directory).stat().st_mode & 0o777 == 0o700
    begun = time.monotonic()
    sending.coordinator.gate.clear()
    sending.lease(1)
    sending.succeeded(1, 0, sending.result(b"r" * 70 * KB))

    sending.close()

    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - begun < DEADLINE_S
