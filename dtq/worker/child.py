"""A slot as its supervisor sees it: a process, a pipe, and the leases that were sent down the pipe.

No method waits: messages that the slot has not read are kept, effects are checked later. No statement of the slot is
trusted: its position and times are compared with the leases that it was sent and with the supervisor's own clock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dtq.client.handover import interpreter_flags
from dtq.client.inheritance import Inheritance
from dtq.model.ids import TaskId
from dtq.model.lru import SizedLru
from dtq.model.options import Function, Options, Spec
from dtq.model.printed import Printed
from dtq.model.resources import Portion
from dtq.model.values import weight
from dtq.model.wire import codec
from dtq.records import replace
from dtq.values.place import Place
from dtq.worker.arena import CAPACITY, SIZE, Arena, Left
from dtq.worker.channel import BUFFER, Pipe
from dtq.worker.chunks import Chunk
from dtq.worker.forking import Forked, ForkServer
from dtq.worker.output import Output, Passed
from dtq.worker.pinned import Pinned, kill_tree, pinned
from dtq.worker.position import SETTLE_S, UNLIMITED, Position
from dtq.worker.program import Program
from dtq.worker.reports import KEPT_RESULTS
from dtq.worker.slot_exit import KillReason, SlotExit
from dtq.worker.terms import SlotTerms, settable_threads, slot_environment

log = logging.getLogger("dtq.worker")

_FUNCTION: Final = codec(Function)
_PROGRAM: Final = codec(Program)
_INHERITANCE: Final = codec(Inheritance)
_PLACE: Final = codec(Place | None)
#: Most functions that a slot keeps, and most bytes of those that travelled by value.
MAX_SPECS: Final = 1_000
MAX_SPEC_BYTES: Final = 8 << 20
#: A busy slot is not sent a lease if the bytes of its arguments, times the number of the slot's leases, exceed this: it
#: might not fit into the pipe.
MAX_AHEAD_BYTES: Final = BUFFER // 4
#: Time for an idle slot to read a lease and start its first task, in seconds.
START_TIMEOUT_S: Final = 10.0
#: Longest wait of work behind an import that began before it came, in seconds; or its own time limit, if that is less.
PREPARE_TIMEOUT_S: Final = 60.0
#: Time beyond its limit for a task whose slot has read its lease, and claims not to have begun it.
BEGIN_SLACK_S: Final = 2.0
#: Bytes of a slot's message beside results: an exception with all its texts.
MAX_BESIDE: Final = 1 << 20
#: Most seconds that a slot's clock may be ahead of the supervisor's.
CLOCK_SLACK_S: Final = 1.0
#: Time for a slot to end, in seconds: after its pipe was seen closed, so that it is about to; after it was told to, or
#: announced it; and for its reaper, after the order to kill it.
DYING_S: Final = 0.25
LEAVING_S: Final = 3.0
KILLED_S: Final = 3.0
#: Whether a reaper stands between supervisor and slot.
WARDEN: Final = sys.platform == "linux"


def _told_of(options: Options) -> tuple[Any, ...]:
    """A function's options for the slot: depth, queue, and seconds to its soft time limit; 0 for none."""
    return options.depth, options.queue, options.soft_timeout_s or 0.0


class _Wait(NamedTuple):
    """A task that waits for others: lease and index; since when, and until when unless it reports again; and whether it
    is blocked.
    """

    token: int
    task: int
    since: float
    until: float
    blocked: bool


