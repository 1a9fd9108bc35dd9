"""Check of what processes logged: no traceback, nothing that dtq itself calls an error, but for what kills explain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from soak_rig.verdict import Violation

#: What may stand in a log as an error: a slot can be killed while it starts.
_ALLOWED: Final = ("died at its start",)


def check_logs(directory: Path) -> Iterator[Violation]:
    """Every log."""
    for path in sorted(directory.iterdir()):
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            wrong = "Traceback (most recent call last)" in line or " ERROR " in line or " CRITICAL " in line
            if wrong and not any(text in line for text in _ALLOWED):
                around = "\n    ".join(lines[max(0, number - 1) : number + 25])
                yield Violation("error", 0.0, f"{path.name}, line {number + 1}:\n    {around}")
                break
