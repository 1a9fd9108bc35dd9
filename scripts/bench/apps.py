"""How long do small programs take, each once from start to end and once in a program that runs already?

The same programs for everybody, written for `concurrent.futures` with two processes: many tasks, a chain, diamonds,
reductions, word counts, a Cholesky factorisation in blocks. Cold: a program of its own, from its start until it has
ended, imports and all. Warm: a run of it in a program whose processes have run it once already. Peers that are not
installed are named; so is what needs numpy where that is missing.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, Self

from rig.apps import APPS, LONG, MAPS, NUMPY, SPECIAL
from rig.options import Options, command_line
from rig.program import EXECUTORS
from rig.report import Bar, Report
from rig.scene import BENCH, PATIENCE_S
from rig.work import turns_for

import dtq

#: What an iteration that only shows that it runs leaves out: each takes seconds to start.
_SLOW_TO_START: Final = ("Dask", "loky", "joblib", "pool, spawn")


class Programs:
    """Starts programs.

    Args:
        options: the command line.
    """

    def __init__(self, options: Options) -> None:
        self._scale = ["1000", "quick"] if options.quick else [str(turns_for(0.001) * 10), "usual"]
        # Each process has one core: libraries for matrices are not to start threads of their own.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("DTQ_")} | {
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(BENCH), str(Path(dtq.__file__).parents[1])]),
        }

    def words(self, executor: str, *apps: str) -> list[str]:
        return [sys.executable, "-m", "rig.program", executor, *self._scale, *apps]

    def start(self, executor: str, *apps: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(executor, *apps),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=BENCH,
            env=self._environment,
            text=True,
        )

    def cold(self, executor: str, app: str) -> float:
        """Seconds of a program from start to end."""
        start = time.perf_counter()
        process = self.start(executor, app)
        try:
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        seconds = time.perf_counter() - start
        if process.returncode:
            raise RuntimeError(f"{app} with {executor} ended with {process.returncode}")
        return seconds


class Resident:
    """A program that runs already."""

    def __init__(self, programs: Programs, executor: str) -> None:
        self._process = programs.start(executor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=PATIENCE_S)
        finally:
            self._process.kill()

    def run(self, app: str) -> float:
        """Seconds of a run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{app}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def installed(report: Report, options: Options) -> list[str]:
    """Who can be compared here."""
    found = []
    for name, (module, _) in EXECUTORS.items():
        if options.quick and name in _SLOW_TO_START:
            continue
        if importlib.util.find_spec(module) is None:
            report.note(f"absent: {name}")
        else:
            found.append(name)
    return found


def able(app: str, executors: list[str]) -> list[str]:
    """Who can run an app."""
    if app in SPECIAL:
        return [name for name in executors if name in SPECIAL[app]]
    return [name for name in executors if name != "joblib" or app in MAPS]


def cold(report: Report, options: Options, programs: Programs, executors: list[str], apps: list[str]) -> None:
    """Programs from start to end."""
    report.grid("cold: a program from start to end", executors)
    for app in apps[:1] if options.quick else apps:
        names = able(app, executors)
        turns = {name: partial(programs.cold, name, app) for name in (names[:1] if options.quick else names)}
        medians = report.beside(app, report.rounds.alternate(turns), "s")
        for other in ("pool, spawn", "Dask"):
            if other in medians:
                report.add(f"cold, {app}: dtq against {other}", medians["dtq"] / medians[other], "", Bar(most=1))


def warm(report: Report, options: Options, programs: Programs, executors: list[str], apps: list[str]) -> None:
    """Runs in programs that run already."""
    report.grid("warm: in a program that runs", executors)
    with ExitStack() as stack:
        residents = {name: stack.enter_context(Resident(programs, name)) for name in executors}
        for app in apps:
            turns = {name: partial(residents[name].run, app) for name in able(app, executors)}
            for turn in turns.values():
                turn()
            medians = report.beside(app, report.rounds.alternate(turns), "s")
            if "pool, fork" in medians:
                ratio = medians["dtq"] / medians["pool, fork"]
                bar = Bar(most=1.3) if app in LONG else None
                report.add(f"warm, {app}: dtq against the forked pool", ratio, "", bar)


def main() -> None:
    options = command_line(__doc__, parts=["cold", "warm", *APPS])
    report = Report("apps", "How long do small programs take, cold and warm?", options)
    names = [*APPS]
    for missing, those in (("numpy", NUMPY), ("joblib", tuple(SPECIAL))):
        if importlib.util.find_spec(missing) is None:
            report.note(f"absent: {missing}, and with it {', '.join(those)}")
            names = [name for name in names if name not in those]
    apps = [name for name in names if options.wants(name)] or names
    executors = installed(report, options)
    programs = Programs(options)
    for kind, measure in (("cold", cold), ("warm", warm)):
        if not {"cold", "warm"} & {*options.only} or kind in options.only:
            measure(report, options, programs, executors, apps)
    report.note("All with two processes, everything in memory, and one thread a process for numpy.")
    report.note("joblib has no futures: it runs what is a map.")
    report.print()


if __name__ == "__main__":
    main()
