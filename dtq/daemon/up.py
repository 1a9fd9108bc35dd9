"""``dtq up``: a coordinator and a worker on this machine, in one foreground command.

They are processes of their own, started with the same commands that a user would type, and so behave the same. None of
the three outlives another: `up` ends one part when the other has ended, and each part ends when `up` is gone (see
`part`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from dtq.config import format_address, host_here, parse_address
from dtq.daemon.logs import start_log
from dtq.daemon.signals import ENDING, INTERRUPTED, SignalPipe, ignore_from_now_on
from dtq.records import dataclass, field

log = logging.getLogger("dtq.daemon")

#: Time for a worker without a coordinator to kill its tasks' processes, in seconds.
_ALONE_S: Final = 1.0
#: Exit code after a part was killed, and not by this command.
PART_KILLED: Final = 71
#: Exit codes of a part that was told to end before it had its handlers.
_TOLD: Final = frozenset(code for number in ENDING for code in (-number, 128 + number)) | {0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The two commands.

    Attributes:
        host: the coordinator's.
        coordinator: the words of its command.
        worker: those of the worker's, without the address.
        environment: the variables of both.
    """

    host: str
    coordinator: Sequence[str]
    worker: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


def run(parts: Parts, signals: SignalPipe) -> int:
    """Run both until a signal comes, or one of them ends: the worker is drained first, then the coordinator stops.

    Args:
        parts: the two commands.
        signals: the signals, past and future, with SIGCHLD.

    Returns:
        The exit code: 0 after a requested end without failure, else that of the failed part; `PART_KILLED` if a part
        was killed, 130 after a third signal.
    """
    start_log()
    up = _Up(parts, signals)
    try:
        return up.run()
    finally:
        up.close()
        ignore_from_now_on()


class _Part:
    """One of the two processes.

    Args:
        name: its name for people.
        words: its command.
        environment: its variables.
    """

    def __init__(self, name: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        #: Its output that was not taken yet.
        self.said = b""
        watched, self._watch = os.pipe()
        try:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "dtq.daemon.part", str(watched), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                pass_fds=(watched,),
                env=dict(environment),
                start_new_session=True,  # Ctrl-C is for `up`, which passes it on in the right order
            )
        except BaseException:
            os.close(self._watch)
            raise
        finally:
            os.close(watched)

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.popen.poll()

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.send_signal(number)

    @property
    def is_ready(self) -> bool:
        """Whether it has printed a line: that it is ready."""
        return b"\n" in self.said

    @property
    def output(self) -> int | None:
        """The descriptor of its output; None after the end of that."""
        stdout = self.popen.stdout
        return None if stdout is None or stdout.closed else stdout.fileno()

    def listen(self) -> None:
        """Read its output."""
        stdout = self.popen.stdout
        assert stdout is not None
        said = os.read(stdout.fileno(), 1 << 12)
        self.said += said
        if not said:
            stdout.close()

    def take(self) -> str:
        """Take its output, once."""
        said, self.said = self.said, b""
        return said.decode(errors="replace")

    def close(self) -> None:
        """Wait for its end."""
        if self.code is None:
            self.popen.kill()
            self.popen.wait()
        os.close(self._watch)
        if self.popen.stdout is not None:
            self.popen.stdout.close()


