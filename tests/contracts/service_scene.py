"""A coordinator, and the ways to it: what the contract of the service is proved with.

Each kind of house keeps the same promises: in this process with a store in files, or over a real socket with one in
memory.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from dtq.coordinator.connection import Connection
from dtq.coordinator.service import Coordinator, Setup
from dtq.core.queue_state import Rules
from dtq.engines.base import Engine
from dtq.engines.memory import MemoryEngine
from dtq.engines.sqlite import SqliteEngine
from dtq.model import pages
from dtq.model.messages import (
    Ended,
    Exchange,
    Failed,
    Failure,
    Grant,
    Hello,
    Holding,
    Orders,
    Progress,
    Receipt,
    Released,
    Role,
    Submission,
    Succeeded,
    Watched,
    Welcome,
)
from dtq.model.options import Function, Options, Spec
from dtq.model.service import Service
from dtq.model.states import Outcome, State
from dtq.transport.proxy import Proxy
from dtq.transport.server import Server
from dtq.worker.calls import Calls

#: How long anything may take, in seconds; far above what it takes.
DEADLINE_S = 50.0
#: The same for what has to come by itself: less than a lease or any other time-out that would help it along.
SOON_S = 5.0
KEY = b"the key of the service contract"
KINDS = ("sqlite", "wire")

T = TypeVar("T")


def spec(function: str = "work:shop", **options: Any) -> Spec:
    """A function with options."""
    return Spec(function=Function(name=function), options=Options(**options))


def until(what: str, condition: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    """Wait for a condition; what it was at last."""
    beat = threading.Event()
    for _ in range(int(deadline_s / 0.002)):
        found = condition()
        if found:
            return found
        beat.wait(0.002)
    raise AssertionError(f"{what}: still not so after {deadline_s:g} s; last seen: {condition()!r}")


class Caller:
    """A connection on which hello was said.

    Args:
        house: where it goes.
        hello: who calls.
    """

    def __init__(self, house: House, hello: Hello) -> None:
        self._house = house
        self.hello = hello
        self.session = hello.session
        self._inside: Connection | None = None
        self._proxy: Proxy | None = None
        self._gone = False
        self._number = 0
        self.welcome = self._connect()

    def _connect(self) -> Welcome:
        if self._house.server is None:
            self._inside = Connection(self._house.coordinator, "contract")
            return self._inside.hello(self.hello)
        self._proxy = Proxy([self._house.server.address], KEY, self.hello, call_timeout_s=DEADLINE_S)
        return self._proxy.connect()

    @property
    def service(self) -> Service:
        """The service behind this connection."""
        service = self._inside if self._proxy is None else self._proxy
        assert service is not None
        return service

    def hang_up(self) -> None:
        """End the connection, as a process that dies does."""
        if self._proxy is not None:
            self._proxy.close()
        elif self._inside is not None and not self._gone:
            self._inside.disconnected()
        self._gone = True

    # -- shorthand --------------------------------------------------------------------------------------------------

    def submission(self, count: int = 1, *, offset: int = 0, size: int = 0, **parts: Any) -> Submission:
        """A submission with a number of its own, of so many tasks with arguments of at least so many bytes."""
        self._number += 1
        blobs = [(b"%d" % index).ljust(size) for index in range(offset, offset + count)]
        parts.setdefault("number", self._number)
        parts.setdefault("arguments", pages.pack(blobs))
        return Submission(spec=0, offset=offset, **parts)

    def receipts(self, *submissions: Submission, repeated: bool = False, **options: Any) -> list[Receipt]:
        """Submit in one call, all with the same function and options."""
        return self.service.submit([spec(**options)], list(submissions), repeated)

    def submit(self, count: int = 1, *, submission: dict[str, Any] | None = None, **options: Any) -> int:
        """Submit a batch; its number."""
        (receipt,) = self.receipts(self.submission(count, **(submission or {})), **options)
        assert receipt.code == "", receipt
        return receipt.batch

    def watch(self, cursor: int = 0, wait_s: float = DEADLINE_S) -> Watched:
        return self.service.watch(cursor, wait_s)

    def watch_until(self, batch: int, count: int) -> list[Ended]:
        """Watch from the beginning until so many tasks of a batch have ended; all news of it."""
        news: list[Ended] = []
        cursor = 0
        while sum(ended.hi - ended.lo for ended in news) < count:
            watched = self.watch(cursor)
            assert watched.ended, f"no more news after {news}"
            news += [ended for ended in watched.ended if ended.batch == batch]
            cursor = watched.cursor
        return news

    def states(self, batch: int, count: int) -> list[State]:
        return [self.service.task(batch, index).state for index in range(count)]


class Hand(Caller):
    """A worker that does what the test says: a reporting connection, and one that fetches.

    Args:
        house: where it goes.
        hello: who it is; the reporting connection's.
    """

    def __init__(self, house: House, hello: Hello) -> None:
        super().__init__(house, hello)
        self.slots = hello.slots
        self.held: dict[int, Grant] = {}
        self.calls = Calls()
        quiet = {name: getattr(hello, name) for name in Hello.__slots__}
        self.fetcher = Caller(house, Hello(**{**quiet, "primary": False}))

    def exchange(self, **parts: Any) -> Orders:
        """Over the reporting connection."""
        parts.setdefault("capacity", self.slots)
        parts.setdefault("holding", tuple(Holding(token=token) for token in self.held))
        return self._call(self.service, **parts)

    def fetch_orders(self, wait_s: float = 0.0, holding: tuple[Holding, ...] | None = None) -> Orders:
        """Over the fetching connection; by default it says what the worker holds."""
        said = tuple(Holding(token=token) for token in self.held) if holding is None else holding
        orders = self._call(self.fetcher.service, holding=said, capacity=self.slots, fetch=True, wait_s=wait_s)
        self.held.update({grant.token: grant for grant in orders.grants})
        return orders

    def _call(self, service: Service, **parts: Any) -> Orders:
        call, beside = self.calls.begin(fetch=parts.get("fetch", False))
        try:
            return service.exchange(Exchange(**parts, call=call, beside=beside))
        finally:
            self.calls.over(call)

    def fetch(self, wait_s: float = 0.0) -> list[Grant]:
        return list(self.fetch_orders(wait_s).grants)

    def fetch_one(self, wait_s: float = DEADLINE_S) -> Grant:
        """Fetch one lease, and make sure that it is one."""
        (grant,) = self.fetch(wait_s)
        return grant

    def succeed(self, grant: Grant, *results: bytes, seconds: float = 60.0) -> Orders:
        """Report all of a lease; each task's result is its arguments unless given."""
        page = pages.pack(results) if results else grant.arguments
        self.held.pop(grant.token, None)
        return self.exchange(succeeded=(Succeeded(token=grant.token, lo=grant.lo, results=page, seconds=seconds),))

    def fail(self, grant: Grant, outcome: Outcome = Outcome.FAILED, **failure: Any) -> Orders:
        """Report that a lease of one task ended without a result."""
        failure.setdefault("exception", "ValueError")
        self.held.pop(grant.token, None)
        failed = Failed(token=grant.token, index=grant.lo, outcome=outcome, failure=Failure(**failure), seconds=60.0)
        return self.exchange(failed=(failed,))

    def release(self, grant: Grant) -> Orders:
        self.held.pop(grant.token, None)
        return self.exchange(released=(Released(token=grant.token, lo=grant.lo, hi=grant.hi),))

    def progress(self, grant: Grant, done: float, total: float) -> Orders:
        said = Progress(token=grant.token, index=grant.lo, done=done, total=total)
        return self.exchange(progress=(said,))

    def hang_up(self) -> None:
        self.fetcher.hang_up()
        super().hang_up()


