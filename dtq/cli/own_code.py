"""Functions of a file of one's own, and of the current directory: their source travels with the task."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from dtq.cli.calls import function_name
from dtq.cli.failures import complain
from dtq.client.import_path import find_modules
from dtq.client.source_bundles import Files, hidden_names, of_directory, of_file
from dtq.errors import InvalidValue


class OwnCode(NamedTuple):
    """A function to submit.

    Attributes:
        name: ``module:qualname``.
        files: the source that travels with it; None if the workers have it.
    """

    name: str
    files: Files | None


def own_code(text: str, here: bool, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> OwnCode:
    """The function that a command line names.

    Args:
        text: ``module:function``, or ``path/to/script.py:function``.
        here: whether the source files of the current directory travel with it.
        include: patterns of further files that do.
        exclude: patterns of files and directories that do not.

    Raises:
        InvalidValue: there is no such function or file.
        BadFile, BundleTooLarge: the files cannot travel.
    """
    path, _, qualname = text.rpartition(":")
    if path.endswith(".py"):
        return _of_file(path, qualname, of_directory(".", include, exclude) if here else None)
    name = function_name(text)
    if not here:
        return OwnCode(name, None)
    files = of_directory(".", include, exclude)
    _check(name, files)
    return OwnCode(name, files)


def _of_file(path: str, qualname: str, around: Files | None) -> OwnCode:
    if not os.path.isfile(path):
        raise InvalidValue("a function", f"{path}:{qualname}"[:200], f"there is no file {path}")
    directory, file = os.path.split(os.path.abspath(path))
    module = file.removesuffix(".py")
    if around is not None:
        directory = os.getcwd()
        below = os.path.relpath(path)
        if below.startswith(os.pardir):
            raise InvalidValue("a function", path[:200], "with --here the file is in this directory, or below it")
        module = below.removesuffix(".py").replace(os.sep, ".")
    if not all(part.isidentifier() for part in module.split(".")):
        raise InvalidValue("a function", path[:200], f"{module} is no name of a module; rename the file")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise InvalidValue("a function", path[:200], f"the standard library has a module {module}; rename the file")
    name = function_name(f"{module}:{qualname}")
    files = of_file(path) if around is None else around
    _check(name, files)
    find_modules((directory,))
    return OwnCode(name, files)


def _check(name: str, files: Files) -> None:
    """Make sure that a bundle has the function, as far as its source tells.

    Raises:
        InvalidValue: it has not.
    """
    module, _, qualname = name.partition(":")
    path = module.replace(".", "/")
    sources = [content for file, content in files if file in (f"{path}.py", f"{path}/__init__.py")]
    if not sources:
        raise InvalidValue("a function", name[:200], f"there is no {path}.py in this directory, whose files travel")
    names = _names(sources[0])
    if names and not names & {qualname.partition(".")[0], "*", "__getattr__"}:
        raise InvalidValue("a function", name[:200], f"{path}.py has no {qualname}")
    _warn(files)


def _names(source: bytes) -> set[str]:
    """Every name that a source defines anywhere, ``*`` for all names of another module; none if it is malformed."""
    import ast  # most commands do not need it

    try:
        tree = ast.parse(source)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return set()  # the workers will report its fault
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _warn(files: Files) -> None:
    hidden = hidden_names(files)
    if hidden:
        complain(
            f"workers do not find {', '.join(f'{name}.py' for name in hidden)}: the standard library has modules of "
            "that name, which come first."
        )
