"""The reference pages are what the commands and the docstrings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REFERENCE = Path(__file__).parents[2] / "scripts" / "reference.py"


def test_reference_pages_are_those_of_the_present_commands_and_names() -> None:
    checked = subprocess.run([sys.executable, REFERENCE, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
