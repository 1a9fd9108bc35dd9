"""Hostile and clumsy peers: with the key, without it, and many at once. Nobody else notices."""

from __future__ import annotations

import logging
import os
import pickle
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import managers
from pathlib import Path
from typing import Any

import pytest

from dtq.errors import BadMessage, DtqError, Unreachable, WrongKey
from dtq.transport import Proxy, Server, pending_connections
from dtq.transport.calls import METHODS
from dtq.transport.connection import Connection
from dtq.transport.endpoints import dial
from dtq.transport.handshake import KEY_ID, MAGIC
from dtq.transport.listening import SERIALIZER
from tests.integration.transport_scene import (
    HELLO,
    KEY,
    WRONG_KEY,
    Fake,
    admit,
    proxy_to,
    serving,
    serving_apart,
    wait_until,
)


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def server(fake: Fake) -> Iterator[Server]:
    with serving(fake) as server:
        yield server


@pytest.fixture
def honest(server: Server) -> Iterator[Proxy]:
    with proxy_to(server) as proxy:
        assert proxy.follow([1]) == [1]
        yield proxy


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def silent_sockets(server: Server, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(server.address, 10)) for _ in range(count)]


# -- without the key ------------------------------------------------------------------------------------------------


def test_wrong_keys_are_refused_at_once_and_logged_sparingly(
    server: Server, honest: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 1: wrong key."""
    # Given a hundred clients with a wrong key
    for _ in range(100):
        started = time.monotonic()
        with proxy_to(server, WRONG_KEY) as stranger, pytest.raises(WrongKey):
            stranger.connect()
        # Then each is told within a second
        assert time.monotonic() - started < 1

    # Then the others are served, and the log has a few lines and, when it closes, the count of the rest
    assert honest.follow([2]) == [2]
    server.close()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("another authkey" in line for line in lines) == 20
    assert lines[-1].startswith("80 more")


def test_port_scan_leaves_nothing_behind(server: Server, honest: Proxy) -> None:
    """Row 2: port scan, RST, half handshake."""
    threads, files = threading.active_count(), descriptors()

    # Given connections that are closed at once, reset, or left in the middle of the handshake
    for number in range(1000):
        sock = socket.create_connection(server.address, 10)
        if number % 3 == 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if number % 3 == 2:
            sock.sendall((MAGIC + bytes(32))[:20])
        sock.close()

    # Then a new client is served, and threads and descriptors are as before
    with proxy_to(server) as proxy:
        assert proxy.follow([1]) == [1]
    wait_until("threads", threading.active_count, threads)
    wait_until("descriptors", descriptors, files)


def test_fuzz_before_the_key_gets_no_byte_beyond_the_handshake(server: Server, honest: Proxy) -> None:
    """Row 3: HTTP and random fuzz, before authentication."""
    # Given seeded openings of many kinds
    rng = random.Random(20)
    openings = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" * 100,
        MAGIC + bytes(KEY_ID) + bytes(32) + bytes(32),
        MAGIC + bytes(KEY_ID) + bytes(32) + pickle.dumps((None, "shutdown", (), {})) * 2,
        *(rng.randbytes(rng.randint(1, 200)) for _ in range(100)),
        *(MAGIC + rng.randbytes(rng.randint(64, 200)) for _ in range(50)),
    ]
    for opening in openings:
        with socket.create_connection(server.address, 10) as sock:
            with suppress(OSError):  # reset already
                sock.sendall(opening)
                sock.shutdown(socket.SHUT_WR)
            answer = read_all(sock)
        # Then a stranger sees nothing; one that knows the magic sees magic, nonce and a refusal of random bytes
        assert answer == b"" or (opening.startswith(MAGIC) and answer.startswith(MAGIC) and len(answer) <= 68)
    assert honest.follow([2]) == [2]


def test_calls_are_answered_while_a_hundred_connections_hang(fake: Fake) -> None:
    # Given a hundred connections that say nothing
    with serving(fake, max_pending=200) as server, proxy_to(server) as old, silent_sockets(server, 100) as silent:
        old.connect()

        # When clients old and new call
        assert old.follow([1]) == [1]
        with proxy_to(server) as new:
            assert new.follow([2]) == [2]

        # Then all hundred were open all the while
        assert select.select(silent, [], [], 0)[0] == []


def test_oldest_silent_connection_makes_room(fake: Fake) -> None:
    # Given room for ten strangers, and thirty that come
    with serving(fake, max_pending=10) as server, silent_sockets(server, 30) as silent:
        # When a client with the key comes, Then it is served
        with proxy_to(server) as proxy:
            assert proxy.follow([1]) == [1]

        # Then the oldest were sent away for the others
        wait_until("oldest are closed", lambda: len(select.select(silent[:20], [], [], 0)[0]), 20, timeout_s=4)
        assert select.select(silent[25:], [], [], 0)[0] == []


def test_silence_and_drip_feed_are_cut_at_the_deadline(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 4: slowloris, drip feed."""
    # Given a handshake that may take half a second
    monkeypatch.setattr(pending_connections, "HANDSHAKE_S", 0.5)
    with serving(fake) as server:
        threads = threading.active_count()
        with silent_sockets(server, 20) as silent:
            # When one says nothing, and another a byte at a time
            started = time.monotonic()
            closed: set[socket.socket] = set()
            while len(closed) < 20:
                for sock in silent[:10]:
                    try:
                        sock.send(MAGIC[:1])
                    except OSError:
                        closed.add(sock)
                closed.update(select.select([s for s in silent if s not in closed], [], [], 0.05)[0])
                # Then both are closed when the time is over
                assert time.monotonic() - started < 10, f"{20 - len(closed)} are still open"
        wait_until("threads", threading.active_count, threads)


def test_three_hundred_connects_at_once_are_all_answered(server: Server) -> None:
    # Given three hundred clients that connect in the same moment
    proxies = [proxy_to(server, connect_timeout_s=20) for _ in range(300)]
    barrier = threading.Barrier(len(proxies) + 1)
    answers: list[Any] = []

    def call(number: int, proxy: Proxy) -> None:
        barrier.wait(20)
        try:
            answers.append(proxy.follow([number]) == [number])
        except DtqError as error:
            answers.append(error)
        finally:
            proxy.close()

    threads = [threading.Thread(target=call, args=pair, daemon=True) for pair in enumerate(proxies)]
    for thread in threads:
        thread.start()

    # When they are let go, Then every one of them gets its answer
    barrier.wait(20)
    for thread in threads:
        thread.join(20)
    assert answers == [True] * 300


def test_server_without_the_key_cannot_pass_by_reflection(server: Server, fake: Fake) -> None:
    """Row 9: fake coordinator, reflection."""
    # Given a false server that gives the proof of one client to another
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        outcomes: list[BaseException] = []

        def connect() -> None:
            with proxy_to(listener.getsockname()[1], connect_timeout_s=5) as proxy:
                try:
                    proxy.connect()
                except (WrongKey, Unreachable) as error:
                    outcomes.append(error)

        clients = [threading.Thread(target=connect, daemon=True) for _ in range(2)]
        for client in clients:
            client.start()
        pair = [listener.accept()[0] for _ in clients]
        openings = [exactly(sock, 4 + KEY_ID + 32) for sock in pair]
        for sock, opening in zip(pair, reversed(openings), strict=True):
            sock.sendall(MAGIC + opening[-32:])
        proofs = [exactly(sock, 32) for sock in pair]
        for sock, proof in zip(pair, reversed(proofs), strict=True):
            sock.sendall(proof)

        # Then neither believes it
        for client in clients:
            client.join(10)
        for sock in pair:
            sock.close()
        assert [type(outcome) for outcome in outcomes] == [WrongKey, WrongKey]


def test_recorded_connection_is_refused_when_played_back(server: Server, fake: Fake) -> None:
    """Row 10: replay."""
    # Given a recording of all that a client said in a good connection
    recording = bytearray()
    with listening() as (listener, port):
        relay = threading.Thread(target=record, args=(listener, server.address, recording), daemon=True)
        relay.start()
        with proxy_to(port) as proxy:
            assert proxy.follow([1]) == [1]
        relay.join(10)
    assert fake.calls == ["follow"]

    # When it is played back byte by byte
    with socket.create_connection(server.address, 10) as sock:
        with suppress(OSError):  # reset already
            sock.sendall(recording)
            sock.shutdown(socket.SHUT_WR)
        read_all(sock)

    # Then nothing was called
    wait_until("sessions ended", lambda: len(fake.gone), 1)
    assert (fake.calls, len(fake.opened)) == (["follow"], 1)


# -- with the key ---------------------------------------------------------------------------------------------------


class Touch:
    """Unpickling one of these makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@contextmanager
def greeted(server: Server) -> Iterator[Connection]:
    connection = dial(server.address, KEY)
    try:
        connection.send(("hello", METHODS["hello"].encode_arguments((HELLO,))))
        connection.recv()
        yield connection
    finally:
        connection.close()


def send_raw(connection: Connection, body: bytes) -> None:
    connection.sock.sendall(len(body).to_bytes(4, "big") + body)


def test_pickled_call_from_a_holder_of_the_key_is_not_made(
    server: Server, honest: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 5: malicious pickle with the key."""
    # Given calls that carry a directory to be made: as the request, as an argument, deep in an argument
    touch = Touch(tmp_path / "made")
    for protocol in (0, 2, 5):
        for message in (touch, ("follow", touch), ("follow", ([touch],)), ("exchange", ((((1, 0, touch, 0.5),),),))):
            with greeted(server) as connection:
                # When one is sent, Then it is answered with a refusal, and the connection is closed
                send_raw(connection, pickle.dumps(message, protocol))
                kind, (code, _) = connection.recv()
                assert (kind, code) == ("#ERROR", BadMessage.code)
                with pytest.raises((EOFError, ConnectionError)):
                    connection.recv()
    # Then nothing was made, it is in the log, and nobody else noticed
    assert not (tmp_path / "made").exists()
    assert "was refused, closing" in caplog.text
    assert honest.follow([2]) == [2]


def test_pickled_call_from_the_server_is_not_made(tmp_path: Path) -> None:
    # Given a coordinator with the key that has turned evil
    with listening() as (listener, port):

        def answer() -> None:
            with listener.accept()[0] as sock:
                admit(sock, KEY)
                connection = Connection(sock, "client")
                connection.recv()
                send_raw(connection, pickle.dumps(("#RETURN", Touch(tmp_path / "made"))))
                read_all(sock)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()

        # When a client reads its answer, Then it refuses it
        with proxy_to(port) as proxy, pytest.raises(BadMessage):
            proxy.connect()
        thread.join(10)
    assert not (tmp_path / "made").exists()


def test_fuzz_with_the_key_ends_connections_and_nothing_else(
    server: Server, honest: Proxy, fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 3: HTTP and random fuzz, after authentication."""
    # Given seeded messages: random bytes, damaged calls, calls of the wrong shape
    caplog.set_level(logging.CRITICAL, "dtq.transport")
    rng = random.Random(21)
    good = pickle.dumps(("follow", ([1, 2, 3],)), 5)
    shapes: list[Any] = [None, 1, (), ("follow",), ("follow", None), (1, 2), ("follow", ([1],), {}), ["follow", ([1],)]]
    bodies = [rng.randbytes(rng.randint(0, 60)) for _ in range(60)]
    bodies += [damaged(good, rng) for _ in range(100)]
    bodies += [pickle.dumps(shape, 5) for shape in shapes]
    for body in bodies:
        with greeted(server) as connection:
            send_raw(connection, body)
            connection.sock.shutdown(socket.SHUT_WR)
            answer = read_all(connection.sock)
        # Then what comes back shows neither a traceback nor a path
        assert b"Traceback" not in answer
        assert str(Path(__file__).parents[2]).encode() not in answer

    # Then every session heard of its end, and others are served
    wait_until("sessions ended", lambda: len(fake.gone), len(bodies))
    assert honest.follow([2]) == [2]


@pytest.mark.parametrize("optimize", [False, True], ids=["python", "python -O"])
def test_verbs_of_the_librarys_server_are_refused(optimize: bool) -> None:
    """Row 8: reserved methods."""
    # Given a server, and the library's own client with the key
    verbs = ("shutdown", "create", "debug_info", "number_of_objects", "get_methods", "incref", "decref", "dummy")
    with serving_apart(optimize=optimize) as apart, proxy_to(apart) as honest:
        for verb in (*verbs, "accept_connection", "#GETVALUE", "__repr__", "__str__", "__reduce__"):
            for token in (None, "0", "Service"):
                connection = dial(("127.0.0.1", apart.port), KEY)
                try:
                    # When it uses one of its verbs, on nothing or on the registered object, Then it gets an error
                    connection.send((token, verb, (), ()))
                    kind, _ = connection.recv()
                    assert kind == "#ERROR"
                finally:
                    connection.close()
            # When the library itself says it, Then it fails there
            connect = vars(managers)["listener_client"][SERIALIZER][1]
            connection = connect(("127.0.0.1", apart.port), authkey=KEY)
            try:
                with pytest.raises((TypeError, EOFError)):
                    vars(managers)["dispatch"](connection, None, verb)
            finally:
                connection.close()

        # Then the server lives
        assert honest.follow([1]) == [1]


def test_verbs_are_refused_after_hello_too(server: Server, honest: Proxy) -> None:
    with greeted(server) as connection:
        for verb in ("shutdown", "create", "debug_info", "#GETVALUE", "__reduce__", "disconnected", "stop_event"):
            connection.send((verb, ()))
            kind, (code, _) = connection.recv()
            assert (kind, code) == ("#ERROR", "not-permitted")
    assert honest.follow([1]) == [1]


def test_announced_gigabytes_cost_nothing(server: Server, honest: Proxy) -> None:
    """Row 7: oversized message, announced."""
    # Given peers with the key that announce two GiB and send a little of it
    before = resident_mib()
    for _ in range(20):
        with greeted(server) as connection:
            with suppress(ConnectionError):
                connection.sock.sendall((2 << 30).to_bytes(4, "big") + bytes(100_000))
            # Then the connection is closed
            read_all(connection.sock)
    assert resident_mib() - before < 20
    assert honest.follow([1]) == [1]


# -- tools ----------------------------------------------------------------------------------------------------------


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def damaged(data: bytes, rng: random.Random) -> bytes:
    broken = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        broken[rng.randrange(len(broken))] = rng.randrange(256)
    return bytes(broken)


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, f"closed after {len(data)} of {size} bytes"
        data += part
    return data


def read_all(sock: socket.socket) -> bytes:
    data = b""
    sock.settimeout(10)
    with suppress(ConnectionError):
        while part := sock.recv(65_536):
            data += part
    return data


@contextmanager
def listening() -> Iterator[tuple[socket.socket, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener, listener.getsockname()[1]


def record(listener: socket.socket, to: tuple[str, int], said: bytearray) -> None:
    """Pass one connection on, and keep what the client says."""
    with listener.accept()[0] as near, socket.create_connection(to) as far:
        while True:
            for sock in select.select([near, far], [], [], 10)[0]:
                data = sock.recv(65_536)
                if not data:
                    return
                if sock is near:
                    said += data
                (far if sock is near else near).sendall(data)
