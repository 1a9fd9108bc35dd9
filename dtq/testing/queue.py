"""The in-process queue: a real coordinator over the memory engine, in this process, with a manual clock.

Testing. Its clients are the ones that programs use, over a line without a socket; tasks run where and when the test
says, by `InlineWorker`. No behaviour of the queue is imitated: priorities, retries, delays, keys, dead letters and
results are the coordinator's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from dtq.client.aio import AsyncClient
from dtq.client.client_core import hubs_of
from dtq.client.links import Line
from dtq.client.sync import Client
from dtq.client.tasks import check_name
from dtq.coordinator.connection import Connection
from dtq.coordinator.service import Coordinator, Setup
from dtq.coordinator.sessions import SessionState
from dtq.core.queue_state import Rules
from dtq.engines.base import Engine
from dtq.engines.memory import MemoryEngine
from dtq.errors import Unreachable
from dtq.model.messages import Hello, Receipt, Submission, Watched, Welcome
from dtq.model.options import Spec
from dtq.records import replace
from dtq.testing.doubles import ManualClock
from dtq.testing.inline import InlineWorker, Ran
from dtq.testing.submissions import Named, Submissions, Submitted, Wanted, listing, summary
from dtq.testing.values import OFFER, QueueValues

T = TypeVar("T")

#: Longest wait for the clients' threads, in seconds; far above their need.
PATIENCE_S: Final = 20.0
#: Most tasks in a row without time passing, or in one run of all: more would be an endless loop.
MOST_TASKS: Final = 100_000
#: Longest single wait of a worker of `InProcessQueue.working` for work, in seconds: the delay with which it notices the
#: end.
_LOOK_S: Final = 0.05
#: No worker here can fall silent, however far the clock is moved.
_NO_LEASE_ENDS_S: Final = 1e12
_PLACE: Final = "the queue of this process"


class InProcessQueue:
    """A queue for one test.

    The tested code gets a client of it; submitted tasks wait until the test runs them. The clock stands still: delays,
    retries and the retention of results pass with `advance`.

    Args:
        now: the clock's first time, in seconds of the Unix epoch.
        highest_first: whether a higher priority number is served first.
        engine: keeps the state, instead of a `MemoryEngine`: for example a `FailingEngine` over one.

    Attributes:
        clock: the clock. If it is moved directly, the next run notices; `advance` handles everything due at once.
        coordinator: the coordinator.
    """

    def __init__(self, *, now: float = 1_000_000.0, highest_first: bool = False, engine: Engine | None = None) -> None:
        self.clock = ManualClock(now)
        rules = Rules(lease_s=_NO_LEASE_ENDS_S, highest_first=highest_first, heed_needs=False)
        self.coordinator = Coordinator(
            engine or MemoryEngine(), Setup(rules=rules, values=False), clock=lambda: self.clock
        )
        self.coordinator.start()
        self._handlers: dict[str, Callable[..., Any]] = {}
        self._values = QueueValues(self.coordinator)
        self._submissions = Submissions(self._values)
        self._client: Client | None = None
        self._running = threading.Lock()
        #: Number of workers that run tasks now: each but the last has a task that waits for others.
        self._workers = 0
        self._moved = threading.Condition()
        #: By session, the cursor up to which its client has received ends.
        self._told: dict[str, int] = {}
        self._closed = False

    # -- clients --------------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """A client of this queue: the same until it is closed, then a new one; closed with the queue."""
        if self._client is None or self._client.closed:
            self._client = Client(connector=self)
        return self._client

    def async_client(self) -> AsyncClient:
        """A new client for coroutines of this queue; its user closes it."""
        return AsyncClient(connector=self)

    def register_handler(self, task_type: str, handler: Callable[..., Any]) -> None:
        """Run tasks of a registered type with a handler, as `Worker.register_handler`.

        Raises:
            InvalidValue: the name is malformed.
        """
        self._handlers[check_name(task_type)] = handler

    # -- time and work --------------------------------------------------------------------------------------------

    def run_due(self, *queues: str, at_most: int = MOST_TASKS) -> list[Ran]:
        """Run all tasks that are due, in the order of a worker with one slot, until none is left.

        Tasks run in this thread; in a thread of their own where an event loop runs in this one, which waits for them.
        Tasks that they submit are run, too. A failed task is tried again when its time has come: after `advance`.

        Args:
            queues: only tasks of these queues; none for all.
            at_most: stop after this many.

        Returns:
            The attempts that were run. Every handle knows its task's end.

        Raises:
            RuntimeError: tasks are being run already.
            AssertionError: the tasks never end.
        """
        with self._alone():
            return self._in_free_thread(lambda: self._run_due(queues, at_most))

    def run_all(self, *queues: str) -> list[Ran]:
        """Run all tasks, moving the clock to the next due one, until every task has ended.

        Args:
            queues: only tasks of these queues; none for all.

        Returns:
            All attempts, in their order.

        Raises:
            As `run_due`.
        """
        ran: list[Ran] = []
        while True:
            ran += self.run_due(*queues)
            due_in_s = self.due_in()
            if due_in_s is None:
                return ran
            assert len(ran) < MOST_TASKS, f"{len(ran)} tasks have run, and there is no end to them"
            self.advance(due_in_s)

    def advance(self, seconds: float) -> float:
        """Let time pass: tasks that become due wait for the next run.

        Args:
            seconds: how much.

        Returns:
            The time now, in seconds of the Unix epoch.

        Raises:
            ValueError: time does not go back.
        """
        self._settle()
        until = self.clock.now() + seconds
        while (left := self._next_on_wall(until)) is not None:
            self.clock.advance(left)  # the due times on the way, one by one: the coordinator was never away
            self.coordinator.tick()
        self.clock.advance(max(0.0, until - self.clock.now()) if seconds >= 0 else seconds)
        self.coordinator.tick()
        return self.clock.now()

    def _next_on_wall(self, until: float) -> float | None:
        """Seconds until the next deadline by the wall clock, if that is before a moment."""
        with self.coordinator.lock:
            at = self.coordinator.machine.next_on_wall()
        left = None if at is None else at - self.clock.wall()
        return left if left is not None and left > 0 and self.clock.now() + left < until else None

    def due_in(self) -> float | None:
        """Seconds until the next delayed or failed task is due, or one that waits for the rate of a limit; None for
        none. Schedules do not count.
        """
        self._settle()
        with self.coordinator.lock:
            queue_state = self.coordinator.machine.queue_state
            ats = queue_state.waiting.next_at(), queue_state.limits.next_at()
            at_wall = queue_state.on_wall.next_at()
        waits = [at - self.clock.now() for at in ats if at is not None]
        waits += [] if at_wall is None else [at_wall - self.clock.wall()]
        return max(0.0, min(waits)) if waits else None

    @contextlib.contextmanager
    def working(self, *queues: str) -> Iterator[list[Ran]]:
        """Run tasks as they come, in a thread, while the block runs: for code that waits for results by itself.

        Args:
            queues: only tasks of these queues; none for all.

        Returns:
            The attempts so far; the list grows.

        Raises:
            RuntimeError: tasks are being run already.
            BaseException: an exception of a task that is a test's own verdict.
        """
        ran: list[Ran] = []
        raised: list[BaseException] = []
        stop = threading.Event()

        def work() -> None:
            try:
                with self._worker(queues, ran) as worker:
                    while not stop.is_set():
                        self.coordinator.tick()
                        worker.work(_LOOK_S, ran)
            except BaseException as error:  # noqa: BLE001 - raised again where the test is
                raised.append(error)

        with self._alone():
            thread = threading.Thread(target=work, name="dtq-in-process", daemon=True)
            thread.start()
            try:
                yield ran
            finally:
                stop.set()
                thread.join(PATIENCE_S)
        if raised:
            raise raised[0]

    def _run_due(self, queues: Sequence[str], at_most: int) -> list[Ran]:
        ran: list[Ran] = []
        with self._worker(queues, ran) as worker:
            while len(ran) < at_most:
                self._settle()
                self.coordinator.tick()
                if not worker.work(ran=ran):
                    break
        assert len(ran) < MOST_TASKS, f"{len(ran)} tasks have run, and there is no end to them"
        self._tell()
        return ran

    @contextlib.contextmanager
    def _worker(self, queues: Sequence[str], ran: list[Ran]) -> Iterator[InlineWorker]:
        connection = Connection(self.coordinator, "this process")

        def while_waiting() -> None:
            """While a task waits for tasks, run them in its place, as a worker gives its slot to them."""
            ran.extend(self._in_free_thread(lambda: self._run_due(queues, MOST_TASKS)))

        self._workers += 1
        name = "in-process" if self._workers == 1 else f"in-process-{self._workers}"
        try:
            yield InlineWorker(
                connection,
                name,
                queues=queues,
                handlers=self._handlers,
                while_waiting=while_waiting,
                values=self._values,
            )
        finally:
            self._workers -= 1
            connection.disconnected()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._running.acquire(blocking=False):
            raise RuntimeError("tasks of this queue are being run already: one at a time")
        try:
            yield
        finally:
            self._running.release()

    @staticmethod
    def _in_free_thread(job: Callable[[], T]) -> T:
        """A task that is a coroutine function needs an event loop of its own, and so a thread without one."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return job()
        with ThreadPoolExecutor(1, thread_name_prefix="dtq-in-process") as pool:
            return pool.submit(job).result()

    # -- submissions ----------------------------------------------------------------------------------------------

    def submitted(self, function: Named | None = None, /, *args: Any, **kwargs: Any) -> list[Submitted]:
        """The accepted submissions so far, in their order; finished or not.

        Args:
            function: the function, or its name; None for all.
            args: its arguments, by place or by name; none at all for any. `unittest.mock.ANY` stands for any one.
            kwargs: its keyword arguments; and options of `Client.submit` that it must have, like ``priority=1``.
        """
        self._settle()
        return (
            self._submissions.all()
            if function is None
            else self._matching(Wanted(function, args, kwargs, self._values))
        )

    def assert_submitted(self, function: Named, /, *args: Any, **kwargs: Any) -> list[Submitted]:
        """Make sure that a task was submitted, described as in its submission: see `submitted`.

        Returns:
            The tasks, at least one.

        Raises:
            AssertionError: there is none; the message lists the submissions, and the differences.
        """
        wanted = Wanted(function, args, kwargs, self._values)
        found = self._matching(wanted)
        if not found:
            raise AssertionError(self._submissions.why_not(wanted))
        return found

    def assert_not_submitted(self, function: Named, /, *args: Any, **kwargs: Any) -> None:
        """Make sure that no such task was submitted: see `submitted`.

        Raises:
            AssertionError: there is one.
        """
        wanted = Wanted(function, args, kwargs, self._values)
        found = self._matching(wanted)
        if found:
            raise AssertionError(f"{wanted} was submitted, {len(found)} times:\n{listing(found)}")

    def assert_nothing_submitted(self) -> None:
        """Make sure that no task was submitted.

        Raises:
            AssertionError: there are some.
        """
        found = self.submitted()
        if found:
            raise AssertionError(f"{len(found)} tasks were submitted; {summary(found)}\n{listing(found)}")

    def _matching(self, wanted: Wanted) -> list[Submitted]:
        self._settle()
        return self._submissions.matching(wanted)

    # -- for the clients' lines -----------------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """See `Connector`."""
        return _PLACE

    @property
    def by_reference(self) -> bool:
        """See `Connector`; here clients write values by calls, which make a place for them."""
        return False

    def line(self, hello: Callable[[], Hello], on_welcome: Callable[[Welcome], None]) -> Line:
        """See `Connector`."""
        return _Line(self, hello(), on_welcome)

    def _accepted(self, specs: list[Spec], submissions: list[Submission], receipts: list[Receipt]) -> None:
        self._submissions.accepted(specs, submissions, receipts)

    def _has_told(self, session: str, cursor: int) -> None:
        with self._moved:
            self._told[session] = cursor
            self._moved.notify_all()

    def _settle(self) -> None:
        """Wait until all submissions are accepted or refused."""
        self._wait_for(lambda: all(core.settled for core in hubs_of(self)), "what was submitted to be accepted")

    def _tell(self) -> None:
        """Wait until the clients have received all ends."""
        with self.coordinator.lock:
            news = {name: state.news for name, state in self.coordinator.sessions.by_id.items() if _is_client(state)}

        def told() -> bool:
            return all(
                core.following.idle or self._told.get(core.session.id, 0) >= news.get(core.session.id, 0)
                for core in hubs_of(self)
            )

        self._wait_for(told, "the clients to take in what has ended")

    def _wait_for(self, look: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not look():
            left = deadline - time.monotonic()
            assert left > 0, f"waited {PATIENCE_S:g} s for {what}"
            with self._moved:
                self._moved.wait(min(left, 0.001))

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the clients and the coordinator; unfinished tasks are lost. Calling it twice does no harm."""
        if self._closed:
            return
        self._closed = True
        for core in hubs_of(self):
            with contextlib.suppress(Unreachable):
                core.close(PATIENCE_S)
        self._values.close()
        self.coordinator.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<InProcessQueue of {len(self._submissions.all())} tasks submitted, at {self.clock.now():.1f}>"


def _is_client(state: SessionState) -> bool:
    return not state.is_worker


class _Line(Connection):
    """A connection of the coordinator as a client's line, with nothing between the two."""

    def __init__(self, queue: InProcessQueue, hello: Hello, on_welcome: Callable[[Welcome], None]) -> None:
        super().__init__(queue.coordinator, "this process")
        self._queue = queue
        self._hello = hello
        self._on_welcome = on_welcome
        self._welcome: Welcome | None = None
        self._connecting = threading.Lock()
        self._over = False

    def connect(self) -> Welcome:
        """See `Line`."""
        with self._connecting:
            if self._over:
                raise Unreachable(_PLACE, "it was closed")
            if self._welcome is None:
                self._welcome = replace(self.hello(self._hello), values=OFFER)
                self._on_welcome(self._welcome)
            return self._welcome

    @property
    def _session(self) -> SessionState:
        self.connect()
        return super()._session

    def submit(self, specs: list[Spec], submissions: list[Submission], repeated: bool) -> list[Receipt]:
        """See `Service.submit`."""
        self._queue._values.keep(submissions)
        receipts = super().submit(specs, submissions, repeated)
        self._queue._accepted(specs, submissions, receipts)
        return receipts

    def hold(self, digest: bytes, description: bytes, ttl_s: float) -> bytes:
        """See `Service.hold`."""
        held = super().hold(digest, description, ttl_s)
        self._queue._submissions.held(held, digest)
        return held

    def write_value(self, segment: int, offset: int, data: bytes) -> None:
        """See `Service.write_value`."""
        self._queue._values.begin()
        super().write_value(segment, offset, data)

    def watch(self, cursor: int, wait_s: float) -> Watched:
        """See `Service.watch`."""
        self.connect()
        self._queue._has_told(self._hello.session, cursor)
        watched = super().watch(cursor, wait_s)
        if self._over:
            raise Unreachable(_PLACE, "it was closed")
        return watched

    def close(self) -> None:
        """See `Line`."""
        with self._connecting:
            over, self._over = self._over, True
        if over or self._state is None:
            return
        with self._c.lock:
            self._state.wake()
        self.disconnected()
