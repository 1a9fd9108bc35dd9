"""Tests that are coroutines: run in a loop of their own, under a deadline."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")

#: How long one test may take, in seconds; far above what it takes.
TEST_S = 60.0


def looped(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test of a coroutine."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(_in_time(test(*args, **kwargs)))

    return run


async def _in_time(test: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(TEST_S):
        await test
