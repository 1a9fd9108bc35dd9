"""Rows of the catalogue of faults: network and attack (1 to 15).

Those that `tests/integration/test_transport_strangers.py` and `test_transport_faults.py` inject already are there, with
their row in the docstring; here is what needs a coordinator, or more of the row.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dtq.errors import Unreachable
from dtq.model.messages import Exchange, Succeeded
from dtq.model.pages import pack
from dtq.model.states import State
from dtq.transport import connection as connection_module
from dtq.transport import pending_connections
from dtq.transport.handshake import KEY_ID, MAGIC
from tests.cluster import Cluster, clean_environment
from tests.faults.house import DEADLINE_S, house, lease, resident_mib, settle, submit, wait_until
from tests.integration.transport_scene import Fake, proxy_to, serving, serving_apart

REPOSITORY = Path(__file__).parents[2]


# -- strangers ------------------------------------------------------------------------------------------------------


def test_five_hundred_silent_connections_delay_nobody(monkeypatch: pytest.MonkeyPatch, many_files: None) -> None:
    """Row 4: slowloris, drip feed."""
    monkeypatch.setattr(pending_connections, "HANDSHAKE_S", 2.0)
    with serving(Fake()) as server, ExitStack() as stack:
        threads = threading.active_count()
        waits: list[float] = []
        sockets: list[socket.socket] = []
        for _ in range(5):
            # Given five hundred that connect at once and say nothing, and one that drips
            for _ in range(500):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(server.address)
                sockets.append(sock)
            # When a client comes behind them, Then it is served before any of them is sent away for being late
            started = time.monotonic()
            with proxy_to(server) as proxy:
                assert proxy.follow([1]) == [1]
            waits.append(time.monotonic() - started)
            with contextlib.suppress(OSError):
                sockets[0].send(MAGIC[:1])
            while len(sockets) > 500:
                sockets.pop(0).close()
        # A quiet machine takes 3 ms, and one thread each took 200
        assert statistics.median(waits) < 0.5, waits
        # Then no thread was started for them, and when their time is over all are gone
        assert threading.active_count() <= threads + 2
        wait_until("all are closed", lambda: len(closed(sockets)) == len(sockets))


def closed(sockets: list[socket.socket]) -> list[socket.socket]:
    found = []
    poll = select.poll()
    by_number = {sock.fileno(): sock for sock in sockets}
    for number in by_number:
        poll.register(number, select.POLLIN | select.POLLRDHUP)
    for number, events in poll.poll(0):
        if events & (select.POLLHUP | select.POLLRDHUP | select.POLLERR):
            found.append(by_number[number])
    return found


def test_honest_calls_go_on_while_strangers_come_and_go() -> None:
    """Rows 1 to 4 together: wrong keys, garbage, silence and half handshakes, and memory as before."""
    with serving_apart() as apart, proxy_to(apart) as honest:
        honest.follow([1])
        before = resident_mib(apart.pid)
        stop = threading.Event()
        sent = [0]

        def attack() -> None:
            openings = (b"", os.urandom(90), MAGIC + os.urandom(20), MAGIC + os.urandom(KEY_ID + 32 + 32), b"GET /\r\n")
            while not stop.is_set():
                socks = []
                for number in range(100):
                    with contextlib.suppress(OSError):
                        socks.append(socket.create_connection(("127.0.0.1", apart.port), 5))
                        socks[-1].sendall(openings[number % len(openings)])
                for sock in socks:
                    sock.close()
                sent[0] += len(socks)

        thread = threading.Thread(target=attack, daemon=True)
        thread.start()
        # When there are some hundreds of them, Then every call is answered meanwhile
        answered = 0
        deadline = time.monotonic() + DEADLINE_S
        while sent[0] < 600 and time.monotonic() < deadline:
            assert honest.follow([answered]) == [answered]
            answered += 1
        stop.set()
        thread.join(DEADLINE_S)
        assert sent[0] >= 600
        assert answered > 20
        assert resident_mib(apart.pid) < before + 20


# -- with the key ---------------------------------------------------------------------------------------------------


def bomb(opcodes: bytes) -> bytes:
    return b"\x80\x05" + opcodes + b"."


def colliding(number: int) -> bytes:
    """A key that has the hash of all others, and its value. To make the dictionary itself takes seconds of work."""
    return pickle.dumps((2**61 - 1) * number, 2)[2:-1] + b"N"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(bomb(b"Nr\xff\xff\xff\x7f"), id="memo bomb"),
        pytest.param(bomb(b"}(" + b"".join(map(colliding, range(40_000))) + b"u"), id="hash flood"),
        pytest.param(bomb(b")" + b"\x85" * 1_000_000), id="deep nesting"),
    ],
)
def test_bombs_are_refused_and_cost_nothing(body: bytes) -> None:
    """Row 6: memo bomb, hash flood, deep nesting."""
    with house() as home, home.proxy() as honest:
        honest.stats()
        before = resident_mib()
        for _ in range(3):
            line = home.line()
            line.sock.sendall(len(body).to_bytes(4, "big") + body)
            kind, (code, _) = line.recv()
            assert (kind, code) == ("#ERROR", "bad-message")
            with pytest.raises((EOFError, OSError)):
                line.recv()
        assert honest.stats().counts.pending == 0
        assert resident_mib() - before < 20


def test_forged_and_stale_results_are_refused() -> None:
    """Row 15: result forged for another's lease."""
    with house() as home:
        # Given a task that one worker runs, and another worker
        producer, owner, thief = home.proxy(), home.worker("owner"), home.worker("thief")
        batch = submit(producer)
        grant = lease(owner)

        # When the other settles it, or one that never was, Then nothing is accepted
        for token in (grant.token, grant.token + 1, 0, -1, 2**63 - 1):
            forged = Succeeded(token=token, lo=0, results=pack([b"forged"]), seconds=1.0)
            thief.exchange(Exchange(succeeded=(forged,), capacity=1))
        assert producer.task(batch, 0).state is State.RUNNING

        # When its owner does, Then that counts, and once
        settle(owner, grant, b"true")
        settle(owner, grant, b"again")
        (ended,) = producer.results(batch, 0, 1)
        assert ended.results == pack([b"true"])
        assert producer.stats().refused == 6


