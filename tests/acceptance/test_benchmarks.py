"""Every benchmark runs: one short round of each, in bounded time, and ended by a signal with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests import prefork
from tests.cluster import clean_environment

BENCHMARKS: Final = Path(__file__).parents[2] / "scripts" / "bench"
#: Seconds that one may take; it is five, on a quiet machine.
LIMIT_S: Final = 100.0

#: Ends children by SIGTERM right after their fork; prints how they ended.
FORKS: Final = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from rig.options import command_line
command_line("", [])
for _ in range(30):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        signal.pause()
    os.kill(child, signal.SIGTERM)
    print(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("name", sorted(path.name for path in BENCHMARKS.glob("*.py")))
def test_benchmark_runs(name: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        ends = file.fileno(), file.fileno()
        process = prefork.start(["--quick"], BENCHMARKS, clean_environment(tmp_path), *ends, str(BENCHMARKS / name))
    try:
        code = process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        pytest.fail(f"{name} takes longer than {LIMIT_S:g} s:\n{log.read_text()}")
    assert code == 0, log.read_text()
    assert log.read_text().strip(), "it said nothing"


def test_children_of_a_benchmark_are_ended_by_a_signal_at_any_moment() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(BENCHMARKS)], capture_output=True, text=True, check=True, timeout=LIMIT_S
    )
    assert done.stdout.split() == [str(int(signal.SIGTERM))] * 30
