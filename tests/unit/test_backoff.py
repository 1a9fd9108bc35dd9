"""The waits between attempts: at once, then doubling, never in step, never longer than the bound."""

from __future__ import annotations

import random

from dtq.transport import Backoff


def test_first_retry_is_at_once_and_waits_double_to_the_bound() -> None:
    # Given a draw that takes nothing off
    backoff = Backoff(draw=lambda: 0.0)

    # When many attempts fail
    waits = [backoff.next_s() for _ in range(9)]

    # Then the waits are these
    assert waits == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_success_starts_over() -> None:
    backoff = Backoff(draw=lambda: 0.0)
    for _ in range(5):
        backoff.next_s()

    backoff.reset()

    assert [backoff.next_s(), backoff.next_s()] == [0.0, 0.05]


def test_waits_are_drawn_from_the_upper_half() -> None:
    # Given a thousand workers that lost their coordinator together
    draw = random.Random(1).random
    waits = []
    for _ in range(1000):
        backoff = Backoff(draw=draw)
        waits.append([backoff.next_s() for _ in range(4)][-1])

    # Then they come back spread over half the wait
    assert 0.1 < min(waits) < 0.11
    assert 0.19 < max(waits) <= 0.2


def test_shared_generator_of_the_program_is_left_alone() -> None:
    # Given a program that seeded Python's own generator
    random.seed(7)
    expected = random.random()
    random.seed(7)

    # When a wait is drawn by default
    backoff = Backoff()
    backoff.next_s()
    backoff.next_s()

    # Then the program draws what it would have drawn
    assert random.random() == expected