def test_peer_that_sends_a_byte_now_and_then_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow writer: a message that has begun has to move on, and nobody else waits."""
    monkeypatch.setattr(connection_module, "PACE_S", 0.5)
    with house() as home, home.proxy() as honest:
        for beginning in (b"\x00", (1000).to_bytes(4, "big") + b"\x80", (4 << 20).to_bytes(4, "big") + bytes(100_000)):
            # Given a peer with the key in the middle of a message, that goes on byte by byte
            line = home.line()
            line.sock.sendall(beginning)
            started = time.monotonic()
            while not select.select([line.sock], [], [], 0.05)[0]:
                line.sock.send(b"\x00" * (len(beginning) > 1))
                assert honest.stats().counts.pending == 0
                assert time.monotonic() - started < DEADLINE_S, "it is still there"
            # Then its connection ends
            with pytest.raises((EOFError, OSError)):
                line.recv()


def test_peer_that_reads_a_byte_now_and_then_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow reader: an answer has to be taken, and nobody else waits."""
    monkeypatch.setattr(connection_module, "PACE_S", 0.5)
    fake = Fake()
    with serving(fake) as server, proxy_to(server) as honest, proxy_to(server) as slow:
        honest.connect()
        slow.connect()
        line = slow._connection
        assert line is not None
        # Given a peer that asks for more than the kernel holds, and reads byte by byte
        for _ in range(3):
            line.send(("results", (1, 0, 12 << 20)))
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while not fake.gone:
                line.sock.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    line.sock.recv(1)
                threading.Event().wait(0.02)
                assert honest.follow([1]) == [1]
                assert time.monotonic() - started < DEADLINE_S, "it is still there"
        # Then its connection has ended
        wait_until("its end", lambda: len(fake.gone) == 1)


def test_slow_but_steady_message_keeps_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a message of which 500 bytes have to come in each stretch of ten seconds
    now = [100.0]
    monkeypatch.setattr(connection_module.time, "monotonic", lambda: now[0])
    pace = connection_module._Pace(500, 10.0)
    assert pace.left_s(0) == 10
    # When as much comes, however slowly, Then it may go on
    for have in (500, 1000, 1501):
        now[0] += 10
        assert pace.left_s(have) == 10
    # When one byte less comes, Then not
    now[0] += 9
    assert pace.left_s(1502) == 1
    now[0] += 1
    with pytest.raises(TimeoutError, match="too slow"):
        pace.left_s(2000)


