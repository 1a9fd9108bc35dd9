"""Ledgers: what somebody did, in a file that outlives him. One write a line, appended: a kill leaves whole lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Ledger:
    """A file of JSON objects, one a line."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, what: str, **fields: Any) -> None:
        """Append one record; it is in the kernel's hands when this returns."""
        line = json.dumps({"what": what, **fields}, separators=(",", ":")).encode() + b"\n"
        written = os.write(self._file, line)
        assert written == len(line), "a ledger could not be written whole"


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a ledger. Only the last line may be torn: whoever wrote it was killed."""
    lines = path.read_bytes().split(b"\n")
    for line in lines[:-1]:
        yield json.loads(line)
