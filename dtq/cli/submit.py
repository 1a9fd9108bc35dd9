"""``dtq submit``: submit one call of a function, or one call for each line of a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, NamedTuple

import click

from dtq.cli import options
from dtq.cli.calling import core, say_warnings
from dtq.cli.calls import Call, each_line, json_lines, parse_call
from dtq.cli.click_classes import Command
from dtq.cli.failures import TaskTrouble
from dtq.cli.looks import BatchLook, TaskLook, finder
from dtq.cli.meanwhile import telling
from dtq.cli.output import say, write, write_json
from dtq.cli.own_code import OwnCode, own_code
from dtq.cli.own_terms import OwnTerms
from dtq.cli.waiting import Deadline, interruptible, print_batch, print_task, wait_for
from dtq.client.batch_handle import BatchHandle
from dtq.client.batch_uploads import Own
from dtq.client.batches import Batch
from dtq.client.client_core import FULL_TIMEOUT_S, ClientCore
from dtq.client.following import NEWS
from dtq.client.functions import callee
from dtq.client.handle import TaskHandle
from dtq.client.import_path import find_modules
from dtq.client.maps import submit_whole
from dtq.client.payloads import Encode
from dtq.client.source_bundles import put
from dtq.client.submitting import Order, limited, order
from dtq.client.submitting import submit as submit_one
from dtq.client.tasks import check_name
from dtq.errors import InvalidValue, Unreachable
from dtq.model.fields import PRIORITIES
from dtq.model.options import Function
from dtq.wording import counted, duration

#: Longest wait for a coordinator that went away in the middle of a submission, in seconds.
_ACCEPT_S: Final = 60.0
#: Pause between two looks whether the last piece of a batch is accepted, in seconds.
_LOOK_S: Final = 0.02


def task_terms(max_retries: int) -> Callable[[options.Decorated], options.Decorated]:
    """The options of a task's terms; unset ones stay at the defaults of `model.options`.

    Args:
        max_retries: the default that help shows.
    """
    return options.stacked(
        click.option(
            "-p", "--priority", metavar="N", type=click.IntRange(*PRIORITIES), help="1 (first) to 10.  [default: 5]"
        ),
        click.option(
            "--max-retries",
            metavar="N",
            type=click.IntRange(0),
            help=f"Tries after a failure, at most.  [default: {max_retries}]",
        ),
        click.option(
            "--max-crashes", metavar="N", type=click.IntRange(1), help="Crashes until it is given up.  [default: 3]"
        ),
        click.option("--timeout", metavar="DURATION", type=options.DURATION, help="Time limit of one attempt."),
        click.option(
            "--soft-timeout",
            metavar="DURATION",
            type=options.DURATION,
            help="When to raise dtq.SoftTimeout in the task.",
        ),
        click.option(
            "--retry-delay", metavar="DURATION", type=options.DURATION, help="Before each retry.  [min(5m, 2**n s)]"
        ),
        click.option("--jitter", is_flag=True, default=None, help="Spread retries at random."),
        click.option(
            "--never-retry", metavar="EXCEPTION", multiple=True, help="Give up at once on this exception; repeatable."
        ),
        click.option(
            "--keep-results",
            metavar="DURATION",
            type=options.DURATION,
            help="How long results are kept.  [the coordinator's --keep-results]",
        ),
        click.option("--queue", metavar="NAME", type=options.QUEUE, help="The queue.  [default: default]"),
        click.option(
            "--limit",
            "limits",
            metavar="NAME",
            multiple=True,
            help="Count against this limit (`dtq limit`); repeatable.",
        ),
        click.option(
            "--resource",
            "resources",
            metavar="NAME=AMOUNT",
            type=options.AMOUNT,
            multiple=True,
            help="Needs this much of a resource, as in gpu=1 or memory=4GB; repeatable.",
        ),
        click.option(
            "--slots",
            metavar="N",
            type=click.IntRange(1, 4096),
            help="Takes so many slots of one worker.  [default: 1]",
        ),
        click.option("--tag", "tags", metavar="TAG", multiple=True, help="Needs a worker with this tag; repeatable."),
        click.option("--label", metavar="TEXT", help="A free word to find it by."),
        click.option("--delay", metavar="DURATION", type=options.DURATION, help="Do not start before this has passed."),
        click.option(
            "--at",
            metavar="MOMENT",
            type=options.MOMENT,
            help="Do not start before this moment (2026-12-01T08:00, local time; or with Z or an offset).",
        ),
        click.option(
            "--expires", metavar="DURATION", type=options.DURATION, help="Cancel it if it has not started after this."
        ),
        click.option(
            "--after",
            metavar="ID",
            type=options.ID,
            multiple=True,
            help="Do not start before this task or batch (17, 17.3, 17.0-46) has a result; repeatable.",
        ),
        click.option(
            "--on-failed",
            type=click.Choice(["cancel", "run"]),
            help="If one of those ends without a result: cancel this task, or run it all the same.  [default: cancel]",
        ),
        click.option("--key", metavar="KEY", help="Submit only once: the same KEY again gives the same id."),
        click.option(
            "--unique",
            metavar="pending|unfinished|kept|DURATION",
            type=options.UNIQUE,
            help="How long KEY stands for an earlier submission: until that starts, until it has ended, as long as it "
            "is kept, or so long.  [default: kept]",
        ),
        click.option(
            "--on-conflict",
            type=click.Choice(["existing", "error", "replace"]),
            help="If KEY is taken: print the earlier id, end with 65, or cancel the earlier one and submit.  "
            "[default: existing]",
        ),
    )


def order_of(given: dict[str, Any]) -> Order:
    """The order of a command's terms."""
    return order(**{name: value for name, value in given.items() if value not in (None, ())})


