"""A queue in this process for tests of the client: a real coordinator over the memory engine, lines that can be cut,
and a worker that runs tasks when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from dtq.client.links import Line, Wire
from dtq.client.sync import Client
from dtq.coordinator.connection import Connection
from dtq.coordinator.service import Coordinator, Setup
from dtq.core.queue_state import Rules
from dtq.engines.memory import MemoryEngine
from dtq.errors import DtqError, Unreachable
from dtq.model.messages import Grant, Hello, Welcome
from dtq.model.service import Service
from dtq.testing import InlineWorker, Ran
from dtq.transport.calls import METHODS
from dtq.transport.server import Server
from dtq.values.base import Values
from dtq.values.local import LocalValues

#: How long anything may take, in seconds; far above what it takes.
DEADLINE_S = 50.0
PLACE = "the queue of this test"
KEY = b"the key of the tests of the client"


class CutLine:
    """A line to the coordinator of this process, which the test can cut. Repeats nothing, as the transport's."""

    def __init__(self, queue: Queue, hello: Hello, on_welcome: Callable[[Welcome], None]) -> None:
        self._queue = queue
        self._hello = hello
        self._on_welcome = on_welcome
        self._session: Connection | None = None
        self._welcome: Welcome | None = None
        self._of: Coordinator | None = None
        self._closed = False

    def connect(self) -> Welcome:
        if self._closed:
            raise Unreachable(PLACE, "it was closed")
        coordinator = self._queue.coordinator
        if self._queue.refusal is not None and (self._session is None or self._of is not coordinator):
            raise self._queue.refusal
        if coordinator is None:
            self._session = None
            raise Unreachable(PLACE, "nobody is there")
        if self._session is None or self._of is not coordinator:
            self._session = Connection(coordinator, "test")
            self._of = coordinator
            self._welcome = self._session.hello(self._hello)
            self._on_welcome(self._welcome)
        assert self._welcome is not None
        return self._welcome

    def call(self, name: str, *arguments: Any) -> Any:
        self.connect()
        session, coordinator = self._session, self._of
        self._queue.calls.append((name, arguments))
        try:
            answer = getattr(session, name)(*arguments)
        except DtqError as error:
            if self._queue.coordinator is coordinator:
                raise
            raise Unreachable(PLACE, "cut in the middle of a call") from error  # its coordinator has ended under it
        if self._closed or self._queue.coordinator is not coordinator or self._queue.swallow(name):
            self._session = None
            raise Unreachable(PLACE, "cut in the middle of a call")
        return answer

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in METHODS:
            raise AttributeError(name)
        return lambda *arguments: self.call(name, *arguments)

    def close(self) -> None:
        self._closed = True
        coordinator = self._of
        if coordinator is not None:
            with coordinator.lock:
                for state in coordinator.sessions.by_id.values():
                    state.wake()


