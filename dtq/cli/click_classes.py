"""dtq's own click classes: commands and groups whose help begins with examples and accepts ``-h``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

import click

#: A command line, and its effect.
Example = tuple[str, str]
#: Widest help, in columns.
_WIDTH: Final = 110
_HELP: Final = ("-h", "--help")
_SETTINGS: Final = {"help_option_names": list(_HELP), "max_content_width": _WIDTH}


class _Shown(click.Command):
    """A command whose help shows examples before the explanation."""

    examples: tuple[Example, ...]

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """``-h`` and ``--help``, in any context: click caches the names at the first look."""
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
        instead: by option name, the alternative to an option that similar commands have and this one has not.
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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The words. ``--`` ends the options, so it is no option's value: ``--tag -- ls`` lacks one."""
        valued = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and not (parameter.is_flag or parameter.count)
            for name in parameter.opts
        }
        for option, word in pairwise(args):
            if option == "--":
                break
            if word == "--" and option in valued:
                raise click.UsageError(f"option {option!r} needs a value before '--'.", ctx)
        return super().parse_args(ctx, args)


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
        """The words; without any, the help goes to standard error, as wrong use."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The named command; for a misspelt name, the error suggests the nearest one."""
        known = self.list_commands(ctx)
        if not ctx.resilient_parsing and args[0] not in known and not args[0].startswith("-"):
            near = get_close_matches(args[0], known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


def given_words(context: click.Context, command: click.Command) -> list[str]:
    """The words that pass a command's options on to another command.

    Args:
        context: the running command.
        command: the other one; only options that both have are passed on.

    Returns:
        The options with their values; without standard input (``-``), which can be read only once, and without options
        that hide their value (``--tls``: it is in the environment).
    """
    words: list[str] = []
    for parameter in command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not click.core.ParameterSource.COMMANDLINE or not parameter.expose_value:
            continue  # an option without a value acts by the environment, which the other command gets, too
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
