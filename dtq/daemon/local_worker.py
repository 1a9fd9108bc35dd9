"""The worker of a local cluster, as the launcher has it run: ``dtq worker`` without the command line.

Daemon, imported by `launcher`. Its fork server is a fork of this process, made before that
has a thread or a key: so what both need is imported once. This module therefore imports little; the worker itself, and
what slots need, are imported at the same time, each in a process.
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
    """Start what it needs before it is known where the coordinator is.

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
    """Run it.

    Args:
        settings: by the names of the configuration.

    Returns:
        The exit code.
    """
    signals = Signals()
    from dtq.daemon.worker import run as run_worker  # by now it is there

    return exit_code(lambda: run_worker(worker_settings(settings), signals))
