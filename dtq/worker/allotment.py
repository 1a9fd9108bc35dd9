"""What a task has of its worker beside its slot, as it finds it: units of resources, and threads.

Worker, in the slot's process. Numeric libraries begin as many threads as the machine
has processors, in each process; beside each other that makes all of them slower. So a slot begins with one, and a task
that has several slots has as many. The variables that say so are read when a library is loaded; of those that are,
`threadpoolctl` changes the number, where it is installed.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Final

from dtq.client import current
from dtq.worker.surroundings import Surroundings
from dtq.worker.terms import THREADS

#: What says which graphics cards a process sees.
GPUS: Final = "CUDA_VISIBLE_DEVICES"

#: A name, the names of units (none of a sum), and how much.
Portions = tuple[tuple[str, tuple[str, ...], int], ...]


def cards_of(portions: Portions) -> str:
    """The graphics cards among these, as a process is told which ones it sees; empty where there are none."""
    return ",".join(unit for name, units, _ in portions if name == "gpu" for unit in units)


def has_opened_cards() -> bool:
    """Whether this process has loaded what opens graphics cards: it may see for good those that it saw then. True where
    that cannot be told."""
    try:
        with open("/proc/self/maps", "rb") as file:
            return any(b"libcuda.so" in line for line in file)
    except OSError:
        return True


@contextlib.contextmanager
def allotted(surroundings: Surroundings, portions: Portions, slots: int, threads: tuple[str, ...]) -> Iterator[None]:
    """While this lasts, the task that runs has this.

    Args:
        surroundings: where its environment is put back after each task.
        portions: what it has of its worker's resources.
        slots: how many slots.
        threads: the variables that say how many threads it may have.
    """
    variables: dict[str, str | None] = {name: str(slots) for name in threads if slots > 1}
    if cards := cards_of(portions):
        variables[GPUS] = cards
    before = surroundings.lend(variables)
    current.allot({name: units or amount for name, units, amount in portions})
    many = slots > 1 and threads == THREADS
    if many:
        _set_threads(slots)
    try:
        yield
    finally:
        if many:
            _set_threads(1)
        current.allot({})
        surroundings.lend(before)


def _set_threads(count: int) -> None:
    """Have the libraries that are loaded use so many threads, as far as that can be said."""
    if find_spec("threadpoolctl") is None:
        return
    with contextlib.suppress(Exception):  # it looks into libraries of all kinds; the task is no worse off without
        threadpoolctl: Any = importlib.import_module("threadpoolctl")
        threadpoolctl.threadpool_limits(limits=count)
