"""Some seconds of the soak: faults of every kind against real processes, and nothing lost, doubled, wrong or stuck."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "scripts" / "soak.py"
SEED = 3870
#: How long faults happen, in seconds; draining, the last restart and the checks take as long again on a slow machine.
SECONDS = 12


@pytest.mark.timeout(300)
def test_soak_finds_no_promise_broken(tmp_path: Path) -> None:
    # Given a schedule of faults that is the same every time
    words = ["--seconds", str(SECONDS), "--seed", str(SEED), "--json", "--quiet", "--keep", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DTQ_")}
    # When a cluster suffers it, is healed, drained, and asked how everything ended
    ran = subprocess.run(
        [sys.executable, str(SOAK), *words], capture_output=True, text=True, timeout=280, check=False, env=environment
    )
    # Then every promise was kept, and there was something to keep
    assert ran.stdout, ran.stderr
    figures = json.loads(ran.stdout)
    assert figures["evidence"] == [], "\n".join(figures["evidence"])
    assert ran.returncode == 0, ran.stderr
    assert figures["faults"] >= SECONDS / 2
    assert figures["tasks acknowledged"] >= 500
    assert figures["executions"] >= 500
