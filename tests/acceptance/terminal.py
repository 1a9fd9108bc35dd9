"""A real terminal for tests: tmux, which keeps the screen of a program and types for the user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.cluster import until


def needed() -> None:
    """Skip the test where there is no tmux; fail where all tests are to run."""
    if shutil.which("tmux") is None:
        if os.environ.get("CI"):
            pytest.fail("tmux is not installed, and all tests are to run here")
        pytest.skip("tmux is not installed")


class Terminals:
    """Terminals, each of which runs a dtq command."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="dtq-tmux-")  # a socket's path is short

    def _tmux(self, *words: str, environment: dict[str, str] | None = None) -> str:
        own = {"TMUX_TMPDIR": self._directory, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        kept = {name: value for name, value in os.environ.items() if name not in ("TMUX", "NO_COLOR")}
        done = subprocess.run(
            ["tmux", "-u", "-f", os.devnull, *words],
            env={**kept, **(environment or {}), **own},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stdout

    def open(
        self, name: str, words: Sequence[str], size: tuple[int, int], environment: dict[str, str], directory: Path
    ) -> Terminal:
        """Run a dtq command in a terminal of its own."""
        columns, lines = map(str, size)
        environment = {**environment, "COLUMNS": "77", "LINES": "11"}  # exported by some shell long ago
        named = ("DTQ_", "XDG_", "HOME", "COLUMNS", "LINES", "NO_COLOR")
        settings = [f"{key}={value}" for key, value in environment.items() if key.startswith(named)]
        given = [word for setting in settings for word in ("-e", setting)]
        command = [sys.executable, "-m", "dtq", *words]
        self._tmux(
            *("new-session", "-d", "-s", name, "-x", columns, "-y", lines, "-c", str(directory), *given, *command),
            environment=environment,
        )
        return Terminal(self._tmux, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._tmux("kill-server")
        shutil.rmtree(self._directory, ignore_errors=True)


class Terminal:
    """A terminal.

    Args:
        tmux: runs a command of tmux.
        name: its name.
    """

    def __init__(self, tmux: object, name: str) -> None:
        self._tmux = tmux
        self.name = name

    def _do(self, *words: str) -> str:
        assert callable(self._tmux)
        return str(self._tmux(*words))

    def screen(self, *, looks: bool = False) -> str:
        """What it shows now; with the sequences for its looks, or without."""
        return self._do("capture-pane", "-p", *(["-e"] if looks else []), "-t", self.name)

    def type(self, *keys: str) -> None:
        """Type keys, as tmux names them."""
        self._do("send-keys", "-t", self.name, *keys)

    def resize(self, columns: int, lines: int) -> None:
        """Give it another size."""
        self._do("resize-window", "-t", self.name, "-x", str(columns), "-y", str(lines))

    def shows(self, *texts: str) -> str:
        """Wait until it shows all of these texts; the screen."""

        def look() -> str | None:
            screen = self.screen()
            return screen if all(text in screen for text in texts) else None

        return until(look, f"the terminal {self.name} to show {texts}", self.screen)

    def ended(self) -> None:
        """Wait until its program has ended."""
        until(
            lambda: self.name not in self._do("list-sessions", "-F", "#{session_name}").split(),
            f"the program in the terminal {self.name} to end",
            self.screen,
        )
