"""Exit of a command: every error becomes one line on standard error and one exit code.

Top floor. This is the process's edge: exceptions from outside dtq's error tree are caught here too, and are bugs.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Final

import click

from dtq.errors import DtqError
from dtq.model.text import printable

INTERRUPTED: Final = 130
BUG: Final = 70
#: As of a process killed by SIGPIPE, like other commands whose reader goes away.
BROKEN_PIPE: Final = 141
#: A range of numbers as click writes it.
_RANGE: Final = re.compile(r"is not in the range (?:(-?\d+)<=x<=(-?\d+)|x>=(-?\d+))")

#: Exit codes of commands.
EXIT_CODES: Final = {
    0: "done",
    1: "a task failed, died or was cancelled (result, wait, submit --wait)",
    2: "wrong use: an option, argument, address or id that cannot be",
    65: "what was given does not fit: unknown id, function or argument that cannot be sent, too large",
    69: "no coordinator answers",
    70: "a bug in dtq",
    71: "a part of `dtq up` was killed, and so the other has ended, too",
    72: "the worker is broken: it lacks what other workers have, or its slots do not start",
    73: "something that has to be made cannot be: port or store in use, file not writable",
    74: "the store, or a file, cannot be read or written",
    75: "try again later: the queue is full, the coordinator stops, the task is not finished",
    76: "the two sides speak different versions",
    77: "the key is refused, or its file is open to others",
    78: "the configuration is wrong or incomplete: no key, an unknown setting, a newer store",
    124: "the wait ran out; the tasks go on",
    129: "ended by SIGHUP: its terminal was closed before it could end by itself",
    130: "interrupted with Ctrl-C",
    141: "the reader of the output went away",
    143: "ended by SIGTERM, before it could end by itself",
}


class TaskTrouble(Exception):
    """Tasks ended without a result; everything about them has been printed.

    Args:
        code: the command's exit code.
    """

    def __init__(self, code: int = 1) -> None:
        super().__init__(code)
        self.code = code


def _wants_json(arguments: Sequence[str]) -> bool:
    words = list(arguments)
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def complain(sentence: str) -> None:
    """Write one line to standard error."""
    print(f"dtq: {printable(' '.join(sentence.split()))}", file=sys.stderr)


def _fail(arguments: Sequence[str], code: str, message: str, hint: str = "") -> None:
    if _wants_json(arguments):
        error = {"code": code, "message": message, "hint": hint}
        print(json.dumps({"schema": 1, "error": error}), file=sys.stderr)
    else:
        complain(f"{message} {hint}")


def _debugging() -> bool:
    return os.environ.get("DTQ_DEBUG", "") not in ("", "0")


def _on_dtq_error(error: DtqError, arguments: Sequence[str]) -> int:
    message = error.sentence
    _fail(arguments, error.code, message, error.hint if error.args else "")
    return error.exit_code


def _no_such_option(error: click.NoSuchOption) -> str:
    instead = getattr(error.ctx and error.ctx.command, "instead", {}).get(error.option_name)
    if instead:
        return f"no such option {error.option_name!r}: {instead}."
    meant = f" Did you mean {' or '.join(map(repr, sorted(error.possibilities)))}?" if error.possibilities else ""
    return f"no such option {error.option_name!r}.{meant}"


def _of_numbers(message: str) -> str:
    """A sentence of click's about a number out of its range, for people."""
    message = message.replace("is not a valid integer range", "is not a whole number")
    return _RANGE.sub(_range, message)


def _range(found: re.Match[str]) -> str:
    least, most = found[1] or found[3], found[2]
    return f"is not from {int(least):,} to {int(most):,}" if most else f"is less than {int(least):,}"


def _on_click_error(error: click.ClickException, arguments: Sequence[str]) -> int:
    told = _no_such_option(error) if isinstance(error, click.NoSuchOption) else error.format_message()
    message = _of_numbers(told)
    message = message[:1].lower() + message[1:] if message[1:2].islower() else message
    context = getattr(error, "ctx", None)
    hint = f"See `{context.command_path} --help`." if context is not None else ""
    if isinstance(error, click.NoSuchOption) and error.option_name.lstrip("-")[:1].isdigit():
        hint = f"Put -- before arguments that start with a dash. {hint}"
    _fail(arguments, "usage", message if message.endswith((".", "?", ")")) else f"{message}.", hint)
    return error.exit_code


def _on_os_error(error: OSError, arguments: Sequence[str]) -> int:
    if error.errno != errno.EPIPE and not isinstance(error, BrokenPipeError):
        # Only the user's own files are left here: the network and the store have errors of their own.
        where = f"{error.filename}: " if error.filename else ""
        _fail(arguments, "os-error", f"{where}{error.strerror or error}.")
        return 74
    # Buffered output has no reader either; Python would complain about it at exit.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
    return BROKEN_PIPE


def _on_bug(error: BaseException, arguments: Sequence[str]) -> int:
    message = f"unexpected {type(error).__name__}: {error}."
    _fail(arguments, "bug", message, "This is a bug in dtq; run again with DTQ_DEBUG=1 for the traceback.")
    return BUG


def ending(command: Callable[[], None], arguments: Sequence[str]) -> int:
    """Run a command and turn its exception into a line and an exit code.

    Args:
        command: the command.
        arguments: the words of the command line; they tell whether errors are JSON.

    Returns:
        The exit code.
    """
    try:
        command()
    except click.exceptions.Exit as done:
        return done.exit_code
    except TaskTrouble as trouble:
        return trouble.code
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted.")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the process's edge; what is no error of dtq is reported as a bug
        if _debugging():
            import traceback

            traceback.print_exc()
        match error:
            case DtqError():
                return _on_dtq_error(error, arguments)
            case click.ClickException():
                return _on_click_error(error, arguments)
            case OSError():
                return _on_os_error(error, arguments)
            case _:
                return _on_bug(error, arguments)
    return 0