class _Up:
    """Both parts, and the requested state. One thread handles all events, one after the other."""

    def __init__(self, parts: Parts, signals: SignalPipe) -> None:
        self._parts = parts
        self._signals = signals
        self._asked = 0
        self._coordinator: _Part | None = None
        self._worker: _Part | None = None
        self._given_up = False

    def run(self) -> int:
        """See `run`."""
        self._look(0)
        if self._told():
            return 0
        coordinator = self._coordinator = self._start("coordinator", self._parts.coordinator)
        self._until(lambda: self._over() or coordinator.is_ready)
        if not self._over():
            address = coordinator.said.decode().split()[3]
            worker = self._worker = self._start_worker(address)
            self._until(lambda: self._over() or worker.is_ready)
            if not self._over():
                _say(f"dtq is up at {address}; Ctrl-C ends it\n{worker.take()}")
            self._until(self._over)
        return self._finish()

    def close(self) -> None:
        """End all remaining parts."""
        for part in (self._worker, self._coordinator):
            if part is not None:
                part.close()

    def _start(self, name: str, words: Sequence[str]) -> _Part:
        return _Part(name, words, self._parts.environment)

    def _start_worker(self, address: str) -> _Part:
        _, port = parse_address(address)
        here = format_address((host_here(self._parts.host), port))
        return self._start("worker", [*self._parts.worker, f"--connect={here}"])

    # -- events ---------------------------------------------------------------------------------------------------

    def _until(self, done: Callable[[], bool], within_s: float | None = None) -> bool:
        """Handle events until a condition holds; whether it does in time."""
        deadline = None if within_s is None else time.monotonic() + within_s
        while not done():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if left == 0.0:
                return False
            self._look(left)
        return True

    def _look(self, within_s: float | None) -> None:
        """Handle the present events, or those within some time."""
        signals = self._signals.fileno()
        parts = [part for part in (self._coordinator, self._worker) if part is not None]
        printing = {part.output: part for part in parts if part.output is not None}
        ready, _, _ = select.select([signals, *printing], [], [], within_s)
        for output, part in printing.items():
            if output in ready:
                part.listen()
        if signals in ready:
            for number in self._signals.read():
                if number in ENDING:
                    self._on_signal(number)

    def _on_signal(self, number: int) -> None:
        # The kernel and the shell may both send SIGHUP: it never counts as one more.
        self._asked = max(self._asked, 2) if number == signal.SIGHUP else self._asked + 1
        if self._asked > 2 and number != signal.SIGHUP:
            self.close()
            os._exit(INTERRUPTED)
        if not self._gone(self._worker):
            self._signal(self._worker, signal.SIGTERM if self._asked == 1 else signal.SIGHUP)
        else:
            self._stop_coordinator()

    def _told(self) -> bool:
        return self._asked > 0

    def _over(self) -> bool:
        """Whether the end has begun."""
        ended = [part for part in (self._coordinator, self._worker) if part is not None and self._gone(part)]
        return self._told() or bool(ended)

    @staticmethod
    def _gone(part: _Part | None) -> bool:
        return part is None or part.code is not None

    @staticmethod
    def _signal(part: _Part | None, number: int) -> None:
        if part is not None:
            part.signal(number)

    def _stop_coordinator(self) -> None:
        # A third SIGTERM would end it in the middle of a write.
        self._signal(self._coordinator, signal.SIGHUP)

    # -- the end --------------------------------------------------------------------------------------------------

    def _finish(self) -> int:
        """End the running parts, the worker first, and report an unexpected end."""
        asked = self._told()
        first = self._worker if self._gone(self._coordinator) is False else self._coordinator
        if not asked and first is not None:
            self._tell(first)
        self._until(lambda: self._gone(self._worker) or self._gone(self._coordinator))
        if self._gone(self._coordinator):
            self._signal(self._worker, signal.SIGHUP)  # no coordinator takes its tasks' results
            self._given_up = not self._until(lambda: self._gone(self._worker), _ALONE_S)
            if self._given_up:
                self._signal(self._worker, signal.SIGKILL)
        self._stop_coordinator()
        self._until(lambda: self._gone(self._worker) and self._gone(self._coordinator))
        return self._code(first if not asked else None)

    def _tell(self, part: _Part) -> None:
        if self._worker is not None:
            other = "worker" if part.name == "coordinator" else "coordinator"
            log.warning("the %s %s; the %s ends, too", part.name, _how(part.code), other)

    def _code(self, first: _Part | None) -> int:
        """The exit code of this command.

        Args:
            first: the part that ended unexpectedly, if any.
        """
        codes = [0 if first is None else first.code or 0]
        for part in (self._worker, self._coordinator):
            killed_here = part is self._worker and self._given_up
            if part is not None and part is not first and part.code not in _TOLD and not killed_here:
                codes.append(part.code or 0)
        code = next(filter(None, codes), 0)
        return PART_KILLED if code < 0 else code


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return "has ended" if not code else f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}"
