"""A worker, assembled: slots, and two connections to the coordinator.

Daemon, below the worker's process (`worker`) and the worker in a program (`program`), which decide when it ends.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dtq import __version__
from dtq.client.inheritance import Inheritance
from dtq.config import WorkerSettings, configured_tls, format_address, load_authkey
from dtq.daemon.ahead import slot_terms
from dtq.errors import DtqError, InternalError
from dtq.model.fields import Label, fitting
from dtq.model.messages import Hello, Role, ValuesOffer, Welcome, largest_outcome
from dtq.model.resources import offers
from dtq.model.values import MIN_CALLED
from dtq.records import replace
from dtq.transport.backoff import Backoff
from dtq.transport.proxy import Proxy
from dtq.values.offers import reachable
from dtq.values.place import Place
from dtq.wording import PYTHON_VERSION, counted
from dtq.worker.child import Child
from dtq.worker.forking import ForkServer
from dtq.worker.link import FETCH_WAIT_S, Link
from dtq.worker.program import Program
from dtq.worker.supervisor import Supervisor
from dtq.worker.terms import WorkerTerms

if TYPE_CHECKING:
    from dtq.worker.transfers import Transfers

log = logging.getLogger("dtq.daemon")


class Serving:
    """One run of a worker.

    Args:
        settings: the worker's.
        program: the program it is part of, for its slots.
        inherited: the slots' inheritance from the program that started this process.
        fetch_wait_s: longest wait of a call for work at the coordinator, in seconds.
        forks: the fork server of the slots; None for none, as in a process that is not the worker's alone.
        early: slots that were started before the coordinator was known.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        program: Program | None = None,
        inherited: Inheritance | None = None,
        fetch_wait_s: float = FETCH_WAIT_S,
        forks: ForkServer | None = None,
        early: Sequence[Child] = (),
    ) -> None:
        self._forks = forks
        self._early = early
        self._settings = settings
        self._program = program or Program()
        self._inherited = inherited or Inheritance()
        self._fetch_wait_s = fetch_wait_s
        self._stopping = threading.Event()
        self._supervisor: Supervisor | None = None
        self._link: Link | None = None
        #: Makes connections, and transfers of values over them if needed.
        self._connect: Callable[[Callable[[Welcome], None]], Proxy]
        self._transfers: Transfers | None = None
        self._placing = threading.Lock()

    def drain(self) -> None:
        """Take no more work, and end after the running tasks. Any thread; but not from a signal's handler, which may
        interrupt the holder of a lock that this needs.
        """
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.drain()

    def hindrances(self) -> list[str]:
        """Reasons why a drain may take long although no task runs, a sentence each. As `drain`."""
        found = [] if self._supervisor is None else self._supervisor.hindrances()
        hindrance = "" if self._link is None else self._link.hindrance
        return [*found, hindrance] if hindrance else found

    def end(self) -> None:
        """Give running tasks back, at once, and end. As `drain`."""
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.end()

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Work until the end is requested. While no coordinator answers it keeps trying.

        Args:
            on_ready: called with a sentence when it is connected and its slots are about to start.

        Raises:
            KeyMissing: there is no key.
            KeyUnusable: the key cannot be used.
            WrongKey: the coordinator has another one.
            ProtocolMismatch: the coordinator speaks another version.
            CannotImport: a module of ``imports``, or one of the program's, cannot be imported.
        """
        settings = self._settings
        key, origin = load_authkey(settings.authkey_file, addresses=settings.addresses)
        tls = configured_tls()
        say_hello = _greeter(settings)

        def connect(on_welcome: Callable[[Welcome], None], *, primary: bool = False) -> Proxy:
            def hello() -> Hello:
                inline = 0 if self._transfers is None else MIN_CALLED
                return say_hello(primary=primary, inline=inline)

            return Proxy(settings.addresses, key, hello, on_welcome=on_welcome, key_source=origin, tls=tls)

        self._connect = connect
        reporting, fetching = connect(self._on_welcome, primary=True), connect(self._on_welcome)
        welcome = self._first_contact(reporting)
        if welcome is None:
            return
        if settings.tasks_may_submit:
            addresses = tuple(map(format_address, settings.addresses))
            self._inherited = replace(self._inherited, addresses=addresses, clientkey=key)
        supervisor = self._supervisor = Supervisor(self._terms(welcome), self._forks, self._early)
        if self._stopping.is_set():
            supervisor.drain()
        link = self._link = Link(
            supervisor,
            reporting,
            fetching,
            heartbeat_s=welcome.heartbeat_s,
            where=reporting.address,
            fetch_wait_s=self._fetch_wait_s,
        )
        self._on_welcome(welcome)
        link.start()
        queues = ", ".join(settings.queues) or "all queues"
        slots = counted(settings.slots, "slot")
        on_ready(f"worker {settings.name} ready: {slots} for {queues}, connected to {reporting.address}")
        try:
            supervisor.run()
        finally:
            link.stop()
            if self._transfers is not None:
                self._transfers.close()
        log.info("worker %s ends; all of its work is settled", settings.name)

    def _on_welcome(self, welcome: Welcome) -> None:
        if self._link is not None and self._supervisor is not None:
            self._link.on_welcome(welcome)
            self._place_values(self._supervisor, welcome.values)

    def _reachable(self, offer: ValuesOffer | None) -> Place | None:
        """The place of values, if slots can access it."""
        return reachable(offer) if offer is not None and self._settings.by_reference else None

    def _place_values(self, supervisor: Supervisor, offer: ValuesOffer | None) -> None:
        """Give slots the coordinator's place of values, or a place of the worker's with transfers."""
        with self._placing:
            place = self._reachable(offer)
            if offer is None or place is not None:
                supervisor.move(place)
                return
            if self._transfers is None:
                from dtq.worker.transfers import Transfers  # a worker beside its coordinator does not import it

                try:
                    self._transfers = Transfers(
                        offer,
                        self._connect,
                        supervisor.holdings,
                        supervisor.lock,
                        on_ready=supervisor.leases.fetched,
                        on_no_room=supervisor.leases.unfetched,
                        announce=supervisor.announce,
                        most_inline=supervisor.terms.slot.max_result,
                        most_copies=self._settings.value_cache,
                    )
                except OSError as error:
                    log.warning("there is no place for large arguments and results: %s", error)
                    supervisor.move(None)
                    return
            self._transfers.adapt(offer)
            supervisor.move(self._transfers.place, self._transfers)

    def _terms(self, welcome: Welcome) -> WorkerTerms:
        settings = self._settings
        return WorkerTerms(
            slots=settings.slots,
            grace_s=settings.grace_s,
            max_waiting=settings.max_waiting,
            verbose=settings.verbose,
            slot=replace(
                slot_terms(settings, self._inherited, self._program),
                max_result=min(largest_outcome(welcome.max_message), welcome.max_blob),
                place=self._reachable(welcome.values),
            ),
        )

    def _first_contact(self, line: Proxy) -> Welcome | None:
        """Connect, however long it takes; None if the end is requested before."""
        backoff = Backoff()
        said = False
        while not self._stopping.is_set():
            try:
                return line.connect()
            except DtqError as error:
                if not error.retryable and not isinstance(error, InternalError):
                    raise
                if not said:
                    said = True
                    log.warning("waiting for the coordinator at %s (%s)", line.address, error)
                self._stopping.wait(backoff.next_s())
        return None


def _greeter(settings: WorkerSettings) -> Callable[..., Hello]:
    session = secrets.token_hex(16)
    offered = offers(settings.resources, settings.tags)

    def say_hello(*, primary: bool, inline: int) -> Hello:
        return Hello(
            session=session,
            role=Role.WORKER,
            name=fitting(Label, settings.name),
            host=fitting(Label, os.uname().nodename),
            pid=os.getpid(),
            python=PYTHON_VERSION,
            version=__version__,
            slots=settings.slots,
            queues=settings.queues,
            primary=primary,
            inline=inline,
            offers=offered,
            chains=True,
        )

    return say_hello
