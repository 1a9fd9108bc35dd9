"""The command line: parse, call, print. Top floor; one file for each group, imported when its command is named."""

import sys


def main() -> None:
    """Run the command of this process's arguments, and end the process with its exit code."""
    try:
        from dtq.cli.app import run  # so that importing this package costs nothing

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:  # before the command began, or after it had ended
        sys.exit(130)
