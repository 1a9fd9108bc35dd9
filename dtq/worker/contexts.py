"""A context of its own for each task: no task sees another's context variables.

Worker, in the slot's process. A task's context is a copy of the slot's, which has the values set when modules were
imported. If the decimal module was used then, the copy has decimal's context, too: a mutable object, so each task needs
a copy of that as well.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from typing import Any, Final

#: The name of the variable in which decimal keeps its context.
_DECIMAL: Final = "decimal_context"


def new_contexts() -> Callable[[], contextvars.Context]:
    """A factory of tasks' contexts, from the slot's present one."""
    decimals = [value for variable, value in contextvars.copy_context().items() if variable.name == _DECIMAL]
    if not decimals:
        return contextvars.copy_context
    right = decimals[0].copy()
    module: Any = sys.modules["decimal"]

    def new() -> contextvars.Context:
        context = contextvars.copy_context()
        context.run(module.setcontext, right.copy())
        return context

    return new
