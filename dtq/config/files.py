"""Directories of dtq's files, and the configuration files.

A configuration file is TOML: ``connect`` and ``authkey_file`` at the top, a table ``[coordinator]``, a table
``[worker]``. The first file that has a key decides: ``./dtq.toml`` (or ``[tool.dtq]`` of ``./pyproject.toml``), then
``$XDG_CONFIG_HOME/dtq/config.toml``, then ``/etc/dtq/config.toml``. An unknown key is an error, since a silently
ignored setting is worse than none.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from dtq.errors import BadConfig
from dtq.records import dataclass

#: The settings of the whole machine, after the user's.
SYSTEM_FILE: Final = Path("/etc/dtq/config.toml")
_TABLES: Final = ("coordinator", "worker")


def _xdg(variable: str, fallback: str) -> Path | None:
    given = os.environ.get(variable, "")
    if os.path.isabs(given):
        return Path(given) / "dtq"
    home = os.path.expanduser("~")
    # A container may run as a user without a home: an error only if a file is needed there.
    return Path(home) / fallback / "dtq" if os.path.isabs(home) else None


def config_directory() -> Path | None:
    """``$XDG_CONFIG_HOME/dtq``, for the configuration and the generated key; None without a home directory."""
    return _xdg("XDG_CONFIG_HOME", ".config")


def state_directory() -> Path | None:
    """``$XDG_STATE_HOME/dtq``, for the store and the connection file; None without a home directory."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def cache_directory() -> Path | None:
    """``$XDG_CACHE_HOME/dtq``, for what can be made anew; None without a home directory."""
    return _xdg("XDG_CACHE_HOME", ".cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """One configuration file, its keys checked, its values as TOML has them.

    Attributes:
        path: the file; relative paths in it start at its directory.
        values: ``(table, key)`` to value; the table is "" for the keys at the top.
    """

    path: Path
    values: Mapping[tuple[str, str], Any]


def _suggestion(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # needed for errors only

    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it knows {', '.join(sorted(known))}"


def _check(path: Path, document: dict[str, Any], known: Collection[tuple[str, str]]) -> ConfigFile:
    values: dict[tuple[str, str], Any] = {}

    def put(table: str, entries: dict[str, Any]) -> None:
        names = {key for where, key in known if where == table}
        for written, value in entries.items():
            key = written.replace("-", "_")
            if not table and key in _TABLES:
                if not isinstance(value, dict):
                    raise BadConfig(str(path), f"{key!r} is a table: write [{key}]")
                put(key, value)
            elif key not in names:
                choices = names if table else {*names, *_TABLES}
                where = f"[{table}]" if table else "the top level"
                raise BadConfig(str(path), f"unknown key {written!r} in {where}{_suggestion(key, choices)}")
            else:
                values[table, key] = value

    put("", document)
    return ConfigFile(path=path, values=values)


def _load(path: Path, must_contain: bytes = b"") -> dict[str, Any] | None:
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if isinstance(error, PermissionError) and not _is_seen(path):
            return None  # a home of another user's, as in containers: it has no file for us
        raise BadConfig(str(path), f"cannot be read ({error.strerror})") from None
    if must_contain not in raw:
        return None
    import tomllib  # costs more than the rest of the command line's start; few users have a file

    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(str(path), f"is not TOML ({error})") from None


def config_files(known: Collection[tuple[str, str]]) -> list[ConfigFile]:
    """The configuration files that exist, nearest first.

    Args:
        known: every valid ``(table, key)``.

    Raises:
        BadConfig: a file cannot be read, is not TOML, or has an unknown key.
    """
    found: list[ConfigFile] = []
    here = Path("dtq.toml").absolute() if _has_working_directory() else None
    if here is not None:
        document = _load(here)
        if document is not None:
            found.append(_check(here, document, known))
        else:
            project = here.with_name("pyproject.toml")
            document = _load(project, must_contain=b"tool.dtq")
            table = (document or {}).get("tool", {}).get("dtq")
            if isinstance(table, dict):
                found.append(_check(project, table, known))
    user = config_directory()
    for path in (SYSTEM_FILE,) if user is None else (user / "config.toml", SYSTEM_FILE):
        document = _load(path)
        if document is not None:
            found.append(_check(path, document, known))
    return found


def _is_seen(path: Path) -> bool:
    try:
        path.lstat()
    except OSError:
        return False
    return True


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:  # removed meanwhile: the directory has no file either
        return False
    return True
