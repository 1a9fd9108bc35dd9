"""What becomes of a task whose attempt did not succeed: retries, backoff, crashes, hopeless exceptions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dtq.core.retry import MAX_BACKOFF_S, Verdict, backoff_s, judge, never_again
from dtq.core.states import Move
from dtq.model.messages import Failure
from dtq.model.options import Options
from dtq.model.states import Outcome

FAILED, CRASHED, TIMED_OUT, CANCELLED = Outcome.FAILED, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.CANCELLED


def verdict(
    outcome: Outcome,
    failure: Failure | None = None,
    *,
    failures: int = 0,
    crashes: int = 0,
    cancelling: bool = False,
    **options: Any,
) -> Verdict:
    return judge(
        Options(**options),
        outcome,
        failure or Failure(exception="ValueError"),
        failures=failures,
        crashes=crashes,
        cancelling=cancelling,
        salt=17,
    )


# -- backoff ------------------------------------------------------------------------------------------------------


def test_backoff_doubles_with_each_retry_up_to_five_minutes() -> None:
    waits = [backoff_s(Options(), retry, salt=1) for retry in range(1, 12)]

    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_backoff_of_a_millionth_retry_is_five_minutes() -> None:
    assert backoff_s(Options(), 1_000_000, salt=1) == MAX_BACKOFF_S == 300


@pytest.mark.parametrize("retry", [1, 2, 50])
def test_backoff_is_the_delay_that_was_asked_for(retry: int) -> None:
    assert backoff_s(Options(retry_delay_s=0.0), retry, salt=1) == 0
    assert backoff_s(Options(retry_delay_s=1000.0), retry, salt=1) == 1000


def test_jitter_stays_between_half_and_whole_and_spreads() -> None:
    waits = [backoff_s(Options(jitter=True), 3, salt=salt) for salt in range(1000)]

    assert all(4 < wait <= 8 for wait in waits)
    quarters = [sum(4 + q <= wait < 5 + q for wait in waits) for q in range(4)]
    assert all(200 < quarter < 300 for quarter in quarters)  # tasks that failed together do not come back together


def test_jitter_of_one_task_is_the_same_each_time_it_is_computed() -> None:
    options = Options(jitter=True)

    assert backoff_s(options, 2, salt=5) == backoff_s(options, 2, salt=5)
    assert backoff_s(options, 1, salt=5) / 2 != backoff_s(options, 2, salt=5) / 4


# -- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [FAILED, TIMED_OUT])
def test_failure_is_retried_after_its_backoff(outcome: Outcome) -> None:
    assert verdict(outcome, failures=1) == Verdict(move=Move.RETRIED, failures=2, crashes=0, delay_s=4.0)


@pytest.mark.parametrize("outcome", [FAILED, TIMED_OUT])
def test_failure_beyond_max_retries_is_death(outcome: Outcome) -> None:
    assert verdict(outcome, failures=2, max_retries=3).move is Move.RETRIED
    assert verdict(outcome, failures=3, max_retries=3).move is Move.DIED
    assert verdict(outcome, failures=0, max_retries=0).move is Move.DIED


def test_three_retries_are_four_attempts_by_default() -> None:
    moves = [verdict(FAILED, failures=failures).move for failures in range(4)]

    assert moves == [Move.RETRIED, Move.RETRIED, Move.RETRIED, Move.DIED]


# -- crashes ------------------------------------------------------------------------------------------------------


def test_crash_goes_back_at_once_and_does_not_count_as_failure() -> None:
    assert verdict(CRASHED, failures=2, crashes=1) == Verdict(move=Move.RETURNED, failures=2, crashes=2, delay_s=0.0)


def test_crash_at_max_crashes_is_death_whatever_retries_are_left() -> None:
    assert verdict(CRASHED, crashes=2, max_crashes=3).move is Move.DIED
    assert verdict(CRASHED, crashes=0, max_crashes=1, max_retries=100).move is Move.DIED


def test_crashes_do_not_use_up_retries() -> None:
    assert verdict(FAILED, failures=0, crashes=2, max_retries=1).move is Move.RETRIED


def test_crash_without_retries_still_goes_back() -> None:
    assert verdict(CRASHED, max_retries=0).move is Move.RETURNED


# -- never retry --------------------------------------------------------------------------------------------------


def test_never_retry_matches_the_exception_and_its_base_classes() -> None:
    failure = Failure(exception="shop.SoldOut", bases=("shop.ShopError", "LookupError", "Exception"))

    assert never_again(Options(never_retry=("shop.SoldOut",)), failure)
    assert never_again(Options(never_retry=("OSError", "LookupError")), failure)
    assert not never_again(Options(never_retry=("SoldOut", "shop", "ValueError")), failure)
    assert not never_again(Options(), failure)


def test_never_retry_is_death_at_the_first_attempt() -> None:
    failure = Failure(exception="UnicodeDecodeError", bases=("UnicodeError", "ValueError", "Exception"))

    assert verdict(FAILED, failure, never_retry=("ValueError",)).move is Move.DIED


def test_what_can_never_be_sent_is_death_at_the_first_attempt() -> None:
    failure = Failure(exception="dtq.errors.TooLarge", final=True)

    assert verdict(FAILED, failure).move is Move.DIED
    assert verdict(FAILED, replace(failure, final=False)).move is Move.RETRIED


def test_never_retry_does_not_apply_to_crashes_and_time_limits() -> None:
    failure = Failure(exception="MemoryError")

    assert verdict(CRASHED, failure, never_retry=("MemoryError",)).move is Move.RETURNED
    assert verdict(TIMED_OUT, failure, never_retry=("MemoryError",)).move is Move.RETRIED


# -- cancelling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [FAILED, CRASHED, TIMED_OUT, CANCELLED])
def test_nothing_follows_an_attempt_of_a_task_that_is_being_stopped(outcome: Outcome) -> None:
    assert verdict(outcome, cancelling=True).move is Move.CANCELLED


def test_cancelled_outcome_counts_neither_as_failure_nor_as_crash() -> None:
    assert verdict(CANCELLED, failures=1, crashes=1) == Verdict(move=Move.CANCELLED, failures=1, crashes=1)
