"""The authkey: the places where it is looked for, its checks, and its creation.

A key never travels on a command line, in a log or in the connection file. It is the content of a file or variable
without surrounding white space. The first of these that exists decides: ``--authkey-file`` (``-`` is standard input),
``DTQ_AUTHKEY_FILE``, ``DTQ_AUTHKEY``, ``authkey_file`` of a configuration file, ``dtq_authkey`` in systemd's
credentials directory, ``/run/secrets/dtq_authkey``, the key of the coordinator that runs on this machine, and last the
file that the first coordinator of this user made.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dtq.config.connection import read_connection
from dtq.config.files import config_directory
from dtq.config.settings import configured_authkey_file
from dtq.config.values import Address
from dtq.errors import KeyMissing, KeyUnusable

#: Fewest bytes of a key. A key of this length that was chosen at random cannot be guessed.
MIN_KEY: Final = 16
#: Most bytes of a key file: a larger one is some other file.
MAX_KEY: Final = 4096
#: Random bytes of a key that dtq makes.
_RANDOM: Final = 32
_SECRET: Final = "dtq_authkey"
#: A container runtime's directory for secrets. The runtime decides who can read them; the modes of the files say
#: nothing there.
_SECRETS: Final = Path("/run/secrets")

#: Keys that can be read only once (standard input) or must not be left in place (the variable), by their origin.
_taken: Final[dict[str, bytes]] = {}
_VARIABLE: Final = "DTQ_AUTHKEY"
_STDIN: Final = "standard input"


def default_authkey_file() -> Path | None:
    """The file in which the first coordinator of this user makes the key; None without a home directory."""
    directory = config_directory()
    return None if directory is None else directory / "authkey"


def _credentials() -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(directory) if os.path.isabs(directory) else None


def _checked(raw: bytes, origin: str) -> bytes:
    key = raw.strip()
    if len(raw) > MAX_KEY:
        raise KeyUnusable(origin, f"it has more than {MAX_KEY} bytes, so it is some other file")
    if len(key) < MIN_KEY:
        raise KeyUnusable(origin, f"its key has {len(key)} bytes, fewer than {MIN_KEY}")
    return key


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise KeyUnusable(str(path), "it is not a regular file")
        managed = [place for place in (_SECRETS, _credentials()) if place is not None]
        if status.st_mode & 0o077 and not any(path.is_relative_to(place) for place in managed):
            raise KeyUnusable(str(path), f"others can read it; run chmod 600 {path}")
        with path.open("rb") as file:
            return _checked(file.read(MAX_KEY + 1), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise KeyMissing(str(path)) from None
    except OSError as error:
        raise KeyUnusable(str(path), f"{error.strerror}") from error


def _take(named: str | None) -> tuple[bytes, str] | None:
    """The key of standard input, if the flag names that, or of DTQ_AUTHKEY.

    The variable leaves the environment whether it is used or not, so that no task ever sees it.
    """
    value = os.environ.pop(_VARIABLE, None)
    if value:
        _taken[_VARIABLE] = value.encode()
    if named == "-":
        if _STDIN not in _taken:
            _taken[_STDIN] = sys.stdin.buffer.read(MAX_KEY + 1)
        return _checked(_taken[_STDIN], _STDIN), _STDIN
    if named or _VARIABLE not in _taken:
        return None
    return _checked(_taken[_VARIABLE], _VARIABLE), _VARIABLE


def _explicit(path: str | Path | None) -> tuple[bytes, str] | None:
    """The key that the user named, by flag, variable or configuration."""
    named = str(path) if path is not None else os.environ.get("DTQ_AUTHKEY_FILE")
    taken = _take(named)
    if taken is not None:
        return taken
    file = Path(named).expanduser() if named else configured_authkey_file()
    return None if file is None else (_read(file), str(file))


def load_authkey(path: str | Path | None = None, *, addresses: Sequence[Address] = ()) -> tuple[bytes, str]:
    """The key to authenticate with.

    Args:
        path: the value of ``--authkey-file``; ``-`` reads standard input.
        addresses: the coordinator's; if that of the coordinator on this machine is among them, its key file is used.

    Returns:
        The key, and its origin.

    Raises:
        KeyMissing: no key was found.
        KeyUnusable: the file is open to others, no regular file, or its key is too short.
    """
    found = _explicit(path)
    if found is not None:
        return found
    for directory in (_credentials(), _SECRETS):
        if directory is not None and (directory / _SECRET).exists():
            return _read(directory / _SECRET), str(directory / _SECRET)
    local = read_connection()
    if local is not None and local.authkey_file is not None and local.address in addresses:
        return _read(local.authkey_file), str(local.authkey_file)
    default = default_authkey_file()
    if default is None:
        raise KeyMissing("a home directory to look for it in")
    return _read(default), str(default)


def make_authkey(path: Path) -> bytes:
    """Make a key file, mode 0600, unless it exists; the first of several makers wins, and all return that key.

    Args:
        path: the file; directories above it are made, mode 0700.

    Returns:
        The file's key.

    Raises:
        KeyUnusable: the file cannot be written, or exists and cannot be used.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_RANDOM) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # the whole file appears at once, or another process was first
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    except OSError as error:
        raise KeyUnusable(
            str(path), f"it cannot be made ({error.strerror}); name another place with --authkey-file"
        ) from error
    return _read(path)


def coordinator_authkey(path: str | Path | None = None) -> tuple[bytes, str, bool]:
    """The key a coordinator starts with; made if none exists yet and the user named no other place.

    A file named with ``--authkey-file`` is made too. One named by a variable or a configuration file is not: there, a
    missing file is a deployment that went wrong, and a fresh key would hide it.

    Args:
        path: the value of ``--authkey-file``; ``-`` reads standard input.

    Returns:
        The key, its origin, and whether it was made just now.

    Raises:
        KeyMissing: the place that a variable or a configuration file names has no key.
        KeyUnusable: the key cannot be used, or cannot be made.
    """
    if path is not None and str(path) != "-":
        file = Path(path).expanduser()
        made = not file.exists()
        return (make_authkey(file) if made else load_authkey(file)[0]), str(file), made
    default = default_authkey_file()
    try:
        key, origin = load_authkey(path)
    except KeyMissing as missing:
        if default is None or missing.args != (str(default),):
            raise
        return make_authkey(default), str(default), True
    return key, origin, False
