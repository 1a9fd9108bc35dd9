"""Framed messages over a real socket pair: limits, steps, timeouts, and when a connection may be used."""

from __future__ import annotations

import os
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq.errors import BadMessage, TooLarge
from dtq.transport import safepickle
from dtq.transport.connection import Connection, tune
from dtq.values.base import FileRange

Pair = tuple[Connection, Connection]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    ends = Connection(near, "far"), Connection(far, "near")
    yield ends
    for end in ends:
        end.close()


def echo(connection: Connection) -> threading.Thread:
    """Answer one message with itself."""

    def run() -> None:
        connection.send(connection.recv())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [0, 1, 8_000, 8_192, 32_700, 32_800, 65_536, 70_000, 1_000_000, 5_000_000])
def test_message_of_any_size_comes_back_the_same(pair: Pair, size: int) -> None:
    # Given a peer that echoes
    near, far = pair
    thread = echo(far)

    # When a message goes there
    near.send(("blob", os.urandom(size), [1, None]))
    name, blob, rest = near.recv()

    # Then it comes back whole
    thread.join(10)
    assert (name, len(blob), rest) == ("blob", size, [1, None])


def test_large_values_among_small_ones_arrive_as_they_were(pair: Pair) -> None:
    # Given a peer that takes a little at a time, and a message of which much is handed over as it is
    near, far = pair
    near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    message = [os.urandom(100_000), "small", (os.urandom(300_001), os.urandom(65_536)), list(range(40_000)), None]

    # When it goes there, Then every byte is where it was, and the next one is in step
    thread = echo(far)
    near.send(message)
    assert near.recv() == message
    thread.join(10)
    echo(far)
    near.send("next")
    assert near.recv() == "next"


def test_messages_sent_together_are_read_one_by_one(pair: Pair) -> None:
    near, far = pair
    for number in range(100):
        near.send(number)

    assert [far.recv() for _ in range(100)] == list(range(100))


def test_message_that_drips_in_is_read(pair: Pair) -> None:
    # Given a message cut into single bytes, its length too
    near, far = pair
    threading.Thread(target=lambda: [near.sock.send(bytes([byte])) for byte in _frame(b"\x80\x05K\x07.")]).start()

    assert far.recv() == 7


def test_message_over_the_limit_is_refused_before_a_byte_is_sent(pair: Pair) -> None:
    # Given a limit
    near, far = pair
    near.limit = 1000

    # When too much is to be sent, Then the sentence has both numbers
    with pytest.raises(TooLarge, match=r"1,0\d\d bytes, more than the limit of 1,000"):
        near.send(b"x" * 1000)

    # Then the connection is in step, and usable
    assert near.usable()
    near.send("next")
    assert far.recv() == "next"


def test_message_at_the_limit_passes(pair: Pair) -> None:
    near, far = pair
    near.send(b"x" * 100)
    size = len(far.sock.recv(200)) - 4
    near.limit = far.limit = size

    near.send(b"x" * 100)

    assert far.recv() == b"x" * 100


def test_announced_length_over_the_limit_is_refused_at_once(pair: Pair) -> None:
    near, far = pair
    near.sock.sendall((1 << 31).to_bytes(4, "big"))

    with pytest.raises(TooLarge, match="announced"):
        far.recv()


