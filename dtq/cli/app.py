"""The root command: the table of commands, their lazy import, and the exit of a run.

``dtq --help`` must answer at once, so the commands stand in a table here, and the file of a command is imported when
the command is named.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

import click

from dtq.cli.click_classes import Group
from dtq.cli.failures import EXIT_CODES, ending


class Entry(NamedTuple):
    """A command's module and attribute, and its summary in one line."""

    module: str
    attribute: str
    summary: str


#: Every command, in the order in which help shows them.
COMMANDS: Final = {
    "coordinator": Entry("coordinator", "coordinator", "Start, inspect or stop the coordinator."),
    "worker": Entry("worker", "worker", "Run tasks on this machine."),
    "up": Entry("worker", "up", "Coordinator and worker in one, in the foreground."),
    "submit": Entry("submit", "submit", "Submit a call of a function, or one for each line of a file."),
    "run": Entry("run", "run", "Run a command on a worker, or one for each of many inputs."),
    "status": Entry("tasks", "status", "Show the state of a task or batch, and its reason."),
    "explain": Entry("explain", "explain", "Explain why a task does not run, or why it died."),
    "graph": Entry("graph", "graph", "Show the dependencies of a task, and its dependents."),
    "result": Entry("results", "result", "Print the result of a task."),
    "logs": Entry("logs", "logs", "Show what a task has printed, or follow it."),
    "wait": Entry("results", "wait", "Wait until tasks have ended."),
    "cancel": Entry("tasks", "cancel", "Stop tasks, running ones too."),
    "rerun": Entry("rerun", "rerun", "Submit ended tasks once more."),
    "list": Entry("tasks", "list_", "List tasks."),
    "batches": Entry("batches", "batches", "List batches, with their progress."),
    "reprioritize": Entry("tasks", "reprioritize", "Change the priority of waiting tasks."),
    "queue": Entry("queues", "queue", "List, pause, drain, weigh or empty queues."),
    "workers": Entry("workers", "workers", "List, drain or stop workers."),
    "limit": Entry("limits", "limit", "Bound how many tasks run at once, or start per time."),
    "top": Entry("top", "top", "Show queues, workers and failures, live."),
    "stats": Entry("tasks", "stats", "Show counts, queues and workers."),
    "dlq": Entry("dlq", "dlq", "List, show, retry or purge dead letters."),
    "schedule": Entry("schedule", "schedule", "Submit calls of functions at due times."),
    "report": Entry("report", "report", "Report throughput, times and failures, as text or as a page."),
    "demo": Entry("demo", "demo", "Show a cluster at work on this machine, and measure it."),
    "store": Entry("store", "store", "Check a store that no coordinator uses."),
    "key": Entry("key", "key", "Make, list or revoke keys with fewer rights."),
    "keygen": Entry("keygen", "keygen", "Make an authkey, or certificates for TLS."),
    "config": Entry("config", "config", "Show every setting, with its value and origin."),
    "doctor": Entry("doctor", "doctor", "Check address, key, versions, clocks, disk and workers."),
    "completion": Entry("completion", "completion", "Print the completion script of a shell."),
}


class Root(Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, imported now."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(import_module(f"dtq.cli.{entry.module}"), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing one of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    import sqlite3

    from dtq import __version__
    from dtq.engines.schema import SCHEMA
    from dtq.model.messages import PROTOCOL

    system = os.uname()
    engine = f"SQLite {sqlite3.sqlite_version} (stores of version {SCHEMA})"
    python = f"Python {sys.version.split()[0]}"
    click.echo(f"dtq {__version__}, {python}, {engine}, protocol {PROTOCOL}, {system.sysname} {system.machine}")
    ctx.exit()


@click.group(
    cls=Root,
    examples=(
        ("dtq up", "coordinator and worker, in the foreground"),
        ("dtq submit --wait math:factorial 20", "call a function, print its result"),
    ),
    help="A distributed task queue without a broker, for CPU-bound Python work.",
)
@click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the versions."
)
def root() -> None:
    """The command `dtq`."""


def _prepare_streams() -> None:
    for name in ("stdin", "stdout", "stderr"):
        if (
            getattr(sys, name) is None
        ):  # closed by the caller: as if it were the null device, also for what takes its number
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a file name of another encoding is shown, and does not crash


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: the words after ``dtq``.

    Returns:
        The exit code.
    """
    _prepare_streams()
    if "_DTQ_COMPLETE" in os.environ:  # the shell asks for completions; click answers and ends the process
        root.main(list(arguments), prog_name="dtq")

    def command() -> None:
        with root.make_context("dtq", list(arguments)) as ctx:
            root.invoke(ctx)
        sys.stdout.flush()

    return ending(command, arguments)
