"""A real coordinator behind a real server, in this process: for tests of what peers can do to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil

from dtq.coordinator.connection import Connection as Session
from dtq.coordinator.service import Coordinator, Setup
from dtq.core.queue_state import Rules
from dtq.engines.base import Engine
from dtq.engines.memory import MemoryEngine
from dtq.model.messages import Exchange, Grant, Hello, Receipt, Role, Submission, Succeeded
from dtq.model.options import Function, Options, Spec
from dtq.model.pages import pack
from dtq.model.wire import Method
from dtq.transport import Proxy, Server
from dtq.transport.calls import METHODS
from dtq.transport.connection import Connection
from dtq.transport.endpoints import dial

KEY = b"the key of these tests, 32 bytes"
SPEC = Spec(function=Function(name="math:sqrt"), options=Options())
DEADLINE_S = 50.0


class House:
    """A coordinator and its server.

    Args:
        stack: closes everything.
        rules: the queue's.
        engine: the store; None for one in memory.
        server: further settings of the server.
    """

    def __init__(
        self, stack: ExitStack, rules: Rules | None = None, engine: Engine | None = None, **server: Any
    ) -> None:
        self._stack = stack
        self.stops = 0
        self.coordinator = Coordinator(engine or MemoryEngine(), Setup(rules=rules or Rules()), on_stop=self._on_stop)
        self.coordinator.start()
        stack.callback(self.coordinator.stop)
        coordinator = self.coordinator
        self.server = Server(lambda peer: Session(coordinator, peer), port=0, authkeys=[KEY], **server)
        stack.enter_context(self.server)
        stack.callback(self.coordinator.quiesce)

    def _on_stop(self) -> None:
        self.stops += 1

    def proxy(self, hello: Hello | None = None) -> Proxy:
        """A client."""
        return self._stack.enter_context(
            Proxy([self.server.address], KEY, hello or client(), call_timeout_s=DEADLINE_S)
        )

    def worker(self, name: str = "hand") -> Proxy:
        """A worker's reporting connection."""
        return self.proxy(Hello(session=os.urandom(16).hex(), role=Role.WORKER, slots=1, primary=True, name=name))

    def line(self, hello: Hello | None = None) -> Connection:
        """A bare authenticated connection, on which hello has been said."""
        connection = dial(self.server.address, KEY)
        self._stack.callback(connection.close)
        connection.set_timeout(DEADLINE_S)
        connection.send(("hello", METHODS["hello"].encode_arguments((hello or client(),))))
        kind, _ = connection.recv()
        assert kind == "#RETURN"
        return connection


@contextmanager
def house(rules: Rules | None = None, **server: Any) -> Iterator[House]:
    """A house, closed with the block."""
    with ExitStack() as stack:
        yield House(stack, rules, **server)


def client() -> Hello:
    """Somebody new."""
    return Hello(session=os.urandom(16).hex(), role=Role.CLIENT, name="test")


def submit(proxy: Proxy, count: int = 1, number: int = 1, **parts: Any) -> int:
    """Submit a batch; its number."""
    (receipt,) = send(proxy, Submission(spec=0, number=number, arguments=pack([b"x"] * count), **parts))
    assert not receipt.code, receipt
    return receipt.batch


def send(proxy: Proxy, *submissions: Submission, repeated: bool = False) -> list[Receipt]:
    """Submit in one call."""
    return proxy.submit([SPEC], list(submissions), repeated)


def lease(worker: Proxy, wait_s: float = 10.0) -> Grant:
    """Take one lease."""
    (grant,) = worker.exchange(Exchange(capacity=1, fetch=True, wait_s=wait_s)).grants
    return grant


def settle(worker: Proxy, grant: Grant, result: bytes = b"y") -> None:
    """Report a lease as done."""
    results = pack([result] * (grant.hi - grant.lo))
    ended = Succeeded(token=grant.token, lo=grant.lo, results=results, seconds=1.0)
    worker.exchange(Exchange(succeeded=(ended,), capacity=1))


def method(name: str) -> Method:
    """How a method crosses the wire."""
    return METHODS[name]


def wait_until(what: str, look: Callable[[], Any], timeout_s: float = DEADLINE_S) -> None:
    """Wait until something that gives no sign is true; says what was seen last."""
    tick = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        seen = look()
        if seen:
            return
        tick.wait(0.01)
    raise AssertionError(f"{what}: {seen!r} after {timeout_s} s")


def resident_mib(pid: int = 0) -> float:
    """The memory of a process; of this one unless another is named."""
    return float(psutil.Process(pid or os.getpid()).memory_info().rss) / 2**20
