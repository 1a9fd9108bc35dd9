"""A slot as its supervisor sees it: a process, a pipe, and the leases that were sent down the pipe."""

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
from dataclasses import replace
from typing import Final

import psutil

from dtq.client.handover import interpreter_flags
from dtq.client.inheritance import Inheritance
from dtq.model.ids import TaskId
from dtq.model.lru import SizedLru
from dtq.model.options import Function, Spec
from dtq.model.wire import codec
from dtq.worker.channel import BUFFER, Channel
from dtq.worker.chunks import Chunk
from dtq.worker.output import Output, Passed
from dtq.worker.position import UNLIMITED, Position
from dtq.worker.program import Program
from dtq.worker.remains import Condemned, Remains
from dtq.worker.terms import SlotTerms

log = logging.getLogger("dtq.worker")

_FUNCTION: Final = codec(Function)
_PROGRAM: Final = codec(Program)
_INHERITANCE: Final = codec(Inheritance)
#: How many functions a slot keeps, and how many bytes of those that travelled by value.
MAX_SPECS: Final = 1_000
MAX_SPEC_BYTES: Final = 8 << 20
#: A lease whose arguments are longer than this is not sent to a slot that is busy: it might not fit into the pipe.
MAX_AHEAD_BYTES: Final = BUFFER // 4
#: How long a slot may take to read what it is sent, in seconds.
SEND_TIMEOUT_S: Final = 30.0
#: How long a slot may take to end, in seconds: after its pipe was seen closed, so that it must be about to; after it
#: was told to, or said that it would; and its warden, after it was told to kill it.
DYING_S: Final = 0.25
LEAVING_S: Final = 3.0
KILLED_S: Final = 3.0
#: Whether a warden stands between.
WARDEN: Final = sys.platform == "linux"
#: What a task must not find in its environment.
SECRETS: Final = ("DTQ_AUTHKEY", "DTQ_AUTHKEY_FILE", "CREDENTIALS_DIRECTORY", "DTQ_TOKEN")


