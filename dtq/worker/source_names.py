"""Whether the source of a module defines a name.

Worker, in the slot's process, for `sources`, which imports this on demand: it reads sources, and most processes never
do.
"""

from __future__ import annotations

import ast
from contextlib import suppress


def defines(path: str, name: str) -> bool:
    """Whether a file of code defines a name."""
    if not path.endswith(".py"):
        return False
    with suppress(OSError, ValueError, SyntaxError), open(path, "rb") as file:
        return any(name in _names(node) for node in ast.parse(file.read()).body)
    return False


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store)}