SIZES = [65_536, 70_000, 1_000_000, 5_000_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("source", ["parts", "file"])
def test_large_content_is_sent_from_where_it_lies_and_goes_to_its_place(
    pair: Pair, size: int, placed: bool, source: str, tmp_path: Path
) -> None:
    # Given a content in three parts, or in the middle of a file
    near, far = pair
    content = os.urandom(size)
    whole = memoryview(content)
    path = tmp_path / "content"
    path.write_bytes(b"before" + content + b"behind")
    place = bytearray(size)
    asked: list[tuple[bytes, int]] = []

    def room(before: bytes, length: int) -> memoryview | None:
        asked.append((before, length))
        return memoryview(place) if placed else None

    # When it goes within a message, with another one behind it
    def send() -> None:
        with path.open("rb") as file:
            parts = [whole[:10], whole[10:40_000], whole[40_000:]]
            sent = parts if source == "parts" else FileRange(file.fileno(), len("before"), size)
            near.send_around(("word", (1, safepickle.FILLER, "end")), sent)
        near.send("next")

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    word, (number, found, end) = far.recv(room)

    # Then it is the same as if it had been in the message, and lies where it was to
    assert (word, number, bytes(found), end) == ("word", 1, content, "end")
    assert [length for _, length in asked] == [size]
    assert b"word" in asked[0][0]
    assert (bytes(place) == content) is placed
    assert far.recv(room) == "next"
    thread.join(10)
    assert far.usable()


def test_a_file_that_is_too_short_ends_the_connection(pair: Pair, tmp_path: Path) -> None:
    near, far = pair
    path = tmp_path / "short"
    path.write_bytes(bytes(100_000))
    with path.open("rb") as file, pytest.raises(OSError, match="cut short"):
        near.send_around(("word", safepickle.FILLER), FileRange(file.fileno(), 0, 100_001))

    assert not near.usable()
    near.close()
    with pytest.raises(EOFError):
        far.recv()


def test_large_content_over_the_limit_is_refused_before_a_byte_is_sent(pair: Pair) -> None:
    near, far = pair
    near.limit = 100_000
    with pytest.raises(TooLarge):
        near.send_around(("word", safepickle.FILLER), [memoryview(bytes(100_001))])

    near.send("next")
    assert far.recv(lambda _, length: memoryview(bytearray(length))) == "next"


def test_what_is_around_a_placed_content_is_looked_through(pair: Pair) -> None:
    # Given a message with a large content, and a call behind it
    near, far = pair
    before, after = safepickle.around(("word", safepickle.FILLER), 100_000)
    for attack in (b"cos\nsystem\n" + after, after[:-1] + b"0cos\nsystem\n.", b"", after + after):
        body = before + bytes(100_000) + attack
        near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        near.sock.sendall(_frame(body))

        # Then it is refused, and the next one is in step
        with pytest.raises(BadMessage):
            far.recv(lambda _, length: memoryview(bytearray(length)))
    near.send("next")
    assert far.recv() == "next"


def test_memory_grows_with_what_arrives_not_with_what_is_announced(pair: Pair) -> None:
    # Given a peer that announces 15 MB, sends a little and goes
    near, far = pair
    near.sock.sendall((15_000_000).to_bytes(4, "big") + b"x" * 100_000)
    near.close()
    tracemalloc.start()
    try:
        # When it is read
        with pytest.raises(EOFError):
            far.recv()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Then no more than a few times as much as came was used
    assert peak < 600_000


def test_refused_message_leaves_the_connection_in_step(pair: Pair) -> None:
    # Given a message that is no pickle of plain data, and a good one behind it
    near, far = pair
    near.sock.sendall(_frame(b"cos\nsystem\n(S'true'\ntR."))
    near.send("next")

    # When both are read, Then the first is refused and the second arrives
    with pytest.raises(BadMessage):
        far.recv()
    assert far.recv() == "next"


def test_end_of_the_peer_is_an_eof_also_in_the_middle_of_a_message(pair: Pair) -> None:
    near, far = pair
    near.sock.sendall(_frame(b"x" * 50_000)[:20_000])
    near.close()

    with pytest.raises(EOFError):
        far.recv()


def test_answer_that_does_not_come_is_a_timeout_and_ends_the_use(pair: Pair) -> None:
    # Given a peer that says nothing
    near, _ = pair
    near.set_timeout(0.05)

    # When it is asked
    near.send("question")
    with pytest.raises(TimeoutError):
        near.recv()

    # Then the connection is not used again: the answer may still come
    assert not near.usable()


def test_peer_that_takes_nothing_is_a_timeout(pair: Pair) -> None:
    near, _ = pair
    near.set_timeout(0.05)

    with pytest.raises(TimeoutError):
        near.send(b"x" * 10_000_000)
    assert not near.usable()


def test_outstanding_answer_makes_it_unusable_until_it_is_read(pair: Pair) -> None:
    near, far = pair
    assert near.usable()

    near.send("question")
    assert not near.usable()

    far.send("answer")
    assert near.recv() == "answer"
    assert near.usable()


def test_connection_that_the_peer_has_closed_is_not_usable(pair: Pair) -> None:
    near, far = pair
    far.close()

    assert not near.usable()


def test_unasked_word_of_the_peer_makes_it_unusable(pair: Pair) -> None:
    near, far = pair
    far.send("unasked")

    assert not near.usable()


def test_closed_connection_is_not_usable_and_closes_twice(pair: Pair) -> None:
    near, _ = pair
    near.close()
    near.close()

    assert not near.usable()


@pytest.mark.parametrize("waker", ["interrupt", "finish"])
def test_waiting_reader_is_woken_from_another_thread(pair: Pair, waker: str) -> None:
    # Given a thread that waits for a message
    near, _ = pair
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(EOFError):
            near.recv()
        ended.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()

    # When another one interrupts it, Then it meets the end
    getattr(near, waker)()
    assert ended.wait(10)
    thread.join(10)


def test_finished_connection_still_sends_its_answer(pair: Pair) -> None:
    near, far = pair
    near.finish()

    near.send("answer")

    assert far.recv() == "answer"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_inherited_connection_is_not_usable_and_ending_it_does_not_reach_the_parent(pair: Pair) -> None:
    # Given a child that inherited a connection
    near, far = pair
    child = os.fork()
    if child == 0:
        used = near.usable()
        near.interrupt()
        near.close()
        os._exit(used)

    # When it has let go of it, Then it knew not to use it, and the parent's works
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    near.send("still here")
    assert far.recv() == "still here"


def test_tuned_socket_has_no_delay_and_notices_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        tune(sock)

        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body
