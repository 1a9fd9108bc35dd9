"""Settings of a coordinator, a worker and a client.

Each value comes from the first of: the flag, the ``DTQ_*`` variable, the configuration files, the default. A bad flag
is wrong use (`InvalidValue`); a bad value in a variable or file is a bad configuration (`BadConfig`), and the error
names its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from dtq.config.connection import read_connection
from dtq.config.cores import usable_cores
from dtq.config.files import ConfigFile, config_files, state_directory
from dtq.config.values import (
    Address,
    check_host,
    check_queue,
    check_tag,
    parse_address,
    parse_duration,
    parse_offer,
    parse_size,
)
from dtq.errors import BadConfig, DtqError, InvalidValue
from dtq.records import dataclass

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 3870
#: Value of ``--db`` for a store in memory only.
MEMORY: Final = ":memory:"
#: Longest name of a worker in characters, the coordinator's bound (`model.fields`).
_MAX_LABEL: Final = 200
DURABILITIES: Final = ("fsync", "os", "none")
RELOADS: Final = ("auto", "off")
#: Levels of the log, and its formats.
LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS: Final = ("text", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """Settings of a coordinator.

    Attributes:
        host: the address to listen on.
        port: the port to listen on; 0 for a free one.
        db: the store's file; None for a store in memory only.
        durability: the guarantee behind an acknowledgement: ``fsync`` (the disk), ``os`` (the kernel), ``none``.
        authkey_file: the value of ``--authkey-file``; None if not given (`load_authkey` looks elsewhere).
        keys_file: the keyring; None for the one beside the authkey's file.
        highest_first: whether a higher priority number is served first.
        lease_s: how long a worker may be silent before its tasks run elsewhere.
        keep_results_s: how long results and ended tasks are kept.
        max_tasks: how many unfinished tasks the queue takes.
        max_batch: how many tasks one batch may have.
        max_message: largest message in bytes.
        max_value: largest argument or result in bytes. Values too large for a message travel in pieces beside it.
        by_reference: whether peers on this machine may write and read the files of large arguments and results.
        max_connections: bound of the connections.
        max_unread: how many unread results are kept ready for a client.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    db: Path | None = None
    durability: str = "fsync"
    authkey_file: Path | None = None
    keys_file: Path | None = None
    highest_first: bool = False
    lease_s: float = 15.0
    keep_results_s: float = 86_400.0
    max_tasks: int = 20_000_000
    max_batch: int = 10_000_000
    max_message: int = 16 * 2**20
    max_value: int = 2**30
    by_reference: bool = True
    max_connections: int = 4096
    max_unread: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of a worker.

    Attributes:
        addresses: of the coordinator, tried in this order.
        authkey_file: the value of ``--authkey-file``; None if not given (`load_authkey` looks elsewhere).
        slots: how many tasks run at once.
        queues: the queues to serve; empty for all.
        resources: its offers to tasks, each as `parse_offer` reads it.
        tags: further properties that tasks may ask for.
        imports: modules that every slot imports when it starts.
        preload: modules that are imported once, in the process that slots are forked from.
        init: function that every slot calls when it starts, ``module:function``; empty for none.
        paths: directories to search for modules, before the usual ones.
        name: the worker's name for people.
        max_tasks_per_slot: after how many tasks a slot's process is replaced; None for never.
        max_memory_per_slot: above how many bytes a slot's process is replaced; None for never.
        keep_output: bytes that are kept of the output of each attempt of a task; 0 for none.
        keep_processes: whether processes that tasks leave running may go on until their slot is replaced.
        only_registered: whether to run registered task types only.
        reload: ``"auto"`` to replace slots when code that they have imported changes on disk, else ``"off"``.
        tasks_may_submit: whether clients in tasks use the worker's coordinator and key.
        verbose: whether each task, and the traceback of a failed one, is logged.
        max_waiting: bound of further slots while tasks wait for other tasks.
        grace_s: how long a drain may take before running tasks are returned; None for as long as they need.
        by_reference: whether large arguments and results pass as files if the coordinator is on this machine.
        value_cache: if it is not, bytes of large arguments that are kept here; None for a part of the free room.
    """

    addresses: tuple[Address, ...]
    authkey_file: Path | None = None
    slots: int
    queues: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    init: str = ""
    paths: tuple[Path, ...] = ()
    name: str
    max_tasks_per_slot: int | None = None
    max_memory_per_slot: int | None = None
    keep_output: int = 64 << 10
    keep_processes: bool = False
    only_registered: bool = False
    reload: str = "auto"
    tasks_may_submit: bool = False
    verbose: bool = False
    max_waiting: int = 0
    grace_s: float | None = None
    by_reference: bool = True
    value_cache: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Settings of the log of a coordinator or worker.

    Attributes:
        log_level: the lowest level that is shown, one of `LOG_LEVELS`.
        log_file: the file that lines are appended to; None for standard error.
        log_format: one of `LOG_FORMATS`.
    """

    log_level: str = "info"
    log_file: Path | None = None
    log_format: str = "text"


