"""Pieces of values under way together: none waits for the answer to the one before, and each is told of once."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from dtq.errors import DtqError, StoreFull, Unreachable, ValueDamaged, ValueGone, to_wire
from dtq.model.messages import Hello, Role
from dtq.transport.calls import ERROR, RETURN
from dtq.transport.connection import Connection
from dtq.transport.proxy import Proxy
from dtq.values.wire import WINDOW, Arrived, Incoming, Outgoing, Remainder, WireValues
from tests.cluster import DEADLINE_S

CHUNK = 100_000


class Talk:
    """A proxy that has said hello, and the other end of its connection."""

    def __init__(self) -> None:
        near, far = socket.socketpair()
        near.settimeout(DEADLINE_S)
        far.settimeout(DEADLINE_S)
        self.near, self.far = Connection(near, "near"), Connection(far, "far")
        hello = Hello(
            session="s" * 32, role=Role.CLIENT, name="n", host="h", pid=1, python="3.11.0", version="0.1.0"
        )  # fmt: skip
        self.proxy = Proxy([("127.0.0.1", 1)], b"k" * 32, hello)
        self.proxy._connection, self.proxy._greeted = self.near, True
        self._answering: list[threading.Thread] = []

    def answer(self, *answers: Any) -> threading.Thread:
        """Answer so many calls, once all of them are there."""

        def run() -> None:
            for _ in answers:
                self.far.recv()
            for answer in answers:
                self.far.send(answer)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._answering.append(thread)
        return thread

    def close(self) -> None:
        """End, when everything is answered."""
        for thread in self._answering:
            thread.join(DEADLINE_S)
        self.near.close()
        self.far.close()


@pytest.fixture
def talk() -> Iterator[Talk]:
    made = Talk()
    yield made
    made.close()


def _refused(error: DtqError) -> Any:
    return ERROR, to_wire(error)


def test_pieces_are_written_before_those_before_are_answered(talk: Talk) -> None:
    # Given a peer that answers when it has all of them
    answering = talk.answer((RETURN, None), _refused(StoreFull("/there", "full")), (RETURN, None))
    # When three are written
    parts = [memoryview(os.urandom(CHUNK)), memoryview(b"short")]
    refusals = talk.proxy.write_values([(1, 0, parts), (1, CHUNK, [parts[1]]), (1, 2 * CHUNK, parts)])
    # Then each has its own answer, and the connection can be used again
    answering.join(DEADLINE_S)
    assert [refusal and refusal.code for refusal in refusals] == [None, StoreFull.code, None]
    assert talk.near.usable()


def test_pieces_are_read_one_by_one_into_the_same_memory(talk: Talk) -> None:
    # Given a peer that has some of what is asked for, large and small
    first, second = os.urandom(CHUNK), os.urandom(CHUNK)
    talk.answer((RETURN, first), _refused(ValueGone(5)), (RETURN, b"short"), (RETURN, second), (RETURN, b"x" * 9))
    # When it is read
    memory = memoryview(bytearray(CHUNK))
    places = [memory, memory, memory[:6], memory, memory[:9]]
    told: list[Any] = []

    def arrived(nth: int, refusal: DtqError | None) -> None:
        told.append((nth, bytes(places[nth]) if refusal is None else type(refusal)))

    talk.proxy.read_values([(1, 0, place) for place in places], arrived)
    # Then each is there when it is told of
    assert told == [(0, first), (1, ValueGone), (2, ValueDamaged), (3, second), (4, b"x" * 9)]
    assert talk.near.usable()


def test_who_raises_while_pieces_come_leaves_no_answer_to_others(talk: Talk) -> None:
    talk.answer((RETURN, b"1"), (RETURN, b"2"))

    def arrived(nth: int, refusal: DtqError | None) -> None:
        raise OSError(nth)

    memory = memoryview(bytearray(1))
    with pytest.raises(OSError, match="0"):
        talk.proxy.read_values([(1, 0, memory), (1, 1, memory)], arrived)

    assert not talk.near.usable()


class Flaky:
    """Calls that lose the connection again and again."""

    def __init__(self, content: bytes, lost_after: list[int]) -> None:
        self.content = content
        self.lost_after = lost_after
        self.asked: list[int] = []

    def read_values(self, pieces: Sequence[Incoming], arrived: Arrived) -> None:
        self.asked.append(len(pieces))
        lost_after = self.lost_after.pop(0) if self.lost_after else len(pieces)
        for nth, (_, offset, place) in enumerate(pieces[:lost_after]):
            place[:] = self.content[offset : offset + place.nbytes]
            arrived(nth, None)
        if lost_after < len(pieces):
            raise Unreachable("here", "lost")

    def write_value(self, segment: int, offset: int, data: bytes) -> None:
        raise NotImplementedError

    def read_value(self, segment: int, offset: int, length: int) -> bytes:
        raise NotImplementedError


def test_what_has_arrived_is_not_read_again_where_the_connection_was_lost() -> None:
    # Given a connection that is lost after two pieces, after none, and after one more
    calls = Flaky(b"abcdef", [2, 0, 1])
    memory = memoryview(bytearray(1))
    told: list[tuple[int, bytes]] = []
    remainder = Remainder(
        [(1, n, memory) for n in range(6)], lambda nth, _: told.append((nth, bytes(memory))), lambda _: True
    )
    # When they are read until all of them are there
    for _ in range(3):
        with pytest.raises(Unreachable):
            remainder.read(calls)
    remainder.read(calls)
    # Then each was told of once, in order
    assert told == [(n, b"abcdef"[n : n + 1]) for n in range(6)]
    assert calls.asked == [6, 4, 4, 3]


class Service:
    """What keeps pieces, and how many of them came together."""

    chunk = CHUNK
    epoch = 1

    def __init__(self) -> None:
        self.memory = bytearray()
        self.together: list[int] = []
        self.refuse: Callable[[Outgoing], DtqError | None] = lambda piece: None

    def write_values(self, pieces: Sequence[Outgoing]) -> list[DtqError | None]:
        self.together.append(len(pieces))
        refusals = [self.refuse(piece) for piece in pieces]
        for (_, offset, parts), refusal in zip(pieces, refusals, strict=True):
            data = b"".join(parts)
            if refusal is None:
                self.memory.extend(bytes(max(0, offset + len(data) - len(self.memory))))
                self.memory[offset : offset + len(data)] = data
        return refusals

    def read_values(self, pieces: Sequence[Incoming], arrived: Arrived) -> None:
        self.together.append(len(pieces))
        for nth, (_, offset, place) in enumerate(pieces):
            place[:] = self.memory[offset : offset + place.nbytes]
            arrived(nth, None)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("checked", [True, False])
def test_a_value_travels_a_few_pieces_at_a_time(checked: bool) -> None:
    # Given a value of ten pieces and a bit
    service = Service()
    values = WireValues(service, max_value=1 << 30, checked=checked)
    data = b"x" + os.urandom(10 * CHUNK + 5)
    # When it is written, and read at once and bit by bit
    draft = values.draft()
    draft.write(data)
    value = draft.finish()
    written, service.together = service.together, []
    assert memoryview(values.fetch(value)) == data
    fetched, service.together = service.together, []
    with values.stream(value) as file:
        assert file.read(3) + file.read(4 * CHUNK) + file.read() == data
    # Then so many were under way together, and no more
    assert written == [WINDOW, WINDOW, 3]
    # Without a checksum it is seen at the end whether it was dropped meanwhile
    assert fetched == [WINDOW, WINDOW, 3 + (not checked)]
    assert max(service.together) <= WINDOW + 1
    assert bool(value.crc) is checked


@pytest.mark.parametrize("dropped_at", [0, 3])
def test_a_value_that_is_dropped_while_it_is_read_is_gone(dropped_at: int) -> None:
    service = Service()
    values = WireValues(service, max_value=1 << 30, checked=False)
    draft = values.draft()
    draft.write(b"x" * (6 * CHUNK))
    value = draft.finish()
    with values.stream(value) as file:
        file.read(dropped_at)
        service.memory[:] = bytes(len(service.memory))
        with pytest.raises(ValueGone):
            file.read()


def test_what_is_refused_and_what_follows_have_not_arrived() -> None:
    # Given a service that refuses the second piece of a value
    service = Service()
    values = WireValues(service, max_value=1 << 30, checked=True)
    draft = values.draft()
    data = [b"abc"[n : n + 1] * CHUNK for n in range(3)]
    service.refuse = lambda piece: StoreFull("/there", "full") if piece[1] == CHUNK else None
    # When its pieces are sent
    pieces = draft.place([[memoryview(part)] for part in data])
    refusal = draft.took(pieces, service.write_values(pieces))
    # Then only the first has arrived, and what follows is sent once more
    assert (type(refusal), draft.sent) == (StoreFull, CHUNK)
    service.refuse = lambda piece: None
    again = draft.place([[memoryview(part)] for part in data[1:]])
    assert draft.took(again, service.write_values(again)) is None
    assert again == pieces[1:]
    assert memoryview(values.fetch(draft.finish())) == b"".join(data)
    # And where it is given up, nothing else is written where something may be
    lost = values.draft()
    lost.took(lost.place([[memoryview(data[0])]]), [Unreachable("here", "lost")])
    lost.abandon()
    after = values.draft()
    ((_, offset, _),) = after.place([[memoryview(data[0])]])
    assert offset >= 4 * CHUNK


@pytest.mark.parametrize(("checked", "spoilt"), [(True, 150), (True, None), (False, 0), (False, None)])
def test_what_a_restarted_coordinator_has_lost_is_noticed(checked: bool, spoilt: int | None) -> None:
    # Given a value of which a piece has arrived
    service = Service()
    draft = WireValues(service, max_value=1 << 30, checked=checked).draft()
    first = draft.place([[memoryview(b"x" * CHUNK)]])
    assert draft.took(first, service.write_values(first)) is None
    # When the coordinator is another one when the next has, and perhaps has something else
    service.epoch = 2
    if spoilt is not None:
        service.memory[spoilt] = 0
    second = draft.place([[memoryview(b"y" * CHUNK)]])
    refusals = service.write_values(second)
    # Then that is noticed, and else it goes on
    if spoilt is None:
        assert draft.took(second, refusals) is None
        assert draft.sent == 2 * CHUNK
    else:
        with pytest.raises(ValueGone):
            draft.took(second, refusals)
