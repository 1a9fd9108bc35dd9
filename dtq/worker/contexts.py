"""A context of its own for each task: what one sets in a context variable, no other finds.

Worker, in the slot's process. A task's context is a copy of that of the slot, which has what was set when modules were
imported. Decimal's context is in there, too, where something has used it then: an object that changes, so that each
task needs a copy of that as well.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from typing import Any, Final

#: The name of the variable in which decimal keeps its context.
_DECIMAL: Final = "decimal_context"


def new_contexts() -> Callable[[], contextvars.Context]:
    """What makes a task's context, as the slot's is now."""
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
