"""What a worker and its slots are started with."""

from __future__ import annotations

import os
from typing import Final

from dtq.client.inheritance import Inheritance
from dtq.records import dataclass, field
from dtq.values.place import Place
from dtq.worker.program import Program

#: What a task must not find in its environment.
SECRETS: Final = ("DTQ_AUTHKEY", "DTQ_AUTHKEY_FILE", "CREDENTIALS_DIRECTORY", "DTQ_TOKEN")

#: What says how many threads numeric libraries begin.
THREADS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def slot_environment() -> dict[str, str]:
    """The environment that slots begin with, in the worker's process: without secrets, and with one thread for numeric
    libraries, where nobody has said something else."""
    own = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return {**dict.fromkeys(THREADS, "1"), **own}


def settable_threads() -> tuple[str, ...]:
    """Which variables of threads are dtq's to set, in the worker's process."""
    return tuple([name for name in THREADS if name not in os.environ])


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotTerms:
    """What every slot of a worker is started with.

    Attributes:
        worker: the worker's name.
        paths: put in front of ``sys.path``.
        imports: modules imported at the start.
        preload: modules imported by the fork server; where there is none, by each slot.
        init: function called by each slot at its start, once these are imported, ``module:function``; empty for none.
        max_result: longest result in bytes that is no value.
        place: where values are; None where there are none, and large arguments and results go as all others.
        max_tasks: after how many tasks a slot is replaced; None for never.
        max_memory: above how much resident memory in bytes it is replaced after a task; None for never.
        keep_processes: whether processes that tasks leave running may go on until it is replaced.
        only_registered: whether it runs nothing but registered task types.
        reload: whether it is replaced where code that it has imported has changed on disk.
        program: the program that the worker is part of, where it is part of one.
        inherited: what it takes over from the program that the worker was started by, or for.
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
    keep_processes: bool = False
    only_registered: bool = False
    reload: bool = True
    program: Program = field(default_factory=Program)
    inherited: Inheritance = field(default_factory=Inheritance)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTerms:
    """What a worker is told once.

    Attributes:
        slots: how many slots it has.
        slot: what each is started with.
        grace_s: how long a drain lets running tasks go on, in seconds; None for as long as they need.
        max_waiting: how many slots more there may be while tasks wait for other tasks.
    """

    slots: int
    slot: SlotTerms
    grace_s: float | None = None
    max_waiting: int = 0
