"""What a disk may hold after the power failed: everything synced, and any part of what was written since.

The model: a sync of a file makes its contents durable; a sync of the directory, or (but for values) of the file itself,
makes a file's name durable. Writes that were not synced reach the disk or not, each sector of 512 bytes for itself, in
any order; so do new names and removed ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.faults.shim import Noted

_SECTOR: Final = 512
#: What the path of the directory of values has behind that of the store.
_VALUES: Final = ".values"


class _File:
    """One file: what is on the disk, and what has been done to it since its last sync."""

    def __init__(self, before: bytes | None) -> None:
        self.there = before is not None
        self.durable = bytearray(before or b"")
        self.named = self.there
        self.since: list[Noted] = []

    def sync(self) -> None:
        for call in self.since:
            self._apply(call.place, call.data if call.kind == "W" else None)
        self.since.clear()
        self.named = self.there

    def cut(self, draw: random.Random) -> bytes | None:
        """What of it is on the disk; None where it has no name there."""
        if not self.named and draw.random() < 0.5:
            return None
        likely = draw.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for call in self.since:
            if call.kind == "T":
                if draw.random() < likely:
                    self._apply(call.place, None)
                continue
            for place, sector in _sectors(call):
                if draw.random() < likely:
                    self._apply(place, sector)
        return bytes(self.durable)

    def _apply(self, place: int, data: bytes | None) -> None:
        if data is None:
            self.durable = self.durable[:place].ljust(place, b"\0")
            return
        self.durable = self.durable.ljust(place, b"\0")
        self.durable[place : place + len(data)] = data


def _sectors(call: Noted) -> list[tuple[int, bytes]]:
    """A write, cut where the disk's sectors end."""
    pieces = []
    place, data = call.place, call.data
    while data:
        size = _SECTOR - place % _SECTOR
        pieces.append((place, data[:size]))
        place, data = place + size, data[size:]
    return pieces


class _Directory:
    """The directory of values: its files come, go and are renamed."""

    def __init__(self) -> None:
        self._now: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._since: list[tuple[str, _File | None]] = []

    def on(self, call: Noted) -> None:
        name = Path(call.path).name
        file = self._now.get(name)
        if call.path.endswith(f"db{_VALUES}"):
            if call.kind == "S":
                self._durable = dict(self._now)
                self._since.clear()
        elif call.kind == "O":
            if file is None:
                self._set(name, _File(b""))
        elif call.kind == "U":
            self._set(name, None)
        elif call.kind == "R":
            assert file is not None
            self._set(Path(call.data.decode()).name, file)
            self._set(name, None)
        elif call.kind == "S":
            assert file is not None
            file.sync()
        else:
            assert file is not None
            file.since.append(call)

    def _set(self, name: str, file: _File | None) -> None:
        self._since.append((name, file))
        if file is None:
            self._now.pop(name, None)
        else:
            self._now[name] = file

    def cut(self, draw: random.Random) -> dict[str, bytes]:
        """What is on the disk."""
        likely = draw.choice([0.0, 0.5, 1.0])
        for name, file in self._since:
            if draw.random() < likely:
                if file is None:
                    self._durable.pop(name, None)
                else:
                    self._durable[name] = file
        return {name: file.cut(draw) or b"" for name, file in self._durable.items()}


def _note(file: _File, call: Noted) -> None:
    if call.kind == "O":
        file.there = True
    elif call.kind == "S":
        file.sync()
    elif call.kind in "WT":
        file.since.append(call)
    else:
        raise AssertionError(f"{call.kind} of {call.path} is not expected here")


def after_power_cut(calls: Sequence[Noted], store: Path, target: Path, draw: random.Random) -> None:
    """Make the files of a store as they may be found after a power cut.

    Args:
        calls: what its process had done; it had begun with the files that have ``.before`` behind their names, and
            without values.
        store: path of the store that this was done to.
        target: path of the store to be made, in a directory that is not there yet.
        draw: decides.
    """
    files = {suffix: _File(Path(f"{store}{suffix}.before").read_bytes()) for suffix in ("", ".mark")}
    values = _Directory()
    for call in calls:
        suffix = call.path.removeprefix(str(store))
        if call.kind == "D":
            for file in files.values():
                file.named = file.there
        elif suffix.startswith(_VALUES):
            values.on(call)
        elif call.kind != "M":
            _note(files.setdefault(suffix, _File(None)), call)
    target.parent.mkdir(parents=True)
    Path(f"{target}{_VALUES}").mkdir()
    for suffix, file in files.items():
        left = None if suffix in ("-shm", ".lock", ".reserve") else file.cut(draw)
        if left is not None:
            Path(f"{target}{suffix}").write_bytes(left)
    for name, data in values.cut(draw).items():
        (Path(f"{target}{_VALUES}") / name).write_bytes(data)
