"""The state of `multiprocessing` that all processes of one program share, for those that a local cluster starts.

It is imported here where it is used: a program that has done without it does so until its cluster's processes start.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Any


def authentication_key() -> bytes:
    """The key that managers, listeners and proxies of this program use among themselves."""
    from multiprocessing import current_process

    return bytes(current_process().authkey)


def tracker_pipe() -> int:
    """The descriptor of the pipe to this program's resource tracker; -1 where it has none."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    if module is None:
        return -1
    tracker: Any = module._resource_tracker
    with tracker._lock:
        if tracker._fd is not None and tracker._pid is None and _is_broken(tracker._fd):
            os.close(tracker._fd)  # that of a cluster that has ended
            tracker._fd = None
        return -1 if tracker._fd is None else int(tracker._fd)


def _is_broken(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


def use_tracker(pipe: int) -> None:
    """Have this program use a resource tracker of somebody else's.

    Args:
        pipe: the descriptor of the pipe to it; belongs to this from now on.
    """
    from multiprocessing import resource_tracker

    tracker: Any = resource_tracker._resource_tracker
    with tracker._lock:
        if tracker._fd is None:
            tracker._fd = pipe
        else:  # one that another thread has started meanwhile
            os.close(pipe)
