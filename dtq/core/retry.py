"""Retry decisions: the fate of a task whose attempt did not succeed."""

from __future__ import annotations

from typing import Final

from dtq.core.states import Move
from dtq.model.messages import Failure
from dtq.model.options import Options
from dtq.model.states import Outcome
from dtq.records import dataclass

#: Longest backoff in seconds (row C3 of the mission: 2^retry, at most five minutes).
MAX_BACKOFF_S: Final = 300.0
#: Wait for another worker of a task that a worker was unable to run, in seconds; and the factor for each further time.
ELSEWHERE_S: Final = 0.3
ELSEWHERE_FACTOR: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision about the task.

    Attributes:
        move: RETRIED, RETURNED, DIED or CANCELLED.
        failures: its failures, this attempt included.
        crashes: its crashes, this attempt included.
        delay_s: how long it waits before the next attempt, if it is RETRIED.
    """

    move: Move
    failures: int
    crashes: int
    delay_s: float = 0.0


def backoff_s(options: Options, retry: int, salt: int) -> float:
    """Seconds before a retry.

    Args:
        options: the task's options.
        retry: which retry it is, from 1.
        salt: a number of the task's own; with jitter it picks the point in (half, whole], so that tasks that failed
            together do not come back together. A value and no random number: the core is deterministic.
    """
    if options.retry_delay_s is not None:
        whole = options.retry_delay_s
    else:
        whole = MAX_BACKOFF_S if retry > 8 else min(MAX_BACKOFF_S, 2.0**retry)
    if not options.jitter:
        return whole
    # Knuth's multiplicative hash spreads neighbouring salts over the interval.
    fraction = ((salt * 2_654_435_761 + retry * 40_503) & 0xFFFF) / 0x10000
    return whole * (1.0 - fraction / 2)


def judge(
    options: Options,
    outcome: Outcome,
    failure: Failure,
    *,
    failures: int,
    crashes: int,
    cancelling: bool,
    salt: int,
) -> Verdict:
    """Decide about a task after an unsuccessful attempt.

    A crash (the slot died, the worker was lost) counts against ``max_crashes`` and not against ``max_retries``, and the
    task goes back at once: a crash does not speak against another attempt elsewhere. The same holds for an attempt that
    never reached the task's code because the worker lacked something: it counts as a crash, and the task waits for a
    moment. After a failure or time-out the task waits for its backoff; if its result can never be sent, no attempt
    follows.

    Args:
        options: the task's options.
        outcome: how the attempt ended.
        failure: why.
        failures: failures before this attempt.
        crashes: crashes before this attempt.
        cancelling: whether the task was being stopped: then no attempt follows, whatever the outcome.
        salt: see `backoff_s`.
    """
    hopeless = outcome is Outcome.FAILED and (failure.final or never_again(options, failure))
    unable = outcome is Outcome.FAILED and failure.unable and not hopeless
    if outcome is Outcome.CRASHED or unable:
        crashes += 1
    elif outcome is not Outcome.CANCELLED:
        failures += 1
    if cancelling or outcome is Outcome.CANCELLED:
        return Verdict(move=Move.CANCELLED, failures=failures, crashes=crashes)
    if (outcome is Outcome.CRASHED or unable) and crashes >= options.max_crashes:
        return Verdict(move=Move.DIED, failures=failures, crashes=crashes)
    if unable:
        delay_s = min(MAX_BACKOFF_S, ELSEWHERE_S * ELSEWHERE_FACTOR ** min(crashes - 1, 8))
        return Verdict(move=Move.RETRIED, failures=failures, crashes=crashes, delay_s=delay_s)
    if outcome is Outcome.CRASHED:
        return Verdict(move=Move.RETURNED, failures=failures, crashes=crashes)
    if hopeless or failures > options.max_retries:
        return Verdict(move=Move.DIED, failures=failures, crashes=crashes)
    return Verdict(move=Move.RETRIED, failures=failures, crashes=crashes, delay_s=backoff_s(options, failures, salt))


def never_again(options: Options, failure: Failure) -> bool:
    """Whether the options exclude a second attempt after this exception, or one of its base classes."""
    if not options.never_retry:
        return False
    return failure.exception in options.never_retry or any(base in options.never_retry for base in failure.bases)
