"""The service's calls for values: pieces that are written and read, by whom, and how long they are kept."""

from __future__ import annotations

import fcntl
import functools
import os
import pickle
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dtq.coordinator import values as coordinator_values
from dtq.coordinator.vetting import report as vetting_of
from dtq.core.changes import ArgumentPage
from dtq.errors import BadMessage, DtqError, NotPermitted, StoreFull, TooLarge, ValueDamaged, ValueGone
from dtq.model import pages
from dtq.model.messages import Exchange, Holding, Succeeded
from dtq.model.states import State
from dtq.model.values import CHUNK, Value, describe, is_description, named
from dtq.transport.safepickle import APART
from dtq.values.base import FileRange
from dtq.values.local import LocalValues
from dtq.values.offers import reachable
from dtq.values.place import SEGMENT_BYTES, Place
from dtq.values.wire import Incoming, ValueCalls, WireValues, chunk_of, read_pieces, write_pieces
from tests.contracts.service_scene import DEADLINE_S, Caller, Hand, House, until


class Line:
    """The calls of a caller, as `WireValues` takes them."""

    chunk = CHUNK
    epoch = 1

    def __init__(self, caller: Caller) -> None:
        self.write_values = functools.partial(write_pieces, caller.service)
        self.read_values = functools.partial(read_pieces, caller.service)

    def close(self) -> None:
        pass


def _values(caller: Caller) -> WireValues:
    return WireValues(Line(caller), max_value=1 << 30, checked=True)


def _place(house: House) -> Place:
    place = house.engine.place
    assert place is not None
    return place


def test_what_is_written_is_read(house: House) -> None:
    # Given a piece that a client has written
    client, reader = house.client(), house.client()
    client.service.write_value(5, 0, b"abcdef")

    # When it writes it again, as where the answer was lost, and goes on
    client.service.write_value(5, 0, b"abcdef")
    client.service.write_value(5, 6, b"ghi")
    client.service.write_value(5, 4096, b"far")

    # Then anybody who knows of it reads it, and workers too
    assert reader.service.read_value(5, 2, 7) == b"cdefghi"
    assert house.worker().service.read_value(5, 4096, 3) == b"far"


def test_what_was_written_is_not_changed(house: House) -> None:
    client = house.client()
    client.service.write_value(5, 0, b"abcdef")
    for offset, data in ((0, b"x"), (3, b"dex"), (5, b"xg")):
        with pytest.raises(NotPermitted):
            client.service.write_value(5, offset, data)

    assert client.service.read_value(5, 0, 6) == b"abcdef"


def test_a_segment_is_its_sessions_own(house: House) -> None:
    # Given a segment of one client, and one that a process on this machine writes to
    client, stranger = house.client(), house.client()
    client.service.write_value(5, 0, b"abcdef")
    local = LocalValues(_place(house))
    draft = local.draft()
    draft.write(b"local")
    value = draft.finish()

    # Then nobody else can add to them, the same session can on any connection
    with pytest.raises(NotPermitted):
        stranger.service.write_value(5, 6, b"ghi")
    with pytest.raises(NotPermitted):
        house.worker().service.write_value(5, 6, b"ghi")
    with pytest.raises(NotPermitted):
        client.service.write_value(value.segment, 64, b"ghi")
    house.client(session=client.session).service.write_value(5, 6, b"ghi")
    local.close()


def test_what_is_not_there_is_said(house: House) -> None:
    client = house.client()
    client.service.write_value(5, 0, b"abcdef")

    with pytest.raises(ValueGone):
        client.service.read_value(6, 0, 1)
    with pytest.raises(ValueDamaged):
        client.service.read_value(5, 0, 7)
    with pytest.raises(ValueDamaged):
        client.service.read_value(5, 1 << 62, CHUNK)
    with pytest.raises(TooLarge):
        client.service.write_value(5, (1 << 63) - 10, b"abcdef")
    with pytest.raises(TooLarge):
        client.service.write_value(5, SEGMENT_BYTES + (1 << 30), b"a")


