"""State that `multiprocessing` shares between the processes of one program, for the processes of a local cluster."""

from __future__ import annotations

from multiprocessing import current_process, resource_tracker


def authentication_key() -> bytes:
    """The key that managers, listeners and proxies of this program use among themselves."""
    return bytes(current_process().authkey)


def tracker_descriptor() -> int:
    """The descriptor of the pipe to this program's resource tracker, which is started if there is none."""
    descriptor = resource_tracker.getfd()
    return -1 if descriptor is None else descriptor
