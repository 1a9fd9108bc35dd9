"""The supervisor's side of its fork server, and of the processes that were forked there.

Worker, below the supervisor. Linux only, and only if the worker has its process to itself: the process becomes a
subreaper, so that it is the parent of everything that its fork server has forked.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from importlib import import_module
from typing import Final

from dtq.client.handover import interpreter_flags
from dtq.errors import BadMessage
from dtq.transport import safepickle
from dtq.worker import reports, requests
from dtq.worker.reaper import adopt_orphans
from dtq.worker.reports import Ready, Unusable
from dtq.worker.requests import Request
from dtq.worker.terms import SECRETS, SlotTerms, slot_environment

#: Longest time of a fork, in seconds; far above the usual one.
FORK_S: Final = 5.0
_MODULE: Final = "dtq.worker.forkserver"


class Forked:
    """A process that was forked for this one, which is its parent; has the needed part of `subprocess.Popen`.

    Args:
        pid: its number.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: As for `subprocess.Popen`.
        self.returncode: int | None = None

    def kill(self) -> None:
        """Kill it, if it exists."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        Args:
            timeout: how long, in seconds.

        Returns:
            Its exit code, or the negative number of the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: it has not ended.
        """
        if self.returncode is None:
            with contextlib.suppress(OSError):  # an old kernel: the process is checked all the same
                descriptor = os.pidfd_open(self.pid)
                try:
                    select.select([descriptor], [], [], timeout)
                finally:
                    os.close(descriptor)
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if not ended:
                raise subprocess.TimeoutExpired("a slot", timeout)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class ForkServer:
    """A running, or starting, fork server.

    Must be made by a thread that lives as long as the worker; see `child.Child`.

    Args:
        terms: the settings of slots.
        fork: whether to fork this process instead of starting another interpreter, if that makes no difference to
            slots. This thread must be its only one; and this process must have no open file and no secret that slots
            must not have.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, terms: SlotTerms, *, fork: bool = False) -> None:
        adopt_orphans()
        #: Whether it is still importing.
        self.starting = True
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        flags = interpreter_flags() if terms.inherited.flags is None else terms.inherited.flags
        #: Its process.
        self._process: subprocess.Popen[bytes] | Forked
        try:
            if fork and flags == interpreter_flags() and terms.inherited.streams:
                self._process = _fork(self._sock, theirs)
            else:
                self._process = _start(flags, theirs.fileno(), streams=terms.inherited.streams)
            self._sock.send(safepickle.dumps((terms.worker, terms.paths, terms.preload)))
        except OSError:
            self._sock.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def forked(self) -> bool:
        """Whether it is a fork of this process, and so about to be ready."""
        return isinstance(self._process, Forked)

    def fileno(self) -> int:
        """The descriptor to wait for before `hear`."""
        return self._sock.fileno()

    def hear(self) -> Ready | Unusable | None:
        """Its message: once, whether it is ready. None if it is gone, or sends another message."""
        try:
            data = self._sock.recv(2 * requests.LONGEST, socket.MSG_DONTWAIT)
            report = reports.read(safepickle.loads(data)) if data else None
        except (OSError, BadMessage):
            return None
        if not isinstance(report, Ready | Unusable) or not self.starting:
            return None
        self.starting = False
        return report

    def fork(self, channel: int, position: int, output: int | None, tracker: int) -> Forked:
        """Fork a slot, with its reaper.

        Args:
            channel: descriptor of its pipe.
            position: of the memory that it shares with the supervisor.
            output: of its standard output and error; None for those of the fork server.
            tracker: of the pipe to the resource tracker; -1 for none.

        Raises:
            OSError: it cannot be forked.
        """
        read, write = os.pipe()
        try:
            try:
                requests.send(self._sock, Request(channel, position, write, -1 if output is None else output, tracker))
            finally:
                os.close(write)
            ready, _, _ = select.select([read], [], [], FORK_S)
            number = os.read(read, 32) if ready else b""
        finally:
            os.close(read)
        if not number:
            raise OSError("the fork server does not fork")
        return Forked(int(number))

    def close(self) -> None:
        """End it; slots that were forked there go on."""
        self._sock.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it is killed; a slow kernel does not hold us up
            self._process.wait(FORK_S)


def _start(flags: tuple[str, ...], sock: int, *, streams: bool) -> subprocess.Popen[bytes]:
    """Start a fork server as an interpreter of its own."""
    stream = None if streams else 2  # its output must not be read as a line of the worker's
    return subprocess.Popen(
        [sys.executable, *flags, "-P", "-m", _MODULE, str(os.getpid()), str(sock)],
        pass_fds=(sock,),
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=stream,
        start_new_session=True,
        env=slot_environment(),
    )


def _fork(ours: socket.socket, theirs: socket.socket) -> Forked:
    """Fork this process; the fork becomes the process that `_start` would start."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return Forked(pid)
    ours.detach()  # all descriptors are closed here by their numbers
    sock = theirs.detach()
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != sock:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(int(name))
    for secret in SECRETS:
        os.environ.pop(secret, None)
    os.environ.update(slot_environment())
    server = import_module(_MODULE)
    sys.argv[:] = [str(server.__file__), str(parent), str(sock)]
    try:
        code = server.main(sys.argv[1:])
    except ConnectionError:  # the worker is gone
        os._exit(1)
    except OSError:  # the callers in the worker handle its own: none of them is to go on in this process
        traceback.print_exc()
        os._exit(1)
    sys.exit(code)  # no `os._exit`: slots come this way, too, and tasks' exit handlers run


def reap_strangers(known: set[int]) -> None:
    """Collect ended children that no other code waits for: processes that a slot had set free, after its reaper was
    killed.

    Args:
        known: the children that other code waits for.
    """
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in known:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)