class Child:
    """One slot's process: its reaper, if it has one, which ends after the slot.

    Must be made by a thread that lives as long as the worker: the kernel's parent-death signal follows the thread.

    Args:
        number: which slot of the worker it is, from 1.
        terms: its settings.
        tracker: descriptor of the pipe to the worker's resource tracker, if it has one of its own.
        forks: the fork server, if one is ready.
        early: whether it is started before its worker knows all settings: it waits for `greet`. It is forked then.

    Raises:
        OSError: it cannot be started: the machine has no process, memory or descriptor left.
    """

    #: The worker's resources of the last lease with any.
    units: tuple[Portion, ...] = ()
    #: The code of its last lease, see `slotcode`; known only where leases of several kinds of code come.
    code: bytes | None = None
    #: Slots beside its own of the lease that it was sent when it was last idle.
    spread = 0
    #: The process that runs tasks, below its reaper; 0 until it is known.
    slot_pid = 0
    output: Output | Passed

    def __init__(
        self,
        number: int,
        terms: SlotTerms,
        tracker: int | None = None,
        forks: ForkServer | None = None,
        *,
        early: bool = False,
    ) -> None:
        self.number = number
        self.terms = terms
        #: The fork server that it was forked from, if any.
        self.origin = forks
        self._inherited = terms.inherited if tracker is None else replace(terms.inherited, tracker=tracker)
        self.position, position_fd = Position.create(SIZE)
        self.arena = Arena(self.position.memory)
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.channel = Pipe(ours, terms.max_result + CAPACITY + MAX_BESIDE)
        #: Leases it was sent and has not finished, the running one first.
        self.chunks: deque[Chunk] = deque()
        self.ready = False
        #: Why it is being killed, if it is; its breach of the protocol, if that is the reason; and why it is not ready,
        #: if its initial imports or calls have failed.
        self.kill_reason: KillReason | None = None
        self.breach = self.uninitialized = ""
        #: Leases from which tasks were taken back, and for which it has not reported its stop.
        self.recalled: set[int] = set()
        #: When its unstarted tasks can be taken back, ``time.monotonic()``; None if that was not begun.
        self.recall_at: float | None = None
        #: Tasks to be stopped after that: lease and index, or -1 for the running one.
        self.cancellations: list[tuple[int, int]] = []
        #: Whether its pipe was closed, so that it ends by itself.
        self.retired = False
        #: Whether its end of the pipe is closed, so that it has died, or is about to.
        self.broken = False
        #: When it must have ended, ``time.monotonic()``; None while it may live.
        self.kill_deadline: float | None = None
        #: Whether it has announced its end, because it is unfit for another task.
        self.leaving = False
        #: Whether it closed its pipe and went on.
        self.deaf = False
        #: The function that it imports in advance, by name, empty for none; and the number of the latest order to do
        #: so, see `preparing.Preparing`.
        self.preparing, self.prepared = "", 0
        #: Whether the loop waits for the pipe to take more.
        self.watched_for_room = False
        #: The lease that left it last, and when it last became idle or busy.
        self.latest: Chunk | None = None
        #: Its last report of a task that waits for others.
        self._waits: _Wait | None = None
        self._told: set[int] = set()
        self._slot: Pinned | None = None
        self._born_at = time.monotonic()
        #: The serial at the last look, since when, and when it was last given work or finished some.
        self._seen = -1
        self._seen_at = self._moved_at = self._born_at
        #: Whether its state was seen to be impossible; whether it was killed.
        self._lied = self._killed = False
        self._limit = UNLIMITED
        self.output = Passed() if terms.inherited.streams else Output(number, self._latest_serial, self._name_of)
        #: Its place of values, as it knows it.
        self.place = terms.place
        #: Number of tasks it was sent; and the serial of the next one.
        self.tasks = self._serial = 0
        #: The leases that it was sent last, in a set with an order.
        self._sent: dict[int, None] = {}
        #: The functions that it has.
        self._specs: SizedLru[int, Spec] = SizedLru(MAX_SPEC_BYTES, MAX_SPECS)
        #: Their names, and those of some that it had.
        self._names: set[str] = set()
        try:
            self.process = self._start(theirs.fileno(), position_fd, forks)
        except OSError:
            self.let_go()
            raise
        finally:
            theirs.close()
            os.close(position_fd)
            self.output.given()
        if not early:
            self.greet(terms)

    def greet(self, terms: SlotTerms) -> None:
        """Send it its settings; it imports no module of the user's before.

        Args:
            terms: its settings; they agree with those that its process was started with.
        """
        self.terms, self.place = terms, terms.place
        self.output.keep(terms.keep_output)
        self._inherited = replace(terms.inherited, tracker=self._inherited.tracker)
        self.channel.expect(terms.max_result + CAPACITY + MAX_BESIDE)
        with contextlib.suppress(OSError):  # it has ended already, which is seen soon
            self.channel.put(
                terms.worker,
                terms.paths,
                terms.imports if isinstance(self.process, Forked) else (*terms.preload, *terms.imports),
                terms.init,
                terms.max_result,
                terms.max_memory,
                terms.keep_processes,
                terms.only_registered,
                terms.reload,
                _PROGRAM.plain(terms.program),
                _INHERITANCE.plain(self._inherited),
                _PLACE.plain(terms.place),
            )

    def _start(self, channel_fd: int, position_fd: int, forks: ForkServer | None) -> subprocess.Popen[bytes] | Forked:
        inherited = self._inherited
        if forks is not None:
            try:
                return forks.fork(channel_fd, position_fd, self.output.writing_end, inherited.tracker)
            except OSError as error:  # the supervisor hears of its end, and starts another
                log.warning("slot %d cannot be forked (%s); it is started", self.number, error)
        flags = interpreter_flags() if inherited.flags is None else inherited.flags
        # -P: files in the working directory must not be taken for modules of the standard library.
        words = [*flags, "-P", "-m", "dtq.worker.reaper", str(os.getpid()), str(channel_fd), str(position_fd)]
        return subprocess.Popen(
            [sys.executable, *words],
            pass_fds=tuple(fd for fd in (channel_fd, position_fd, inherited.tracker) if fd >= 0),
            stdin=subprocess.DEVNULL,
            stdout=self.output.writing_end,
            stderr=self.output.writing_end,
            start_new_session=True,
            env=slot_environment(),
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    @property
    def idle(self) -> bool:
        """Whether it waits for work."""
        return self.usable and not self.chunks and not self.preparing

    def awaits(self, name: str) -> bool:
        """Whether it has nothing to do but import this function."""
        return self.preparing == name and self.usable and not self.chunks

    @property
    def sound(self) -> bool:
        """Whether it can run tasks: it has begun, and is not about to end."""
        return self.ready and self.kill_reason is None and not (self.retired or self.broken or self.leaving)

    @property
    def usable(self) -> bool:
        """Whether it can take a lease, now or after the present ones."""
        return self.sound and not self.recalled and self.recall_at is None

    # -- leases ---------------------------------------------------------------------------------------------------

    def send(self, chunk: Chunk, spec: Spec, now: float) -> None:
        """Send it a lease; bytes that it cannot take now follow.

        Args:
            chunk: the lease.
            spec: the lease's function and options.
            now: ``time.monotonic()``.

        Raises:
            OSError: the slot is gone; it does not have the lease, and must not be used any more.
        """
        chunk.serial = self._serial
        chunk.sent_at = now
        chunk.place = self.place
        self._serial += chunk.grant.hi - chunk.grant.lo
        self.tasks += chunk.grant.hi - chunk.grant.lo
        if not self.chunks:
            self._moved_at = now
            self.spread = chunk.slots - 1
        self.chunks.append(chunk)
        try:
            self._push(chunk, spec)
        except OSError:
            self.chunks.remove(chunk)
            chunk.serial = -1
            raise
        self._sent[chunk.token] = None
        if len(self._sent) > KEPT_RESULTS:
            del self._sent[next(iter(self._sent))]

    def was_sent(self, token: int) -> bool:
        """Whether it was sent a lease not long ago, and may have the result of its task."""
        return token in self._sent

    def _push(self, chunk: Chunk, spec: Spec) -> None:
        grant = chunk.grant
        known = self._specs.get(grant.spec)
        if known is not spec and known != spec:  # new, or of another coordinator that counts anew
            self.channel.put("spec", grant.spec, _FUNCTION.plain(spec.function), *_told_of(spec.options))
            self._remember(spec.function.name)
            # Leases with one of those have been sent before, so the slot is done with them when it reads this.
            for number, _ in self._specs.put(grant.spec, spec, weight(spec.function.body)):
                self.channel.put("forget", number)
        lease = (
            grant.token,
            chunk.serial,
            grant.batch,
            grant.lo,
            grant.single,
            grant.attempt,
            grant.spec,
            grant.arguments,
            chunk.careful,
        )
        if grant.units is None:
            self.channel.put(*(("behind", grant.behind) if grant.behind else ("lease",)), *lease)
            return
        portions = tuple([(portion.name, portion.units, portion.amount) for portion in grant.units])
        self.channel.put("allotted", (portions, chunk.slots, settable_threads()), *lease)

    def move(self, place: Place | None) -> None:
        """Tell it the place of values from now on.

        Raises:
            OSError: it is gone.
        """
        self.place = place
        self.channel.put("place", _PLACE.plain(place))

    def settled(self, segments: Sequence[int]) -> None:
        """Tell it that the supervisor holds results it has sent.

        Args:
            segments: the segment of each.
        """
        with contextlib.suppress(OSError):  # it is gone, which is seen soon
            self.channel.put("settled", tuple(segments))

    def pump(self) -> None:
        """Send more of what it could not take before."""
        try:
            self.channel.pump()
        except OSError:  # it has died, or is about to
            self.broken = True
            self.leave_within(DYING_S)

    def prepare(self, number: int, function: Function) -> None:
        """Have it import a function in advance, unless it was given that function before.

        Args:
            number: the function's number, see `preparing.Preparing`.
            function: the function.

        Raises:
            OSError: it is gone.
        """
        self.prepared = number
        if function.name not in self._names:
            self._remember(function.name)
            self.preparing = function.name
            self.channel.put("prepare", _FUNCTION.plain(function))

    def has_prepared(self) -> str:
        """Note that it has imported, or tried to import, a function in advance.

        Returns:
            The function's name; empty if it was not told to import one.
        """
        name, self.preparing = self.preparing, ""
        self._moved_at = time.monotonic()
        return name

    def _remember(self, name: str) -> None:
        if len(self._names) >= MAX_SPECS:
            self._names.clear()
        self._names.add(name)

    def holding(self, token: int) -> Chunk | None:
        """An unfinished lease of the slot."""
        return next((chunk for chunk in self.chunks if chunk.token == token), None)

    def known(self, token: int) -> Chunk | None:
        """An unfinished lease of the slot, or the one it finished last."""
        if self.latest is not None and self.latest.token == token:
            return self.latest
        return self.holding(token)

    def ended(self, chunk: Chunk, upto: int) -> None:
        """Note that a lease's tasks below ``upto`` have ended; a lease without further tasks leaves the slot."""
        chunk.next = max(chunk.next, upto)
        self.latest = chunk
        self._moved_at = time.monotonic()
        while self.chunks and self.chunks[0].ended:
            self.chunks.popleft()

    def tell_once(self, spec: int) -> bool:
        """Whether this was not asked of a function before, or long ago."""
        if spec in self._told:
            return False
        if len(self._told) >= MAX_SPECS:
            self._told.clear()
        self._told.add(spec)
        return True

    # -- its position ---------------------------------------------------------------------------------------------

    def look(self, now: float) -> bool:
        """Read its position.

        Args:
            now: ``time.monotonic()``.

        Returns:
            Whether that can be true; else a task has written over the shared memory.
        """
        serial, at = self.position.read()
        if serial == self._seen:
            return True
        if not (self._seen < serial < self._serial and self._born_at <= at <= now + CLOCK_SLACK_S):
            self._lied = True
            return False
        chunk = next((chunk for chunk in self.chunks if chunk.task(serial) is not None), None)
        if chunk is not None and not self._comes_after_what_ended(chunk, serial):
            return True  # for now: a task's false claim about its successors does not give it more time
        self._seen = serial
        self._seen_at = min(now, max(at, self._born_at if chunk is None else chunk.sent_at))
        return True

    def _comes_after_what_ended(self, chunk: Chunk, serial: int) -> bool:
        index = chunk.task(serial)
        assert index is not None
        if index > chunk.next:
            return self.arena.has_made(chunk.token, index - 1)
        return chunk is self.chunks[0]

    def running(self) -> tuple[Chunk, int, float] | None:
        """The running task at the last look: its lease, its index, and when it started (``time.monotonic()``)."""
        for chunk in self.chunks:
            index = chunk.task(self._seen)
            if index is not None and chunk.next <= index < chunk.end:
                return chunk, index, self._seen_at
        return None

    def is_brisk(self, now: float, within_s: float) -> bool:
        """Whether its running, or first, task may be about to end: it has not taken long so far.

        Args:
            now: ``time.monotonic()``.
            within_s: the longest time it may have taken, in seconds.
        """
        if self.preparing or not self.look(now):
            return False
        running = self.running()
        return now - (self._moved_at if running is None else running[2]) < within_s

    def waits(self, token: int, index: int, seconds: float, blocked: bool) -> None:
        """Note that a task waits for other tasks; see `reports.Waiting`."""
        now = time.monotonic()
        known = self._waits
        goes_on = known is not None and (known.token, known.task) == (token, index) and now < known.until
        since = known.since if known is not None and goes_on else now
        self._waits = _Wait(token, index, since, now + seconds, blocked) if seconds > 0 else None

    @property
    def waiting_since(self) -> float | None:
        """Since when the running task waits for other tasks, ``time.monotonic()``; None if it does not."""
        waits = self._waits
        if waits is None or time.monotonic() >= waits.until:
            return None
        running = self.running()
        return waits.since if running is not None and (running[0].token, running[1]) == waits[:2] else None

    @property
    def blocked(self) -> bool:
        """Whether the running task can do nothing but wait for other tasks."""
        return self.waiting_since is not None and self._waits is not None and self._waits.blocked

    def unfinished(self) -> Chunk | None:
        """In an ended slot, the lease of the task that it was running; None for none."""
        chunk = self.chunks[0] if self.chunks else None
        if chunk is None or chunk.ended:
            return None
        serial, _ = self.position.read()
        lied = self._lied or not self._seen <= serial < self._serial
        return chunk if lied or serial >= chunk.serial_of(chunk.next) else None

    def begun(self, chunk: Chunk) -> int:
        """In an ended slot, the number of a lease's unfinished tasks that had begun."""
        serial, _ = self.position.read()
        return max(1, min(serial + 1 - chunk.serial_of(chunk.next), chunk.end - chunk.next))

    def started_at(self, chunk: Chunk) -> float:
        """When the running task has started, if that was seen; else when its lease was sent."""
        return max(chunk.sent_at, self._seen_at if chunk.task(self._seen) is not None else 0.0)

    def left(self) -> Left:
        """Its unsent results after its end; none if they cannot be trusted.

        If it was killed for a bad message, the task that began last has no result either: that task is to blame,
        however far it came before the slot was dead.
        """
        serial, _ = self.position.read()
        if self._lied or not self._seen <= serial < self._serial:
            return Left(0, 0, [], 0.0)
        left = self.arena.left()
        chunk = self.holding(left.token)
        if chunk is None:
            return left
        last = serial - 1 if self.breach else serial  # tasks behind the one that began last have no result
        most = max(0, last + 1 - chunk.serial_of(left.lo))
        return left._replace(results=left.results[:most])

    def stalled(self, now: float) -> bool:
        """Whether it should long have started its work."""
        if not self._has_not_begun():
            return False
        if self.preparing:
            timeout_s = self.chunks[0].spec.options.timeout_s
            return now - self._moved_at >= min(PREPARE_TIMEOUT_S, PREPARE_TIMEOUT_S if timeout_s is None else timeout_s)
        return now - self._moved_at >= START_TIMEOUT_S

    def hides(self, now: float) -> bool:
        """Whether it has read its work, and would by now have begun it, or be over its time limit, if its position were
        true: a task has reset the position.
        """
        if self.preparing or not self._has_not_begun():
            return False
        limit_s = self.chunks[0].spec.options.timeout_s
        within_s = START_TIMEOUT_S if limit_s is None else min(START_TIMEOUT_S, limit_s + BEGIN_SLACK_S)
        if now - self._moved_at < within_s or not self.channel.taken:
            return False
        self._lied = True
        return True

    def _has_not_begun(self) -> bool:
        """Whether it was sent work, and claims not to have begun it."""
        if not self.chunks or self.kill_reason is not None:
            return False
        return self._seen < self.chunks[0].serial_of(self.chunks[0].next)

    def moments(self, now: float, stuck_s: float) -> list[float]:
        """The moments of the next looks.

        Args:
            now: ``time.monotonic()``.
            stuck_s: how long work may wait behind a running task, in seconds.
        """
        moments = [at for at in (self.kill_deadline, self.recall_at) if at is not None]
        running = self.running()
        if running is None:
            # If it has not begun yet, no other event tells when it does.
            return [*moments, now + stuck_s] if self.chunks else moments
        chunk, index, at = running
        if self.kill_reason is None:
            # Without a limit it is looked at now and then: a task may reset the position after a look.
            limit_s = chunk.spec.options.timeout_s
            moments.append(now + START_TIMEOUT_S if limit_s is None else at + limit_s)
        if not self.recalled and (len(self.chunks) > 1 or index + 1 < chunk.end):
            moments.append(at + stuck_s)
        return moments

    # -- taking back ----------------------------------------------------------------------------------------------

    def _set_limit(self, serial: int) -> None:
        self._limit = serial
        self.position.set_limit(serial)

    def limit_was_overwritten(self) -> bool:
        """Whether a task has written over the limit of tasks that may begin; the limit is right again afterwards."""
        wrong = self.position.limit != self._limit
        self.position.set_limit(self._limit)
        return wrong

    def begin_recall(self, now: float) -> None:
        """Keep its unstarted tasks from starting; `recall` must follow at `recall_at`. It takes no new lease until it
        has reported its stop.
        """
        serial, _ = self.position.read()
        self._set_limit(serial + 1)
        self.recall_at = now + SETTLE_S
        for chunk in self.chunks:
            chunk.stoppable = True

    def recall(self) -> list[tuple[Chunk, int, int]]:
        """Take back its unstarted tasks.

        Returns:
            For each shortened lease: the lease, and the range of the tasks.
        """
        self.recall_at = None
        last, _ = self.position.read()
        back: list[tuple[Chunk, int, int]] = []
        for chunk in self.chunks:
            first = max(chunk.next, chunk.grant.lo + last + 1 - chunk.serial)
            if first < chunk.end:
                back.append((chunk, first, chunk.end))
                chunk.end = first
                self.recalled.add(chunk.token)
        if not self.recalled:
            self._set_limit(UNLIMITED)
        return back

    def stopped(self, token: int) -> None:
        """Note that it stopped in a lease, before the tasks that were taken back."""
        self.recalled.discard(token)
        if not self.recalled and self.recall_at is None:
            self._set_limit(UNLIMITED)

    # -- its output -----------------------------------------------------------------------------------------------

    def _latest_serial(self) -> int:
        """The serial of the task that it started last, as far as that can be true; -1 if its output is no task's."""
        serial = self.position.serial
        return serial if not self.preparing and serial < self._serial else -1

    def _name_of(self, serial: int) -> str:
        """The id of the task with a serial; "" if it is no task of the leases that it has, or had last."""
        for chunk in (*self.chunks, *([self.latest] if self.latest is not None else ())):
            index = chunk.task(serial)
            if index is not None:
                return str(TaskId(chunk.grant.batch, index, chunk.grant.single))
        return ""

    def printed(self, chunk: Chunk, lo: int, hi: int) -> tuple[Printed, ...]:
        """The output of tasks ``[lo, hi)`` of one of its leases, which have ended; it is not kept here any longer."""
        return self.output.printed(chunk.serial_of(lo), lo, hi - lo)

    # -- its end --------------------------------------------------------------------------------------------------

    def began(self, pid: int) -> None:
        """Note that it is ready for work.

        Args:
            pid: its process, as it claims; remembered if true.
        """
        self.ready = True
        self._slot = pinned(pid, self.pid)
        self.slot_pid = 0 if self._slot is None else pid

    def worn_out(self) -> bool:
        """Whether it must be replaced before it is given more work."""
        return self.terms.max_tasks is not None and self.tasks >= self.terms.max_tasks

    def retire(self) -> None:
        """Let it end by itself: it has nothing to do, and will get no more work."""
        self.retired = True
        self.leave_within(LEAVING_S)
        with contextlib.suppress(OSError):
            self.channel.close()

    def leave_within(self, seconds: float) -> None:
        """Note that it is about to end, and must have by then."""
        if self.kill_deadline is None:
            self.kill_deadline = time.monotonic() + seconds

    def overdue(self, now: float) -> None:
        """Kill it if it should have ended; by force, if it was killed before."""
        if self.kill_deadline is None or now < self.kill_deadline:
            return
        if self._killed:
            self._kill_by_force()
        else:
            self.deaf = self.broken
            self.kill()
        self.kill_deadline = now + KILLED_S

    def condemn(self, reason: KillReason) -> None:
        """Kill it, and everything it started, for a reason; the first one counts."""
        self.kill_reason = self.kill_reason or reason
        self.kill()

    def kill(self) -> None:
        """Kill it, and everything it started."""
        self._killed = True
        self.kill_deadline = time.monotonic() + KILLED_S
        if not WARDEN:
            self._kill_by_force()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
            os.kill(self.pid, signal.SIGCONT)

    def _kill_by_force(self) -> None:
        kill_tree(self.pid)
        self._kill_slot()

    def _kill_slot(self) -> None:
        """End the slot's own process, in case it has outlived its reaper."""
        if self._slot is not None:
            self._slot.kill()

    def exited(self) -> bool:
        """Whether the process has ended; its exit is not collected yet, so that its number stays taken."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def collect(self) -> SlotExit:
        """Collect its end, and end its group, after the process has ended or was killed."""
        if not WARDEN:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        code = self._exit_code()
        self._kill_slot()
        peak, left = self.position.end()
        self.output.drain()
        return SlotExit(code=code, deaf=self.deaf, breach=self.breach, peak_memory=peak, left=left)

    def _exit_code(self) -> int:
        try:
            return self.process.wait(KILLED_S)
        except subprocess.TimeoutExpired:
            self._kill_by_force()
        try:
            return self.process.wait(KILLED_S)
        except subprocess.TimeoutExpired:  # it hangs in the kernel
            return -signal.SIGKILL

    def let_go(self) -> None:
        """Close pipes and memory: nothing else that it leaves is needed."""
        if self._slot is not None:
            self._slot.close()
        self.output.close()
        self.arena.close()
        self.position.close()
        self.channel.close()
