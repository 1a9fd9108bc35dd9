"""The entry point of a local cluster's two processes: it ends its process when the program that started it is gone.

Client, started by `processes` as ``python -m dtq.client.leash``, imported by nobody. Whichever way the program ended,
this process ends at once: the program's end of a pipe closes, or (where a child of the program still holds that pipe)
the kernel reports the program's end. The program itself is not asked: it may be busy, or killed.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import os
import select
import shutil
import signal
import sys
import threading
from typing import Final, NoReturn

from dtq.client.handover import receive, receive_settings

#: How long the log may become, in bytes, before it begins anew: it is read only when something has gone wrong.
LOG_BYTES: Final = 1 << 20


class Log(io.TextIOWrapper):
    """A file of text that never grows far beyond a limit.

    Args:
        path: the file; what it held is lost.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - it lives as long as this
        super().__init__(self._file, encoding="utf-8", errors="replace", line_buffering=True)

    def write(self, text: str, /) -> int:
        """See `io.TextIOWrapper.write`."""
        if self._file.tell() > LOG_BYTES:
            self._file.seek(0)
            self._file.truncate()
        return super().write(text)


def hold(parent: int, directory: str) -> None:
    """Wait for the end of the program, then end this process.

    Args:
        parent: the program's process.
        directory: removed then; empty for none.
    """
    poll = select.poll()
    poll.register(0, select.POLLIN)
    with contextlib.suppress(AttributeError, OSError):  # where the kernel has no such descriptors, there is the pipe
        poll.register(os.pidfd_open(parent), select.POLLIN)
    while os.getppid() == parent:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if ready != [0] or not os.read(0, 1 << 12):
            break
    if directory:
        shutil.rmtree(directory, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


def end(code: int) -> NoReturn:
    """End this process without taking the interpreter apart: that takes 50 ms, and the program waits for it.

    Args:
        code: the exit code.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main(arguments: list[str]) -> NoReturn:
    """Entry point.

    Args:
        arguments: the program's process, the descriptor for the readiness line, the log's path, a directory to remove
            when the program is gone (or an empty text), and the module of what runs here: its ``begin`` is called with
            the settings that are known at first, its ``run`` with all of them. The settings come through a pipe.
    """
    parent, ready, log, directory, part = arguments
    try:
        with open(0, "rb", buffering=0, closefd=False) as program:
            receive(program)
            settings = receive_settings(program)
            module = importlib.import_module(part)
            module.begin(settings)
            settings |= receive_settings(program)
    except EOFError:
        hold(int(parent), directory)  # the program is gone: this ends the process
    threading.Thread(target=hold, args=(int(parent), directory), name="dtq-leash", daemon=True).start()
    # What tasks print goes where the program's own output goes; what dtq says here does not.
    sys.stdout = os.fdopen(int(ready), "w", encoding="utf-8")
    sys.stderr = Log(log)
    end(module.run(settings))


if __name__ == "__main__":
    main(sys.argv[1:])
