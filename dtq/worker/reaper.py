"""The reaper: a small process between the supervisor and each slot, so that no process outlives the slot it came from.

Worker, on Linux; elsewhere the slot is the supervisor's own child. The supervisor starts the reaper (``python -m
dtq.worker.reaper``), which forks the slot and then only waits. Every process that a slot starts, however far it removes
itself (a double fork, a session of its own), becomes the reaper's child when its parent ends, for the reaper is a
*subreaper*. So after the slot's end the reaper kills all that is left, and only then ends itself, in the same way as
the slot. On SIGTERM it kills the slot and everything else; the kernel sends it that when the supervisor ends, however
that happens. A reaper that is killed by force takes its slot with it, but not the processes that the slot had set free.

It imports next to nothing before it forks: its memory is the slot's too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Final, NoReturn

from dtq.worker.position import Position

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_PTRACE_DETACH: Final = 17
#: Time for killed processes to be gone, in seconds: one that hangs in the kernel is not waited for.
PATIENCE_S: Final = 5.0
_AWAITED: Final = (signal.SIGTERM, signal.SIGCHLD)


def adopt_orphans() -> None:
    """From now on, a descendant of this process that loses its parent becomes its child. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when its parent ends, however that happens. Ends at once if it has.

    Args:
        parent: the process that should be the parent.
        number: the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def name_process(name: str) -> None:
    """List this process under a name of at most 15 characters: it is a fork, with another's command line."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def children() -> list[int]:
    """This process's children, by their numbers, uncollected ended ones included."""
    mine = str(os.getpid()).encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The command's name, in parentheses, may contain anything; the parent is the second word after it.
                if file.read().rpartition(b")")[2].split()[1] == mine:
                    found.append(int(name))
    return found


def _reap() -> dict[int, tuple[int, int]] | None:
    """Collect the children that have ended: status and peak memory in bytes by number; None without any."""
    ended: dict[int, tuple[int, int]] = {}
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return ended or None
        if not pid:
            return ended
        if os.WIFSTOPPED(status):  # it has asked to be traced, and only that shows a stop here
            _trace_no_more(pid, os.WSTOPSIG(status))
        else:
            ended[pid] = status, usage.ru_maxrss << 10


def _trace_no_more(pid: int, number: int) -> None:
    """Let a child go on that has stopped for its tracer, which is this process, with the signal it stopped for."""
    ptrace = ctypes.CDLL(None).ptrace
    ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    ptrace(_PTRACE_DETACH, pid, None, None if number == signal.SIGTRAP else number)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _watch(slot: int) -> tuple[int, int]:
    """Wait for the slot's end; its status and peak memory in bytes."""
    while True:
        if signal.sigwait(_AWAITED) == signal.SIGTERM:
            _kill([slot])
        ended = _reap() or {}
        if slot in ended:
            return ended[slot]


def _clear() -> int:
    """Kill every child until none is left: those of the killed become children in their turn. Returns their number."""
    seen: set[int] = set()
    until = time.monotonic() + PATIENCE_S
    while _reap() is not None and time.monotonic() < until:
        left = children()
        seen.update(left)
        _kill(left)
        signal.sigtimedwait(_AWAITED, 0.02)
    return len(seen)


def _end_like(status: int) -> NoReturn:
    """End as a process with that status did."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)  # the slot has left a core, if cores are enabled
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def guard(parent: int, channel_fd: int, position_fd: int) -> int:
    """Fork the slot, and return in it the reaper's number; the reaper stays here until it ends.

    Args:
        parent: the supervisor, which is this process's parent.
        channel_fd: descriptor of the slot's pipe.
        position_fd: of the memory that it shares with the supervisor.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (*_AWAITED, signal.SIGINT))
    die_with(parent, signal.SIGTERM)
    adopt_orphans()
    reaper = os.getpid()
    slot = os.fork()
    if not slot:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        return reaper
    os.close(channel_fd)  # or its end would go unseen
    status, peak = _watch(slot)
    Position(position_fd).note_end(peak, _clear())
    _end_like(status)


def main(arguments: list[str]) -> int:
    """Entry point: ``parent-pid channel-fd position-fd``; the rest comes through the channel, to the slot."""
    parent, channel_fd, position_fd = map(int, arguments)
    if sys.platform == "linux":
        parent = guard(parent, channel_fd, position_fd)
    from dtq.worker.slot import main as run

    return run(parent, channel_fd, position_fd)


if __name__ == "__main__":
    # The module that runs is __main__; user code must find the real one.
    from dtq.worker.reaper import main as begin

    sys.exit(begin(sys.argv[1:]))
