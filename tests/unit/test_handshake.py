"""The handshake over a socket pair: who gets in, what the others see, and by when it is over."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dtq.errors import InvalidValue, ProtocolMismatch, Unreachable, WrongKey
from dtq.transport import handshake
from dtq.transport.handshake import KEY_ID, MAGIC, check_key, join_server
from dtq.transport.server_handshake import Stranger
from tests.integration.transport_scene import admit

KEY = b"k" * 32
OTHER = b"o" * 32
#: Bytes that a client begins with.
OPENING = 4 + KEY_ID + 32
Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(10)
        far.settimeout(10)
        yield near, far


class Aside:
    """Runs one side in a thread and keeps what became of it."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self._run = run
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def _go(self) -> None:
        try:
            self._run()
        except (Stranger, OSError, EOFError) as error:
            self.error = error

    def outcome(self) -> BaseException | None:
        self._thread.join(10)
        assert not self._thread.is_alive(), "the other side is still in the handshake"
        return self.error


def serve(sock: socket.socket, *keys: bytes, seconds: float = 10, binding: bytes = handshake.NO_BINDING) -> Aside:
    def run() -> None:
        try:
            admit(sock, *keys, seconds=seconds, binding=binding)
        except (Stranger, OSError, EOFError):
            sock.close()
            raise

    return Aside(run)


def join(sock: socket.socket, key: bytes = KEY, *, seconds: float = 10, binding: bytes = handshake.NO_BINDING) -> None:
    join_server(sock, key, deadline=time.monotonic() + seconds, peer="h:1", key_source="its file", binding=binding)


def test_same_key_gets_in_and_nothing_else_is_said(ends: Ends) -> None:
    # Given a server, When a client with the key comes
    server = serve(ends[1], KEY)
    join(ends[0])

    # Then both are content, and the stream is empty
    assert server.outcome() is None
    for end in ends:
        end.setblocking(False)
        with pytest.raises(BlockingIOError):
            end.recv(1)


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_either_of_two_keys_gets_in(ends: Ends, key: bytes) -> None:
    server = serve(ends[1], OTHER, KEY)
    join(ends[0], key)

    assert server.outcome() is None


def test_wrong_key_is_told_apart_from_a_lost_connection(ends: Ends) -> None:
    # Given a server with another key, When a client comes, Then its sentence names the address and the key's source
    server = serve(ends[1], OTHER)
    with pytest.raises(WrongKey, match=r"h:1 refused the handshake.*than its file"):
        join(ends[0])
    assert isinstance(server.outcome(), Stranger)


def test_server_that_vanishes_is_no_wrong_key(ends: Ends) -> None:
    # Given a server that dies when it has the proof
    def run() -> None:
        ends[1].recv(OPENING)
        ends[1].sendall(MAGIC + bytes(32))
        ends[1].recv(32)
        ends[1].close()

    server = Aside(run)
    with pytest.raises(EOFError):
        join(ends[0])
    server.outcome()


def test_server_that_cannot_prove_itself_is_refused(ends: Ends) -> None:
    # Given a server without the key that answers each proof with the client's own
    def run() -> None:
        opening = ends[1].recv(OPENING)
        ends[1].sendall(MAGIC + opening[-32:])
        ends[1].sendall(ends[1].recv(32))

    server = Aside(run)
    with pytest.raises(WrongKey):
        join(ends[0])
    server.outcome()


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(50), os.urandom(64), b"DT" * 20],
    ids=["http", "tls", "random", "own"],  # the same in every process that collects the tests
)
def test_stranger_gets_no_byte(ends: Ends, garbage: bytes) -> None:
    # Given a peer that speaks something else
    server = serve(ends[1], KEY)
    ends[0].sendall(garbage)

    # When the server has seen it, Then it closes without a word
    assert isinstance(server.outcome(), Stranger)
    assert _all_of(ends[0]) == b""


