"""Every setting of this machine with its value and origin: for people who ask why a value is what it is.

The values are read as `settings` reads them; a key is named by its place, and never shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dtq.config.authkey import default_authkey_file, load_authkey
from dtq.config.connection import read_connection
from dtq.config.cores import usable_cores
from dtq.config.files import SYSTEM_FILE, ConfigFile, config_directory, config_files, state_directory
from dtq.config.settings import (
    ALL_KEYS,
    DEFAULT_HOST,
    DEFAULT_PORT,
    KNOWN_KEYS,
    WAITING_A_SLOT,
    CoordinatorSettings,
    LogSettings,
    WorkerSettings,
    field_of,
    find,
)
from dtq.config.values import Address, format_address, format_size
from dtq.errors import DtqError, KeyMissing
from dtq.records import dataclass
from dtq.wording import duration

#: Origin of a value that nobody has set.
DEFAULT: Final = "default"
#: Settings that are spans of time, and those that are sizes.
_SPANS: Final = frozenset({"lease", "keep_results", "grace"})
_SIZES: Final = frozenset({"max_message", "max_value", "max_memory_per_slot", "keep_output", "value_cache"})
#: Flags of the settings that every command has.
_FLAGS: Final = {"connect": "--connect", "authkey_file": "--authkey-file", "tls": "--tls"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        table: its table in a configuration file; empty for the top.
        key: its key there.
        value: its value; None if it has none.
        origin: the flag, the variable or the file that it comes from, or ``default``.
        trouble: why it cannot be used; empty if it can.
    """

    table: str
    key: str
    value: Any
    origin: str
    trouble: str = ""

    @property
    def name(self) -> str:
        """Its name: ``connect``, ``coordinator.lease``."""
        return f"{self.table}.{self.key}" if self.table else self.key


def places() -> list[tuple[Path, bool]]:
    """The configuration files, nearest first, and whether each is there and used."""
    used = {file.path for file in config_files(KNOWN_KEYS)}
    here, user = Path("dtq.toml").absolute(), config_directory()
    near = [here, here.with_name("pyproject.toml")]
    wanted = [path for path in near if path in used] or [here]
    wanted += [] if user is None else [user / "config.toml"]
    return [(path, path in used) for path in (*wanted, SYSTEM_FILE)]


def all_settings(flags: Mapping[str, Any]) -> list[Setting]:
    """Every setting, in the order of the tables.

    Args:
        flags: the command line's values of ``connect``, ``authkey_file`` and ``tls``; None or empty if not given.

    Raises:
        BadConfig: a configuration file cannot be read, or has an unknown key.
    """
    files = config_files(KNOWN_KEYS)
    found: list[Setting] = []
    for table, keys in ALL_KEYS.items():
        for key in keys:
            if (table, key) == ("", "authkey_file"):
                found.append(_authkey(flags.get(key), found[0], files))
            else:
                found.append(_setting(table, key, flags if not table else {}, files))
    return found


def _setting(table: str, key: str, flags: Mapping[str, Any], files: Sequence[ConfigFile]) -> Setting:
    try:
        value, origin = find(table, key, flags, files) or _default(table, key)
    except DtqError as error:
        return Setting(table=table, key=key, value=None, origin="", trouble=str(error))
    return Setting(table=table, key=key, value=value, origin=_FLAGS.get(key, origin) if origin == "flag" else origin)


def _default(table: str, key: str) -> tuple[Any, str]:
    """The value of a setting that is not set, and the reason for it."""
    if (table, key) == ("", "connect"):
        local = read_connection()
        if local is not None:
            return (local.address,), f"the coordinator of this user (pid {local.pid})"
        return ((DEFAULT_HOST, DEFAULT_PORT),), DEFAULT
    if (table, key) == ("coordinator", "db"):
        directory = state_directory()
        return None if directory is None else directory / "dtq.db", DEFAULT
    if table == "worker" and key in ("slots", "max_waiting", "name"):
        cores = usable_cores()
        of_machine = {"slots": cores, "max_waiting": WAITING_A_SLOT * cores, "name": f"{os.uname().nodename}-PID"}
        return of_machine[key], DEFAULT
    if (table, key) == ("", "by_reference"):
        return True, DEFAULT
    unset: dict[str, Any] = {
        "": LogSettings(),
        "coordinator": CoordinatorSettings(),
        "worker": WorkerSettings(addresses=(), slots=1, name=""),
    }
    return getattr(unset[table], field_of(key), None), DEFAULT


def _authkey(flag: Any, connect: Setting, files: Sequence[ConfigFile]) -> Setting:
    """The place of the key; the key itself is never shown."""
    addresses: tuple[Address, ...] = connect.value or ()
    has_variable = bool(os.environ.get("DTQ_AUTHKEY"))
    try:
        origin = load_authkey(flag, addresses=addresses)[1]
        trouble = ""
    except DtqError as error:
        origin = str(error.args[0])
        trouble = f"there is no key in {origin}" if isinstance(error, KeyMissing) else str(error)
        if isinstance(error, KeyMissing) and origin == str(default_authkey_file()):
            return Setting(table="", key="authkey_file", value=f"{origin} (not there yet)", origin=DEFAULT)
    named = find("", "authkey_file", {}, files)
    local = read_connection()
    sources = {
        str(flag): "--authkey-file",
        str(Path(os.environ.get("DTQ_AUTHKEY_FILE", "") or "-").expanduser()): "DTQ_AUTHKEY_FILE",
        "DTQ_AUTHKEY": "DTQ_AUTHKEY" if has_variable else "",
        str(named[0]) if named else "": named[1] if named else "",
        str(local.authkey_file) if local else "": "the coordinator of this user",
        str(default_authkey_file()): DEFAULT,
    }
    source = sources.get(origin) or "a secret of this machine"
    return Setting(table="", key="authkey_file", value=origin, origin=source, trouble=trouble)


def shown(value: Any, key: str = "") -> str:
    """A value as text, for people: spans of time and sizes with their units."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return duration(value) if key in _SPANS else format_size(int(value)) if key in _SIZES else f"{value:,}"
    if isinstance(value, tuple):
        return ", ".join(format_address(each) if isinstance(each, tuple) else shown(each) for each in value)
    return str(value)
