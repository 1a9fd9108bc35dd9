"""One of the two processes of ``dtq up``: a command that must not outlive the process that started it.

Daemon, started by `up` as ``python -m dtq.daemon.part``, imported by nobody. When that process is gone, however it
ended, its end of a pipe closes; then this process ends as after the loss of its terminal, and is killed if it does not.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

#: Time to give running tasks back, in seconds: the other part is ending, too, so a worker may have no coordinator for
#: them, and all acknowledged data of a coordinator is on disk already.
_GIVE_BACK_S: Final = 2.0


def end_with_parent(descriptor: int) -> None:
    """Wait until the other end of a pipe is closed, then end this process.

    Args:
        descriptor: this end of it.
    """
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGHUP)  # the first SIGTERM would let tasks finish, for as long as they need
    time.sleep(_GIVE_BACK_S)
    os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Entry point.

    Args:
        arguments: the descriptor of the pipe; then the words of the command.
    """
    descriptor, *words = arguments
    os.set_inheritable(int(descriptor), False)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `up` may ignore it (nohup), and sends it for an end at once
    threading.Thread(target=end_with_parent, args=(int(descriptor),), name="dtq-parent", daemon=True).start()
    sys.argv[1:] = words
    runpy.run_module("dtq", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
