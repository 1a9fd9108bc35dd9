"""A small disk of its own for a test: a tmpfs that only its own processes see, and that goes away with them.

It needs root, or a kernel that lets users have namespaces of their own; elsewhere tests that need it are skipped.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cluster import until

_FLAGS: Final = ["-m"] if os.geteuid() == 0 else ["-rm"]


class SmallDisk:
    """A mounted disk.

    Args:
        place: the directory that it is mounted on, for processes started with `within`.
        pid: of a process that keeps it mounted.
    """

    def __init__(self, place: Path, pid: int) -> None:
        self.place = place
        self._seen = Path(f"/proc/{pid}/root{place}")
        users = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        #: Words before those of a command that is to see the disk.
        self.within = ["nsenter", "-t", str(pid), "-m", *users, "--"]

    def fill(self) -> None:
        """Leave no byte free, as another program would."""
        with (self._seen / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (2**16, 2**12):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        assert self.free == 0

    def make_room(self) -> None:
        """Undo that."""
        (self._seen / "ballast").unlink()

    def size(self, name: str) -> int:
        """Bytes of a file on it."""
        return (self._seen / name).stat().st_size

    @property
    def free(self) -> int:
        """Bytes that are free."""
        disk = os.statvfs(self._seen)
        return disk.f_bavail * disk.f_frsize


@contextlib.contextmanager
def small_disk(place: Path, mebibytes: int) -> Iterator[SmallDisk]:
    """A disk of so many MiB, mounted on a directory that is made for it."""
    place.mkdir()
    script = f'mount -t tmpfs -o size={mebibytes}m tmpfs "$0" && echo mounted && exec cat'
    keeper = subprocess.Popen(
        ["unshare", *_FLAGS, "sh", "-c", script, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert keeper.stdout is not None
        if keeper.stdout.readline() != b"mounted\n":
            _, said = keeper.communicate()
            pytest.skip(f"this machine lets us mount no disk of our own: {said.decode().strip()}")
        disk = SmallDisk(place, keeper.pid)
        until(lambda: os.access(disk._seen, os.W_OK), "the disk to be seen")
        yield disk
    finally:
        keeper.kill()
        keeper.communicate()
