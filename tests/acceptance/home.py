"""A home and a command line, as a user has them: commands find the coordinator and the key by themselves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dtq
from tests import prefork
from tests.cluster import DEADLINE_S, clean_environment

TASKS = '''
"""What the acceptance tests have workers run."""
import os, signal, threading, time
from pathlib import Path

from dtq import current_task

def add(a, b=0): return a + b
def echo(*args, **kwargs): return [list(args), kwargs]
def fail(text="no"): raise ValueError(text)
def raw(): return b"raw\\x1b"
def lock(): return threading.Lock()
def die(): os.kill(os.getpid(), signal.SIGKILL)
def nap(seconds): time.sleep(seconds); return seconds
def gate(path):
    """Ends when the file is there."""
    while not os.path.exists(path): time.sleep(0.01)
    return "open"
def halfway(path):
    current_task().progress(1, 2)
    gate(path)
def odd(number):
    if number % 2 == 0: raise ValueError(f"{number} is even")
    return number
def record(path):
    with open(path, "a") as file: file.write("x")
class Point:
    def __init__(self, x): self.x = x
    def __repr__(self): return f"Point({self.x})"
def point(x): return Point(x)
def key_in_sight(): return sorted(name for name in os.environ if "AUTHKEY" in name)
def as_file(path): return Path(path).read_text()
'''


#: Where dtq's own code is.
OWN = os.path.dirname(dtq.__file__) + os.sep


def without_progress(text: str) -> str:
    """The text without the lines that tell how far what is awaited has come."""
    return re.sub(r"^dtq: (task|tasks|batch) [\d.-]+: .*\n", "", text, flags=re.MULTILINE)


class Command:
    """A command that runs; its output is collected as it comes.

    Args:
        words: the command line after ``dtq``.
        environment: its variables.
        directory: where it runs.
        within: the words before it, of a command that becomes it, where it is to be started anew; else it is forked.
    """

    def __init__(
        self, words: Sequence[str], environment: dict[str, str], directory: Path, within: Sequence[str] | None = None
    ) -> None:
        self.words = words
        streams, theirs = zip(os.pipe(), os.pipe(), strict=True)
        if within is None:
            self.process = prefork.start(words, directory, environment, *theirs)
        else:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", "dtq", *words],
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=theirs[0],
                stderr=theirs[1],
            )
        for descriptor in theirs:
            os.close(descriptor)
        self._changed = threading.Condition()
        self._texts = {"stdout": "", "stderr": ""}
        self._readers = [
            threading.Thread(target=self._read, args=(name, os.fdopen(stream)), daemon=True)
            for name, stream in zip(self._texts, streams, strict=True)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: Any) -> None:
        for line in stream:
            with self._changed:
                self._texts[name] += line
                self._changed.notify_all()
        stream.close()
        with self._changed:
            self._changed.notify_all()

    @property
    def out(self) -> str:
        """What it has printed to standard output."""
        return self._texts["stdout"]

    @property
    def err(self) -> str:
        """What it has printed to standard error, without lines of progress: a fast machine sees none."""
        return without_progress(self._texts["stderr"])

    @property
    def connected(self) -> bool:
        """Whether it has a socket, as the kernel knows."""
        descriptors = Path(f"/proc/{self.process.pid}/fd")
        return any("socket:" in os.readlink(entry) for entry in descriptors.iterdir() if entry.is_symlink())

    def says(self, text: str) -> str:
        """Wait until a text is in its output; everything it printed."""
        with self._changed:
            self._changed.wait_for(
                lambda: text in self.out + self.err or self.process.poll() is not None, timeout=DEADLINE_S
            )
        assert text in self.out + self.err, f"dtq {' '.join(self.words)} does not say {text!r}:\n{self}"
        return self.out + self.err

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ends(self, within_s: float = DEADLINE_S) -> int:
        """Wait until it ends; its exit code."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"dtq {' '.join(self.words)} does not end:\n{self}") from None
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return code

    def __str__(self) -> str:
        return f"exit code {self.process.poll()}\n-- stdout:\n{self.out}\n-- stderr:\n{self.err}"


class Home:
    """A user's home: settings, key and state of its own, a module of tasks, and the processes that were started.

    Args:
        directory: where all of it is.
        anew: whether commands are started as a user starts them, and known by what they began with; else each is a
            fork of a process that has imported dtq (`prefork`).
    """

    def __init__(self, directory: Path, *, anew: bool = False) -> None:
        self.directory = directory
        self._within = () if anew else None
        self.work = directory / "work"
        self.work.mkdir(parents=True)
        (self.work / "jobs.py").write_text(TASKS)
        self.environment = clean_environment(directory) | {"NO_COLOR": "1"}
        self._commands: list[Command] = []

    @property
    def key(self) -> Path:
        """The key that the first coordinator makes."""
        return self.directory / "config" / "dtq" / "authkey"

    def start(self, *words: str, **variables: str) -> Command:
        """Start a command."""
        command = Command(words, self.environment | variables, self.work, self._within)
        self._commands.append(command)
        return command

    def start_within(self, within: Sequence[str], *words: str) -> Command:
        """Start a command by another one that becomes it."""
        command = Command(words, self.environment, self.work, within)
        self._commands.append(command)
        return command

    def dtq(self, *words: str, **variables: str) -> Command:
        """Run a command to its end. Whatever it says, it is no traceback of dtq's."""
        command = self.start(*words, **variables)
        command.ends()
        assert f'File "{OWN}' not in command.err, command
        return command

    def data(self, *words: str) -> Any:
        """What a command prints as JSON."""
        command = self.dtq(*words, "--json")
        assert command.process.returncode == 0, command
        document = json.loads(command.out)
        assert document["schema"] == 1
        return document

    def id(self, *words: str) -> str:
        """The id that a submission prints: alone in one line."""
        command = self.dtq("submit", *words)
        assert command.process.returncode == 0, command
        assert command.out.count("\n") == 1, command
        return command.out.strip()

    def coordinator(self, *words: str) -> Command:
        """Start a coordinator that the other commands find by themselves."""
        command = self.start("coordinator", "start", "--port", "0", *words)
        command.says("coordinator ready")
        return command

    def worker(self, *words: str) -> Command:
        """Start a worker of two slots."""
        command = self.start("worker", "--slots", "2", *words)
        command.says(" ready: ")
        return command

    def processes(self) -> dict[int, str]:
        """Every process that was started anew from here, directly or not, with its command line."""
        mark = f"HOME={self.directory}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):  # it may end meanwhile
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found

    def all_gone(self) -> bool:
        """Whether no process is left."""
        return not self.processes()

    def close(self) -> None:
        """End everything that was started."""
        for command in reversed(self._commands):
            if command.process.poll() is None:
                command.signal(signal.SIGTERM)
        for command in self._commands:
            try:
                command.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                command.process.kill()
                command.process.wait()
