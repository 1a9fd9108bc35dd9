"""A command as a task: what it gets, what is kept of it, and how it ends."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dtq.client.commands import CommandResult, CommandSettings
from dtq.errors import CommandFailed
from dtq.worker.command import run
from dtq.worker.terms import SECRETS


def failed(*words: str, settings: CommandSettings | None = None) -> tuple[CommandFailed, CommandResult]:
    """How a command fails."""
    with pytest.raises(CommandFailed) as caught:
        run(words, settings or CommandSettings())
    assert isinstance(caught.value.result, CommandResult)
    return caught.value, caught.value.result


def test_secrets_never_reach_a_command_whoever_gives_them() -> None:
    given = (*((name, "never-seen") for name in SECRETS), ("PLAIN", "x"))
    printed = run(("env",), CommandSettings(env=given)).stdout.decode()
    assert "PLAIN=x" in printed
    assert "never-seen" not in printed


def test_a_failure_has_code_signal_and_last_words() -> None:
    error, result = failed("sh", "-c", "echo first >&2; echo last words >&2; echo >&2; exit 3")
    assert str(error) == "the command ended with exit code 3: last words"
    assert (result.exit_code, result.signal, result.stderr) == (3, 0, b"first\nlast words\n\n")
    error, result = failed("sh", "-c", "kill -9 $$")
    assert str(error) == "the command was killed by SIGKILL."
    assert (result.exit_code, result.signal) == (137, 9)


def test_what_cannot_be_started_says_why() -> None:
    assert failed("not-there")[1].exit_code == 127
    assert str(failed("not-there")[0]) == "the command could not be started: there is no not-there on this machine."
    assert failed("/etc")[1].exit_code == 126
    error, result = failed("echo", "x" * 3_000_000)
    assert (result.exit_code, "Argument list too long" in str(error)) == (126, True)
    assert run(("pwd",), "/").stdout == b"/\n"
    error, _ = failed("true", settings=CommandSettings(cwd="/not/there"))
    assert "there is no directory /not/there on this machine; --cwd names another" in str(error)


def test_input_and_output_flow_at_once() -> None:
    # Given more input and output than pipes take
    data = os.urandom(3_000_000)
    result = run(("cat",), CommandSettings(stdin=data))
    assert result.stdout == data
    assert result.printed == len(data)
    # And a command that does not read its input, or reads only the beginning
    assert run(("true",), CommandSettings(stdin=data)).exit_code == 0
    assert run(("head", "-c", "3"), CommandSettings(stdin=data)).stdout == data[:3]


def test_a_command_that_closes_its_output_is_waited_for() -> None:
    assert failed("sh", "-c", "exec >&- 2>&-; sleep 0.2; exit 5")[1].exit_code == 5


def test_commands_run_in_any_thread() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: run(("sh", "-c", f"sleep 0.05; echo {n}")).stdout, range(8)))
    assert found == [b"%d\n" % n for n in range(8)]


def test_a_command_has_the_signals_of_a_new_process() -> None:
    program = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert run((sys.executable, "-c", program)).stdout == b"True\n"
