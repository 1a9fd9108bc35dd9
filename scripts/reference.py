"""Writes docs/commands.md and docs/python.md from the commands and the public names themselves.

``scripts/reference.py`` writes them. With ``--check`` it names the pages that are not as it would write them.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

import dtq
from dtq.cli.app import root
from dtq.client.conditions import ConditionOptions
from dtq.client.terms import TaskOptions

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
#: Columns of the commands' help.
WIDTH: Final = 110
#: In the order of the page: those that people use first come first; the others follow by name.
FIRST: Final = (
    *("Client", "TaskHandle", "BatchHandle", "AsyncClient", "AsyncTaskHandle", "AsyncBatchHandle", "Executor"),
    *("TaskQueue", "TaskStatus", "Worker", "task", "current_task", "CurrentTask", "progress", "around_task", "wait"),
    *("as_completed", "Reference", "State", "TaskOptions", "ConditionOptions"),
)
#: Parts of a docstring that are lists.
SECTIONS: Final = ("Args", "Attributes", "Raises")


# -- commands -----------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command, its help as the command prints it."""
    parts = [
        "# Commands\n\nThe help of every command, as `--help` prints it. Written by `scripts/reference.py`.\n",
        _help("dtq", click.Context(root, info_name="dtq", terminal_width=WIDTH, max_content_width=WIDTH)),
    ]
    for name in root.list_commands(click.Context(root)):
        parts.extend(_commands(name, click.Context(root, info_name="dtq"), root))
    return "\n".join(parts)


def _commands(name: str, parent: click.Context, group: click.Group) -> Iterator[str]:
    command = group.get_command(parent, name)
    assert command is not None
    context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)
    yield _help(context.command_path, context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            yield from _commands(below, context, command)


def _help(path: str, context: click.Context) -> str:
    lines = [line.rstrip() for line in context.get_help().splitlines()]
    return f"## {path}\n\n```text\n" + "\n".join(lines) + "\n```\n"


# -- Python -------------------------------------------------------------------------------------------------------


def python_page() -> str:
    """Every public name, with its docstring."""
    things = {name: getattr(dtq, name) for name in dtq.__all__}
    things |= {"TaskOptions": TaskOptions, "ConditionOptions": ConditionOptions}
    errors = sorted(name for name, thing in things.items() if _is_error(thing))
    rest = sorted(name for name in things if name not in FIRST and name not in errors)
    parts = [
        "# Python\n\nEvery public name of `dtq`, and what it does. Written by `scripts/reference.py`.\n",
        *(_thing(name, things[name]) for name in (*FIRST, *rest)),
        "## Errors\n\nEach is a `DtqError`, with a stable `code`.\n",
        *(_error(things[name]) for name in errors),
    ]
    return "\n".join(parts)


def _is_error(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, BaseException)


def _error(error: type[Any]) -> str:
    code = getattr(error, "code", "")
    summary = (inspect.getdoc(error) or "").split("\n\n")[0].replace("\n", " ")
    return f"* **{error.__name__}**" + (f" (`{code}`)" if code else "") + f": {_plain(summary)}"


def _thing(name: str, thing: Any) -> str:
    if not inspect.isclass(thing):
        return f"## {name}\n\n{_signature(name, thing)}\n{_described(thing)}"
    if issubclass(thing, dict):  # a dictionary of keywords
        return f"## {name}\n\n{_described(thing)}"
    parts = [f"## {name}\n", _signature(name, thing) if _is_made(thing) else "", _described(thing)]
    for method, function in _methods(thing):
        if isinstance(function, property):
            parts.append(f"### {name}.{method}\n\n{_described(function)}")
        else:
            parts.append(f"### {name}.{method}()\n\n{_signature(method, function)}\n{_described(function)}")
    return "\n".join(part for part in parts if part)


def _is_made(kind: type[Any]) -> bool:
    return not kind.__doc__ or "Args:" in kind.__doc__


def _methods(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class and of its bases in dtq, those of the class first."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if not base.__module__.startswith("dtq."):
            continue
        for name, member in vars(base).items():
            if name.startswith("_") or name in seen:
                continue
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if (inspect.isfunction(function) or isinstance(function, property)) and function.__doc__:
                seen.add(name)
                yield name, function


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    found = [_parameter(p) for p in signature.parameters.values() if p.name != "self"]
    kinds = [p.kind for p in signature.parameters.values() if p.name != "self"]
    only = [i for i, kind in enumerate(kinds) if kind is inspect.Parameter.KEYWORD_ONLY]
    if only and inspect.Parameter.VAR_POSITIONAL not in kinds:
        found.insert(only[0], "*")
    if inspect.Parameter.POSITIONAL_ONLY in kinds:
        found.insert(len(kinds) - kinds[::-1].index(inspect.Parameter.POSITIONAL_ONLY), "/")
    made = (
        ""
        if inspect.isclass(function) or signature.return_annotation is inspect.Signature.empty
        else (f" -> {signature.return_annotation}".replace("'", ""))
    )
    line = f"{name}({', '.join(found)}){made}"
    if len(line) > WIDTH:
        line = f"{name}(\n    " + ",\n    ".join(found) + f",\n){made}"
    return f"```python\n{_without_places(line)}\n```\n"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    kind = "" if parameter.annotation is inspect.Parameter.empty else f": {parameter.annotation}"
    default = "" if parameter.default is inspect.Parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}{kind}{default}"


def _without_places(text: str) -> str:
    """A signature without addresses of objects in memory, and with the word for keywords that are not given."""
    return re.sub(r"<(\w[\w.]*)[^>]* at 0x[0-9a-f]+>", r"\1", text)


def _described(thing: Any) -> str:
    """A docstring as Markdown: its lists of arguments, attributes and errors are lists."""
    lines: list[str] = []
    text = re.sub(r"(?m)^( {4}[\w*, ]+,)\n {8}([\w*, ]+:)", r"\1 \2", inspect.getdoc(thing) or "")
    for line in text.splitlines():
        if (section := line.rstrip(":")) in (*SECTIONS, "Returns", "Yields") and line.endswith(":"):
            lines += [f"*{section}*", ""]
        elif item := re.match(r" {4}([\w*]+(?:, [\w*]+)*): (.*)", line):
            lines.append(f"* `{item[1]}`: {_plain(item[2])}")
        elif line.startswith(" " * 4):
            lines.append(("  " if lines and lines[-1].startswith(("*", "  ")) else "") + _plain(line.strip()))
        else:
            lines.append(_plain(line))
    return "\n".join(lines).strip() + "\n"


def _plain(text: str) -> str:
    return text.replace("``", "`")


PAGES: Final = {"commands.md": commands_page, "python.md": python_page}


def main() -> int:
    os.environ.pop("COLUMNS", None)
    checked = "--check" in sys.argv[1:]
    status = 0
    for name, made in PAGES.items():
        page, text = DOCS / name, made()
        if not checked:
            page.write_text(text, encoding="utf-8")
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            print(f"docs/{name} is not what the commands and docstrings say: run scripts/reference.py")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