# -- reading one value: (its name, the value as flag, variable or TOML has it, base of relative paths) ---------------

Reader = Callable[[str, Any, Path], Any]


class _Key(NamedTuple):
    variable: str
    read: Reader


def _wrong(what: str, value: object, why: str) -> InvalidValue:
    return InvalidValue(what, str(value)[:80], why)


def _text(what: str, value: Any, base: Path) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _wrong(what, value, "it is a text of printable characters")
    return value


def _label(what: str, value: Any, base: Path) -> str:
    text = _text(what, value, base)
    if len(text) > _MAX_LABEL:
        raise _wrong(what, text, f"it has at most {_MAX_LABEL} characters")
    return text


def _host(what: str, value: Any, base: Path) -> str:
    return check_host(_text(what, value, base))


def _path(what: str, value: Any, base: Path) -> Path:
    path = Path(value if isinstance(value, Path) else _text(what, value, base))
    return path if str(path) == "-" else base / path.expanduser()


def _import_path(what: str, value: Any, base: Path) -> Path:
    path = _path(what, value, base)
    if not path.exists():  # an archive is valid, too
        raise InvalidValue("path", str(path)[:200], "there is no such directory")
    return path


def _queue(what: str, value: Any, base: Path) -> str:
    return check_queue(_text("queue", value, base))


def _store(what: str, value: Any, base: Path) -> Path | None:
    return None if value == MEMORY else _path(what, value, base)


def _switch(what: str, value: Any, base: Path) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.strip().lower() not in words:
        raise _wrong(what, value, "write true or false")
    return words[value.strip().lower()]


def _durability(what: str, value: Any, base: Path) -> str:
    if value not in DURABILITIES:
        raise _wrong(what, value, f"it is one of {', '.join(DURABILITIES)}")
    return str(value)


def _reload(what: str, value: Any, base: Path) -> str:
    if value not in RELOADS:
        raise _wrong(what, value, f"it is one of {', '.join(RELOADS)}")
    return str(value)


def _log_level(what: str, value: Any, base: Path) -> str:
    level = value.strip().lower() if isinstance(value, str) else ""
    level = "warning" if level == "warn" else level
    if level not in LOG_LEVELS:
        raise _wrong(what, value, f"it is one of {', '.join(LOG_LEVELS)}")
    return level


def _log_format(what: str, value: Any, base: Path) -> str:
    if value not in LOG_FORMATS:
        raise _wrong(what, value, f"it is one of {', '.join(LOG_FORMATS)}")
    return str(value)


def _number(low: int, high: int) -> Reader:
    def read(what: str, value: Any, base: Path) -> int:
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdecimal():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise _wrong(what, value, f"it is a whole number from {low:,} to {high:,}")
        return value

    return read


