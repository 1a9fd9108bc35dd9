"""The demo's load of requests: priorities, failures and their consequences, by the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dtq.demo.tasks import gets_through
from dtq.model.fields import PRIORITIES
from dtq.records import dataclass

#: How often a request is tried again, and the pause before, in seconds.
RETRIES: Final = 3
RETRY_DELAY_S: Final = 0.5
#: How many requests of one priority come one after the other.
_BURST: Final = 20
#: The priorities that count as urgent.
URGENT: Final = (1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests, each of one task.

    Attributes:
        tasks: their number.
        failure_rate: the share of attempts that fail.
        seed: what chance begins with.
    """

    tasks: int
    failure_rate: float
    seed: int

    def priorities(self) -> list[int]:
        """The priority of each request: all of them equally often, in bursts, and these in no order."""
        low, high = PRIORITIES
        bursts = [low + number % (high - low + 1) for number in range(-(-self.tasks // _BURST))]
        random.Random(self.seed).shuffle(bursts)
        return [priority for priority in bursts for _ in range(_BURST)][: self.tasks]

    def attempts(self, number: int) -> tuple[int, bool]:
        """How many attempts a request takes, and whether the last of them gets through."""
        for attempt in range(1, RETRIES + 2):
            if gets_through(number, attempt, self.seed, self.failure_rate):
                return attempt, True
        return RETRIES + 1, False


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What was measured when the load was run once.

    Attributes:
        seconds: from the opening of the queue to the end of the last task.
        held: how many tasks waited when it opened.
        answered: requests that got an answer.
        retries: attempts that were followed by another.
        dead: dead letters.
        waits: by priority, the waits of its requests from the opening to their first start, in seconds.
    """

    seconds: float
    held: int
    answered: int
    retries: int
    dead: int
    waits: Mapping[int, Sequence[float]]


def mean(values: Iterable[float]) -> float:
    """The mean; 0 of none."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def mean_wait(measured: Round, priorities: Iterable[int]) -> float:
    """The mean wait of the requests of some priorities, in seconds."""
    return mean(wait for priority in priorities for wait in measured.waits.get(priority, ()))


def reduction(fifo: Round, ranked: Round, priorities: Sequence[int] = URGENT) -> float:
    """By what share the requests of some priorities wait less than in the order of their submission."""
    before = mean_wait(fifo, priorities)
    return 1 - mean_wait(ranked, priorities) / before if before > 0 else 0.0
