"""README's blocks, run in their order as a user would type them, in a home and on a port of their own.

How blocks are read:
- A ``console`` block has commands after ``$ `` and below each what it prints; ``...`` stands for any text in a line,
  and alone in a line for any lines. A command without lines below it may print anything. It has to end with 0, or with
  what a line ``[exit code: 69]`` below it says. A backslash at its end goes on in the next line. ``&`` at its end puts
  it into the background until the last block has run; the next one waits until it has printed a line.
- A ``python`` or ``toml`` block whose first line is ``# name.py`` or ``# name.toml`` is saved under that name; any
  other ``python`` block is run as a program.
- ``<!-- not run: why -->`` before a block leaves it out.
- The default port is replaced by a free one.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import prefork

README = Path(__file__).parents[2] / "README.md"
#: How long one command may take, in seconds.
PATIENCE_S = 60.0
_BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .*? -->\s*\n)?```(?P<kind>console|python|toml)\n(?P<text>.*?)^```", re.M | re.S
)
_EXIT = re.compile(r"\[exit code: (\d+)\]")
#: A command of dtq's, or a program, that is the same without a shell.
_PLAIN = re.compile(r"(dtq|python block_\d+\.py)( [^|&;<>$*?~(){}\\]*)?")


class Block(NamedTuple):
    """One block of the README: its kind, its text and the line it begins in."""

    kind: str
    text: str
    line: int


class Step(NamedTuple):
    """One command of a console block, and the lines below it."""

    command: str
    expected: list[str]


def blocks(markdown: str) -> Iterator[Block]:
    """The blocks that are to be run."""
    for match in _BLOCK.finditer(markdown):
        if not match["skip"]:
            yield Block(match["kind"], match["text"], markdown.count("\n", 0, match.start()) + 1)


def steps(text: str) -> Iterator[Step]:
    """The commands of a console block."""
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, rest = part.partition("\n")
        while command.endswith("\\"):
            more, _, rest = rest.partition("\n")
            command = f"{command[:-1]}{more.removeprefix('> ').strip()}"
        yield Step(command, rest.rstrip().splitlines())


def pattern(expected: list[str]) -> str:
    """What the output has to match."""
    lines = [
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line.rstrip()).replace(r"\.\.\.", ".*") + r"[ \t]*\n"
        for line in expected
    ]
    return "".join(lines)


class Reader:
    """Somebody who types what the README says.

    Args:
        home: a directory for everything that is written.
        anew: whether each command is started as a user starts it; else commands of dtq's and programs are forked,
            where they can be.
    """

    def __init__(self, home: Path, *, anew: bool = True) -> None:
        self._anew = anew
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = str(probe.getsockname()[1])
        self._directory = home / "work"
        self._directory.mkdir()
        self._forked = {k: v for k, v in os.environ.items() if not k.startswith("DTQ_")} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "DTQ_PORT": self._port,
        }
        self._environment = self._forked | {"PYTHONUNBUFFERED": "1"}
        self._background: list[tuple[subprocess.Popen[bytes], Path]] = []

    def read(self, block: Block) -> None:
        """Do what a block says."""
        text = block.text.replace("3870", self._port)
        name = re.match(r"# (\w+\.(?:py|toml))\n", text)
        if block.kind == "console":
            for step in steps(text):
                self._type(step, block.line)
        elif name:
            (self._directory / name[1]).write_text(text)
        elif block.kind == "python":
            (self._directory / f"block_{block.line}.py").write_text(text)
            self._type(Step(f"python block_{block.line}.py", []), block.line)

    def _type(self, step: Step, line: int) -> None:
        if step.command.endswith("&"):
            self._start(step.command.removesuffix("&"), line)
            return
        code_seen, output = self._run(step.command)
        expected = [entry for entry in step.expected if not _EXIT.fullmatch(entry)]
        code = next((int(m[1]) for entry in step.expected if (m := _EXIT.fullmatch(entry))), 0)
        seen = f"README.md, block in line {line}: $ {step.command}\n{output}\n{self._logs()}"
        assert code_seen == code, f"exit code {code_seen}: {seen}"
        wanted = "\n".join(expected)
        assert not expected or re.fullmatch(pattern(expected), output), f"expected:\n{wanted}\nseen: {seen}"

    def _run(self, command: str) -> tuple[int, str]:
        """Run a command to its end: its exit code, and what it prints."""
        with tempfile.TemporaryFile() as output:
            started: prefork.Started
            if not self._anew and _PLAIN.fullmatch(command):
                first, *words = shlex.split(command)
                program = words.pop(0) if first == "python" else None
                ends = output.fileno(), output.fileno()
                started = prefork.start(words, self._directory, self._forked, *ends, program)
            else:
                started = subprocess.Popen(
                    ["bash", "-c", command],
                    cwd=self._directory,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            try:
                code = started.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                started.kill()
                raise
            output.seek(0)
            return code, output.read().decode()

    def _start(self, command: str, line: int) -> None:
        log = self._directory.parent / f"background-{len(self._background)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._background.append((process, log))
        deadline = time.monotonic() + PATIENCE_S
        while b"\n" not in log.read_bytes():
            assert process.poll() is None, f"README.md, block in line {line}: {command} ended: {self._logs()}"
            assert time.monotonic() < deadline, f"README.md, block in line {line}: {command} says nothing"
            time.sleep(0.02)

    def _logs(self) -> str:
        return "\n".join(f"-- {log.name}:\n{log.read_text(errors='replace')}" for _, log in self._background)

    def close(self) -> None:
        """End what is in the background."""
        for process, _ in reversed(self._background):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody who types what the README says."""
    reader = Reader(tmp_path)
    yield reader
    reader.close()


def test_every_block_of_the_readme_runs_as_written(reader: Reader) -> None:
    found = list(blocks(README.read_text()))
    if not found:
        pytest.skip("README.md has no block to run yet")
    for block in found:
        reader.read(block)


EXAMPLE = """\
Text.

```python
# greeting.py
def greet(): print("hello, port 3870")
```

<!-- not run: it would fail -->
```console
$ false
```

```console
$ python -c 'import greeting; greeting.greet()'
hello, port 3870
$ printf 'a\\nb\\nc 1 d\\n'
...
c ... d
$ exit 3
[exit code: 3]
$ echo one \\
>   two
one two
```

```python
import greeting; greeting.greet()
```
"""


def test_blocks_are_read_as_described(reader: Reader) -> None:
    # Given an example with every feature
    found = list(blocks(EXAMPLE))
    assert [(block.kind, block.line) for block in found] == [("python", 3), ("console", 13), ("python", 26)]
    # Then everything in it is done, and is as it says
    for block in found:
        reader.read(block)


@pytest.mark.parametrize(
    "text", ["$ echo one\ntwo\n", "$ false\n", "$ echo one\n[exit code: 1]\n", "$ printf 'a\\nb\\n'\na\n"]
)
def test_a_block_that_says_something_else_fails(reader: Reader, text: str) -> None:
    with pytest.raises(AssertionError, match=r"README\.md, block in line 7"):
        reader.read(Block("console", text, 7))


def test_a_background_command_that_ends_at_once_fails(reader: Reader) -> None:
    with pytest.raises(AssertionError, match="ended"):
        reader.read(Block("console", "$ false &\n", 7))
