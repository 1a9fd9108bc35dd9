"""Explains why a task ended: a dead letter's attempts, in sentences. Pure; the facts come from the engine."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final

from dtq.config.values import format_size
from dtq.core.explaining import Findings
from dtq.core.retry import never_again
from dtq.model.snapshots import Attempt, TaskView
from dtq.model.states import Outcome, State
from dtq.wording import counted, duration, utc

#: Most attempts that are told, the latest ones.
TOLD: Final = 3
#: Longest message of an exception, in characters.
_MESSAGE: Final = 500

#: Meanings of signals, where it was not dtq that sent them.
_SIGNALS: Final = {
    "SIGSEGV": "its process touched memory that is not its own: a defect in compiled code, or a recursion too deep",
    "SIGBUS": "its process touched memory that could not be had: a mapped file was cut, or the shared memory is full",
    "SIGABRT": "its process gave itself up: compiled code found an error (abort)",
    "SIGFPE": "compiled code in its process divided by zero",
    "SIGILL": "its process met an instruction that this processor lacks: a package for another processor",
    "SIGTERM": "another program, or a person, told its process to end",
    "SIGKILL": "a person, a program (perhaps its own), or the kernel when memory ran out has killed its process",
    "SIGXCPU": "its process used more processor time than this system allows it",
    "SIGSYS": "its process made a system call that this system forbids",
}


def explain(view: TaskView, history: Sequence[Attempt], now: float) -> Findings:
    """The facts about a task that has ended."""
    found = Findings()
    if view.state is State.SUCCEEDED:
        found.reasons.append(f"it succeeded{_when(view, now)}{f' on {view.worker}' if view.worker else ''}")
        found.advise(f"dtq result {view.id}", "its result")
    elif view.state is State.CANCELLED:
        found.reasons.append(view.reason or f"it was cancelled on request{_when(view, now)}")
        found.outlook = "it never runs"
    else:
        _died(view, history, now, found)
    return found


def _when(view: TaskView, now: float) -> str:
    if view.ended_at is None:
        return ""
    return f" at {utc(view.ended_at)}, {duration(max(0.0, now - view.ended_at))} ago"


def _died(view: TaskView, history: Sequence[Attempt], now: float, found: Findings) -> None:
    last = history[-1] if history else None
    found.reasons.append(_why_given_up(view, last))
    found.reasons += map(told, history[-TOLD:])
    if last is not None:
        found.reasons += _of_process(last)
    found.reasons.append(f"it died{_when(view, now)}")
    found.outlook = "it never runs again, unless it is put back"
    found.advise(f"dtq dlq show {view.id}", "all attempts, with tracebacks and their last output")
    found.advise(f"dtq dlq retry {view.id}", "put it back, with fresh counters")


def _why_given_up(view: TaskView, last: Attempt | None) -> str:
    """The rule by which a task died; see `core.retry.judge`."""
    options = view.spec.options
    if last is None:
        return f"it was given up after {counted(view.attempt, 'attempt')}"
    failure = last.failure
    if last.outcome is Outcome.FAILED and failure.final:
        return "it was given up: it returned what can never be sent"
    if last.outcome is Outcome.FAILED and never_again(options, failure):
        return f"it was given up: after {failure.exception} it is never tried again (never_retry)"
    if last.outcome is Outcome.CRASHED or (last.outcome is Outcome.FAILED and failure.unable):
        kinds = "crash", "crashes"
        if failure.unable:
            kinds = "attempt that could not begin", "attempts that could not begin"
        return f"it was given up after {counted(view.crashes, *kinds)}: it may have {options.max_crashes} (max_crashes)"
    if options.max_retries == 0:
        return "it was given up: it is never tried again (max_retries is 0)"
    retries = counted(options.max_retries, "retry", "retries")
    return f"it was given up after {counted(view.failures, 'failure')}: it may have {retries} (max_retries)"


def told(attempt: Attempt) -> str:
    """An attempt that did not succeed, in a sentence."""
    took = duration(max(0.0, attempt.ended_at - attempt.started_at))
    on = f" on {attempt.worker}" if attempt.worker else ""
    return f"attempt {attempt.number} {_ended(attempt)} after {took}{on}: {_text(attempt)}"


def _ended(attempt: Attempt) -> str:
    if attempt.outcome is Outcome.FAILED and attempt.failure.unable:
        return "could not begin"
    return "timed out" if attempt.outcome is Outcome.TIMED_OUT else attempt.outcome.value


def _text(attempt: Attempt) -> str:
    """Why an attempt did not succeed."""
    failure = attempt.failure
    parts = [part for part in (failure.exception, failure.message[:_MESSAGE]) if part]
    return ": ".join(parts) or "no reason was reported"


def _of_process(last: Attempt) -> list[str]:
    """What is known of the last attempt's process."""
    failure, said = last.failure, []
    if last.outcome is Outcome.CRASHED and failure.signal is not None:
        try:
            name = signal.Signals(failure.signal).name
        except ValueError:
            name = f"signal {failure.signal}"
        if name in _SIGNALS:
            said.append(f"{name}: {_SIGNALS[name]}")
    if failure.peak_memory is not None:
        said.append(f"the process of attempt {last.number} had {format_size(failure.peak_memory)} of memory at most")
    if failure.unable:
        said.append("a worker lacks a module or a task type that it needs: its own code never ran")
    return said
