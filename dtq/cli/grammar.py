"""dtq's own click classes: commands and groups whose help begins with examples and accepts ``-h``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final

import click

#: Command line, and what it does.
Example = tuple[str, str]
#: Widest help, in columns.
_WIDTH: Final = 110
_HELP: Final = ("-h", "--help")
_SETTINGS: Final = {"help_option_names": list(_HELP), "max_content_width": _WIDTH}


class _Shown(click.Command):
    """A command whose help shows how it is used before it explains."""

    examples: tuple[Example, ...]

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """``-h`` and ``--help``, in whatever context the command is looked at first: click remembers the answer."""
        return list(_HELP)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, then the text."""
        if self.examples:
            with formatter.section("Examples"):
                longest = max(len(line) for line, _ in self.examples)
                beside = all(longest + len(meaning) + 6 <= formatter.width for _, meaning in self.examples)
                for line, meaning in self.examples:
                    # An example is never wrapped, so that it can be copied whole.
                    formatter.write(f"  {line:<{longest}}  # {meaning}\n" if beside else f"  # {meaning}\n  {line}\n")
        super().format_help_text(ctx, formatter)


class Command(_Shown):
    """A command.

    Args:
        examples: at least two, shown first in its help.
        instead: what to do instead of options that like commands have and this one has not, by their names.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[Example] = (),
        instead: Mapping[str, str] = MappingProxyType({}),
        **kwargs: Any,
    ) -> None:
        kwargs["context_settings"] = {**_SETTINGS, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.instead = instead


class Group(_Shown, click.Group):
    """A group of commands.

    Args:
        examples: at least two, shown first in its help.
    """

    command_class = Command

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **kwargs: Any) -> None:
        kwargs["context_settings"] = {**_SETTINGS, **(kwargs.get("context_settings") or {})}
        kwargs.setdefault("no_args_is_help", False)
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, then the options."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The words; where there is none, the help goes to standard error, as wrong use."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the words name; for a misspelt one, the sentence suggests what was meant."""
        known = self.list_commands(ctx)
        if not ctx.resilient_parsing and args[0] not in known and not args[0].startswith("-"):
            near = get_close_matches(args[0], known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


def given_words(context: click.Context, command: click.Command) -> list[str]:
    """The words with which another command gets what a command was given on its command line.

    Args:
        context: the command that runs.
        command: the other one; of its options those are taken that the first one has, too.

    Returns:
        Its options with their values; without what ``-`` names, since that can be read only once, and without those
        that tell nobody their value (``--tls``: it is in the environment).
    """
    words: list[str] = []
    for parameter in command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not click.core.ParameterSource.COMMANDLINE or not parameter.expose_value:
            continue  # what has no value acts by the environment, which the other command gets too
        given = context.params.get(parameter.name or "")
        option = max(parameter.opts, key=len)
        for value in given if isinstance(given, tuple) else (given,):
            if value is True:
                words.append(option)
            elif value is False and parameter.secondary_opts:
                words.append(max(parameter.secondary_opts, key=len))
            elif value is not None and value is not False and value != "-":
                words.append(f"{option}={value:f}" if isinstance(value, float) else f"{option}={value}")
    return words
