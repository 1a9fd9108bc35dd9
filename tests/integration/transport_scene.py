"""The scene of the transport's tests: a server over sessions that echo, and clients to it.

Run as a script it is such a server in a process of its own: prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import resource
import select
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dtq.config.keys import Key
from dtq.errors import UnknownId
from dtq.model.messages import Ended, Exchange, Grant, Hello, Orders, Role, Watched, Welcome
from dtq.model.states import State
from dtq.transport import Proxy, Server
from dtq.transport.handshake import NO_BINDING
from dtq.transport.server_handshake import Keyring, admit_client

KEY = b"the key of these tests, 32 bytes"
WRONG_KEY = b"another key, which nobody accept"
HELLO = Hello(session="s" * 32, role=Role.CLIENT)


class Fake:
    """What the sessions of one server share: what they were told to do, and what became of them."""

    def __init__(self, *, epoch: int = 1, max_message: int = 16 << 20) -> None:
        self.epoch = epoch
        self.max_message = max_message
        self.opened: list[str] = []
        self.gone: list[str] = []
        self.hellos: list[Hello] = []
        self.calls: list[str] = []
        self.waiting = threading.Event()  # somebody waits in `watch`
        self.release = threading.Event()  # ends every wait
        self.refuse_hello: Exception | None = None
        self.late_s = 0.0  # how long over its time `watch` waits
        self.alive = 0  # how often bytes moved

    def open(self, peer: str) -> Any:
        self.opened.append(peer)
        return FakeSession(self, peer)


class FakeSession:
    """Answers what can be told apart: `follow` echoes numbers, `exchange` echoes bytes."""

    def __init__(self, fake: Fake, peer: str) -> None:
        self.fake = fake
        self.peer = peer

    def hello(self, hello: Hello) -> Welcome:
        if self.fake.refuse_hello is not None:
            raise self.fake.refuse_hello
        self.fake.hellos.append(hello)
        return Welcome(
            epoch=self.fake.epoch,
            resumed=False,
            lease_s=10.0,
            heartbeat_s=1.0,
            max_message=self.fake.max_message,
            highest_first=False,
            version="test",
        )

    def follow(self, batches: list[int]) -> list[int]:
        self.fake.calls.append("follow")
        return batches

    def exchange(self, exchange: Exchange) -> Orders:
        return Orders(
            grants=tuple(
                Grant(token=s.token, batch=1, lo=0, hi=1, single=True, attempt=1, spec=1, arguments=s.results)
                for s in exchange.succeeded
            )
        )

    def watch(self, cursor: int, wait_s: float) -> Watched:
        self.fake.waiting.set()
        self.fake.release.wait(wait_s + self.fake.late_s)
        return Watched(cursor=cursor, ended=())

    def purge_dead(self, selection: Any) -> int:
        self.fake.release.wait(self.fake.late_s)
        return 41

    def retry_dead(self, selection: Any) -> int:
        self.fake.release.wait(self.fake.late_s)
        return 42

    def results(self, batch: int, lo: int, hi: int) -> list[Ended]:
        return [Ended(batch=batch, lo=lo, hi=hi, state=State.SUCCEEDED, results=bytes(hi - lo))]

    def spec(self, number: int) -> Any:
        raise UnknownId(f"spec {number}")

    def stats(self) -> Any:
        raise RuntimeError("/a/path/of/the/server")

    def stop(self) -> None:
        return None

    def alive(self) -> None:
        self.fake.alive += 1

    def disconnected(self) -> None:
        self.fake.gone.append(self.peer)


@contextmanager
def serving(fake: Fake, **settings: Any) -> Iterator[Server]:
    """A server in this process."""
    server = Server(fake.open, **{"port": 0, "authkeys": [KEY], "max_message": fake.max_message, **settings})
    with server:
        try:
            yield server
        finally:
            fake.release.set()


def proxy_to(server: Server | Apart | int, key: bytes = KEY, **settings: Any) -> Proxy:
    """A client of a server in this process, of one apart, or of one on a port of this machine."""
    if isinstance(server, Server):
        address = server.address
    else:
        address = ("127.0.0.1", server.port if isinstance(server, Apart) else server)
    return Proxy([address], key, HELLO, **{"call_timeout_s": 10.0, **settings})


def admit(sock: socket.socket, *keys: bytes, seconds: float = 10, binding: bytes = NO_BINDING) -> Key:
    """The server's part of the handshake, on one connection."""
    deadline = time.monotonic() + seconds
    sock.setblocking(False)
    steps = admit_client(sock, Keyring([Key(name=f"key {n}", secret=key) for n, key in enumerate(keys)]), binding)
    try:
        while True:
            reading = next(steps) == selectors.EVENT_READ
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not any(select.select([sock] * reading, [sock] * (not reading), [], left_s)):
                raise TimeoutError
    except StopIteration as end:
        key: Key = end.value
        return key
    finally:
        sock.setblocking(True)


def wait_until(what: str, seen: Callable[[], Any], wanted: Any = True, timeout_s: float = 10.0) -> None:
    """Wait until something that gives no sign is as wanted; says what was seen last."""
    tick = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        last = seen()
        if last == wanted:
            return
        tick.wait(0.01)
    raise AssertionError(f"{what}: {last!r} after {timeout_s} s, not {wanted!r}")


class Apart(NamedTuple):
    """A server in a process of its own."""

    port: int
    pid: int


@contextmanager
def serving_apart(*arguments: str, optimize: bool = False) -> Iterator[Apart]:
    """A server in a process of its own, which ends with the block."""
    command = [sys.executable, *(["-O"] if optimize else []), str(Path(__file__)), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Apart(int(process.stdout.readline()), process.pid)
        finally:
            process.stdin.close()
            assert process.wait(20) == 0


def main() -> None:
    """The server of `serving_apart`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, help="limit of open files")
    parser.add_argument("--room-mib", type=int, help="address space that may be taken beyond what is taken now")
    options = parser.parse_args()
    with serving(Fake(), max_pending=4096) as server:
        if options.files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, options.files))
        if options.room_mib:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + (options.room_mib << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print(server.address[1], flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
