"""The end of a local cluster's processes: like that of the commands, without the command line.

Daemon, below `local_coordinator` and `local_worker`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from dtq.errors import DtqError
from dtq.model.text import printable


def exit_code(run: Callable[[], int]) -> int:
    """Run a function; an error of dtq's becomes a line on standard error, which is the process's log.

    Args:
        run: the function.

    Returns:
        The exit code.
    """
    try:
        return run()
    except DtqError as error:
        sentence = f"{error.sentence} {error.hint if error.args else ''}"
        print(f"dtq: {printable(' '.join(sentence.split()))}", file=sys.stderr)
        return error.exit_code
