"""The search path for a user's modules.

Client, used by a worker's slots and by the command line, so that a name means the same module to both: a command reads
the terms of the very module that runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable


def find_modules(paths: Iterable[str] = ()) -> None:
    """Make a user's modules importable: those of the given directories before all others, those of the working
    directory after the standard library, which they must not hide, and before installed packages.

    Args:
        paths: the directories.
    """
    standard = os.path.dirname(os.__file__)
    last = max((at for at, path in enumerate(sys.path) if path in (standard, f"{standard}/lib-dynload")), default=-1)
    with contextlib.suppress(OSError):  # it may be gone
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(last + 1, here)
    sys.path[:0] = [path for path in paths if path not in sys.path]
