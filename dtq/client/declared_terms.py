"""Finds the terms that ``@task`` gives to a function whose name alone is known here.

Client, beside `functions`. A submission by name (`dtq submit shop:order`, `Client.submit("shop:order")`) gets the same
terms as a submission of the function itself. A module that this process has imported is asked. Otherwise its source is
read, if it can be found, and none of it is run as long as the arguments of ``@task`` are plain values; if they are not,
a process of its own imports the module, for a bounded time. A module that cannot be found here gives no terms: the
submitter's machine may lack it.
"""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import Any, Final, NamedTuple

from dtq.client.by_value import sentence
from dtq.client.tasks import note_of, registered
from dtq.client.terms import NO_TERMS, UNSET, Terms
from dtq.errors import DtqError
from dtq.model.options import Function, FunctionKind
from dtq.wording import duration

log = logging.getLogger("dtq.client")

#: Longest time to import a module for its terms, in seconds.
IMPORT_S: Final = 10.0
#: Most modules through which an imported function is followed.
_HOPS: Final = 8
#: Modules of ``task``.
_HOMES: Final = ("dtq", "dtq.client.tasks")


class _NotPlain(Exception):
    """The arguments of ``@task`` cannot be read without running the module."""


def declared_terms(function: Function) -> Terms:
    """The terms of ``@task``, as far as they can be known here.

    Args:
        function: the reference; terms of a function by value are not looked up.
    """
    if function.kind is FunctionKind.REGISTERED:
        return _noted(registered(function.name))
    if function.kind is not FunctionKind.IMPORT:
        return NO_TERMS
    module, _, qualname = function.name.partition(":")
    if module in sys.modules:
        return _noted(_attribute(sys.modules[module], qualname))
    try:
        return _read(module, qualname.split("."))
    except _NotPlain:
        return _imported(function.name)


def _noted(found: Any) -> Terms:
    note = note_of(found)
    return NO_TERMS if note is None else note.terms


def _attribute(found: Any, qualname: str) -> Any:
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


# -- reading the source ---------------------------------------------------------------------------------------------


class _Origin(NamedTuple):
    """Origin of a name in a module: a module, and the name there ("" for the module itself)."""

    module: str
    name: str


def _read(module: str, path: list[str], hops: int = _HOPS) -> Terms:
    """The terms of a module's function, from its source.

    Raises:
        _NotPlain: the module must be run for that.
    """
    source = _source(module)
    if not source or not hops:
        return NO_TERMS
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return NO_TERMS  # the workers will report its fault
    origins = dict(_imports(tree, module))
    found = _definition(tree.body, path)
    if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return _of_decorators(found.decorator_list, origins, source)
    origin = origins.get(path[0])
    if origin is not None and origin.name:
        return _read(origin.module, [origin.name, *path[1:]], hops - 1)
    if "dtq" in source and _is_assigned(tree.body, path[0]):
        raise _NotPlain
    return NO_TERMS


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class, those in branches too."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from _statements(getattr(node, part, []))
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                yield from _statements(handler.body)


def _definition(body: list[ast.stmt], path: list[str]) -> ast.stmt | None:
    found: ast.stmt | None = None
    for part in path:
        named = [
            node
            for node in _statements(body)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == part
        ]
        if not named:
            return None
        found = named[-1]
        body = named[-1].body
    return found


def _is_assigned(body: list[ast.stmt], name: str) -> bool:
    """Whether a module assigns a name, possibly by a call."""
    targets: list[ast.expr] = []
    for node in _statements(body):
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    return any(isinstance(part, ast.Name) and part.id == name for target in targets for part in ast.walk(target))


