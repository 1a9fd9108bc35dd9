"""``dtq run``: run a command on a worker, or one for each of many inputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final

import click

from dtq.cli import joblog, options
from dtq.cli.calling import core
from dtq.cli.calls import Call
from dtq.cli.click_classes import Command
from dtq.cli.command_lines import Inputs, Job, Template, combined, divided, jobs, lines, shown
from dtq.cli.command_output import MOST_FAILED, LiveOutput, Printer, has_started, result_of
from dtq.cli.failures import TaskTrouble, complain
from dtq.cli.looks import BatchLook, TaskLook, finder
from dtq.cli.meanwhile import telling
from dtq.cli.output import say, write
from dtq.cli.submit import accepted, opened, order_of, print_id, refuse_early, submit_calls, task_terms
from dtq.cli.waiting import Deadline, interruptible, wait_for
from dtq.client.batch_handle import BatchHandle
from dtq.client.client_core import FULL_TIMEOUT_S, ClientCore
from dtq.client.commands import FUNCTION, KEPT_OUTPUT, CommandResult, CommandSettings
from dtq.client.defaults import TTL_S
from dtq.client.handle import TaskHandle
from dtq.client.references import Reference
from dtq.client.submitting import submit as submit_one
from dtq.errors import DtqError, InvalidValue
from dtq.model.ids import TaskId, parse_named
from dtq.model.text import printable_line
from dtq.records import dataclass, fields
from dtq.wording import counted
from dtq.worker.terms import SECRETS

#: Settings of this many bytes or more are put once for a batch, and not sent with each command.
_LARGE: Final = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What a run has beside its commands and their terms.

    Attributes:
        each: file of the inputs; None for none.
        null: whether they end with a NUL.
        shell: whether the command is a line for the shell.
        waiting: whether to wait.
        wait_timeout: how long at most, in seconds.
        keep_order: whether outputs come in the order of the inputs.
        tag: text before each line of output.
        log: file of the log.
        resume: whether to leave out what the log has.
        resume_failed: whether to leave out what has succeeded.
        live: whether output is printed as it comes; None to print it so on a terminal.
        raw: whether output goes to a terminal as it is.
        as_json: whether to print JSON.
        quiet: whether to print less.
    """

    each: str | None
    null: bool
    shell: bool
    waiting: bool
    wait_timeout: float | None
    keep_order: bool
    tag: str | None
    log: str | None
    resume: bool
    resume_failed: bool
    live: bool | None
    raw: bool
    as_json: bool
    quiet: bool

    def check(self, has_command: bool, has_inputs: bool) -> None:
        """Make sure that its options fit together.

        Raises:
            UsageError: they do not.
        """
        ctx = click.get_current_context()
        waits = {"--wait-timeout": self.wait_timeout, "--joblog": self.log, "--raw": self.raw, "--live": self.live}
        many = {"--keep-order": self.keep_order, "--tagstring": self.tag, "--resume": self.resume}
        for name, value in {**waits, **many}.items():
            if value and not self.waiting:
                raise click.UsageError(f"{name} is for --wait.", ctx)
        for name, value in {**many, "--null": self.null}.items():
            if value and not has_inputs:
                raise click.UsageError(f"{name} is for many commands: give --each or ::: inputs.", ctx)
        if not has_command and not (self.shell and self.each is not None):
            raise click.UsageError("missing argument 'COMMAND'.", ctx)
        if self.live and (has_inputs or self.as_json):
            raise click.UsageError("--live is for a single command, without --json.", ctx)
        if self.null and self.each is None:
            raise click.UsageError("--null is for --each.", ctx)
        if (self.resume or self.resume_failed) and self.log is None:
            raise click.UsageError("--resume and --resume-failed need --joblog.", ctx)

    @property
    def is_live(self) -> bool:
        """Whether the output of a single command is printed as it comes: where its two outputs would meet anyway."""
        if self.as_json or self.live is not None:
            return bool(self.live)
        return sys.stdout.isatty() and sys.stderr.isatty()

    @property
    def goes_on(self) -> bool:
        """Whether it goes on where another one has stopped."""
        return self.resume or self.resume_failed


# -- what is run --------------------------------------------------------------------------------------------------


