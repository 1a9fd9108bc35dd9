"""Settings of a worker and its slots."""

from __future__ import annotations

import os
from typing import Final

from dtq.client.inheritance import Inheritance
from dtq.model.printed import USUAL_KEPT
from dtq.records import dataclass, field
from dtq.values.place import Place
from dtq.worker.program import Program

#: Variables that a task must not find in its environment.
SECRETS: Final = ("DTQ_AUTHKEY", "DTQ_AUTHKEY_FILE", "CREDENTIALS_DIRECTORY", "DTQ_TOKEN")

#: Variables with the number of threads of numeric libraries.
THREADS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def slot_environment() -> dict[str, str]:
    """The initial environment of slots, computed in the worker's process: without secrets, and with one thread for
    numeric libraries, unless the user set another number.
    """
    own = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return {**dict.fromkeys(THREADS, "1"), **own}


def settable_threads() -> tuple[str, ...]:
    """The thread variables that dtq may set, in the worker's process."""
    return tuple([name for name in THREADS if name not in os.environ])


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotTerms:
    """Settings of every slot of a worker.

    Attributes:
        worker: the worker's name.
        paths: put in front of ``sys.path``.
        imports: modules imported at the start.
        preload: modules imported by the fork server; without one, by each slot.
        init: function called by each slot at its start, once these are imported, ``module:function``; empty for none.
        max_result: longest result in bytes that is no value.
        place: the place of values; None for none: then large arguments and results go as all others.
        max_tasks: number of tasks after which a slot is replaced; None for never.
        max_memory: resident memory in bytes above which it is replaced after a task; None for never.
        keep_output: bytes that are kept of each attempt's output; 0 for none.
        keep_processes: whether processes that tasks leave running may go on until it is replaced.
        only_registered: whether it runs registered task types only.
        reload: whether it is replaced after its imported code has changed on disk.
        program: the program that the worker is part of, if any.
        inherited: state from the program that the worker was started by, or for.
    """

    worker: str
    paths: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    init: str = ""
    max_result: int = 16 << 20
    place: Place | None = None
    max_tasks: int | None = None
    max_memory: int | None = None
    keep_output: int = USUAL_KEPT
    keep_processes: bool = False
    only_registered: bool = False
    reload: bool = True
    program: Program = field(default_factory=Program)
    inherited: Inheritance = field(default_factory=Inheritance)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTerms:
    """Settings of a worker.

    Attributes:
        slots: how many slots it has.
        slot: settings of each slot.
        grace_s: time for running tasks in a drain, in seconds; None for as long as they need.
        max_waiting: bound of further slots while tasks wait for other tasks.
        verbose: whether each task is logged.
    """

    slots: int
    slot: SlotTerms
    grace_s: float | None = None
    max_waiting: int = 0
    verbose: bool = False
