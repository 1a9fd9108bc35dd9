"""The coordinator's process: assembles store, queue and transport; signals; the readiness line."""

from __future__ import annotations

import logging
import os
import resource
import secrets
import sys
import threading
from pathlib import Path
from typing import Any

from dtq import __version__
from dtq.config import (
    CoordinatorSettings,
    configured_tls,
    coordinator_authkey,
    format_address,
    is_loopback,
    keyring_file,
    read_keyring,
    remove_connection,
    write_connection,
)
from dtq.config.hosts import host_for_others
from dtq.coordinator.connection import Connection
from dtq.coordinator.service import Coordinator, Setup
from dtq.core.queue_state import GRANT_BYTES, Rules
from dtq.daemon.logs import dump_stacks_on_request, start_log
from dtq.daemon.memory import give_back, keep_collections_short, set_aside_what_lives, share_one_arena
from dtq.daemon.signals import Signals, ignore_from_now_on
from dtq.engines.base import Engine
from dtq.errors import StoreError
from dtq.model.messages import ANSWER_ENVELOPE
from dtq.transport.server import Server
from dtq.wording import counted

log = logging.getLogger("dtq.daemon")


class _Stop:
    """The end of a coordinator, by signal or by call: its tasks run elsewhere, so it waits for none."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.wait = self._asked.wait
        self.drain = self.end = self._asked.set

    @property
    def asked(self) -> bool:
        """Whether a peer has asked for the end."""
        return self._asked.is_set()


def run(settings: CoordinatorSettings, signals: Signals) -> int:
    """Run a coordinator until SIGTERM, SIGINT, SIGHUP, or a peer's call.

    Args:
        settings: the coordinator's.
        signals: the signals, past and future.

    Returns:
        The exit code: 0 when all decisions are on disk.

    Raises:
        StoreError: the store cannot be used; see its kinds.
        PortInUse: the address cannot be bound.
        KeyMissing: the named key does not exist.
        KeyUnusable: the key cannot be used.
    """
    start_log()
    stop = _Stop()
    signals.attach(stop)
    share_one_arena()
    keep_collections_short()
    _raise_descriptor_limit()
    dump_stacks_on_request()
    key, origin, made = coordinator_authkey(settings.authkey_file)
    tls = configured_tls()
    keyring = settings.keys_file or keyring_file(origin)
    coordinator = Coordinator(
        _engine(settings),
        _setup(settings),
        on_stop=stop.end,
        on_reload_keys=lambda: server.replace_keys(() if keyring is None else read_keyring(keyring)),
        on_freed=give_back,
    )
    server = Server(
        lambda peer: Connection(coordinator, peer),
        host=settings.host,
        port=settings.port,
        authkeys=[key],
        keys=() if keyring is None else read_keyring(keyring),
        max_message=settings.max_message,
        max_connections=settings.max_connections,
        tls=tls,
        on_quiet=give_back,
    )
    opened = coordinator.start()
    set_aside_what_lives()
    try:
        server.start()
        _note_connection(server, origin)
        try:
            if not stop.asked:
                _announce(server, settings, origin, made, opened.epoch, coordinator, encrypted=tls is not None)
            stop.wait()
            log.info("stopping: taking no more work")
            coordinator.quiesce()
        finally:
            remove_connection()
            server.close()
    finally:
        durable = coordinator.stop()
    ignore_from_now_on()
    if not durable:
        log.error("not everything could be written; all acknowledged work is on disk")
        return 74
    log.info("stopped; everything is on disk" if settings.db is not None else "stopped")
    return 0


def _raise_descriptor_limit() -> None:
    """Each connection is a descriptor, and a worker has two: raise the limit as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _engine(settings: CoordinatorSettings) -> Engine:
    # Workers of another store may live that used this address: their leases must not be taken for this store's.
    epoch = secrets.randbits(30)
    if settings.db is None:
        from dtq.engines.memory import MemoryEngine

        return MemoryEngine(max_value=settings.max_value, epoch=epoch)
    from dtq.engines.sqlite import SqliteEngine

    durability: Any = settings.durability
    return SqliteEngine(settings.db, durability=durability, max_value=settings.max_value, epoch=epoch)


def _setup(settings: CoordinatorSettings) -> Setup:
    rules = Rules(
        lease_s=settings.lease_s,
        keep_results_s=settings.keep_results_s,
        max_tasks=settings.max_tasks,
        max_batch=settings.max_batch,
        max_blob=min(settings.max_value, settings.max_message - ANSWER_ENVELOPE),
        grant_bytes=min(GRANT_BYTES, settings.max_message // 4),
        highest_first=settings.highest_first,
    )
    return Setup(
        rules=rules,
        durability=settings.durability,
        store="memory" if settings.db is None else str(settings.db),
        max_message=settings.max_message,
        max_unread=settings.max_unread,
        by_reference=settings.by_reference,
    )


def _note_connection(server: Server, origin: str) -> None:
    """Write the connection file, so that this user's commands find the coordinator by themselves, if there is a place
    for it.
    """
    try:
        write_connection(server.address, version=__version__, authkey_file=_key_file(origin))
    except StoreError as error:
        log.warning(
            "commands on this machine do not find this coordinator by themselves (%s); they need --connect %s or "
            "DTQ_ADDRESS, and the key",
            error.args[1],
            format_address(server.address),
        )


def _key_file(origin: str) -> Path | None:
    path = Path(origin)
    return path if path.is_file() else None


def _announce(
    server: Server,
    settings: CoordinatorSettings,
    origin: str,
    made: bool,
    epoch: int,
    coordinator: Coordinator,
    *,
    encrypted: bool,
) -> None:
    """Print the readiness line on standard output, for people and scripts; everything else is log."""
    host, port = server.address
    address = format_address((host_for_others(host), port))
    if not is_loopback(settings.host):
        if encrypted:
            log.info("other machines must use TLS: a peer needs a certificate of the authority, and a key")
        else:
            log.warning(
                "other machines can connect, and nothing is encrypted: whoever is on the way reads every task and "
                "result, and can change them to run code on the workers; `dtq keygen --tls` makes what it takes to "
                "encrypt"
            )
    log.info("pid %d, run %d, store %s, key %s%s", os.getpid(), epoch, coordinator.setup.store, origin, " (new)" * made)
    unfinished = coordinator.machine.queue_state.tally.unfinished
    if unfinished:
        log.info("%s restored", counted(unfinished, "unfinished task was", "unfinished tasks were"))
    sys.stdout.write(f"coordinator ready at {address} (next: dtq worker --connect {address})\n")
    sys.stdout.flush()
