"""A task's share of its worker beside its slot, as the task sees it: units of resources, and threads.

Worker, in the slot's process. Numeric libraries start as many threads as the machine has processors, in each process;
several such processes slow each other down. So a slot begins with one thread, and a task with several slots has as
many. The variables with the number are read when a library is loaded; for loaded libraries `threadpoolctl` changes the
number, if it is installed.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Final

from dtq.client import current
from dtq.worker.process_state import ProcessState
from dtq.worker.terms import THREADS

#: Variable with the graphics cards that a process sees.
GPUS: Final = "CUDA_VISIBLE_DEVICES"

#: A resource's name, the names of units (empty for a sum), and the amount.
Portions = tuple[tuple[str, tuple[str, ...], int], ...]


def cards_of(portions: Portions) -> str:
    """The graphics cards among these, in the form for a process's environment; empty for none."""
    return ",".join(unit for name, units, _ in portions if name == "gpu" for unit in units)


def has_opened_cards() -> bool:
    """Whether this process has loaded a library that opens graphics cards: it may for ever see those that it saw then.
    True if unknown.
    """
    try:
        with open("/proc/self/maps", "rb") as file:
            return any(b"libcuda.so" in line for line in file)
    except OSError:
        return True


@contextlib.contextmanager
def allotted(surroundings: ProcessState, portions: Portions, slots: int, threads: tuple[str, ...]) -> Iterator[None]:
    """Gives the running task its share, while this context lasts.

    Args:
        surroundings: restores the environment after each task.
        portions: the task's units and sums.
        slots: its number of slots.
        threads: the variables with the number of threads.
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
    """Set the number of threads of loaded libraries, as far as possible."""
    if find_spec("threadpoolctl") is None:
        return
    with contextlib.suppress(Exception):  # it looks into libraries of all kinds; the task can do without
        threadpoolctl: Any = importlib.import_module("threadpoolctl")
        threadpoolctl.threadpool_limits(limits=count)
