"""Options that several commands share, and the click types of their values.

Every command takes its own connection and output options, so ``dtq status --json`` works as written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dtq.cli.calls import parse_moment
from dtq.config import LOG_FORMATS, LOG_LEVELS
from dtq.config.values import check_queue, check_resource, parse_address, parse_duration, parse_size
from dtq.errors import DtqError, InvalidValue
from dtq.model.ids import parse_named
from dtq.model.states import State

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on, dtq takes 8.1
    """A value that one of dtq's own parsers reads; the parser's sentence is click's.

    Args:
        name: of the kind of value, for people.
        parse: reads it.
        known: the kind of names of the coordinator's that it is one of (`cli.candidates`), for the shell to complete.
    """

    def __init__(self, name: str, parse: Callable[[str], Any], known: str = "") -> None:
        self.name = name
        self._parse = parse
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, parsed."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except DtqError as error:
            # An error of dtq's tree rather than click's: its code and exit code are the same everywhere.
            raise error from None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The coordinator's names of this kind."""
        from click.shell_completion import CompletionItem

        from dtq.cli.candidates import candidates

        found = candidates(self._known, ctx, incomplete) if self._known else []
        return [CompletionItem(name, help=about or None) for name, about in found]


class _Place(click.ParamType):  # type: ignore[type-arg]  # as above
    """A text for which the shell completes names of files or directories; the command checks whether they exist."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self._kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leaves the completion to the shell."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=self._kind)]


def _address(text: str) -> str:
    parse_address(text)
    return text


def _unique(text: str) -> str | float:
    if text in UNIQUE_WORDS:
        return text
    try:
        return parse_duration(text)
    except InvalidValue:
        raise InvalidValue("unique", text[:80], "write pending, unfinished, kept, or a duration such as 90s") from None


def _task_id(text: str) -> str:
    parse_named(text)
    return text.strip()


def parse_amount(text: str) -> tuple[str, int]:
    """A resource and the amount that a task needs, from ``gpu=1`` or ``memory=4GB``.

    Raises:
        InvalidValue: the text is malformed.
    """
    name, equals, amount = text.partition("=")
    if not equals:
        raise InvalidValue("a resource", text[:80], "write NAME=AMOUNT, as in gpu=1 or memory=4GB")
    return check_resource(name.strip()), parse_size(amount, f"how much of {name.strip()}")


AMOUNT: Final = _Parsed("resource", parse_amount)
MOMENT: Final = _Parsed("moment", parse_moment)
DURATION: Final = _Parsed("duration", parse_duration)
SIZE: Final = _Parsed("size", parse_size)
ADDRESS: Final = _Parsed("host:port", _address)
FILE: Final = _Place("file", "file")
DIRECTORY: Final = _Place("directory", "dir")
#: A text that may be a file's name.
TEXT: Final = _Place("text", "file")
ID: Final = _Parsed("id", _task_id, known="id")
QUEUE: Final = _Parsed("queue", check_queue, known="queue")
#: Names of limits, schedules and workers: texts that the command itself checks.
LIMIT: Final = _Parsed("limit", str, known="limit")
SCHEDULE: Final = _Parsed("schedule", str, known="schedule")
WORKER: Final = _Parsed("worker", str, known="worker")
#: How long a key stands for an earlier submission.
UNIQUE_WORDS: Final = ("pending", "unfinished", "kept")
UNIQUE: Final = _Parsed("unique", _unique)


def stacked(*decorators: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """One decorator of several, applied as if they stood above a function in this order."""

    def apply(function: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


by_reference = click.option(
    "--by-reference/--no-by-reference",
    default=None,
    help="Let large arguments and results pass as files on one machine, or not.  [DTQ_BY_REFERENCE; default: yes]",
)
authkey_file = click.option(
    "--authkey-file",
    metavar="FILE",
    type=FILE,
    help="File with the key (- for standard input).  [DTQ_AUTHKEY_FILE]",
)


def _note_tls(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.environ["DTQ_TLS"] = os.path.abspath(
            value
        )  # a flag wins over the variable, here and in the processes started here


#: Certificates. All code that connects or listens calls `dtq.config.configured_tls`, so no command has to pass them on.
tls = click.option(
    "--tls",
    metavar="DIR",
    type=DIRECTORY,
    expose_value=False,
    callback=_note_tls,
    help="Directory with ca.pem, cert.pem and key.pem: use TLS with other machines.  [DTQ_TLS]",
)


def _log_setting(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def note(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            os.environ[name] = value  # as for `--tls`

    return note


def _note_log_file(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.environ["DTQ_LOG_FILE"] = os.path.abspath(value)


#: The log of a process of dtq's own, and of those that it starts.
logging_options = stacked(
    click.option(
        "--log-level",
        metavar="LEVEL",
        type=click.Choice(LOG_LEVELS, case_sensitive=False),
        expose_value=False,
        callback=_log_setting("DTQ_LOG_LEVEL"),
        help="Lowest level to log: debug, info, warning, error or critical.  [DTQ_LOG_LEVEL; default: info]",
    ),
    click.option(
        "--log-file",
        metavar="FILE",
        type=FILE,
        expose_value=False,
        callback=_note_log_file,
        help="Append the log to this file; to a new one of this name once it was moved away."
        "  [DTQ_LOG_FILE; default: standard error]",
    ),
    click.option(
        "--log-format",
        metavar="FORMAT",
        type=click.Choice(LOG_FORMATS),
        expose_value=False,
        callback=_log_setting("DTQ_LOG_FORMAT"),
        help="Log text, or a JSON object a line.  [DTQ_LOG_FORMAT; default: text]",
    ),
)

keys_file = click.option(
    "--keys-file",
    metavar="FILE",
    type=FILE,
    help="File with further keys, of `dtq key`.  [DTQ_KEYS_FILE; default: beside the key's file]",
)

#: The coordinator's address, and the key.
connecting = stacked(
    click.option(
        "--connect",
        "addresses",
        metavar="HOST:PORT",
        type=ADDRESS,
        multiple=True,
        help="Address of the coordinator; repeatable for further addresses.  [DTQ_ADDRESS]",
    ),
    authkey_file,
    tls,
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Print less: ids or nothing.")
limit = click.option(
    "--limit", metavar="N", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Show at most N."
)
arguments = click.option("--arguments/--no-arguments", default=True, help="Whether to show the tasks' arguments.")
queue_filter = click.option("--queue", metavar="NAME", type=QUEUE, help="Only of this queue.")
function_filter = click.option("--function", metavar="GLOB", help="Only of functions that match, as in 'mymodule:*'.")

label_filter = click.option("--label", metavar="TEXT", help="Only of this label.")
batch_filter = click.option("--batch", metavar="N", type=click.IntRange(1, 10**15 - 1), help="Only of this batch.")

outcome_filter = click.option(
    "--outcome",
    type=click.Choice(["failed", "timed-out", "crashed"]),
    help="Only if the last attempt ended so.",
)
exception_filter = click.option(
    "--exception", metavar="GLOB", help="Only if the last exception matches, as in '*TimeoutError'."
)

#: Filters of dead letters.
dead_letter_filters = stacked(
    function_filter,
    exception_filter,
    outcome_filter,
    queue_filter,
    label_filter,
    batch_filter,
    click.option("--older-than", metavar="DURATION", type=DURATION, help="Only those that died at least so long ago."),
)
#: Filters of tasks.
task_filters = stacked(
    click.option("--state", type=click.Choice([state.value for state in State]), help="Only in this state."),
    queue_filter,
    function_filter,
    label_filter,
    batch_filter,
    click.option(
        "--older-than", metavar="DURATION", type=DURATION, help="Only those in their state for at least so long."
    ),
    exception_filter,
    outcome_filter,
)
everything = click.option("--all", "everything", is_flag=True, help="Every task that matches the filters.")

#: Whether the command asks for confirmation.
asking = stacked(
    click.option("-y", "--yes", is_flag=True, help="Do not ask."),
    click.option("--no-input", is_flag=True, help="Never ask; without --yes that is a no."),
)