class Queue:
    """The coordinator, which can be taken away and brought back, and clients of it.

    Args:
        rules: the machine's settings.
        max_message: largest message in bytes.
        max_value: largest argument or result in bytes.
        by_reference: whether clients write and read the files of large ones themselves.
        wire: whether clients reach it over a socket; else by `CutLine`, which knows more tricks.
    """

    def __init__(
        self,
        *,
        rules: Rules | None = None,
        max_message: int = 16 << 20,
        max_value: int = 1 << 30,
        by_reference: bool = True,
        wire: bool = False,
    ) -> None:
        self.place = PLACE
        #: See `Connector`.
        self.by_reference = by_reference
        #: What connecting raises, besides that nobody is there.
        self.refusal: DtqError | None = None
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.coordinator: Coordinator | None = None
        self._engine = MemoryEngine(max_value=max_value)
        self._setup = Setup(rules=rules or Rules(), max_message=max_message)
        self._swallowed: dict[str, tuple[int, DtqError | None]] = {}
        self._clients: list[Client] = []
        self._server: Server | None = None
        self._port = 0 if wire else None
        self.start()

    # -- the coordinator ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring the coordinator (back)."""
        coordinator = Coordinator(self._engine, self._setup)
        coordinator.start()
        self.coordinator = coordinator
        if self._port is not None:
            self._server = Server(
                lambda peer: Connection(coordinator, peer),
                port=self._port,
                authkeys=[KEY],
                max_message=self._setup.max_message,
            )
            self._server.start()
            self._port = self._server.address[1]

    def stop(self) -> None:
        """Take the coordinator away; what it acknowledged is kept."""
        coordinator, self.coordinator = self.coordinator, None
        server, self._server = self._server, None
        if coordinator is not None:
            coordinator.quiesce()
        if server is not None:
            server.close()
        if coordinator is not None:
            coordinator.stop()

    def forget_everything(self) -> None:
        """Begin with an empty store at the next start."""
        self._engine = MemoryEngine()

    def lose_answer(self, name: str, skip: int = 0, then: DtqError | None = None) -> None:
        """Carry out the next call of a method (or a later one), and cut the line before its answer.

        Args:
            name: the method.
            skip: how many calls of it are answered before.
            then: what connecting raises from that moment on.
        """
        self._swallowed[name] = skip, then

    def swallow(self, name: str) -> bool:
        if name not in self._swallowed:
            return False
        skip, then = self._swallowed.pop(name)
        if skip:
            self._swallowed[name] = skip - 1, then
            return False
        self.refusal = then
        return True

    def count(self, name: str) -> int:
        """How often a method was called."""
        return sum(called == name for called, _ in list(self.calls))

    # -- clients and workers --------------------------------------------------------------------------------------

    def line(self, hello: Callable[[], Hello], on_welcome: Callable[[Welcome], None]) -> Line:
        if self._port is not None:
            return Wire([("127.0.0.1", self._port)], KEY, "the test", DEADLINE_S).line(hello, on_welcome)
        line: Any = CutLine(self, hello(), on_welcome)
        made: Line = line
        return made

    def client(self, timeout: float = DEADLINE_S) -> Client:
        """A client; closed with the queue."""
        client = Client(connector=self, timeout=timeout)
        self._clients.append(client)
        return client

    def worker(self, name: str = "hand") -> HandWorker:
        """A worker that does what the test says."""
        assert self.coordinator is not None
        place = self._engine.place
        values = None if place is None else LocalValues(place, what="the result")
        return HandWorker(Connection(self.coordinator, "test"), name, values)

    @contextmanager
    def working(self) -> Iterator[None]:
        """A worker that runs whatever comes, in a thread."""
        stop = threading.Event()
        thread = threading.Thread(target=self._work, args=(stop,), name="test-worker")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(DEADLINE_S)

    def _work(self, stop: threading.Event) -> None:
        worker: HandWorker | None = None
        coordinator = None
        while not stop.is_set():
            if self.coordinator is None:
                time.sleep(0.005)
                continue
            if coordinator is not self.coordinator:
                coordinator = self.coordinator
                worker = self.worker()
            assert worker is not None
            try:
                worker.work(wait_s=0.05)
            except DtqError:
                coordinator = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for client in self._clients:
            try:
                client.close(0 if kind is not None or self.coordinator is None else DEADLINE_S)
            except Unreachable:
                assert self.coordinator is None or kind is not None
        self.stop()


class HandWorker(InlineWorker):
    """A worker that waits for work, and is so quick that it is given many tasks at once."""

    def __init__(self, service: Service, name: str, values: Values | None = None) -> None:
        super().__init__(service, name, took_s=0.0001, values=values)

    def fetch(self, wait_s: float = DEADLINE_S) -> list[Grant]:
        return super().fetch(wait_s)

    def work(self, wait_s: float = DEADLINE_S, ran: list[Ran] | None = None) -> int:
        return super().work(wait_s, ran)