def test_values_travel_in_pieces(house: House) -> None:
    # Given a value of several pieces, written in parts of several sizes
    values = _values(house.client())
    data = b"x" + os.urandom(3 * CHUNK + 12_344)
    draft = values.draft()
    for lo, hi in ((0, 10), (10, 70_000), (70_000, 2 * CHUNK + 5), (2 * CHUNK + 5, len(data))):
        assert draft.write(memoryview(data)[lo:hi]) == hi - lo
    value = draft.finish()

    # Then it comes back, whole and as a file, on another connection
    reader = _values(house.worker())
    assert bytes(memoryview(reader.fetch(value))) == data
    with reader.stream(value) as file:
        assert file.read(5) == data[:5]
        rest = bytearray(len(data) - 15)
        assert file.readinto(rest) == len(rest)  # type: ignore[attr-defined]  # a raw file's
        assert bytes(rest) == data[5:-10]
        assert file.read(100) == data[-10:]
    # And whoever can reach the files finds the same
    assert bytes(memoryview(LocalValues(_place(house)).fetch(value))) == data


def test_pieces_are_told_from_others_by_their_place_and_length(house: House) -> None:
    # Given pieces of all lengths around those that are sent from where they lie, in one part or in several
    service = house.client().service
    sizes = [1, 8_000, APART - 1, APART, APART + 1, CHUNK - 1, CHUNK]
    pieces = {n << 21: os.urandom(size) for n, size in enumerate(sizes, 1)}
    for offset, data in pieces.items():
        whole = memoryview(data)
        parted = (5, offset, [whole[:10], whole[10:30], whole[30:]])
        assert write_pieces(service, [parted, (5, offset, [whole])]) == [None, None]  # the same again

    # Then each is read as it was written, into memory of one's own as well
    places = [bytearray(len(data)) for data in pieces.values()]
    asked = [(5, offset, memoryview(place)) for offset, place in zip(pieces, places, strict=True)]
    assert _read(service, asked) == [None] * len(pieces)
    assert places == list(pieces.values())
    for offset, data in pieces.items():
        assert service.read_value(5, offset, len(data)) == data


def test_what_is_wrong_with_a_piece_is_said_of_it_alone_where_that_can_be(house: House) -> None:
    # Given a piece that is written
    service = house.client().service
    data = os.urandom(CHUNK)
    assert write_pieces(service, [(5, 0, [memoryview(data)])]) == [None]

    # When others are written that cannot be, among those that can
    refusals = write_pieces(
        service,
        [(5, CHUNK, [memoryview(data)]), (5, 0, [memoryview(bytes(CHUNK))]), (5, 2 * CHUNK, [memoryview(data)])],
    )
    # Then it is said of these; what is behind them may be there
    assert refusals[0] is None
    assert isinstance(refusals[1], NotPermitted)

    # When some are read that are not there, also into the same memory; Then likewise, and the calls are in step
    place = bytearray(CHUNK)
    view = memoryview(place)
    asked = [(5, 0, view), (6, 0, view), (5, (3 << 20) + 1, view), (5, CHUNK, view)]
    found = [None if refusal is None else type(refusal) for refusal in _read(service, asked)]
    assert found == [None, ValueGone, ValueDamaged, None]
    assert place == data
    assert service.read_value(5, CHUNK, CHUNK) == data


def _read(service: ValueCalls, pieces: Sequence[Incoming]) -> list[DtqError | None]:
    """Read pieces; why each is refused."""
    refusals: list[DtqError | None] = []

    def arrived(nth: int, refusal: DtqError | None) -> None:
        assert nth == len(refusals)
        refusals.append(refusal)

    read_pieces(service, pieces, arrived)
    return refusals


