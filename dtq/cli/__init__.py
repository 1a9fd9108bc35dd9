"""The command line: parse, call, print. Top floor; one file for each group, imported when its command is named."""

import sys


def main() -> None:
    """Run the command that the process was started with, and end the process with its exit code."""
    try:
        from dtq.cli.app import run  # so that importing this package costs nothing

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:  # before the command was reached, or after it had ended
        sys.exit(130)
