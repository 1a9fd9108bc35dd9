"""The coordinator of a local cluster, as the launcher has it run: ``dtq coordinator start`` without command line.

Daemon, imported by `launcher`.
"""

from __future__ import annotations

from typing import Any

from dtq.config import coordinator_settings
from dtq.daemon.coordinator import run as run_coordinator
from dtq.daemon.local_part import exit_code
from dtq.daemon.signals import Signals


def begin(settings: dict[str, Any]) -> None:
    """What can be done before all settings are known: that this was imported."""


def run(settings: dict[str, Any]) -> int:
    """Run it.

    Args:
        settings: by the names of the configuration.

    Returns:
        The exit code.
    """
    signals = Signals()
    return exit_code(lambda: run_coordinator(coordinator_settings(settings), signals))