def test_pieces_out_of_files_are_written_like_others(house: House, tmp_path: Path) -> None:
    # Given pieces in a file, one of which it is too short for
    client, data = house.client(), os.urandom(300_000)
    (tmp_path / "pieces").write_bytes(data)
    with (tmp_path / "pieces").open("rb") as file:
        ranges = [FileRange(file.fileno(), at, size) for at, size in ((100, 200_000), (7, 50), (250_000, 60_000))]
        pieces = [(5, 0, ranges[0]), (5, 200_000, ranges[1]), (6, 0, ranges[2])]

        # When they are written
        refusals = write_pieces(client.service, pieces)

    # Then that one is refused, and the others are there
    assert [type(refusal) for refusal in refusals] == [type(None), type(None), ValueDamaged]
    assert client.service.read_value(5, 0, 200_050) == data[100:200_100] + data[7:57]
    with pytest.raises(ValueGone):
        client.service.read_value(6, 0, 1)


def test_an_abandoned_value_harms_no_other(house: House) -> None:
    values = _values(house.client())
    lost = values.draft()
    lost.write(b"x" * (2 * CHUNK))
    lost.abandon()
    draft = values.draft()
    draft.write(b"x" * CHUNK)
    value = draft.finish()

    assert bytes(memoryview(values.fetch(value))) == b"x" * CHUNK


def test_damage_is_found(house: House) -> None:
    values = _values(house.client())
    draft = values.draft()
    draft.write(b"x" * 3 * CHUNK)
    value = draft.finish()
    path = _place(house).find(value.segment)
    with open(path, "r+b") as file:
        file.seek(value.offset + CHUNK)
        file.write(b"y")

    with pytest.raises(ValueDamaged):
        values.fetch(value)
    with pytest.raises(ValueDamaged), values.stream(value) as stream:
        stream.read()
    Path(path).unlink()
    with pytest.raises(ValueGone):
        values.fetch(value)


