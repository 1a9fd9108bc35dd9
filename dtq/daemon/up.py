"""``dtq up``: a coordinator and a worker on this machine, in one foreground command.

They are processes of their own, started with the same commands a user would type: what is true of them is true here.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import sys
from typing import Final

from dtq.config import CoordinatorSettings, WorkerSettings, parse_address
from dtq.daemon.logs import log_to_stderr

log = logging.getLogger("dtq.daemon")

_PR_SET_PDEATHSIG: Final = 1


def run(coordinating: CoordinatorSettings, working: WorkerSettings) -> int:
    """Run both until SIGTERM or SIGINT: the worker is drained first, then the coordinator stops.

    Args:
        coordinating: what the coordinator runs with.
        working: what the worker runs with; its addresses are not used.

    Returns:
        The exit code: that of the first of the two that failed, or 0.
    """
    log_to_stderr()
    coordinator = _start(_coordinator_words(coordinating), stdout=subprocess.PIPE)
    worker: subprocess.Popen[str] | None = None

    def pass_on(*_: object) -> None:
        (worker if worker is not None and worker.poll() is None else coordinator).send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    assert coordinator.stdout is not None
    line = coordinator.stdout.readline()
    if not line:
        return coordinator.wait()
    address = line.split()[3]
    parse_address(address)
    worker = _start(_worker_words(working, address, coordinating))
    sys.stdout.write(f"dtq is up at {address}; Ctrl-C ends it\n")
    sys.stdout.flush()
    code = worker.wait()
    coordinator.send_signal(signal.SIGTERM)
    return coordinator.wait() or code


def _start(words: list[str], stdout: int | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dtq", *words],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which passes it on in the right order
        preexec_fn=_end_with_parent,  # this process has one thread
    )


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _coordinator_words(settings: CoordinatorSettings) -> list[str]:
    words = ["coordinator", "start", "--host", settings.host, "--port", str(settings.port)]
    words += ["--memory"] if settings.db is None else ["--db", str(settings.db)]
    words += ["--durability", settings.durability, "--lease", f"{settings.lease_s}s"]
    words += ["--keep-results", f"{settings.keep_results_s}s", "--max-tasks", str(settings.max_tasks)]
    words += ["--max-batch", str(settings.max_batch), "--max-message", str(settings.max_message)]
    words += ["--max-blob", str(settings.max_blob), "--max-connections", str(settings.max_connections)]
    words += ["--max-unread", str(settings.max_unread)]
    words += [] if settings.keys_file is None else ["--keys-file", str(settings.keys_file)]
    words += ["--highest-first"] * settings.highest_first
    return words + _key_words(settings)


def _key_words(settings: CoordinatorSettings) -> list[str]:
    return [] if settings.authkey_file is None else ["--authkey-file", str(settings.authkey_file)]


def _worker_words(settings: WorkerSettings, address: str, coordinating: CoordinatorSettings) -> list[str]:
    words = ["worker", "--connect", address, "--slots", str(settings.slots), "--name", settings.name]
    for flag, values in (("--queue", settings.queues), ("--import", settings.imports), ("--path", settings.paths)):
        for value in values:
            words += [flag, str(value)]
    if settings.max_tasks_per_slot is not None:
        words += ["--max-tasks-per-slot", str(settings.max_tasks_per_slot)]
    if settings.max_memory_per_slot is not None:
        words += ["--max-memory-per-slot", str(settings.max_memory_per_slot)]
    words += ["--keep-processes"] * settings.keep_processes
    words += ["--only-registered"] * settings.only_registered
    if settings.grace_s is not None:
        words += ["--grace", f"{settings.grace_s}s"]
    return words + _key_words(coordinating)
