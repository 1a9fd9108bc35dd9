"""Commands as tasks: the settings of one, and its result.

Client, for both ends: `dtq run` makes settings and reads results, the slot (`worker.command`) runs the command. Bytes
are bytes: what a command prints is kept and given back unchanged.
"""

from __future__ import annotations

from typing import Final

from dtq.records import dataclass

#: The function that runs commands in a slot.
FUNCTION: Final = "dtq.worker.command:run"
#: Kept bytes of each of a command's two outputs, unless something else is set.
KEPT_OUTPUT: Final = 8 << 20
#: Kept bytes of each output of a command that failed: they travel with the failure.
KEPT_FAILED: Final = 96 << 10
#: Exit codes as a shell has them: the command cannot be started; there is no such command; killed by a signal (added
#: to its number).
NOT_STARTED: Final = 126
NOT_FOUND: Final = 127
SIGNALLED: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSettings:
    """Settings that all commands of a submission share.

    Attributes:
        cwd: the command's directory; empty or relative: the worker's own, or below that.
        env: variables added to the worker's environment.
        stdin: its standard input.
        keep_output: bytes kept of its standard output, and as many of its standard error.
    """

    cwd: str = ""
    env: tuple[tuple[str, str], ...] = ()
    stdin: bytes = b""
    keep_output: int = KEPT_OUTPUT


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended.

    Attributes:
        exit_code: its exit code; 128 and the signal's number for one that a signal has ended.
        signal: that signal's number; 0 for none.
        stdout: its standard output. Of a longer one than is kept, beginning and end, with a line between that says how
            much was left out.
        stderr: its standard error, likewise.
        printed: bytes of its whole standard output.
        worker: name of the worker that ran it.
        started_at: when it began, in seconds of the Unix epoch.
        seconds: how long it took.
    """

    exit_code: int = 0
    signal: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    printed: int = 0
    worker: str = ""
    started_at: float = 0.0
    seconds: float = 0.0