class House:
    """The coordinator and its store.

    Args:
        kind: one of `KINDS`, or ``memory``: in this process with a store in memory.
        place: a directory of its own.
        rules: the machine's settings; by default those of the product.
        engine: makes the engine; by default that of the kind.
        durability: the coordinator's.
        max_message: largest message, in bytes.
    """

    def __init__(
        self,
        kind: str,
        place: Path,
        rules: Rules | None = None,
        engine: Callable[[], Engine] | None = None,
        durability: str = "fsync",
        max_message: int = 16 << 20,
    ) -> None:
        self._setup = Setup(rules=rules or Rules(), durability=durability, max_message=max_message)
        self._memory = MemoryEngine()
        self._make = engine or (
            lambda: SqliteEngine(place / "dtq.db", durability="os") if kind == "sqlite" else self._memory
        )
        self._wire = kind == "wire"
        self._callers: list[Caller] = []
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="test-call")
        #: How often somebody asked it to stop.
        self.stops_asked = 0
        self.server: Server | None = None
        self.start()

    def start(self) -> None:
        """Begin, or begin again on the same store."""
        self.engine = self._make()
        self.coordinator = Coordinator(self.engine, self._setup, on_stop=self._on_stop)
        self.opened = self.coordinator.start()
        if self._wire:
            coordinator = self.coordinator
            self.server = Server(
                lambda peer: Connection(coordinator, peer), port=0, authkeys=[KEY], max_message=self._setup.max_message
            )
            self.server.start()

    def _on_stop(self) -> None:
        self.stops_asked += 1

    def stop(self) -> bool:
        """Stop the coordinator as its process does; whether everything is durable."""
        self.coordinator.quiesce()
        if self.server is not None:
            self.server.close()
            self.server = None
        return self.coordinator.stop()

    def restart(self) -> None:
        """Stop, and start again on the same store; connections are gone."""
        self._hang_up_all()
        self.stop()
        self.start()

    def close(self) -> None:
        """End everything."""
        self.coordinator.quiesce()
        self._hang_up_all()
        self.stop()
        self._pool.shutdown()
        self._hang_up_all()  # a proxy that was in the middle of a call lets go of its socket now

    def _hang_up_all(self) -> None:
        for caller in self._callers:
            caller.hang_up()

    # -- who calls --------------------------------------------------------------------------------------------------

    def client(self, session: str = "", **hello: Any) -> Caller:
        """A client; with a new session unless one is named."""
        hello.setdefault("name", "client")
        caller = Caller(self, Hello(session=session or secrets.token_hex(16), role=Role.CLIENT, **hello))
        self._callers.append(caller)
        return caller

    def worker(
        self, name: str = "hand", slots: int = 1, queues: tuple[str, ...] = (), session: str = "", **hello: Any
    ) -> Hand:
        """A worker; with a new session unless one is named."""
        said = Hello(
            session=session or secrets.token_hex(16),
            role=Role.WORKER,
            name=name,
            slots=slots,
            queues=queues,
            primary=True,
            **hello,
        )
        hand = Hand(self, said)
        self._callers.append(hand)
        return hand

    # -- waiting ----------------------------------------------------------------------------------------------------

    def begin(self, call: Callable[[], T]) -> Future[T]:
        """Make a call in a thread of its own."""
        return self._pool.submit(call)

    def begin_fetch(self, hand: Hand, wait_s: float = DEADLINE_S) -> Future[Orders]:
        """Begin a fetch that waits for work, and return when it waits."""
        fetching = self.coordinator.sessions.fetching
        before = fetching.get(hand.session)
        future = self.begin(lambda: hand.fetch_orders(wait_s))
        until("the fetch waits", lambda: fetching.get(hand.session) not in (None, before) or future.done())
        assert not future.done(), future.result()
        return future

    def waits(self, hand: Hand) -> bool:
        """Whether a fetch of the worker waits."""
        return hand.session in self.coordinator.sessions.fetching

    def begin_watch(self, caller: Caller, cursor: int = 0) -> Future[Watched]:
        """Begin a watch, and return when it waits."""
        state = self.coordinator.sessions.by_id[caller.session]
        before = state._watching
        future = self.begin(lambda: caller.watch(cursor))
        until("the watch waits", lambda: state._watching not in (None, before) or future.done())
        return future

    # -- setting scenes ---------------------------------------------------------------------------------------------

    def dead_letters(self, count: int = 1, exception: str = "ValueError", **options: Any) -> list[int]:
        """So many batches of one task each that is a dead letter."""
        client = self.client()
        hand = self.worker("undertaker", queues=(options.get("queue", "default"),))
        batches = []
        for _ in range(count):
            batches.append(client.submit(max_retries=0, **options))
            hand.fail(hand.fetch_one(), exception=exception, message="for good")
        hand.exchange(capacity=0)  # it takes nothing more
        return batches