def refuse_early(name: str, given: Order, paths: tuple[str, ...]) -> Order:
    """Raise for invalid terms, before any call to the coordinator; returns them with those of ``@task``, which are
    looked up here.
    """
    for path in paths:
        if not os.path.exists(path):  # an archive is valid, too
            raise InvalidValue("path", path[:200], "there is no such directory")
    find_modules(tuple(map(os.path.abspath, paths)))
    say_warnings()
    target = callee(name)
    target.spec(given.terms)
    _ = given.delay_s, given.own_key, given.conditions, given.parents(None)
    return given._replace(terms=target.over(given.terms))


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file that is read; ``-`` is standard input."""
    if path == "-":
        yield sys.stdin.buffer
        return
    with open(path, "rb") as file:
        yield file


def submit_calls(queue: ClientCore, name: str | Function, terms: Order, calls: Iterator[Call]) -> BatchHandle[Any]:
    """One batch of the calls, a few pages of them in memory at a time."""
    function = callee(name)
    spec = function.spec(terms.terms)

    def limited_of(met: list[Own]) -> Encode:
        encode_call = limited(queue, function, spec, met, keyed=terms.own_key is not None)

        def encode(item: tuple[Any, ...], _: object) -> bytes:
            call: Call = item[0]
            return encode_call(call.args, call.kwargs)

        return encode

    delay_s, conditions = terms.delay_s, terms.settled(queue)
    batch = submit_whole(queue, spec, (calls,), limited_of, delay_s=delay_s, key=terms.own_key, conditions=conditions)
    try:
        _accepted_whole(queue, batch)
    except BaseException:
        if terms.own_key is None:  # with a key, a repeated submission goes on where this one ended
            queue.sender.abandon(batch)  # all of it or nothing: the accepted part is cancelled
        raise
    return BatchHandle(queue, spec, batch)


def _accepted_whole(queue: ClientCore, batch: Batch) -> None:
    """Wait until the last piece of a batch is accepted: only then its id may be printed.

    Raises:
        DtqError: a piece was refused.
        Unreachable: the coordinator went away, and did not come back in time.
    """
    size, since = -1, time.monotonic()
    while not batch.complete and batch.error is None:
        if batch.size != size:
            size, since = batch.size, time.monotonic()
        elif time.monotonic() - since > _ACCEPT_S + queue.full_timeout_s:
            raise Unreachable(
                queue.session.place, f"it went away in the middle of the submission, {duration(_ACCEPT_S)} ago"
            )
        queue.following.wait(batch, NEWS, _LOOK_S)
    if batch.error is not None:
        raise batch.error


def _submit_file(
    queue: ClientCore, name: str | Function, terms: Order, call: Call, lines_of: _LinesOf
) -> tuple[BatchHandle[Any], list[TaskHandle[Any]]]:
    """Submit a task a line; the batch of the lines, and the tasks of those with terms of their own."""
    path = lines_of.each or lines_of.jsonl or "-"
    own = OwnTerms(name, terms)
    with opened(path) as lines:
        if lines_of.each is not None:
            calls = each_line(lines, call, as_text=lines_of.as_text)
        else:
            calls = json_lines(lines, "standard input" if path == "-" else path, own.check)
        handle = submit_calls(queue, name, terms, own.others(calls))
    return handle, [accepted(queue, each) for each in own.submit(queue)]


class _LinesOf(NamedTuple):
    """A file of calls.

    Attributes:
        each: its name, if a line is the first argument.
        jsonl: its name, if a line is a JSON object.
        as_text: whether a line that is the first argument is a text even if it is JSON.
    """

    each: str | None
    jsonl: str | None
    as_text: bool


def accepted(queue: ClientCore, handle: TaskHandle[Any]) -> TaskHandle[Any]:
    """The handle, once the task is accepted.

    Raises:
        DtqError: it was refused.
        Unreachable: the coordinator went away, and did not come back in time.
    """
    if not handle.accepted(_ACCEPT_S + queue.full_timeout_s):
        raise Unreachable(
            queue.session.place, f"it went away in the middle of the submission, {duration(_ACCEPT_S)} ago"
        )
    return handle


def _await(
    queue: ClientCore, handle: TaskHandle[Any] | BatchHandle[Any], timeout_s: float | None, as_json: bool, quiet: bool
) -> None:
    """Wait, report progress meanwhile, and print the results."""
    deadline, silent = Deadline(timeout_s), quiet or as_json
    if isinstance(handle, TaskHandle):
        with telling(TaskLook(handle), quiet=silent):
            wait_for(handle, deadline, f"task {handle.id}")
        print_task(handle, as_json=as_json)
        return

    look = BatchLook(handle, finder(queue, int(handle.id)))
    if timeout_s is not None or (sys.stderr.isatty() and not silent):
        with telling(look, quiet=silent):
            wait_for(handle, deadline, f"batch {handle.id}")
        silent = True
    with telling(look, quiet=silent):  # results are printed as they come, each as soon as those before it have arrived
        print_batch(handle, as_json=as_json)


@click.command(
    cls=Command,
    examples=(
        ("dtq submit --wait math:factorial 20", "wait, and print the result"),
        ("dtq submit thumbs:make photo.jpg size=128 -p 1", "with a keyword argument, before all else"),
        ("dtq submit ./thumbs.py:make photo.jpg", "of a file of your own, which travels with the task"),
        ("ls *.jpg | dtq submit thumbs:make --each -", "a task a line, all of them one batch"),
        ('dtq submit --type email \'{"to": "a@example.com"}\'', "of a registered task type, with its payload"),
    ),
)
@click.argument("function", metavar="MODULE:FUNCTION|FILE.py:FUNCTION", type=options.TEXT, required=False)
@click.argument("words", metavar="[ARG]... [NAME=VALUE]...", nargs=-1, type=options.TEXT)
@click.option(
    "--each",
    metavar="FILE",
    type=options.FILE,
    help="A task a line of FILE (-: standard input); the line is its first argument, of text or JSON. "
    "Write whole paths where workers run elsewhere.",
)
@click.option("--text", "as_text", is_flag=True, help="Lines of --each are text, even those that are JSON.")
@click.option(
    "--jsonl",
    metavar="FILE",
    type=options.FILE,
    help='A task a line of FILE: {"args": [...], "kwargs": {...}}; a line may have terms of its own: "priority": 2.',
)
@click.option("--type", "task_type", metavar="NAME", help="Call this registered task type; all words are arguments.")
@task_terms(max_retries=3)
@click.option(
    "--here",
    is_flag=True,
    help="The Python files of this directory, and below it, travel with the task: the workers need not have them.",
)
@click.option(
    "--include",
    metavar="GLOB",
    multiple=True,
    help="Files of this directory that travel too, as in '*.csv' or 'data/*.json'; repeatable; with --here.",
)
@click.option(
    "--exclude",
    metavar="GLOB",
    multiple=True,
    help="Files and directories of it that do not travel; repeatable; with --here.",
)
@click.option(
    "--path",
    "paths",
    metavar="DIR",
    type=options.DIRECTORY,
    multiple=True,
    help="Look here too for the module's @task; repeatable. The current directory always is.",
)
@click.option("--wait", "waiting", is_flag=True, help="Wait, and print the results, a line a task, in order.")
@click.option(
    "--wait-timeout", metavar="DURATION", type=options.DURATION, help="Wait no longer than this (ends with 124)."
)
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
def submit(
    function: str | None,
    words: tuple[str, ...],
    each: str | None,
    as_text: bool,
    jsonl: str | None,
    task_type: str | None,
    here: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    paths: tuple[str, ...],
    waiting: bool,
    wait_timeout: float | None,
    when_full: str,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
    quiet: bool,
    **terms: Any,
) -> None:
    """Submit a call of MODULE:FUNCTION, and print the id of the task or batch, alone in a line.

    A function of a FILE.py travels with that file; with --here, all Python files of this directory travel. Otherwise
    the workers must have its module.

    An ARG or VALUE is JSON if it parses as JSON, else a string: 20 is a number, a.jpg a string, '"20"' a string.
    NAME=VALUE is a keyword argument if NAME is an identifier. Put -- before arguments that start with a dash. If
    the module is found here (in this directory, with --path, or on Python's path), unset terms are those of the
    function's @task. Relative file names are relative to the worker's
    directory.

    Once the id is printed, nothing but a disk failure can lose the task.
    """
    _check_use(
        (each is not None and jsonl is not None, "use --each or --jsonl, not both."),
        (jsonl is not None and bool(words), "the lines of --jsonl have all arguments; give none beside it."),
        (wait_timeout is not None and not waiting, "--wait-timeout is for --wait."),
        (bool(include or exclude) and not here, "--include and --exclude are for --here."),
        (as_text and each is None, "--text is for --each."),
        (here and task_type is not None, "--here is for functions; a task type is registered at the workers."),
    )
    if task_type is None:
        code = own_code(_named(function), here, include, exclude)
    else:
        code, words = OwnCode(check_name(task_type), None), words if function is None else (function, *words)
    call, given = parse_call(words), order_of(terms)
    given = refuse_early(code.name, given, paths)
    with core(addresses, authkey_file, FULL_TIMEOUT_S if when_full == "wait" else 0.0) as queue:
        handle: TaskHandle[Any] | BatchHandle[Any]
        others: list[TaskHandle[Any]] = []
        bundle = None if code.files is None else put(queue, code.files)
        name = code.name if bundle is None else bundle.function(code.name)
        if each is None and jsonl is None:
            handle = accepted(queue, submit_one(queue, name, given, call.args, call.kwargs))
        else:
            handle, others = _submit_file(queue, name, given, call, _LinesOf(each, jsonl, as_text))
            if not handle.size and not others:
                say("dtq: there is no line to make a task of; nothing was submitted.")
                return
        made = [*([handle] if isinstance(handle, TaskHandle) or handle.size else []), *others]
        if not waiting:
            for one in made:
                print_id(one, one.id, as_json, quiet)
            return
        with interruptible(" ".join(one.id for one in made)):
            _await_all(queue, made, wait_timeout, as_json, quiet)


def _check_use(*wrong: tuple[bool, str]) -> None:
    """Refuse options that do not go together."""
    for is_wrong, sentence in wrong:
        if is_wrong:
            raise click.UsageError(sentence, click.get_current_context())


def _await_all(
    queue: ClientCore,
    made: Sequence[TaskHandle[Any] | BatchHandle[Any]],
    timeout_s: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Wait for each, and print its results; a failure of one does not hide the results of the next."""
    trouble: TaskTrouble | None = None
    for one in made:
        try:
            _await(queue, one, timeout_s, as_json, quiet)
        except TaskTrouble as found:
            trouble = found
    if trouble is not None:
        raise trouble


def _named(function: str | None) -> str:
    """The function that the command line names.

    Raises:
        click.UsageError: it names none.
    """
    if function is None:
        missing = "name a function, as in mymodule:work, or a task type with --type."
        raise click.UsageError(missing, click.get_current_context())
    return function


def print_id(handle: TaskHandle[Any] | BatchHandle[Any], task_id: str, as_json: bool, quiet: bool) -> None:
    """Print the id of what was submitted, alone in a line."""
    size = handle.size if isinstance(handle, BatchHandle) else 1
    if as_json:
        write_json({"id": task_id, "tasks": size})
        return
    write(task_id)
    if isinstance(handle, BatchHandle) and not quiet and sys.stderr.isatty():
        say(f"{counted(size, 'task')} in batch {task_id}")