def _is_held(house: House, segment: int) -> bool:
    with open(_place(house).find(segment), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_segment_is_held_until_its_session_is_done_with_it_or_long_gone(house: House) -> None:
    # Given two segments of a client
    client = house.client()
    for segment in (5, 6):
        client.service.write_value(segment, 0, b"abcdef")
    assert _is_held(house, 5)

    # When it is done with one, Then that is held no longer
    house.client().service.write_value(5, 0, b"")
    assert _is_held(house, 5)
    client.service.write_value(5, 0, b"")
    assert not _is_held(house, 5)

    # When it is gone, Then the other is held for some minutes
    client.hang_up()
    values = house.coordinator.values
    assert values is not None
    now = house.coordinator.clock.now()
    values.tick(lambda _: False, now)
    assert values.next_at == now + coordinator_values.KEPT_S
    assert _is_held(house, 6)
    values.tick(lambda _: False, now + coordinator_values.KEPT_S)
    assert not _is_held(house, 6)


def test_writing_goes_on_after_a_restart(house: House) -> None:
    # Given a coordinator that ends while a client writes a value
    client = house.client()
    client.service.write_value(5, 0, b"abcdef")
    house.restart()
    if house.engine.place is None or not Path(_place(house).paths[0], f"{5:016x}.values").exists():
        pytest.skip("its directories went with it")

    # Then the client goes on where it was, and cannot change what it has written before
    again = house.client(session=client.session)
    again.service.write_value(5, 3, b"defghi")
    with pytest.raises(NotPermitted):
        again.service.write_value(5, 0, b"x")
    assert again.service.read_value(5, 0, 9) == b"abcdefghi"


def test_descriptors_are_bounded(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a client that writes to more segments than may be open, and another one with a segment
    monkeypatch.setattr(coordinator_values, "MOST_OPEN", 8)
    quiet, client = house.client(), house.client()
    quiet.service.write_value(100, 0, b"quiet")
    for segment in range(12):
        client.service.write_value(segment, 0, b"loud")

    # Then the first ones are let go, and none of the other's; and it can write on
    assert not _is_held(house, 0)
    assert _is_held(house, 11)
    assert _is_held(house, 100)
    client.service.write_value(0, 4, b"er")
    assert client.service.read_value(0, 0, 6) == b"louder"


def test_a_full_disk_is_said(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a disk that is full in the middle of a piece
    client = house.client()
    client.service.write_value(5, 0, b"abcdef")
    write = os.pwrite

    def full(file: int, data: bytes, at: int) -> int:
        if at == 6:
            return write(file, bytes(data)[:2], at)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreFull):
        client.service.write_value(5, 6, b"ghijkl")

    # When there is room again, Then the same call works
    monkeypatch.undo()
    client.service.write_value(5, 6, b"ghijkl")
    assert client.service.read_value(5, 0, 12) == b"abcdefghijkl"


def test_peers_on_this_machine_find_that_out(house: House) -> None:
    # Given what a coordinator says of its values
    offer = house.client().welcome.values
    assert offer is not None

    # Then this process finds the place, unless the proof is missing or another
    assert reachable(offer) == _place(house)
    path = Path(offer.directories[-1], offer.proof)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"something else")
    assert reachable(offer) is None
    path.unlink()
    assert reachable(offer) is None


def test_pieces_fit_into_messages() -> None:
    assert chunk_of(16 << 20) == CHUNK
    assert chunk_of(64 << 10) < 64 << 10


def test_values_without_a_writer_are_not_settled_twice(house: House) -> None:
    # Given a full segment with two values
    values = _values(house.client())
    written = []
    for _ in range(2):
        draft = values.draft()
        draft.write(b"x" * (SEGMENT_BYTES // 2))
        written.append(draft.finish())
    assert written[0].segment == written[1].segment

    # When both are settled, Then the next value goes elsewhere and the segment is let go
    values.settled([written[0]])
    values.settled([written[1], Value(12345, 0, 10)])
    draft = values.draft()
    draft.write(b"x")
    assert draft.finish().segment != written[0].segment
    assert not _is_held(house, written[0].segment)


# -- what submissions and reports name ------------------------------------------------------------------------------


def _written(values: WireValues | LocalValues, data: bytes) -> Value:
    draft = values.draft()
    draft.write(data)
    return draft.finish()


def _page(*items: Value | bytes) -> bytes:
    return pages.pack([describe([i]) if isinstance(i, Value) else i for i in items], described=True)


def _codes(caller: Caller, *arguments: bytes, **parts: Any) -> list[str]:
    submissions = [replace(caller.submission(**parts), arguments=page) for page in arguments]
    return [receipt.code for receipt in caller.receipts(*submissions)]


def test_a_submission_that_names_what_is_not_there_is_refused_alone(house: House) -> None:
    # Given values of a client over the wire, of a process on this machine, and of another client
    client, stranger = house.client(), house.client()
    local = LocalValues(_place(house))
    mine, here, foreign = (
        _written(values, b"x" + os.urandom(99_999)) for values in (_values(client), local, _values(stranger))
    )

    # When it submits what it may name, and what it may not
    codes = _codes(
        client,
        _page(mine),
        _page(Value(77, 0, 100)),
        _page(here, mine, b"plain"),
        _page(replace(mine, length=100_001)),
        _page(mine, replace(mine, offset=1 << 62)),
        _page(replace(mine, length=(1 << 30) + 1)),
        _page(foreign),
        _page(b"plain"),
        _page(mine)[:-1],
    )

    # Then each is accepted or refused by itself
    assert codes == ["", "value-gone", "", "value-gone", "value-gone", "too-large", "value-gone", "", "bad-message"]
    assert _codes(stranger, _page(foreign)) == [""]
    local.close()


def test_results_that_are_not_there_are_failures_of_their_tasks_alone(house: House) -> None:
    # Given four tasks
    client, hand = house.client(), house.worker()
    batch = client.submit(4, max_retries=0)
    hand.exchange()
    values = _values(hand)
    good = _written(values, b"x" * 100_000)

    # When the result of one of them is missing
    grants = hand.fetch()
    while grants:
        for grant in grants:
            blobs = [describe([good if index != 2 else Value(77, 0, 5)]) for index in range(grant.lo, grant.hi)]
            page = pages.pack(blobs, described=True)
            hand.held.pop(grant.token, None)
            hand.exchange(succeeded=(Succeeded(token=grant.token, lo=grant.lo, results=page, seconds=0.0),))
        grants = hand.fetch()
    news = client.watch_until(batch, 4)
    states: dict[int, State] = {}
    for ended in news:
        states.update(dict.fromkeys(range(ended.lo, ended.hi), ended.state))

    # Then the tasks with good ones have succeeded, and the other one says what is missing
    assert [states[index] for index in range(4)] == [
        State.SUCCEEDED,
        State.SUCCEEDED,
        State.DEAD,
        State.SUCCEEDED,
    ]
    (dead,) = [ended for ended in news if ended.state is State.DEAD]
    assert dead.failure is not None
    assert dead.failure.exception == "dtq.errors.ValueGone"
    assert {ended.results for ended in news if ended.lo == 3} == {_page(good)}


def test_a_report_is_taken_apart_where_a_result_is_missing(house: House) -> None:
    # Given results of one lease, two of which name what is not there
    hand = house.worker()
    good, gone = describe([_written(_values(hand), b"x" * 100_000)]), describe([Value(77, 0, 5)])
    page = pages.pack([good, b"small", gone, good, gone], described=True)
    said = Exchange(succeeded=(Succeeded(token=9, lo=100, results=page, seconds=5.0),))

    # When the report is looked at
    found, vetting = vetting_of(house.coordinator, house.coordinator.sessions.by_id[hand.session], said)
    assert vetting is not None
    vetting.close()

    # Then these are failures, and the others are results, each with its share of the time
    assert [(one.lo, pages.unpack(one.results), one.seconds) for one in found.succeeded] == [
        (100, [good, b"small"], 2.0),
        (103, [good], 1.0),
    ]
    assert [(one.index, one.failure.exception) for one in found.failed] == [
        (102, "dtq.errors.ValueGone"),
        (104, "dtq.errors.ValueGone"),
    ]


def test_a_slot_has_its_next_task_while_its_result_is_synced(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a store whose values are synced, and a worker whose only slot has ended the first of two tasks
    assert house.coordinator.values is not None
    house.coordinator.values.place = replace(house.coordinator.values.place, sync_from=1)
    client, hand = house.client(), house.worker(slots=1)
    batch = client.submit(2)
    first = hand.fetch_one()
    values = _values(hand)
    result = _page(_written(values, b"x" * 100_000))
    assert hand.fetch() == []
    fetched: list[int] = []

    def sync(_: Any) -> None:
        orders = hand.fetch_orders(DEADLINE_S, holding=(Holding(token=first.token, done=True),))
        fetched.extend(grant.lo for grant in orders.grants)
        fetched.extend(grant.lo for grant in hand.fetch_orders(holding=_holding(hand)).grants)

    monkeypatch.setattr(house.engine, "sync", sync)

    # When it reports that, and the sync takes its time; Then it has the next task before, and not two of them
    report = Succeeded(token=first.token, lo=first.lo, results=result, seconds=60.0)
    hand.exchange(succeeded=(report,), holding=())
    assert fetched == [1]
    assert [ended.results for ended in client.watch_until(batch, 1)] == [result]
    hand.held.pop(first.token)
    assert hand.fetch() == []


def _holding(hand: Hand) -> tuple[Holding, ...]:
    return tuple(Holding(token=token) for token in hand.held)


def test_a_key_is_compared_by_what_values_hold(house: House) -> None:
    # Given a keyed submission of a large call
    client = house.client()
    values = _values(client)
    data = pickle.dumps((os.urandom(100_000),))
    first = client.receipts(replace(client.submission(key="k"), arguments=_page(_written(values, data))))

    # When the same is submitted again, written anew, Then it is the same batch; and another one is refused
    again = client.receipts(replace(client.submission(key="k"), arguments=_page(_written(values, data))))
    assert (again[0].code, again[0].batch) == ("", first[0].batch)
    other = pickle.dumps((os.urandom(100_000),))
    assert _codes(client, _page(_written(values, other)), key="k") == ["key-conflict"]
    assert _codes(client, _page(b"small"), key="k") == ["key-conflict"]


def test_what_is_named_is_held_until_it_is_on_disk(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a client on this machine that dies while its submission is being written
    client = house.client()
    local = LocalValues(_place(house))
    value = _written(local, b"x" * 100_000)
    commit = house.engine.commit
    held: list[bool] = []

    def looking(changes: Any, *, insist: bool = False) -> Any:
        if any(isinstance(getattr(change, "row", None), ArgumentPage) for change in changes):
            local.close()
            held.append(_is_held(house, value.segment))
        return commit(changes, insist=insist)

    monkeypatch.setattr(house.engine, "commit", looking)

    # Then its value is held meanwhile, and not any longer
    assert _codes(client, _page(value)) == [""]
    assert held == [True]
    assert not _is_held(house, value.segment)


# -- values that are put ----------------------------------------------------------------------------------------------


def _put(caller: Caller, data: bytes, ttl_s: float = 60.0) -> tuple[bytes, bytes]:
    """Write a value, and hold it: its digest and description."""
    values = _values(caller)
    draft = values.draft()
    draft.write(data)
    value = draft.finish()
    digest = sha256(data).digest()
    description = caller.service.hold(digest, describe([value]), ttl_s)
    values.settled([value])
    values.close()
    return digest, description


def _is_kept(house: House, description: bytes) -> bool:
    (value,) = named(description)
    return house.engine.holds([value])


def test_what_is_held_lies_once_and_until_nobody_holds_it(house: House) -> None:
    # Given a value that two clients have put
    first, second = house.client(), house.client()
    digest, description = _put(first, b"x" * 100_000)
    assert second.service.hold(b"another", b"", 60.0) == b""
    assert second.service.hold(digest, b"", 60.0) == description
    assert _put(second, b"x" * 100_000)[1] == description

    # When one after the other has no use for it, Then it is kept until the last
    first.service.release([digest, b"never"])
    house.coordinator.flush()
    assert _is_kept(house, description)
    second.service.release([digest])
    house.coordinator.flush()
    assert not _is_kept(house, description)


def test_what_is_held_goes_some_time_after_its_holder(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two clients that have gone for good
    monkeypatch.setattr("dtq.coordinator.sessions.CLIENT_GRACE_S", 0.05)
    brief, long = house.client(), house.client()
    _, soon = _put(brief, b"x" * 100_000, ttl_s=0.05)
    _, later = _put(long, b"y" * 100_000, ttl_s=3600.0)
    session = long.hello.session
    brief.hang_up()
    long.hang_up()

    # Then what they held goes when its time is over, and not before
    until("the first is let go", lambda: not _is_kept(house, soon))
    assert _is_kept(house, later)
    holds = house.coordinator.machine.queue_state.holds
    until("the other has left", lambda: [row.until is not None for row in holds.rows()] == [True])

    # And stays when its holder is back
    house.client(session=session)
    assert [row.until for row in holds.rows()] == [None]


def test_what_is_not_there_cannot_be_held(house: House) -> None:
    client = house.client()
    with pytest.raises((ValueGone, ValueDamaged, BadMessage)):
        client.service.hold(b"d" * 32, describe([Value(77, 0, 10)]), 60.0)
    with pytest.raises(BadMessage):
        client.service.hold(b"d" * 32, b"\0nonsense", 60.0)

    assert client.service.hold(b"d" * 32, b"", 60.0) == b""


# -- values that travel in pages ---------------------------------------------------------------------------------------

INLINE = 1 << 20


def test_large_blobs_are_taken_out_of_pages_and_put_in_again(house: House) -> None:
    # Given a client and a worker that cannot reach the files, and others that can
    client, near = house.client(inline=INLINE), house.client()
    worker = house.worker(inline=INLINE)
    blobs = [b"small", b"x" * 100_000, b"y" * 300_000]

    # When the client submits large arguments in a page
    number = client.submit(3, submission={"arguments": pages.pack(blobs)})

    # Then they are stored as values, and travel to the worker in the page
    (page,) = house.engine.pages(ArgumentPage, number, 0, 3)
    assert len(page.data) < 1000
    assert [value.length for value in pages.named(page.data)] == [100_000, 300_000]
    got: list[bytes] = []
    while len(got) < 3:
        grant = worker.fetch_one()
        got += pages.unpack(grant.arguments)
        worker.succeed(grant, *pages.unpack(grant.arguments))
    assert got == blobs

    # And so do the results, back
    ended = client.watch_until(number, 3)
    assert [blob for part in ended for blob in pages.unpack(part.results)] == blobs
    again = client.service.results(number, 0, 3)
    assert [blob for part in again for blob in pages.unpack(part.results)] == blobs
    described = [blob for part in near.service.results(number, 0, 3) for blob in pages.unpack(part.results)]
    assert [is_description(blob) for blob in described] == [False, True, True]


def test_what_does_not_fit_into_an_answer_is_named(house: House) -> None:
    # Given more than an answer has room for, and one that is larger than was asked for
    client, worker = house.client(inline=INLINE), house.worker(inline=INLINE)
    blobs = [bytes([n]) * 900_000 for n in range(1, 9)] + [b"z" * (INLINE + 1)]
    number = client.submit(9, submission={"arguments": pages.pack(blobs)})

    # When it travels, Then some is there, and the rest is named
    got: list[bytes] = []
    while len(got) < 9:
        grant = worker.fetch_one()
        got += pages.unpack(grant.arguments)
        worker.succeed(grant, *[b""] * (grant.hi - grant.lo))
    read = [house.coordinator.values.content(named(blob)[0]) if is_description(blob) else blob for blob in got]
    assert read == blobs
    assert not is_description(got[0])
    assert is_description(got[-1])
    assert number


def test_large_blobs_stay_in_their_page_where_there_is_no_room(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client = house.client(inline=INLINE)

    def full(self: LocalValues, blobs: Any) -> None:
        raise StoreFull("the store", "no room")

    monkeypatch.setattr(LocalValues, "write_all", full)
    number = client.submit(1, submission={"arguments": pages.pack([b"x" * 100_000])})

    (page,) = house.engine.pages(ArgumentPage, number, 0, 1)
    assert pages.unpack(page.data) == [b"x" * 100_000]


def test_what_another_run_of_the_coordinator_was_sent_is_not_there(house: House) -> None:
    # Given a client whose segment has a gap, as where what was before it was sent to a run that kept it elsewhere
    client = house.client()
    client.service.write_value(5, 4096, b"x" * 100)

    # Then what would lie in the gap is not there, and what was written is
    for value in (Value(5, 0, 100), Value(5, 4032, 100)):
        with pytest.raises(ValueGone):
            client.service.hold(b"d" * 32, describe([value]), 60.0)
    assert client.service.hold(b"d" * 32, describe([Value(5, 4096, 100)]), 60.0)

    # And who finds another run at the other end begins another segment
    values = _values(client)
    before = _written(values, b"x" * 100)
    values.service.epoch = 2  # type: ignore[misc]
    assert _written(values, b"y" * 100).segment != before.segment
