"""Ends what is left of a run when its driver is gone, however that went: ``python -m soak_rig.guard DIRECTORY``, with a
pipe from the driver as standard input."""

from __future__ import annotations

import contextlib
import os
import sys

import psutil

#: Name of the variable that marks every process of a run with its directory.
MARK = "DTQ_SOAK"


def marked(directory: str) -> list[psutil.Process]:
    """All processes of a run but this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == directory:
                found.append(process)
    return found


def main(directory: str) -> None:
    """Wait for the end of the driver; then end the rest."""
    sys.stdin.buffer.read()
    for process in marked(directory):
        with contextlib.suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    main(sys.argv[1])
