"""The keyring: keys with fewer rights than the authkey, each with a name and roles.

Floor 1. The authkey, the first key, may do everything. Beside its file lies the keyring, a JSON file of mode 0600 that
``dtq key`` writes and the coordinator reads at its start and on request. The handshake proves a shared secret, so the
file has the secrets in clear: a reader of the file can use every key in it, as with the authkey.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Final

from dtq.config.authkey import MIN_KEY
from dtq.errors import InvalidValue, KeyUnusable
from dtq.records import dataclass, field

#: Form of a key's name, which appears in logs and sentences.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: Name of the first key.
FIRST: Final = "authkey"
_RANDOM: Final = 32
#: Largest keyring in bytes: a larger file is some other file.
_MAX_FILE: Final = 4 << 20


class KeyRole(Enum):
    """A key's purpose. A key has one role or several; the first key has all."""

    SUBMIT = "submit"
    WORK = "work"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key.

    Attributes:
        name: its name for people.
        secret: the secret; shown nowhere.
        roles: its roles.
        made_at: when it was made, seconds of the Unix epoch; 0 if unknown.
    """

    name: str
    secret: bytes = field(repr=False)
    roles: frozenset[KeyRole] = frozenset(KeyRole)
    made_at: float = 0.0

    @property
    def role_names(self) -> str:
        """Its roles in their usual order, for sentences."""
        return ", ".join(role.value for role in KeyRole if role in self.roles)


def keyring_file(origin: str) -> Path | None:
    """The keyring that belongs to an authkey.

    Args:
        origin: the authkey's origin, as `load_authkey` returns it.

    Returns:
        The file beside the authkey's; None if the authkey has no file.
    """
    path = Path(origin)
    return path.with_name(f"{path.name}.keys").absolute() if path.is_file() else None


def read_keyring(path: Path) -> tuple[Key, ...]:
    """The keys of a keyring; none without a file.

    Raises:
        KeyUnusable: other users can read the file, or it is no keyring.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeyUnusable(str(path), "it is not a regular file")
            if status.st_mode & 0o077:
                raise KeyUnusable(str(path), f"others can read it; run chmod 600 {path}")
            raw = file.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise KeyUnusable(str(path), f"{error.strerror}") from error
    try:
        keys = tuple(_key(entry) for entry in json.loads(raw)["keys"])
    except (ValueError, LookupError, TypeError):
        # Neither the file's content nor a traceback with it may get into a log.
        raise KeyUnusable(str(path), "it is not a keyring as `dtq key` writes it") from None
    if len({key.name for key in keys}) < len(keys):
        raise KeyUnusable(str(path), "two of its keys have the same name")
    return keys


def _key(entry: dict[str, Any]) -> Key:
    secret = str(entry["secret"]).encode("ascii")
    if len(secret) < MIN_KEY:
        raise ValueError
    return Key(
        name=check_key_name(entry["name"]),
        secret=secret,
        roles=frozenset(KeyRole(role) for role in entry["roles"]),
        made_at=float(entry["made_at"]),
    )


def check_key_name(name: str) -> str:
    """The name, if valid for a key.

    Raises:
        InvalidValue: it is not.
    """
    if not _NAME.fullmatch(name) or name == FIRST:
        raise InvalidValue("the name of a key", name[:80], f"it is a word of up to 64 characters, and not {FIRST!r}")
    return name


def add_key(path: Path, name: str, roles: Iterable[KeyRole]) -> Key:
    """Make a key, and put it into a keyring.

    Args:
        path: the keyring; made if missing.
        name: the key's name.
        roles: its roles; at least one.

    Returns:
        The key.

    Raises:
        InvalidValue: the name is taken or invalid, or there is no role.
        KeyUnusable: the keyring cannot be read or written.
    """
    made = Key(
        name=check_key_name(name),
        secret=secrets.token_hex(_RANDOM).encode(),
        roles=frozenset(roles),
        made_at=time.time(),
    )
    if not made.roles:
        raise InvalidValue("the roles of a key", "", f"it has some of {', '.join(role.value for role in KeyRole)}")

    def add(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        if any(key.name == name for key in keys):
            raise InvalidValue("the name of a key", name, f"there is one in {path}; revoke it first")
        return (*keys, made)

    _change(path, add)
    return made


def remove_key(path: Path, name: str) -> Key:
    """Take a key out of a keyring.

    Returns:
        The removed key.

    Raises:
        InvalidValue: no key has this name.
        KeyUnusable: the keyring cannot be read or written.
    """
    removed: list[Key] = []

    def remove(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        removed.extend(key for key in keys if key.name == name)
        if not removed:
            known = ", ".join(key.name for key in keys) or "no key"
            raise InvalidValue("the name of a key", name[:80], f"{path} has {known}")
        return tuple(key for key in keys if key.name != name)

    _change(path, remove)
    return removed[0]


def write_secret(path: Path, key: Key) -> None:
    """Write a key's secret to a new file, mode 0600, as `--authkey-file` reads it.

    Raises:
        KeyUnusable: the file exists already, or cannot be written.
    """
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.secret + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise KeyUnusable(str(path), "there is such a file already; name another one with --out") from None
    except OSError as error:
        raise KeyUnusable(str(path), f"it cannot be made ({error.strerror})") from error


def _change(path: Path, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
    with _alone(path):
        keys = change(read_keyring(path))
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        document = {
            "keys": [
                {
                    "name": key.name,
                    "roles": [role.value for role in KeyRole if role in key.roles],
                    "made_at": key.made_at,
                    "secret": key.secret.decode("ascii"),
                }
                for key in keys
            ]
        }
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
                json.dump(document, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise KeyUnusable(str(path), f"it cannot be written ({error.strerror})") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from changing the keyring: its directory is locked meanwhile."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KeyUnusable(str(path), f"it cannot be written ({error.strerror})") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