class Child:
    """One slot's process: its warden, where it has one, which ends when the slot has.

    Must be made by a thread that lives as long as the worker: the kernel's parent-death signal follows the thread.

    Args:
        number: which slot of the worker it is, from 1.
        terms: what it is started with.
        tracker: descriptor of the pipe to the worker's resource tracker, where it has one of its own.

    Raises:
        OSError: it cannot be started: the machine has no process, memory or descriptor left.
    """

    def __init__(self, number: int, terms: SlotTerms, tracker: int | None = None) -> None:
        self.number = number
        self.terms = terms
        self._inherited = terms.inherited if tracker is None else replace(terms.inherited, tracker=tracker)
        self.position, position_fd = Position.create()
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        ours.settimeout(SEND_TIMEOUT_S)
        self.channel = Channel(ours)
        #: Leases it was sent and has not finished, the running one first.
        self.chunks: deque[Chunk] = deque()
        self.ready = False
        #: Why it is being killed, where it is.
        self.condemned: Condemned | None = None
        #: Leases of which something was taken back, and of which it has not said that it stopped.
        self.recalled: set[int] = set()
        #: Whether its pipe was closed, so that it ends by itself.
        self.retired = False
        #: Whether its end of the pipe is closed, so that it has died, or is about to.
        self.broken = False
        #: By when it must have ended, ``time.monotonic()``; None while it may live.
        self.doomed_at: float | None = None
        #: Whether it has said that it ends, for it is fit for no other task.
        self.leaving = False
        #: Whether it closed its pipe and went on.
        self.deaf = False
        #: The lease that left it last.
        self.latest: Chunk | None = None
        #: The task that it said waits for others: lease and index, and since when.
        self._waits: tuple[int, int, float] | None = None
        self._killed = False
        self.output: Output | Passed = Passed() if terms.inherited.streams else Output(number, self._task)
        self.tasks = 0
        self._serial = 0
        #: The functions that it has.
        self._specs: SizedLru[int, None] = SizedLru(MAX_SPEC_BYTES, MAX_SPECS)
        try:
            self.process = self._start(theirs.fileno(), position_fd)
        except OSError:
            self.output.close()
            self.position.close()
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(position_fd)
            self.output.given()
        self.channel.send(
            terms.worker,
            terms.paths,
            terms.imports,
            terms.max_result,
            terms.max_memory,
            terms.keep_processes,
            terms.only_registered,
            terms.reload,
            _PROGRAM.plain(terms.program),
            _INHERITANCE.plain(self._inherited),
        )

    def _start(self, channel_fd: int, position_fd: int) -> subprocess.Popen[bytes]:
        inherited = self._inherited
        flags = interpreter_flags() if inherited.flags is None else inherited.flags
        # -P: what lies about in the working directory must not be taken for a module of the standard library.
        words = [*flags, "-P", "-m", "dtq.worker.warden", str(os.getpid()), str(channel_fd), str(position_fd)]
        return subprocess.Popen(
            [sys.executable, *words],
            pass_fds=tuple(fd for fd in (channel_fd, position_fd, inherited.tracker) if fd >= 0),
            stdin=subprocess.DEVNULL,
            stdout=self.output.writing_end,
            stderr=self.output.writing_end,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name not in SECRETS},
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    @property
    def idle(self) -> bool:
        """Whether it waits for work."""
        return self.usable and not self.chunks

    @property
    def sound(self) -> bool:
        """Whether it can run tasks: it has begun, and nothing is about to end it."""
        return self.ready and self.condemned is None and not (self.retired or self.broken or self.leaving)

    @property
    def usable(self) -> bool:
        """Whether it can run something, now or after what it has."""
        return self.sound and not self.recalled

    def send(self, chunk: Chunk, spec: Spec) -> None:
        """Send it a lease.

        Raises:
            OSError: it is gone, or does not read; it does not have the lease, and must not be used any more.
        """
        chunk.serial = self._serial
        self._serial += chunk.grant.hi - chunk.grant.lo
        self.tasks += chunk.grant.hi - chunk.grant.lo
        self.chunks.append(chunk)
        try:
            self._push(chunk, spec)
        except OSError:
            self.chunks.remove(chunk)
            chunk.serial = -1
            raise

    def _push(self, chunk: Chunk, spec: Spec) -> None:
        grant = chunk.grant
        if not self._specs.used(grant.spec):
            self.channel.send("spec", grant.spec, _FUNCTION.plain(spec.function), spec.options.priority)
            # Leases that use one of those have been sent before, so the slot is done with them when it reads this.
            for number, _ in self._specs.put(grant.spec, None, len(spec.function.body)):
                self.channel.send("forget", number)
        self.channel.send(
            "lease",
            grant.token,
            chunk.serial,
            grant.batch,
            grant.lo,
            grant.single,
            grant.attempt,
            grant.spec,
            grant.arguments,
        )

    def running(self) -> tuple[Chunk, int, float] | None:
        """The task it runs: its lease, its index, and when it started (``time.monotonic()``)."""
        serial, at = self.position.read()
        for chunk in self.chunks:
            index = chunk.started(serial)
            if index is not None:
                return chunk, index, at
        return None

    def waits(self, token: int, index: int, waiting: bool) -> None:
        """It says that a task begins or ceases to wait for other tasks."""
        self._waits = (token, index, time.monotonic()) if waiting else None

    @property
    def waiting_since(self) -> float | None:
        """Since when the task that it runs waits for other tasks, ``time.monotonic()``; None where it does not."""
        if self._waits is None:
            return None
        running = self.running()
        return self._waits[2] if running is not None and (running[0].token, running[1]) == self._waits[:2] else None

    def moments(self, now: float, stuck_s: float) -> list[float]:
        """When it is to be looked at again.

        Args:
            now: ``time.monotonic()``.
            stuck_s: how long work may wait behind a task that runs, in seconds.
        """
        moments = [self.doomed_at] if self.doomed_at is not None else []
        running = self.running()
        if running is None:
            # Where it has not begun yet, nothing else says when it does.
            return [*moments, now + stuck_s] if self.chunks else moments
        chunk, index, at = running
        if chunk.spec.options.timeout_s is not None:
            moments.append(at + chunk.spec.options.timeout_s)
        if not self.recalled and (len(self.chunks) > 1 or index + 1 < chunk.end):
            moments.append(at + stuck_s)
        return moments

    def recall(self) -> list[tuple[Chunk, int, int]]:
        """Take back what it has not started. It takes no new lease until it has said that it stopped.

        Returns:
            For each lease that something was taken back of: the lease, and the range of the tasks.
        """
        last = self.position.stop_after_current()
        back: list[tuple[Chunk, int, int]] = []
        for chunk in self.chunks:
            first = max(chunk.next, chunk.grant.lo + last + 1 - chunk.serial)
            if first < chunk.end:
                back.append((chunk, first, chunk.end))
                chunk.end = first
                self.recalled.add(chunk.token)
        if not self.recalled:
            self.position.set_limit(UNLIMITED)
        return back

    def stopped(self, token: int) -> None:
        """It says that it stopped in a lease, at what was taken back."""
        self.recalled.discard(token)
        if not self.recalled:
            self.position.set_limit(UNLIMITED)

    def _task(self) -> tuple[str, int]:
        """The task it started last: its id, "" where none was, and its serial."""
        serial, _ = self.position.read()
        for chunk in (*self.chunks, *([self.latest] if self.latest is not None else ())):
            grant = chunk.grant
            if chunk.serial >= 0 and chunk.serial <= serial < chunk.serial + grant.hi - grant.lo:
                return str(TaskId(grant.batch, grant.lo + serial - chunk.serial, grant.single)), serial
        return "", serial

    def last_lines(self, token: int, index: int) -> str:
        """The end of what a task of a lease that it has, or had last, has printed."""
        for chunk in (self.latest, *self.chunks):
            if chunk is not None and chunk.token == token:
                return self.output.last_lines(chunk.serial + index - chunk.grant.lo)
        return ""

    def worn_out(self) -> bool:
        """Whether it is to be replaced before it is given anything more."""
        return self.terms.max_tasks is not None and self.tasks >= self.terms.max_tasks

    def retire(self) -> None:
        """Let it end by itself: it has nothing to do, and will get nothing more."""
        self.retired = True
        self.leave_within(LEAVING_S)
        with contextlib.suppress(OSError):
            self.channel.close()

    def leave_within(self, seconds: float) -> None:
        """It is about to end: it must have by then."""
        if self.doomed_at is None:
            self.doomed_at = time.monotonic() + seconds

    def overdue(self, now: float) -> None:
        """Kill it if it should have ended; by force, if it was killed before."""
        if self.doomed_at is None or now < self.doomed_at:
            return
        if self._killed:
            self._kill_by_force()
        else:
            self.deaf = self.broken
            self.kill()
        self.doomed_at = now + KILLED_S

    def kill(self) -> None:
        """Kill it, and everything it started."""
        self._killed = True
        self.doomed_at = time.monotonic() + KILLED_S
        if not WARDEN:
            self._kill_by_force()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
            os.kill(self.pid, signal.SIGCONT)

    def _kill_by_force(self) -> None:
        descendants: Sequence[psutil.Process] = ()
        with contextlib.suppress(psutil.Error):
            descendants = psutil.Process(self.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for process in descendants:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def exited(self) -> bool:
        """Whether the process has ended; its exit is not collected yet, so that its number stays taken."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def close(self) -> Remains:
        """The process has ended, or was killed: see its end, and that of its group; let go of pipes and memory."""
        if not WARDEN:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        try:
            code = self.process.wait(KILLED_S)
        except subprocess.TimeoutExpired:
            self._kill_by_force()
            code = self.process.wait()
        serial, _ = self.position.read()
        peak, left = self.position.end()
        output = self.output.last_lines(serial)
        with contextlib.suppress(OSError):
            self.channel.close()
        self.output.close()
        self.position.close()
        return Remains(code=code, deaf=self.deaf, peak_memory=peak, left=left, output=output)
