"""Settings: flag, then ``DTQ_*`` variable, then configuration file, then default.

Floor 1, with `errors` alone below: the coordinator, the workers, the client and the command line all take their
settings, addresses and keys from here, with one format of durations, sizes and addresses. Each name is imported at its
first use: a worker's slot checks the names of queues, and needs nothing else of this.
"""

from importlib import import_module

TYPE_CHECKING = False  # true for type checkers

if TYPE_CHECKING:
    from dtq.config.authkey import (
        MIN_KEY,
        coordinator_authkey,
        default_authkey_file,
        load_authkey,
        make_authkey,
    )
    from dtq.config.connection import (
        Connection,
        connection_file,
        read_connection,
        remove_connection,
        write_connection,
    )
    from dtq.config.cores import usable_cores
    from dtq.config.files import config_directory, state_directory
    from dtq.config.keys import (
        Key,
        KeyRole,
        add_key,
        keyring_file,
        read_keyring,
        remove_key,
        write_secret,
    )
    from dtq.config.settings import (
        DEFAULT_HOST,
        DEFAULT_PORT,
        DURABILITIES,
        LOG_FORMATS,
        LOG_LEVELS,
        MEMORY,
        RELOADS,
        CoordinatorSettings,
        LogSettings,
        WorkerSettings,
        client_addresses,
        client_by_reference,
        configured_log,
        coordinator_settings,
        worker_settings,
    )
    from dtq.config.tls import TlsFiles, configured_tls, tls_files
    from dtq.config.values import (
        Address,
        check_host,
        check_queue,
        format_address,
        format_size,
        host_here,
        is_loopback,
        parse_address,
        parse_duration,
        parse_rate,
        parse_size,
    )

#: The module that defines each name.
_HOMES = {
    "Address": "values",
    "Connection": "connection",
    "CoordinatorSettings": "settings",
    "DEFAULT_HOST": "settings",
    "DEFAULT_PORT": "settings",
    "DURABILITIES": "settings",
    "Key": "keys",
    "KeyRole": "keys",
    "MEMORY": "settings",
    "MIN_KEY": "authkey",
    "LOG_FORMATS": "settings",
    "LOG_LEVELS": "settings",
    "RELOADS": "settings",
    "TlsFiles": "tls",
    "LogSettings": "settings",
    "WorkerSettings": "settings",
    "add_key": "keys",
    "check_host": "values",
    "check_queue": "values",
    "client_addresses": "settings",
    "client_by_reference": "settings",
    "configured_log": "settings",
    "config_directory": "files",
    "configured_tls": "tls",
    "connection_file": "connection",
    "coordinator_authkey": "authkey",
    "coordinator_settings": "settings",
    "default_authkey_file": "authkey",
    "format_address": "values",
    "format_size": "values",
    "host_here": "values",
    "is_loopback": "values",
    "keyring_file": "keys",
    "load_authkey": "authkey",
    "make_authkey": "authkey",
    "parse_address": "values",
    "parse_duration": "values",
    "parse_rate": "values",
    "parse_size": "values",
    "read_connection": "connection",
    "read_keyring": "keys",
    "remove_connection": "connection",
    "remove_key": "keys",
    "state_directory": "files",
    "tls_files": "tls",
    "usable_cores": "cores",
    "worker_settings": "settings",
    "write_connection": "connection",
    "write_secret": "keys",
}

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "DURABILITIES",
    "LOG_FORMATS",
    "LOG_LEVELS",
    "RELOADS",
    "MEMORY",
    "MIN_KEY",
    "Address",
    "Connection",
    "CoordinatorSettings",
    "Key",
    "KeyRole",
    "LogSettings",
    "TlsFiles",
    "WorkerSettings",
    "add_key",
    "check_host",
    "check_queue",
    "client_addresses",
    "client_by_reference",
    "config_directory",
    "configured_log",
    "configured_tls",
    "connection_file",
    "coordinator_authkey",
    "coordinator_settings",
    "default_authkey_file",
    "format_address",
    "format_size",
    "host_here",
    "is_loopback",
    "keyring_file",
    "load_authkey",
    "make_authkey",
    "parse_address",
    "parse_duration",
    "parse_rate",
    "parse_size",
    "read_connection",
    "read_keyring",
    "remove_connection",
    "remove_key",
    "state_directory",
    "tls_files",
    "usable_cores",
    "worker_settings",
    "write_connection",
    "write_secret",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"dtq.config.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