def _environment(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The variables of ``--env``: with their values, or with those that they have here.

    Raises:
        InvalidValue: one has no value here, or is a secret of dtq's.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or "\0" in text:
            raise InvalidValue("a variable", text[:80], "write NAME=VALUE, or NAME for the value that it has here")
        if name in SECRETS:
            raise InvalidValue("a variable", name, "dtq's own secrets never reach a command")
        if not equals and name not in os.environ:
            raise InvalidValue("a variable", name[:80], "it has no value here; write NAME=VALUE")
        found[name] = value if equals else os.environ[name]
    return tuple(found.items())


def _directory(given: str | None) -> str:
    if given is not None:
        return given
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _stdin(path: str | None) -> bytes:
    if path is None:
        return b""
    with opened(path) as file:
        return file.read()


def _inputs(stack: ExitStack, shape: _Shape, sources: list[list[str]]) -> tuple[Iterable[Inputs], str]:
    """The inputs of all commands, and their origin for sentences."""
    if shape.each is None:
        return combined(sources) if sources else [()], "the inputs"
    origin = "standard input" if shape.each == "-" else shape.each
    return lines(stack.enter_context(opened(shape.each)), shape.null), origin


class _Kept:
    """The commands that were submitted, in the order of their tasks, for what is printed of them."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._jobs: list[tuple[int, Inputs]] = []

    def passing(self, jobs: Iterator[Job]) -> Iterator[Job]:
        """The commands, each kept on the way."""
        for job in jobs:
            self._jobs.append((job.sequence, job.inputs))
            yield job

    def job(self, index: int) -> Job:
        """The command of a task."""
        sequence, inputs = self._jobs[index]
        return Job(sequence, inputs, self._template.filled(sequence, inputs))

    def tag(self, index: int, pattern: str | None) -> str | None:
        """The text before each line of its output."""
        return None if pattern is None else self._template.text(pattern, *self._jobs[index])


# -- how it ended -------------------------------------------------------------------------------------------------


def _unknown(queue: ClientCore, batch: int, index: int) -> CommandResult:
    """For the log, what is known of a command that has left no result: it crashed, or was cancelled."""
    try:
        view = queue.task(batch, index)
    except DtqError:
        return CommandResult(exit_code=-1)
    if not view.history:
        return CommandResult(exit_code=-1)
    last = view.history[-1]
    killed_by = last.failure.signal or 0
    return CommandResult(
        exit_code=-1,
        signal=killed_by,
        worker=last.worker,
        started_at=last.started_at,
        seconds=max(0.0, last.ended_at - last.started_at),
    )


def _await_one(queue: ClientCore, handle: TaskHandle[Any], job: Job, shape: _Shape, log: joblog.Joblog | None) -> int:
    """Wait for one command, and print its output; its exit code."""
    live = LiveOutput(handle, shape.raw) if shape.is_live else None
    with telling(
        TaskLook(handle),
        quiet=shape.quiet or shape.as_json,
        news_only=live is not None or not sys.stderr.isatty(),
    ):
        wait_for(handle, Deadline(shape.wait_timeout), f"task {handle.id}")
    if live is not None:
        live.close()
    outcome: Any = handle.exception() or handle.result()
    printer = Printer(shape.raw, shape.as_json)
    result = result_of(outcome)
    if log is not None:
        log.add(job, result or _unknown(queue, parse_named(handle.id).batch, 0))
    if result is not None and (live is None or not live.printed):
        printer.command(handle.id, result)
    if not has_started(outcome):
        printer.trouble(handle.id, outcome)
    return 1 if result is None else result.exit_code


def _await_all(
    queue: ClientCore, handle: BatchHandle[Any], kept: _Kept, shape: _Shape, log: joblog.Joblog | None
) -> int:
    """Wait for all commands of a batch, and print the output of each as soon as it has ended; how many failed."""

    batch = int(handle.id)
    silent = shape.quiet or shape.as_json
    look, printer = BatchLook(handle, finder(queue, batch)), Printer(shape.raw, shape.as_json)
    if shape.wait_timeout is not None:
        with telling(look, quiet=silent):
            wait_for(handle, Deadline(shape.wait_timeout), f"batch {batch}")
        silent = True
    failed = 0
    with telling(look, quiet=silent):
        for index, outcome in handle.outcomes(ordered=shape.keep_order):
            task = str(TaskId(batch, index, handle.size == 1))
            result = result_of(outcome)
            failed += isinstance(outcome, BaseException)
            if log is not None:
                log.add(kept.job(index), result or _unknown(queue, batch, index))
            if result is not None:
                printer.command(task, result, kept.tag(index, shape.tag))
            if not has_started(outcome):
                printer.trouble(task, outcome)
    return failed


def _show(job: Job) -> None:
    """Print a command as one types it: in one line on a terminal, elsewhere byte by byte, for a shell."""
    line = shown(job.words)
    if sys.stdout.isatty():
        write(printable_line(line))
    else:
        sys.stdout.buffer.write(os.fsencode(line) + b"\n")


def _end(code: int) -> None:
    """End with an exit code, of which everything has been printed.

    Raises:
        TaskTrouble: it is not 0.
    """
    sys.stdout.flush()
    if code:
        raise TaskTrouble(code if 0 < code < 256 else 1)


_AT_ONCE: Final = "the slots of the workers run that many at once; --limit NAME bounds them (`dtq limit set NAME`)"
#: Options of GNU parallel that are others here.
_ELSEWHERE: Final = {
    "-j": _AT_ONCE,
    "--jobs": _AT_ONCE,
    "--retries": "use --max-retries",
    "--workdir": "use --cwd",
    "--wd": "use --cwd",
    "-a": "use --each FILE",
    "--arg-file": "use --each FILE",
    "--results": "`dtq result ID` has the output of each, and --shell '... > {/.}.out' writes files at the workers",
}


# -- the command --------------------------------------------------------------------------------------------------


@click.command(
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    examples=(
        ("dtq run --wait -- ffmpeg -i a.mp4 a.webm", "run a command on a worker, as if it ran here"),
        ("dtq run -- convert {} {.}.png ::: a.jpg b.jpg", "a task for each input, all of them one batch"),
        ("find . -name '*.log' | dtq run --each - --wait gzip", "a task a line; the line comes last"),
        ("dtq run --wait --shell 'zcat {} | wc -l' ::: a.gz b.gz", "a line for the shell"),
    ),
    instead=_ELSEWHERE,
)
@click.argument("words", metavar="COMMAND [ARG]... [::: INPUT...]", nargs=-1, type=options.TEXT)
@click.option(
    "--each", metavar="FILE", type=options.FILE, help="A command a line of FILE (-: standard input); all are one batch."
)
@click.option("-0", "--null", is_flag=True, help="The inputs of --each end with NUL, as those of `find -print0`.")
@click.option("--shell", is_flag=True, help="The command is a line for /bin/sh; inputs in it are quoted.")
@click.option(
    "--cwd",
    metavar="DIR",
    type=options.DIRECTORY,
    help="Its directory; a relative one is below the worker's own.  [default: this directory]",
)
@click.option(
    "--env",
    "variables",
    metavar="NAME[=VALUE]",
    multiple=True,
    help="A variable, with this value or the one that it has here; repeatable.  [default: the worker's environment]",
)
@click.option(
    "--stdin",
    metavar="FILE",
    type=options.FILE,
    help="Its standard input, read here (-: standard input).  [default: empty]",
)
@click.option(
    "--keep-output",
    metavar="SIZE",
    type=options.SIZE,
    default=str(KEPT_OUTPUT),
    help="Bytes kept of its standard output, and of its standard error: beginning and end.  [default: 8MiB]",
)
@task_terms(max_retries=0)
@click.option("--wait", "waiting", is_flag=True, help="Wait, print what it prints, and end with its exit code.")
@click.option(
    "--wait-timeout", metavar="DURATION", type=options.DURATION, help="Wait no longer than this (ends with 124)."
)
@click.option("-k", "--keep-order", is_flag=True, help="Print outputs in the order of the inputs, not as they come.")
@click.option("--tagstring", "tag", metavar="TEXT", help="A text before each line of output; '{}' is the input.")
@click.option(
    "--live/--no-live",
    default=None,
    help="Print the output of a single command as it comes, both outputs together.  [default: on a terminal]",
)
@click.option("--raw", is_flag=True, help="Let control characters through to a terminal.")
@click.option("--joblog", "log", metavar="FILE", type=options.FILE, help="Log ended commands in FILE, as GNU parallel.")
@click.option("--resume", is_flag=True, help="Leave out commands that the log has.")
@click.option("--resume-failed", is_flag=True, help="Leave out commands that have succeeded according to the log.")
@click.option("--dry-run", is_flag=True, help="Print the commands, and submit nothing.")
@click.option(
    "--when-full",
    type=click.Choice(["fail", "wait"]),
    default="fail",
    show_default=True,
    help="If the queue has no room: end with 75, or wait up to 5 minutes for some.",
)
@options.connecting
@options.as_json
@options.quiet
def run(
    words: tuple[str, ...],
    cwd: str | None,
    variables: tuple[str, ...],
    stdin: str | None,
    keep_output: int,
    dry_run: bool,
    when_full: str,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    **given: Any,
) -> None:
    """Run COMMAND on a worker, and print the id of its task or batch; with --wait, behave like the command itself.

    No shell is between, unless --shell is given. With inputs (--each, or behind :::) there is a task for each: {} in
    the command is the input, {.} without its extension, {/} its last part, {//} its directory, {#} its number; without
    any of them the input comes last. With --shell --each and no COMMAND each line is a command. After a second :::
    there is a task for each combination; {1} and {2} are the inputs.

    An exit code other than 0 is the task's failure; it is retried only with --max-retries. With --wait and inputs the
    exit code is the number of failed commands, at most 101. Put -- before a command with options of its own.
    """
    shape = _Shape(**{one.name: given.pop(one.name) for one in fields(_Shape)})
    command, sources = divided(words)
    shape.check(bool(command), bool(sources) or shape.each is not None)
    if sources and shape.each is not None:
        raise click.UsageError("use --each or :::, not both.", click.get_current_context())
    if stdin == "-" == shape.each:
        raise click.UsageError("--each and --stdin cannot both be standard input.", click.get_current_context())
    template = Template(command, shape.shell, 1 if shape.each is not None else len(sources))
    settings = CommandSettings(
        cwd=_directory(cwd),
        env=_environment(variables),
        stdin=b"" if dry_run else _stdin(stdin),
        keep_output=keep_output,
    )
    given["max_retries"] = given["max_retries"] or 0
    terms = order_of(given)
    refuse_early(FUNCTION, terms, ())
    with ExitStack() as stack:
        inputs, origin = _inputs(stack, shape, sources)
        todo = jobs(template, inputs, origin)
        if shape.goes_on and shape.log is not None:
            todo = joblog.unfinished(todo, joblog.read(shape.log), shape.log, failed_too=shape.resume_failed)
        if dry_run:
            for job in todo:
                _show(job)
            return
        queue = stack.enter_context(core(addresses, authkey_file, FULL_TIMEOUT_S if when_full == "wait" else 0.0))
        log = _log(stack, shape, settings)  # before anything is submitted
        _submit(queue, _Kept(template), todo, settings, terms, shape, log, single=not sources and shape.each is None)


def _submit(
    queue: ClientCore,
    kept: _Kept,
    todo: Iterator[Job],
    settings: CommandSettings,
    terms: Any,
    shape: _Shape,
    log: joblog.Joblog | None,
    *,
    single: bool,
) -> None:
    if shape.waiting:
        todo = kept.passing(todo)
    if single:
        _submit_one(queue, next(todo), settings, terms, shape, log)
        return
    shared = _shared(queue, settings)
    handle = submit_calls(queue, FUNCTION, terms, (Call((job.words, shared, job.sequence), {}) for job in todo))
    if not handle.size:
        say("dtq: there is no command to run; nothing was submitted.")
        return
    if not shape.waiting:
        print_id(handle, handle.id, shape.as_json, shape.quiet)
        return
    with interruptible(handle.id):
        failed = _await_all(queue, handle, kept, shape, log)
    if failed and not shape.quiet and not shape.as_json:
        complain(f"{counted(failed, 'command')} of batch {handle.id} failed (dtq dlq list --batch {handle.id}).")
    _end(min(failed, MOST_FAILED + 1))


def _submit_one(
    queue: ClientCore, job: Job, settings: CommandSettings, terms: Any, shape: _Shape, log: joblog.Joblog | None
) -> None:
    handle = accepted(queue, submit_one(queue, FUNCTION, terms, (job.words, _sent(settings)), {}))
    if not shape.waiting:
        print_id(handle, handle.id, shape.as_json, shape.quiet)
        return
    with interruptible(handle.id):
        code = _await_one(queue, handle, job, shape, log)
    _end(code)


def _log(stack: ExitStack, shape: _Shape, settings: CommandSettings) -> joblog.Joblog | None:
    if shape.log is None:
        return None
    return stack.enter_context(joblog.written(shape.log, len(settings.stdin), going_on=shape.goes_on))


def _sent(settings: CommandSettings) -> CommandSettings | str:
    """The settings as a call has them: the directory alone, if that is all."""
    return settings.cwd if settings == CommandSettings(cwd=settings.cwd) else settings


def _shared(queue: ClientCore, settings: CommandSettings) -> CommandSettings | str | Reference:
    """The settings, as each call of a batch has them: put once if they are large."""
    size = len(settings.stdin) + sum(len(name) + len(value) for name, value in settings.env)
    return _sent(settings) if size < _LARGE else queue.put(settings, TTL_S)
