"""Sends SIGTERM, SIGINT and SIGHUP to a dtq command at every moment of its start and of its end.

    python scripts/signals.py up coordinator worker submit --step 5

Each run is a process of its own in a home of its own; the signal comes after 0, 1, 2 ... steps from its start, or (with
--stop) a second time after so many from the first. What it prints is a table: how each command ended, how often, and
when. It ends with 1 if a command ended in a way that is not written down, stayed, or left a process behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
UP: Final = ("up", "--slots", "1", "--port", "0", "--memory")
COMMANDS: Final = {
    "up": UP,
    "coordinator": ("coordinator", "start", "--port", "0"),
    "worker": ("worker", "--slots", "1"),
    "submit": ("submit", "--wait", "time:sleep", "0.3"),
}
#: The last line that a command prints when it is ready.
READY: Final = {"up": " ready: ", "coordinator": "coordinator ready", "worker": " ready: "}
#: What Python itself ends with where SIGINT finds it on its way to dtq, with a traceback of its own.
PYTHON_STARTS: Final = 1
#: How long a command may take to end, in seconds.
PATIENCE_S: Final = 40.0


class Run(NamedTuple):
    """How one run ended."""

    code: int | None
    left: int
    errors: str

    def verdict(self, number: signal.Signals) -> str:
        """The exit code in words; with an exclamation mark where it is none that is written down."""
        starting = self.code == PYTHON_STARTS and number == signal.SIGINT and "KeyboardInterrupt" in self.errors
        fine = self.code in (0, -number, 128 + number) or starting
        words = "stays" if self.code is None else f"exit {self.code}" if self.code >= 0 else f"killed by {number.name}"
        words += " (Python was starting)" * starting
        return f"{words}{f', leaves {self.left} processes' * bool(self.left)}{'' if fine and not self.left else ' !'}"


def environment(home: Path, **more: str) -> dict[str, str]:
    """A user's variables, with nothing of dtq's but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DTQ_", "XDG_"))}
    return {**kept, "HOME": str(home), **more}


def started(words: tuple[str, ...], home: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    """Start a command, as from a terminal of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "dtq", *words],
        env=variables,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if words != UP or "DTQ_QUIET" not in variables else subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def await_ready(process: subprocess.Popen[str], text: str) -> str:
    """Read what it prints until it is ready; the last line."""
    assert process.stdout is not None
    return next((line for line in process.stdout if text in line), "")


def left_behind(home: Path) -> list[int]:
    """The processes that were started from a home."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and f"HOME={home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def one(command: str, number: signal.Signals, after_s: float, stop: bool) -> Run:
    """One run: a signal so long after the start, or a second one so long after the first."""
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        home = Path(place) / "home"
        home.mkdir()
        variables = environment(home)
        if command in ("worker", "submit"):
            variables["DTQ_ADDRESS"] = stack.enter_context(cluster(Path(place)))
            variables["DTQ_AUTHKEY_FILE"] = str(Path(place) / ".config/dtq/authkey")
        process = started(COMMANDS[command], home, variables)
        if stop:
            await_ready(process, READY[command])
            process.send_signal(number)
        time.sleep(after_s)
        process.send_signal(number)
        code: int | None = None
        try:
            _, errors = process.communicate(timeout=PATIENCE_S)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        left = left_behind(home)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return Run(code, len(left), errors)


@contextlib.contextmanager
def cluster(home: Path):  # noqa: ANN201 - an iterator of the address
    """A cluster for commands that need one."""
    process = started(UP, home, environment(home, DTQ_QUIET="1"))
    try:
        line = await_ready(process, "dtq is up at ")
        await_ready(process, READY["up"])
        yield line.split()[4].rstrip(";")
    finally:
        process.terminate()
        process.communicate()


def main() -> int:
    """Sweep, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", choices=[*COMMANDS, []], help="which ones; all by default")
    parser.add_argument("--step", type=float, default=5.0, help="in milliseconds")
    parser.add_argument("--until", type=float, default=1000.0, help="in milliseconds")
    parser.add_argument("--stop", action="store_true", help="sweep the end instead of the start")
    parser.add_argument("--jobs", type=int, default=2, help="how many at the same time")
    given = parser.parse_args()
    for ignored in (signal.SIGHUP, signal.SIGINT):  # by nohup, or in the background of a script
        signal.signal(ignored, signal.SIG_DFL)
    moments = [step * given.step for step in range(int(given.until / given.step) + 1)]
    bad = False
    for command in given.commands or COMMANDS:
        for number in SIGNALS:
            with ThreadPoolExecutor(given.jobs) as pool:
                runs = list(pool.map(lambda ms: one(command, number, ms / 1000, given.stop), moments))  # noqa: B023
            verdicts = [run.verdict(number) for run in runs]
            for verdict, times in Counter(verdicts).items():
                when = [moment for moment, said in zip(moments, verdicts, strict=True) if said == verdict]
                print(f"{command:<12} {number.name:<8} {times:>4} times, {when[0]:g} to {when[-1]:g} ms: {verdict}")
                bad = bad or verdict.endswith("!")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