def test_wrong_proof_gets_nothing_but_random_bytes(ends: Ends) -> None:
    # Given a peer that speaks the protocol without the key
    seen = set()
    for _ in range(3):
        near, far = socket.socketpair()
        with near, far:
            server = serve(far, KEY)
            near.sendall(MAGIC + bytes(KEY_ID) + bytes(32) + bytes(32))
            assert isinstance(server.outcome(), Stranger)
            answer = _all_of(near)
        # Then it sees the magic, a nonce, and as many random bytes as a proof has
        assert answer.startswith(MAGIC)
        assert len(answer) == 4 + 32 + 32
        seen.add(answer)
    assert len(seen) == 3


def test_recorded_session_is_refused(ends: Ends) -> None:
    # Given what a client with the key once said
    recorder, tap = socket.socketpair()
    said: list[bytes] = []

    def record() -> None:
        said.append(tap.recv(OPENING))
        ends[0].sendall(said[0])
        tap.sendall(ends[0].recv(36))
        said.append(tap.recv(32))
        ends[0].sendall(said[1])
        tap.sendall(ends[0].recv(32))

    with recorder, tap:
        server, relay = serve(ends[1], KEY), Aside(record)
        join(recorder)
        assert server.outcome() is None
        assert relay.outcome() is None

    # When it is said again, word by word
    near, far = socket.socketpair()
    with near, far:
        server = serve(far, KEY)
        near.sendall(b"".join(said))

        # Then it is not let in
        assert isinstance(server.outcome(), Stranger)


def test_proof_of_another_channel_is_refused(ends: Ends) -> None:
    # Given two sides with the key that see different certificates
    server = serve(ends[1], KEY, binding=b"s" * 32)
    with pytest.raises(WrongKey):
        join(ends[0], binding=b"c" * 32)
    assert isinstance(server.outcome(), Stranger)


def test_other_version_of_the_server_is_named(ends: Ends) -> None:
    # Given a server of protocol 99
    def run() -> None:
        ends[1].recv(OPENING)
        ends[1].sendall(MAGIC[:3] + b"\x63" + bytes(32))

    server = Aside(run)
    with pytest.raises(ProtocolMismatch, match=rf"speaks protocol {MAGIC[3]}, the other side 99"):
        join(ends[0])
    server.outcome()


def test_other_version_of_the_client_is_told_the_servers(ends: Ends) -> None:
    # Given a client of protocol 99
    server = serve(ends[1], KEY)
    ends[0].sendall(MAGIC[:3] + b"\x63" + bytes(32))

    # Then the server says its own version, and closes
    assert isinstance(server.outcome(), Stranger)
    assert _all_of(ends[0])[:4] == MAGIC


def test_something_else_on_the_port_is_called_so(ends: Ends) -> None:
    # Given a server that greets
    ends[1].sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    with pytest.raises(Unreachable, match="not a dtq coordinator"):
        join(ends[0])


def test_drip_feed_does_not_extend_the_deadline(ends: Ends) -> None:
    # Given a client that sends a byte now and then, for ever
    server = serve(ends[1], KEY, seconds=0.3)
    stop = threading.Event()

    def drip() -> None:
        ends[0].sendall(MAGIC)
        while not stop.wait(0.02):
            ends[0].sendall(b"x")

    feeder = Aside(drip)

    # When the time is over, Then so is the handshake
    assert isinstance(server.outcome(), TimeoutError)
    stop.set()
    feeder.outcome()


def test_silent_server_is_given_up_at_the_deadline(ends: Ends) -> None:
    with pytest.raises(TimeoutError):
        join(ends[0], seconds=0.1)


def test_short_key_is_refused_without_being_shown() -> None:
    with pytest.raises(InvalidValue) as caught:
        check_key(b"secret")

    assert "secret" not in str(caught.value)
    assert check_key(KEY) == KEY


def _all_of(sock: socket.socket) -> bytes:
    data = b""
    try:
        while part := sock.recv(4096):
            data += part
    except ConnectionResetError:
        pass
    return data
