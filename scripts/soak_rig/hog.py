"""Keeps the disk or the processors busy for a while: ``python -m soak_rig.hog disk|processor SECONDS DIRECTORY``."""

from __future__ import annotations

import os
import sys
import tempfile
import time

#: How much is written before it is synced, in bytes.
_PIECE = 8 << 20


def main(words: list[str]) -> None:
    """Be busy."""
    what, seconds, directory = words
    until = time.monotonic() + float(seconds)
    with tempfile.TemporaryFile(dir=directory) as file:
        while time.monotonic() < until:
            if what == "disk":
                file.seek(0)
                file.write(os.urandom(_PIECE))
                os.fsync(file.fileno())


if __name__ == "__main__":
    main(sys.argv[1:])
