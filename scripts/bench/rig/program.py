"""A program with an executor: runs one of `rig.apps` and ends, or stays and runs what it is told to, timing each.

``python -m rig.program EXECUTOR TURNS usual|quick APP`` is a program from start to end; without an app it reads their
names, a line each, and prints how many seconds each took.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rig.apps import APPS, Scale

SLOTS: Final = 2
#: Where the functions of the apps are; `rig.scene` knows it, too, but imports dtq, for which the others should not pay.
BENCH: Final = Path(__file__).resolve().parents[1]


class _Joblib(Executor):
    """The map of an executor, by joblib."""

    def __init__(self) -> None:
        self._joblib = importlib.import_module("joblib")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise NotImplementedError("joblib has no futures")

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], **_: Any) -> Iterator[Any]:
        call = self._joblib.delayed(fn)
        return iter(self._joblib.Parallel(SLOTS)(call(*args) for args in zip(*iterables, strict=False)))


def _pool(method: str) -> Callable[[ExitStack], Executor]:
    def opened(stack: ExitStack) -> Executor:
        return stack.enter_context(ProcessPoolExecutor(SLOTS, mp_context=multiprocessing.get_context(method)))

    return opened


def _loky(stack: ExitStack) -> Executor:
    executor: Executor = importlib.import_module("loky").get_reusable_executor(max_workers=SLOTS)
    stack.callback(executor.shutdown)
    return executor


def _dask(stack: ExitStack) -> Executor:
    distributed = importlib.import_module("distributed")
    warnings.filterwarnings("ignore", message="Sending large graph")
    cluster = distributed.LocalCluster(n_workers=SLOTS, threads_per_worker=1, processes=True, dashboard_address=None)
    executor: Executor = stack.enter_context(
        stack.enter_context(distributed.Client(stack.enter_context(cluster))).get_executor(pure=False)
    )
    return executor


def _dtq(stack: ExitStack) -> Executor:
    import dtq  # the others do without

    return stack.enter_context(dtq.Executor.local(SLOTS, paths=[BENCH]))


#: By name: what has to be installed for it, and how it is opened.
EXECUTORS: Final[dict[str, tuple[str, Callable[[ExitStack], Executor]]]] = {
    "dtq": ("dtq", _dtq),
    "pool, fork": ("multiprocessing", _pool("fork")),
    "pool, spawn": ("multiprocessing", _pool("spawn")),
    "loky": ("loky", _loky),
    "joblib": ("joblib", lambda _: _Joblib()),
    "Dask": ("distributed", _dask),
}


def main() -> None:
    name, turns, size, *apps = sys.argv[1:]
    scale = Scale(turns=int(turns), quick=size == "quick")
    with ExitStack() as stack:
        executor = EXECUTORS[name][1](stack)
        for app in apps:
            APPS[app](executor, scale)
        if apps:
            return
        for line in sys.stdin:
            start = time.perf_counter()
            APPS[line.strip()](executor, scale)
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