def _duration(low: float, high: float) -> Reader:
    def read(what: str, value: Any, base: Path) -> float:
        seconds = parse_duration(value, what) if isinstance(value, str) else value
        if type(seconds) not in (int, float) or not low <= seconds <= high:
            raise _wrong(what, value, f"it is from {low:g} to {high:g} seconds")
        return float(seconds)

    return read


def _size(low: int, high: int) -> Reader:
    def read(what: str, value: Any, base: Path) -> int:
        size = parse_size(value, what) if isinstance(value, str) else value
        if type(size) is not int or not low <= size <= high:
            raise _wrong(what, value, f"it is from {low:,} to {high:,} bytes")
        return size

    return read


def _many(item: Reader, separator: str) -> Reader:
    def read(what: str, value: Any, base: Path) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(separator) if part.strip()]
        if not isinstance(value, list | tuple):
            raise _wrong(what, value, "write a list of texts")
        return tuple(item(what, part, base) for part in value)

    return read


def _function(what: str, value: Any, base: Path) -> str:
    name = _text(what, value, base)
    if not all(name.partition(":")):
        raise _wrong(what, name, "write module:function, for example mymodule:begin")
    return name


def _offers(what: str, value: Any, base: Path) -> tuple[str, ...]:
    texts: tuple[str, ...] = _many(_text, ";")(what, value, base)
    names = [parse_offer(text, what)[0] for text in texts]
    if len(set(names)) < len(names):
        raise _wrong(what, ", ".join(names), "it has each resource once")
    return texts


def _tag(what: str, value: Any, base: Path) -> str:
    return check_tag(_text(what, value, base))


def _address(what: str, value: Any, base: Path) -> Address:
    return parse_address(_text(what, value, base))


_TOP: Final = {
    "connect": _Key("DTQ_ADDRESS", _many(_address, ",")),
    # `load_authkey` handles variable and flag, and looks in further places.
    "authkey_file": _Key("", _path),
    "tls": _Key("DTQ_TLS", _path),
    "by_reference": _Key("DTQ_BY_REFERENCE", _switch),
    "log_level": _Key("DTQ_LOG_LEVEL", _log_level),
    "log_file": _Key("DTQ_LOG_FILE", _path),
    "log_format": _Key("DTQ_LOG_FORMAT", _log_format),
}
_COORDINATOR: Final = {
    "host": _Key("DTQ_HOST", _host),
    "port": _Key("DTQ_PORT", _number(0, 65535)),
    "db": _Key("DTQ_DB", _store),
    "durability": _Key("DTQ_DURABILITY", _durability),
    "keys_file": _Key("DTQ_KEYS_FILE", _path),
    "highest_first": _Key("DTQ_HIGHEST_FIRST", _switch),
    "lease": _Key("DTQ_LEASE", _duration(0.5, 86_400)),
    "keep_results": _Key("DTQ_KEEP_RESULTS", _duration(0, 10 * 366 * 86_400)),
    "max_tasks": _Key("DTQ_MAX_TASKS", _number(1, 10**12)),
    "max_batch": _Key("DTQ_MAX_BATCH", _number(1, 10**12)),
    "max_message": _Key("DTQ_MAX_MESSAGE", _size(64 * 2**10, 2**30)),
    "max_value": _Key("DTQ_MAX_VALUE", _size(1, 2**60)),
    "by_reference": _Key("DTQ_BY_REFERENCE", _switch),
    "max_connections": _Key("DTQ_MAX_CONNECTIONS", _number(2, 10**6)),
    "max_unread": _Key("DTQ_MAX_UNREAD", _number(1, 10**9)),
}
#: Bound of further slots for each slot, while tasks wait for other tasks.
WAITING_A_SLOT: Final = 8
_WORKER: Final = {
    "slots": _Key("DTQ_SLOTS", _number(1, 4096)),
    "queues": _Key("DTQ_QUEUES", _many(_queue, ",")),
    "resources": _Key("DTQ_RESOURCES", _offers),
    "tags": _Key("DTQ_TAGS", _many(_tag, ",")),
    "imports": _Key("DTQ_IMPORTS", _many(_text, ",")),
    "preload": _Key("DTQ_PRELOAD", _many(_text, ",")),
    "init": _Key("DTQ_INIT", _function),
    "paths": _Key("DTQ_PATHS", _many(_import_path, os.pathsep)),
    "name": _Key("DTQ_WORKER_NAME", _label),
    "max_tasks_per_slot": _Key("DTQ_MAX_TASKS_PER_SLOT", _number(1, 10**12)),
    "max_memory_per_slot": _Key("DTQ_MAX_MEMORY_PER_SLOT", _size(2**20, 2**50)),
    "keep_output": _Key("DTQ_KEEP_OUTPUT", _size(0, 2**20)),
    "keep_processes": _Key("DTQ_KEEP_PROCESSES", _switch),
    "only_registered": _Key("DTQ_ONLY_REGISTERED", _switch),
    "reload": _Key("DTQ_RELOAD", _reload),
    "tasks_may_submit": _Key("DTQ_TASKS_MAY_SUBMIT", _switch),
    "verbose": _Key("DTQ_VERBOSE", _switch),
    "max_waiting": _Key("DTQ_MAX_WAITING", _number(0, 4096)),
    "grace": _Key("DTQ_GRACE", _duration(0, 10 * 366 * 86_400)),
    "by_reference": _Key("DTQ_BY_REFERENCE", _switch),
    "value_cache": _Key("DTQ_VALUE_CACHE", _size(0, 2**60)),
}
ALL_KEYS: Final[Mapping[str, Mapping[str, _Key]]] = {"": _TOP, "coordinator": _COORDINATOR, "worker": _WORKER}
KNOWN_KEYS: Final = frozenset((table, key) for table, keys in ALL_KEYS.items() for key in keys)
#: Key of a file or flag to field, if the field's name has the unit.
_FIELDS: Final = {"lease": "lease_s", "keep_results": "keep_results_s", "grace": "grace_s"}


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


