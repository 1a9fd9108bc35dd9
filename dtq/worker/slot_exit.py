"""How a slot's process ended, and the outcome of the task that it ran.

Worker, below the slot's supervisor. Pure.
"""

from __future__ import annotations

import pickle
import signal

from dtq.client.payloads import PICKLE
from dtq.client.terms import exception_name
from dtq.errors import SlotsWaiting
from dtq.model.messages import Failure
from dtq.model.states import Outcome
from dtq.records import dataclass
from dtq.wording import duration


@dataclass(frozen=True, slots=True)
class KillReason:
    """Why a slot is being killed.

    Attributes:
        token: the lease of the task that it is killed for; 0 if the worker itself ends.
        index: the task.
        timed_out: whether the reason is the task's time limit; else the task was cancelled or is no longer the
            worker's.
        waiting: whether the reason is that all slots of the worker wait.
    """

    token: int
    index: int
    timed_out: bool
    waiting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotExit:
    """How a slot's process ended.

    Attributes:
        code: its exit code, or the negative number of the signal that ended it.
        deaf: whether it was killed because it had closed its pipe and went on.
        breach: its breach of the protocol, if it was killed for that.
        peak_memory: its highest resident memory, in bytes; None if unknown.
        left: number of processes it left behind, which have been ended.
        shortage: what speaks for a lack of memory as the reason, if a SIGKILL ended it; empty if nothing does.
    """

    code: int
    deaf: bool = False
    breach: str = ""
    peak_memory: int | None = None
    left: int = 0
    shortage: str = ""


def verdict(kill_reason: KillReason | None, token: int, index: int) -> Outcome | None:
    """The outcome of a dead slot's running task; None if the task is not to blame: the slot was killed for another one.

    Args:
        kill_reason: why the slot was killed, if it was.
        token: the lease of the task that it ran.
        index: that task.
    """
    if kill_reason is None:
        return Outcome.CRASHED
    if (kill_reason.token, kill_reason.index) != (token, index):
        return None
    if kill_reason.waiting:
        return Outcome.FAILED
    return Outcome.TIMED_OUT if kill_reason.timed_out else Outcome.CANCELLED


def refusal(slots: int, worker: str, remains: SlotExit) -> Failure:
    """The failure of a task that was ended because all slots of its worker wait for tasks.

    Args:
        slots: number of these slots.
        worker: the worker's name.
        remains: the end of the slot.
    """
    error = SlotsWaiting(slots, worker)
    kind = type(error)
    return Failure(
        exception=exception_name(kind),
        bases=tuple(map(exception_name, kind.__mro__[1:-1])),
        message=str(error),
        pickled=pickle.dumps(error, PICKLE),
        peak_memory=remains.peak_memory,
    )


def crash_failure(outcome: Outcome, remains: SlotExit, timeout_s: float | None) -> Failure:
    """The failure of the task that a dead slot ran.

    Args:
        outcome: the verdict.
        remains: the end of the slot.
        timeout_s: the task's time limit in seconds.
    """
    message, code, number = _cause(outcome, remains, timeout_s)
    if remains.left:
        message += f"; {_processes(remains.left)} it had left running ended with it"
    return Failure(message=message, exit_code=code, signal=number, peak_memory=remains.peak_memory)


def _cause(outcome: Outcome, remains: SlotExit, timeout_s: float | None) -> tuple[str, int | None, int | None]:
    """The sentence, the exit code and the signal."""
    code = remains.code
    if outcome is Outcome.TIMED_OUT:
        return f"it ran longer than its time limit of {duration(timeout_s or 0.0)} and was killed", None, None
    if outcome is Outcome.CANCELLED:
        return "it was cancelled, and its process killed", None, None
    if remains.breach:
        why = f"it wrote over what its slot and the worker share ({remains.breach}), and its process was killed"
        return why, None, int(signal.SIGKILL)
    if remains.deaf:
        return "its process closed its pipe to the worker, and was killed", None, int(signal.SIGKILL)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        shortage = f"; {remains.shortage}" if remains.shortage else ""
        return f"its process was killed by {name}{shortage}", None, -code
    return f"its process ended with exit code {code}", code, None


def _processes(count: int) -> str:
    return "a process that" if count == 1 else f"{count} processes that"
