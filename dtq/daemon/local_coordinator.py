"""The coordinator of a local cluster, run by the launcher: ``dtq coordinator start`` without command line.

Daemon, imported by `launcher`.
"""

from __future__ import annotations

from typing import Any

from dtq.config import coordinator_settings
from dtq.daemon.coordinator import run as run_coordinator
from dtq.daemon.local_part import exit_code
from dtq.daemon.signals import Signals


def begin(settings: dict[str, Any]) -> None:
    """Does nothing: the import of this module is all that can be done before all settings are known."""


def run(settings: dict[str, Any]) -> int:
    """Run the coordinator.

    Args:
        settings: by the names of the configuration.

    Returns:
        The exit code.
    """
    signals = Signals()
    return exit_code(lambda: run_coordinator(coordinator_settings(settings), signals))