def _from_configuration(key: str, setting: _Key, origin: str, value: Any, base: Path) -> Any:
    try:
        return setting.read(key, value, base)
    except DtqError as error:
        raise BadConfig(origin, str(error).rstrip(".")) from None


def _variable(name: str) -> str | None:
    value = os.environ.get(name)
    # Kubernetes sets DTQ_PORT=tcp://10.0.0.7:3870 in every container where a service is called "dtq".
    return None if not value or (name == "DTQ_PORT" and value.startswith("tcp://")) else value


def _resolve(table: str, flags: Mapping[str, Any], files: Sequence[ConfigFile]) -> dict[str, Any]:
    """The settings of a table, by field; unset ones are left out."""
    settings = ((field_of(key), find(table, key, flags, files)) for key in ALL_KEYS[table])
    return {field: found[0] for field, found in settings if found is not None}


def field_of(key: str) -> str:
    """The field of a key of a file."""
    return _FIELDS.get(key, key)


def find(table: str, key: str, flags: Mapping[str, Any], files: Sequence[ConfigFile]) -> tuple[Any, str] | None:
    """The value of a setting, and its origin: ``flag``, the variable or the file; None if it is not set.

    Raises:
        InvalidValue: a flag has a value that cannot be used.
        BadConfig: a variable or a configuration file has such a value.
    """
    setting = ALL_KEYS[table][key]
    if flags.get(key) not in (None, ()):
        return setting.read(key.replace("_", " "), flags[key], _here()), "flag"
    if setting.variable and (value := _variable(setting.variable)) is not None:
        return _from_configuration(key, setting, setting.variable, value, _here()), setting.variable
    for file in files:
        if (table, key) in file.values:
            written, origin = file.values[table, key], str(file.path)
            return _from_configuration(key, setting, origin, written, file.path.parent), origin
    return None


