"""The worker of a local cluster, run by the launcher: ``dtq worker`` without the command line.

Daemon, imported by `launcher`. Its fork server is a fork of this process, made before that has a thread or a key: so
the modules that both need are imported once. This module therefore imports little; the modules of the worker itself,
and those of slots, are imported at the same time, each in a process.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dtq.config import DEFAULT_HOST, DEFAULT_PORT, format_address, worker_settings
from dtq.daemon import ahead
from dtq.daemon.local_part import exit_code
from dtq.daemon.signals import Signals
from dtq.errors import DtqError


def begin(settings: dict[str, Any]) -> None:
    """Start the fork server before the coordinator's address is known.

    Args:
        settings: by the names of the configuration, without an address.
    """
    try:
        anywhere = (format_address((DEFAULT_HOST, DEFAULT_PORT)),)
        known = worker_settings({**settings, "connect": anywhere})
    except DtqError:
        return  # `run` says so
    ahead.begin(known)
    import_module("dtq.daemon.worker")
    ahead.fork_slots(known)


def run(settings: dict[str, Any]) -> int:
    """Run the worker.

    Args:
        settings: by the names of the configuration.

    Returns:
        The exit code.
    """
    signals = Signals()
    from dtq.daemon.worker import run as run_worker  # imported by now

    return exit_code(lambda: run_worker(worker_settings(settings), signals))
