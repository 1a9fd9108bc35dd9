"""The client's side of one event loop: news reach the loop in bulk, and blocking calls run in one thread.

Client, between the client core and `aio`. However many coroutines wait, each costs only a future and an entry in the
registry of `following`: the client core's threads put news into one list, and wake the loop once for everything that
gathers until the loop looks.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from dtq.client.client_core import ClientCore
from dtq.client.current import looked, waiting
from dtq.client.following import ACCEPTED, Target, Wake
from dtq.client.outbox import Item
from dtq.client.thread_wakeup import ThreadWakeup
from dtq.errors import ClientClosed

R = TypeVar("R")

#: Submissions in a row without a wait, after which the loop may serve others.
_STRIDE: Final = 64


class Bridge:
    """From the client's threads into an event loop.

    Args:
        loop: the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._posted: deque[Callable[[], object]] = deque()
        self._scheduled = False

    def post(self, act: Callable[[], object]) -> None:
        """Call a quick function in the loop; from any thread. Dropped if the loop is closed."""
        self._posted.append(act)
        if not self._scheduled:
            self._scheduled = True
            try:
                self.loop.call_soon_threadsafe(self._act)
            except RuntimeError:  # the loop is closed: no coroutine waits there any more
                self._scheduled = False
                self._posted.clear()

    def _act(self) -> None:
        self._scheduled = False  # first: later posts are either seen below, or schedule anew
        posted = self._posted
        while posted:
            posted.popleft()()


def settle(future: asyncio.Future[R], value: R) -> None:
    """Set a future's value, unless its coroutine has been cancelled."""
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class LoopWakeup(ThreadWakeup):
    """A wakeup with a coroutine as its waiter, in place of a thread."""

    __slots__ = ("_bridge", "_rung")

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self._bridge = bridge
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the present, or the next, waiter."""
        if not self._rung.is_set():
            self._bridge.post(self._rung.set)

    async def rung(self) -> None:
        """Wait until it rings."""
        await self._rung.wait()
        self._rung.clear()


class CallThread:
    """One thread that makes blocking calls, one after the other; it starts with the first."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._ended = False
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._jobs.put, None).atexit = False

    async def run(self, job: Callable[[], R]) -> R:
        """The result of a call. If the coroutine is cancelled, a call that has not begun is not made."""
        if self._ended:
            return job()  # of a client that is closed: the call returns at once, and no code would end a thread for it
        future: asyncio.Future[R] = self._bridge.loop.create_future()
        if self._thread is None:
            thread = threading.Thread(
                target=_run_errands, args=(self._bridge, self._jobs), name="dtq-loop-calls", daemon=True
            )
            thread.start()
            self._thread = thread
        self._jobs.put((job, future))
        return await future

    def end(self) -> None:
        """End the thread after its pending calls; the client is closed."""
        self._ended = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread = None


def _run_errands(bridge: Bridge, jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]) -> None:
    while (entry := jobs.get()) is not None:
        job, future = entry
        if future.cancelled():
            continue
        bridge.post(_outcome(job, future))
        del entry, job, future  # or an idle thread would keep the last caller's objects alive


def _outcome(job: Callable[[], Any], future: asyncio.Future[Any]) -> Callable[[], None]:
    try:
        return partial(settle, future, job())
    except BaseException as error:  # noqa: BLE001 - whatever the call raises is raised where it is awaited
        return partial(_fail, future, error)


class _Bound(NamedTuple):
    """The parts of a client in its event loop."""

    bridge: Bridge
    errands: CallThread
    #: Held while a submission waits for room in the outbox.
    putting: asyncio.Lock


