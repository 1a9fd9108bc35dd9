"""Runs several calls as one task.

Client, beside `functions`. These functions run in a slot, so this module imports nothing of the client: that would cost
each slot 80 ms at its first chunk, and 8 MiB for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def run_chunk(function: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> list[T]:
    """Call a function several times.

    Args:
        function: the function.
        calls: the arguments of each.

    Returns:
        The results.
    """
    return [function(*args) for args in calls]
