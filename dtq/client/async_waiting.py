"""Waits for several awaitable handles at once.

Client, above the handles, beside `waiting`. Each handle costs one entry in the registry, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

from dtq.client import current
from dtq.client.async_handle import AsyncBatchHandle, AsyncTaskHandle
from dtq.client.loops import LoopCore
from dtq.client.waiting import WHEN, ReturnWhen
from dtq.errors import InvalidValue, WaitTimeout

AH = TypeVar("AH", bound=AsyncTaskHandle[Any] | AsyncBatchHandle[Any])


async def as_completed(core: LoopCore, handles: Iterable[AH], timeout: float | None) -> AsyncGenerator[AH, None]:
    """The handles in the order in which they end.

    Raises:
        WaitTimeout: some had not ended in time.
    """
    wanted = set(handles)
    left = len(wanted)
    async for handle in _endings(core, wanted, timeout):
        yield handle
        left -= 1
    if left:
        raise WaitTimeout(f"{left} of {len(wanted)} handles", timeout)


async def wait(
    core: LoopCore, handles: Iterable[AH], timeout: float | None, return_when: ReturnWhen
) -> tuple[set[AH], set[AH]]:
    """The handles that have ended, and those that have not; see `waiting.wait`."""
    if return_when not in WHEN:
        raise InvalidValue("return_when", return_when, f"it is one of {', '.join(WHEN)}")
    wanted = set(handles)
    done: set[AH] = set()
    endings = _endings(core, wanted, timeout)
    try:
        async for handle in endings:
            done.add(handle)
            if return_when == "FIRST_COMPLETED" or (return_when == "FIRST_EXCEPTION" and handle.failed()):
                break
    finally:
        await endings.aclose()
    return done, wanted - done


async def _endings(core: LoopCore, handles: set[AH], timeout: float | None) -> AsyncGenerator[AH, None]:
    """The handles as they end, until all have or the time runs out."""
    bridge = core.bridge
    ended: asyncio.Queue[AH | None] = asyncio.Queue()
    timer = None if timeout is None else bridge.loop.call_later(max(0.0, timeout), ended.put_nowait, None)
    waiting = {handle: partial(bridge.post, partial(ended.put_nowait, handle)) for handle in handles}
    try:
        for handle, wake in waiting.items():
            if not await handle.on_end(wake):
                ended.put_nowait(handle)
        while waiting:
            with current.waiting() if ended.empty() else nullcontext():
                found = None
                try:
                    found = await ended.get()
                finally:
                    if found is None:
                        current.looked()
            if found is None:
                return
            del waiting[found]
            yield found
    finally:
        if timer is not None:
            timer.cancel()
        for handle, wake in waiting.items():
            handle.forget(wake)