def _imports(tree: ast.Module, module: str) -> Iterator[tuple[str, _Origin]]:
    """The names that a module imports."""
    for node in _statements(tree.body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], _Origin(alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            home = _absolute(node, module)
            for alias in node.names:
                yield alias.asname or alias.name, _Origin(home, alias.name)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    spec = _spec(module)
    package = module if spec is not None and spec.submodule_search_locations is not None else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return ".".join(filter(None, (package, node.module)))


def _of_decorators(decorators: list[ast.expr], origins: dict[str, _Origin], source: str) -> Terms:
    unknown = False
    for decorator in decorators:
        call = decorator if isinstance(decorator, ast.Call) else None
        if _is_task(call.func if call is not None else decorator, origins):
            return NO_TERMS if call is None else _plain_terms(call)
        unknown = unknown or _may_be_task(decorator, origins, source)
    if unknown:
        raise _NotPlain
    return NO_TERMS


def _is_task(name: ast.expr, origins: dict[str, _Origin]) -> bool:
    if isinstance(name, ast.Name):
        origin = origins.get(name.id)
        return origin is not None and origin.module in _HOMES and origin.name == "task"
    if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name):
        origin = origins.get(name.value.id)
        return origin is not None and origin.module in _HOMES and not origin.name and name.attr == "task"
    return False


def _may_be_task(decorator: ast.expr, origins: dict[str, _Origin], source: str) -> bool:
    """Whether a decorator may use ``@task`` in its turn: its module imports dtq."""
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    while isinstance(name, ast.Attribute):
        name = name.value
    origin = origins.get(name.id) if isinstance(name, ast.Name) else None
    return "dtq" in (source if origin is None else _source(origin.module))


def _plain_terms(call: ast.Call) -> Terms:
    try:
        given = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise _NotPlain from None
    if call.args or "None" in given:
        raise _NotPlain
    given.pop("name", None)
    try:
        terms = Terms(**given).frozen()
        terms.options()
    except (TypeError, DtqError):
        return NO_TERMS  # the workers will report its fault
    return terms


def _spec(module: str) -> ModuleSpec | None:
    """A module's spec; nothing is imported for it, not even its packages."""
    spec: ModuleSpec | None = None
    path: Any = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        spec = next(filter(None, (_asked(finder, name, path) for finder in sys.meta_path)), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations or ()
    return spec


def _asked(finder: Any, name: str, path: Any) -> ModuleSpec | None:
    try:
        found: ModuleSpec | None = finder.find_spec(name, path)
    except Exception:  # noqa: BLE001 - a finder is anybody's code
        return None
    return found


def _source(module: str) -> str:
    """A module's source; empty if it has none."""
    spec = _spec(module)
    read = getattr(spec.loader, "get_source", None) if spec is not None else None
    if read is None:
        return ""
    try:
        return read(module) or ""
    except (OSError, ImportError, SyntaxError, UnicodeDecodeError):
        return ""


# -- importing it in a process of its own -----------------------------------------------------------------------------


def _imported(name: str) -> Terms:
    """The terms as a fresh process finds them; on failure none, and a warning."""
    code = "import sys; from dtq.client.declared_terms import tell; tell(*sys.argv[1:])"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, name, json.dumps(sys.path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=IMPORT_S,
            check=False,
        )
        said = json.loads(done.stdout.splitlines()[-1])
        given, why = said["given"], said["why"]
    except subprocess.TimeoutExpired:
        given, why = {}, f"importing its module took more than {duration(IMPORT_S)}"
    except (OSError, ValueError, LookupError, TypeError):
        given, why = {}, "the process that imports its module ended"
    if why:
        log.warning(
            "%s: the terms of its @task are not known here, so those given and the defaults hold (%s)", name, why
        )
    return Terms(**given).frozen()


def tell(name: str, path: str) -> None:
    """Print the terms of a function; run in the process that was started for it."""
    sys.path[:] = json.loads(path)
    module, _, qualname = name.partition(":")
    given: dict[str, Any] = {}
    why = ""
    try:
        terms = _noted(_attribute(import_module(module), qualname))
        given = {key: value for key, value in terms._asdict().items() if value is not UNSET}
    except BaseException as error:  # noqa: BLE001 - the edge to user code, at import
        why = sentence(error)
    print(f"\n{json.dumps({'given': given, 'why': why}, default=_seconds)}", flush=True)


def _seconds(value: Any) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(f"{type(value).__name__} is none of the terms")
