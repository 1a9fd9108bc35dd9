"""The soak: a real cluster, producers with ledgers, a seeded schedule of faults, and a checker that compares what was
promised with what happened. Prints figures; ends with 1 on any violation, and says what it knows about it.

    scripts/soak --minutes 10            # a seed of its own, which it prints
    scripts/soak --seconds 40 --seed 7   # the same schedule every time
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

from soak_rig.play import play
from soak_rig.report import Report


def main(words: list[str]) -> int:
    """Run a soak; the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=(__doc__ or "").split("\n\n")[0])
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--minutes", type=float, help="how long faults happen")
    how_long.add_argument("--seconds", type=float, help="the same, in seconds (default: 40)")
    parser.add_argument("--seed", type=int, help="of the schedule and of what producers submit (default: drawn)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep ledgers, logs and the store there")
    parser.add_argument("--quiet", action="store_true", help="do not say what is done to the cluster")
    options = parser.parse_args(words)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    seconds = options.minutes * 60 if options.minutes else options.seconds or 40.0
    logging.basicConfig(level=logging.WARNING if options.quiet else logging.INFO, format="%(asctime)s %(message)s")
    directory = options.keep or Path(tempfile.mkdtemp(prefix="dtq-soak-"))
    report = play(directory, seed, seconds)
    show(report, as_json=options.json)
    if options.keep is None and not report.violations:
        shutil.rmtree(directory)
    else:
        sys.stderr.write(f"ledgers, logs and store are in {directory}\n")
    return 1 if report.violations else 0


def show(report: Report, *, as_json: bool) -> None:
    """Print the figures."""
    print(json.dumps(report.figures(), indent=2) if as_json else report.text(), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