def _flag_file(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def configured_authkey_file() -> Path | None:
    """``authkey_file`` of the configuration files.

    Raises:
        BadConfig: a configuration file cannot be used.
    """
    path: Path | None = _resolve("", {}, config_files(KNOWN_KEYS)).get("authkey_file")
    return path


def configured_tls_directory() -> Path | None:
    """``DTQ_TLS``, or ``tls`` of the configuration files: the directory with the certificates.

    Raises:
        BadConfig: a configuration file cannot be used.
    """
    path: Path | None = _resolve("", {}, config_files(KNOWN_KEYS)).get("tls")
    return path


def client_by_reference() -> bool:
    """``DTQ_BY_REFERENCE``, or ``by_reference`` of the configuration files: whether a client on the coordinator's
    machine writes and reads the files of large arguments and results itself.

    Raises:
        BadConfig: a configuration file cannot be used.
    """
    found: bool = _resolve("", {}, config_files(KNOWN_KEYS)).get("by_reference", True)
    return found


def configured_log() -> LogSettings:
    """The settings of the log of a coordinator or worker.

    Raises:
        BadConfig: a variable or a configuration file has a value that cannot be used.
    """
    found = _resolve("", {}, config_files(KNOWN_KEYS))
    return LogSettings(**{name: value for name, value in found.items() if name.startswith("log_")})


def client_addresses(explicit: Sequence[str] = ()) -> tuple[Address, ...]:
    """Addresses of the coordinator, in the order in which to try them.

    Args:
        explicit: the value of ``--connect``, if given.

    Returns:
        At least one: of the flag, ``DTQ_ADDRESS``, the configuration, the coordinator that runs on this machine, or the
        default.

    Raises:
        InvalidAddress: an explicit one is invalid.
        BadConfig: the variable or a configuration file has an invalid one.
    """
    given: tuple[Address, ...]
    given = _resolve("", {"connect": tuple(explicit)}, () if explicit else config_files(KNOWN_KEYS)).get("connect", ())
    if given:
        return given
    local = read_connection()
    return ((DEFAULT_HOST, DEFAULT_PORT) if local is None else local.address,)


def coordinator_settings(flags: Mapping[str, Any] | None = None) -> CoordinatorSettings:
    """The settings of a coordinator.

    Args:
        flags: the command line's values, by the names of the keys (``lease``, ``db``, ...), and ``authkey_file``; None
            or missing if not given.

    Raises:
        InvalidValue: a flag has a value that cannot be used.
        BadConfig: a variable or a configuration file has such a value.
    """
    flags = flags or {}
    found = _resolve("coordinator", flags, config_files(KNOWN_KEYS))
    if "db" not in found:
        directory = state_directory()
        if directory is None:
            raise BadConfig("there is no home directory to keep the store in", "pass --db PATH or --memory")
        found["db"] = directory / "dtq.db"
    return CoordinatorSettings(**found, authkey_file=_flag_file(flags.get("authkey_file")))


def worker_settings(flags: Mapping[str, Any] | None = None) -> WorkerSettings:
    """The settings of a worker.

    Args:
        flags: the command line's values, by the names of the keys (``slots``, ``queues``, ...), and ``connect`` and
            ``authkey_file``; None, empty or missing if not given.

    Raises:
        InvalidValue: a flag has a value that cannot be used.
        InvalidAddress: an address of ``connect`` is invalid.
        BadConfig: a variable or a configuration file has a value that cannot be used.
    """
    flags = flags or {}
    found = _resolve("worker", flags, config_files(KNOWN_KEYS))
    here = _here()
    paths = found.pop("paths", ())
    slots = found.pop("slots", None) or usable_cores()
    return WorkerSettings(
        addresses=client_addresses(tuple(flags.get("connect") or ())),
        authkey_file=_flag_file(flags.get("authkey_file")),
        slots=slots,
        max_waiting=found.pop("max_waiting", WAITING_A_SLOT * slots),
        name=found.pop("name", None) or f"{os.uname().nodename}-{os.getpid()}",
        # As with `python -m`: modules in the current directory can be imported.
        paths=paths if here in paths else (*paths, here),
        **found,
    )
