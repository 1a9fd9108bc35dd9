"""``dtq completion``: click's own completion script for the user's shell."""

from __future__ import annotations

import click

from dtq.cli.app import root
from dtq.cli.click_classes import Command
from dtq.cli.output import write


@click.command(
    cls=Command,
    examples=(
        ('eval "$(dtq completion bash)"', "in ~/.bashrc"),
        ("dtq completion fish > ~/.config/fish/completions/dtq.fish", "once"),
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes dtq's commands and options."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click knows all of the choices above
    script = kind(root, {}, "dtq", "_DTQ_COMPLETE").source()
    # If dtq has no completions, as behind --each=, bash completes names of files, as it does by itself.
    write(script.replace("complete -o nosort ", "complete -o nosort -o bashdefault -o default "))
