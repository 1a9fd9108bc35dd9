"""The worker's process: slots and the lines to the coordinator put together; signals; the readiness line."""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Final

from dtq import __version__
from dtq.config import WorkerSettings, load_authkey
from dtq.daemon.logs import dump_stacks_on_request, log_to_stderr
from dtq.errors import DtqError
from dtq.model.messages import Hello, Role, Welcome
from dtq.transport.backoff import Backoff
from dtq.transport.proxy import Proxy
from dtq.worker.child import SlotTerms
from dtq.worker.link import Link
from dtq.worker.supervisor import Supervisor, WorkerTerms

log = logging.getLogger("dtq.daemon")

#: What a message holds beside a result, at most, in bytes.
_ENVELOPE: Final = 64 << 10


def run(settings: WorkerSettings) -> int:
    """Run a worker until it is drained by SIGTERM or SIGINT.

    The first signal lets running tasks finish, the second gives them back at once, the third ends the process. While no
    coordinator answers it keeps trying.

    Args:
        settings: what it runs with.

    Returns:
        The exit code.

    Raises:
        KeyMissing: there is no key.
        KeyUnusable: the key cannot be used.
        WrongKey: the coordinator has another one.
        ProtocolMismatch: the coordinator speaks another version.
        CannotImport: a module of ``imports`` cannot be imported.
    """
    log_to_stderr()
    dump_stacks_on_request()
    key, origin = load_authkey(settings.authkey_file, addresses=settings.addresses)
    say_hello = _greeter(settings)
    reporting = Proxy(settings.addresses, key, say_hello(primary=True), key_source=origin)
    fetching = Proxy(settings.addresses, key, say_hello(primary=False), key_source=origin)
    stopping = threading.Event()
    handler = _Signals(stopping)
    welcome = _first_contact(reporting, stopping)
    if welcome is None:
        return 0
    supervisor = Supervisor(
        WorkerTerms(
            slots=settings.slots,
            grace_s=settings.grace_s,
            slot=SlotTerms(
                worker=settings.name,
                paths=tuple(map(str, settings.paths)),
                imports=settings.imports,
                max_result=welcome.max_message - _ENVELOPE,
                max_tasks=settings.max_tasks_per_slot,
                max_memory=settings.max_memory_per_slot,
            ),
        )
    )
    handler.supervisor = supervisor
    if stopping.is_set():
        supervisor.drain()
    link = Link(supervisor, reporting, fetching, heartbeat_s=welcome.heartbeat_s, where=reporting.address)
    link.start()
    queues = ", ".join(settings.queues) or "all queues"
    sys.stdout.write(
        f"worker {settings.name} ready: {settings.slots} slots for {queues}, connected to {reporting.address}\n"
    )
    sys.stdout.flush()
    try:
        supervisor.run()
    finally:
        link.stop()
    log.info("worker %s ends; nothing is left undone here", settings.name)
    return 0


def _greeter(settings: WorkerSettings) -> Callable[..., Hello]:
    session = uuid.uuid4().hex

    def say_hello(*, primary: bool) -> Hello:
        return Hello(
            session=session,
            role=Role.WORKER,
            name=settings.name,
            host=platform.node(),
            pid=os.getpid(),
            python=platform.python_version(),
            version=__version__,
            slots=settings.slots,
            queues=settings.queues,
            primary=primary,
        )

    return say_hello


class _Signals:
    """What SIGTERM and SIGINT do: drain, then give back, then end."""

    def __init__(self, stopping: threading.Event) -> None:
        self.supervisor: Supervisor | None = None
        self._stopping = stopping
        self._count = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._count += 1
        self._stopping.set()
        if self._count > 2:
            os._exit(130)
        # A handler runs between two steps of the main thread, which may hold the supervisor's lock: act from elsewhere.
        if self.supervisor is not None:
            act = self.supervisor.drain if self._count == 1 else self.supervisor.end
            threading.Thread(target=act, name="dtq-signal", daemon=True).start()
        if self._count == 1:
            log.info("finishing what runs; a second signal gives it back to the queue at once")


def _first_contact(line: Proxy, stopping: threading.Event) -> Welcome | None:
    """Connect, however long it takes; None where a signal came first."""
    backoff = Backoff()
    said = False
    while not stopping.is_set():
        try:
            return line.connect()
        except DtqError as error:
            if not error.retryable:
                raise
            if not said:
                said = True
                log.warning("waiting for the coordinator at %s (%s)", line.address, error)
            stopping.wait(backoff.next_s())
    return None