class LoopCore:
    """A client core, bound to the event loop that uses it first.

    Args:
        core: the client's.
        owner: for the sentence of an error: the client.
        bound: its binding, if it is the successor of another.
    """

    def __init__(self, core: ClientCore, owner: object, bound: _Bound | None = None) -> None:
        self.shared = core
        self._owner = weakref.ref(owner)
        self._bound = bound
        self._in_a_row = 0
        self._successor: LoopCore | None = None

    @property
    def now(self) -> LoopCore:
        """See `ClientCore.now`."""
        core = self.shared.now
        if core is self.shared:
            return self
        if self._successor is None:
            # Handles of this one still make calls: they and the client's calls share one thread, which ends with it.
            self._successor = LoopCore(core, self.owner, self._bound)
        self._successor = self._successor.now
        return self._successor

    @property
    def owner(self) -> object:
        """The client, for an error's sentence."""
        return self._owner() or self

    @property
    def bridge(self) -> Bridge:
        """The bridge into the running loop.

        Raises:
            RuntimeError: no loop runs, or another one than before.
        """
        return self._here.bridge

    @property
    def _here(self) -> _Bound:
        loop = asyncio.get_running_loop()
        bound = self._bound
        if bound is None:
            bridge = Bridge(loop)
            bound = self._bound = _Bound(bridge, CallThread(bridge), asyncio.Lock())
        elif bound.bridge.loop is not loop:
            # The sentence of the standard library's own locks and queues.
            raise RuntimeError(f"{self.owner!r} is bound to a different event loop")
        return bound

    async def start(self) -> None:
        """See `ClientCore.start`."""
        if not self.shared.started:
            await self.call(self.shared.start)

    async def call(self, job: Callable[[], R]) -> R:
        """The result of a call to the coordinator; the loop goes on meanwhile."""
        return await self._here.errands.run(job)

    async def in_thread(self, job: Callable[[], R], name: str) -> R:
        """The result of a function that waits on its own account, in a thread of its own."""
        bridge = self.bridge
        future: asyncio.Future[R] = bridge.loop.create_future()
        run = copy_context().run
        threading.Thread(target=lambda: bridge.post(run(_outcome, job, future)), name=name, daemon=True).start()
        return await future

    async def put(self, item: Item) -> None:
        """Send a submission; waits while too many wait already."""
        outbox = self.shared.outbox
        bridge, _, putting = self._here
        if not putting.locked() and outbox.offer(item):
            self._in_a_row += 1
            if self._in_a_row >= _STRIDE:
                self._in_a_row = 0
                await asyncio.sleep(0)
            return
        async with putting:  # in the order of their arrival
            while True:
                room: asyncio.Future[None] = bridge.loop.create_future()
                if outbox.offer(item, partial(bridge.post, partial(settle, room, None))):
                    return
                await room

    async def reach(self, target: Target, level: int, timeout_s: float | None = None) -> bool:
        """Wait until a target has reached a level; see `Following.wait`."""
        bridge, following = self.bridge, self.shared.following
        rung: asyncio.Future[bool] = bridge.loop.create_future()
        wake: Wake = partial(bridge.post, partial(settle, rung, True))
        if not following.subscribe(target, level, wake):
            return True
        timer = None
        if timeout_s is not None:
            timer = bridge.loop.call_later(max(0.0, timeout_s), settle, rung, False)
        reached = False
        try:
            with waiting() if level != ACCEPTED else nullcontext():
                try:
                    reached = await rung
                finally:  # `asyncio.wait_for` cancels a wait that it gives up
                    if not reached and level != ACCEPTED:
                        looked()
        finally:
            if timer is not None:
                timer.cancel()
            if not reached:
                following.unsubscribe(target, wake)
        return reached or target._reached(level)

    async def close(self, timeout_s: float | None) -> None:
        """See `ClientCore.close`."""
        # Not in the thread for calls: one of those may be waiting for a coordinator that is away, until this ends it.
        try:
            await self.in_thread(partial(self.shared.close, timeout_s), "dtq-closer")
        except RuntimeError as error:  # no thread can be started
            self.fail(error)
            raise
        finally:
            self._end_errands()

    def fail(self, error: RuntimeError) -> None:
        """End without any wait."""
        self.shared.fail(ClientClosed(str(error)))
        self._end_errands()

    def _end_errands(self) -> None:
        if self._bound is not None:
            self._bound.errands.end()