# -- versions -------------------------------------------------------------------------------------------------------


def other_pythons() -> list[str]:
    found = [shutil.which(f"python3.{minor}") for minor in (11, 12, 13)]
    found += [str(path) for path in Path.home().glob(".pyenv/versions/3.1[123].*/bin/python")]
    versions: dict[str, str] = {}
    for python in found:
        if python is not None and os.access(python, os.X_OK):
            version = subprocess.run([python, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True)
            versions.setdefault(version.stdout.decode().strip(), python)
    versions.pop(str(sys.version_info[:2]), None)
    versions.pop("", None)
    return sorted(versions.values())


def test_every_supported_python_talks_to_this_one(tmp_path: Path) -> None:
    """Row 14: version or protocol mismatch: all supported pairs work. (Other protocols: `unit/test_handshake.py`.)"""
    pythons = other_pythons()
    if not pythons:
        pytest.skip("there is no other supported Python on this machine")
    environment = clean_environment(tmp_path) | {"PYTHONPATH": str(REPOSITORY)}
    code = (
        "import sys; from tests.integration.transport_scene import proxy_to\n"
        "with proxy_to(int(sys.argv[1])) as proxy: print(proxy.follow([1, 2]))"
    )
    for python in pythons:
        # Given a server of another Python, When this one calls
        scene = REPOSITORY / "tests" / "integration" / "transport_scene.py"
        with subprocess.Popen(
            [python, str(scene)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                with proxy_to(int(process.stdout.readline())) as proxy:
                    assert proxy.follow([1]) == [1]
            finally:
                process.stdin.close()
        # And the other way
        with serving(Fake()) as server:
            command = [python, "-c", code, str(server.address[1])]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=DEADLINE_S)
            assert done.stdout == "[1, 2]\n", done.stderr


# -- false coordinators and restarts --------------------------------------------------------------------------------


def test_worker_refuses_a_false_coordinator_and_finds_the_true_one_again(tmp_path: Path) -> None:
    """Row 9: fake coordinator on the port."""
    with Cluster(tmp_path) as cluster:
        # Given a worker whose coordinator has gone, and somebody without the key on its port
        coordinator = cluster.coordinator()
        worker = cluster.worker()
        coordinator.kill()
        met = threading.Event()
        with false_coordinator(cluster.port, met):
            assert met.wait(DEADLINE_S), worker.output()
            assert worker.popen.poll() is None
        # When the true one is back, Then the worker is, too
        cluster.coordinator()
        assert cluster.command("submit", "math:factorial", "5", "--wait").stdout == "120\n"
        assert worker.popen.poll() is None, worker.output()


@contextlib.contextmanager
def false_coordinator(port: int, met: threading.Event) -> Iterator[None]:
    """Answers the handshake without the key, until the block ends; says when it has done so."""

    def run() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):
                sock.settimeout(5)
                sock.recv(4 + KEY_ID + 32)
                sock.sendall(MAGIC + os.urandom(32))
                sock.recv(32)
                sock.sendall(os.urandom(32))
                met.set()

    listener = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE_S)


def test_five_hundred_peers_come_back_after_a_restart(many_files: None) -> None:
    """Row 11: restart with 500 workers."""
    with ExitStack() as stack:
        fake = Fake()
        with serving(fake) as first:
            port = first.address[1]
            proxies = [stack.enter_context(proxy_to(port, connect_timeout_s=20)) for _ in range(500)]
            for number, proxy in enumerate(proxies):
                assert proxy.follow([number]) == [number]
        # When all five hundred call a new server on the same port at once
        with serving(Fake(), port=port):
            answers: list[object] = []
            barrier = threading.Barrier(50)

            def call(part: list[Any]) -> None:
                barrier.wait(DEADLINE_S)
                for proxy in part:
                    try:
                        answers.append(proxy.follow([7]))
                    except Unreachable as error:
                        answers.append(error)

            parts = [proxies[start::50] for start in range(50)]
            threads = [threading.Thread(target=call, args=(part,), daemon=True) for part in parts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE_S)
            # Then each has its answer
            assert answers == [[7]] * 500
