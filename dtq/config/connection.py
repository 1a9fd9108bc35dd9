"""The connection file: through it this user's commands find the coordinator on this machine.

A running coordinator writes its address, process and key's path (never the key) into the state directory, and removes
the file when it stops cleanly. A file whose process is gone is ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Final

from dtq.config.files import state_directory
from dtq.config.values import Address, format_address, host_here, parse_address
from dtq.errors import DtqError, StoreError
from dtq.records import dataclass

_NAME: Final = "coordinator.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A coordinator that runs on this machine.

    Attributes:
        address: its address for clients on this machine.
        pid: its process.
        version: its dtq version.
        authkey_file: the file with its key; None if the key came from elsewhere.
    """

    address: Address
    pid: int
    version: str
    authkey_file: Path | None = None


def connection_file() -> Path | None:
    """The path of the connection file; None without a home directory."""
    directory = state_directory()
    return None if directory is None else directory / _NAME


def write_connection(address: Address, *, version: str, authkey_file: Path | None = None) -> Path | None:
    """Tell this user's commands that this process is the coordinator; the last such process counts.

    Args:
        address: its address.
        version: its dtq version.
        authkey_file: the file with its key, if any.

    Returns:
        The file; None without a home directory.

    Raises:
        StoreError: the state directory cannot be written.
    """
    path = connection_file()
    if path is None:
        return None
    host, port = address
    note = {
        "address": format_address((host_here(host), port)),
        "pid": os.getpid(),
        "version": version,
        "authkey_file": None if authkey_file is None else str(authkey_file.absolute()),
    }
    draft = path.with_name(f"{_NAME}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(note, file)
        draft.replace(path)
    except OSError as error:
        raise StoreError(str(path), f"{path}: {error.strerror}") from error
    return path


def _read(path: Path) -> Connection | None:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        key = note["authkey_file"]
        return Connection(
            address=parse_address(str(note["address"])),
            pid=int(note["pid"]),
            version=str(note["version"]),
            authkey_file=None if key is None else Path(key),
        )
    except (OSError, ValueError, LookupError, TypeError, DtqError):
        return None  # an unreadable file is ignored


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # alive, as another user
        return True
    return True


def read_connection() -> Connection | None:
    """The coordinator that runs on this machine as this user; None if none is known or its process is gone."""
    path = connection_file()
    connection = None if path is None else _read(path)
    return connection if connection is not None and _lives(connection.pid) else None


def remove_connection() -> None:
    """Remove the file that this process wrote; another coordinator's file stays."""
    path = connection_file()
    connection = None if path is None else _read(path)
    if path is not None and connection is not None and connection.pid == os.getpid():
        with contextlib.suppress(OSError):  # a file whose process is gone is ignored anyway
            path.unlink()
