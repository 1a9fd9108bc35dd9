"""Waits for several handles at once.

Client, above the handles. Each handle announces its own end, into one queue: no thread, call or poll for each.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from dtq.client.batch_handle import BatchHandle
from dtq.client.current import looked, waiting
from dtq.client.handle import TaskHandle
from dtq.errors import InvalidValue, WaitTimeout

H = TypeVar("H", bound=TaskHandle[Any] | BatchHandle[Any])

#: Conditions of `wait`; the names of `concurrent.futures`.
ReturnWhen = Literal["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"]
WHEN: Final = ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION")


class Waited(NamedTuple, Generic[H]):
    """The result of `wait`.

    Attributes:
        done: the handles that have ended.
        not_done: the others.
    """

    done: set[H]
    not_done: set[H]


def as_completed(handles: Iterable[H], timeout: float | None = None) -> Iterator[H]:
    """The handles in the order in which they end.

    Args:
        handles: of tasks or batches.
        timeout: how long the last may take, in seconds; None for ever.

    Raises:
        WaitTimeout: some had not ended by then.
    """
    wanted = dict.fromkeys(handles)
    left = len(wanted)
    for handle in _endings(wanted, timeout):
        yield handle
        left -= 1
    if left:
        raise WaitTimeout(f"{left} of {len(wanted)} handles", timeout)


def wait(handles: Iterable[H], timeout: float | None = None, return_when: ReturnWhen = "ALL_COMPLETED") -> Waited[H]:
    """Wait for handles.

    Args:
        handles: of tasks or batches.
        timeout: how long at most, in seconds; None for ever.
        return_when: ``"ALL_COMPLETED"``, ``"FIRST_COMPLETED"``, or ``"FIRST_EXCEPTION"``: until one (of tasks) has
            ended without a result, or all have ended.

    Returns:
        The handles that have ended, and those that have not.
    """
    if return_when not in WHEN:
        raise InvalidValue("return_when", return_when, f"it is one of {', '.join(WHEN)}")
    wanted = set(handles)
    done: set[H] = set()
    for handle in _endings(wanted, timeout):
        done.add(handle)
        if return_when == "FIRST_COMPLETED" or (return_when == "FIRST_EXCEPTION" and handle.failed()):
            break
    return Waited(done, wanted - done)


def _endings(handles: Collection[H], timeout: float | None) -> Iterator[H]:
    """The handles as they end, until all have or the time runs out."""
    deadline = None if timeout is None else time.monotonic() + timeout
    ended: SimpleQueue[H] = SimpleQueue()
    open_ = {handle: partial(ended.put, handle) for handle in handles}
    try:
        # Handles that have ended already come first, even if others end meanwhile.
        for handle in sorted(open_, key=_not_done):
            put = open_[handle]
            if not handle.on_end(put):
                put()
        while open_:
            handle = _next(ended, deadline)
            del open_[handle]
            yield handle
    except Empty:
        return
    finally:
        for handle, put in open_.items():
            handle.forget(put)


def _next(ended: SimpleQueue[H], deadline: float | None) -> H:
    if not ended.empty():
        return ended.get()
    with waiting():
        try:
            return ended.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except Empty:
            looked()
            raise


def _not_done(handle: TaskHandle[Any] | BatchHandle[Any]) -> bool:
    return not handle.done()
