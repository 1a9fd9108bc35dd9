"""Rows of the catalogue of faults: vanished peers (22, 23), bad lines (37, 38), load (61, 62)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dtq.core.queue_state import Rules
from dtq.errors import QueueFull, SessionUnknown, from_wire
from dtq.model.messages import Exchange, Grant, Hello, Holding, Role, Submission
from dtq.model.pages import pack
from dtq.model.snapshots import Selection
from dtq.model.states import State
from dtq.transport import Proxy
from dtq.transport import connection as connection_module
from tests.cluster import Cluster, clean_environment
from tests.faults.house import (
    DEADLINE_S,
    KEY,
    House,
    client,
    house,
    lease,
    resident_mib,
    send,
    settle,
    submit,
    wait_until,
)
from tests.integration.transport_scene import proxy_to, serving_apart

REPOSITORY = Path(__file__).parents[2]


# -- peers that vanish ----------------------------------------------------------------------------------------------


def drop_everything(sock: socket.socket) -> None:
    """From now on the kernel drops all that comes for a socket: its machine is gone, as the peer sees it."""

    class Filter(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))

    program = Filter(0x06, 0, 0, 0)  # return 0 bytes
    attach = struct.pack("HL", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_ATTACH_FILTER", 26), attach)


def test_tasks_of_a_machine_that_vanished_run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 22: worker machine vanishes (a filter in the kernel drops what comes for it, acknowledgements included)."""
    if sys.platform != "linux":
        pytest.skip("takes Linux's socket filters")
    quick = tuple(
        (name, {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 2}.get(name, value))
        for name, value in connection_module._OPTIONS
    )
    monkeypatch.setattr(
        connection_module, "_OPTIONS", tuple((n, 3000 if n == "TCP_USER_TIMEOUT" else v) for n, v in quick)
    )
    with house(Rules(lease_s=2.0)) as home:
        threads = threading.active_count()
        producer, lost = home.proxy(), home.worker("lost")
        batch = submit(producer)
        lease(lost)
        # When the machine with the lease vanishes without a word
        line = lost._connection
        assert line is not None
        drop_everything(line.sock)
        # Then another gets the task when the lease has run out
        other = home.worker("other")
        settle(other, patient_lease(other))
        assert producer.task(batch, 0).state is State.SUCCEEDED
        # And the thread that served the lost one is freed: what is left are the other two
        wait_until("its thread ends", lambda: threading.active_count() <= threads + 2)


def patient_lease(worker: Proxy) -> Grant:
    """A lease for a worker that reports all the while, as a worker does."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(SessionUnknown):  # it was held up for longer than a lease; it says hello again
            for grant in worker.exchange(Exchange(capacity=1, fetch=True, wait_s=0.2)).grants:
                return grant
    raise AssertionError("the task is not given to another")


def test_nothing_is_left_of_clients_that_die_while_they_wait(tmp_path: Path) -> None:
    """Row 23: client dies while waiting for a result."""
    code = (
        "import sys, threading, os; from dtq.transport import Proxy; from tests.faults.house import KEY, client\n"
        "proxies = [Proxy([('127.0.0.1', int(sys.argv[1]))], KEY, client()) for _ in range(50)]\n"
        "for proxy in proxies:\n"
        "    proxy.follow([1]); threading.Thread(target=proxy.watch, args=(0, 1.5), daemon=True).start()\n"
        "print('waiting', flush=True); threading.Event().wait()"
    )
    with house() as home:
        producer, worker = home.proxy(), home.worker()
        batch = submit(producer, 2)
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        environment = clean_environment(tmp_path) | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", code, str(home.server.address[1])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            # Given fifty clients that wait
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            wait_until("all wait", lambda: threading.active_count() >= threads + 50)
            # When they are killed
            process.send_signal(signal.SIGKILL)
        # Then their threads and descriptors are given back, and results are kept
        wait_until("threads", lambda: threading.active_count() <= threads)
        wait_until("descriptors", lambda: len(os.listdir("/proc/self/fd")) <= files + 3)
        while producer.batch(batch).counts.succeeded < 2:
            settle(worker, lease(worker))
        assert sum(ended.hi - ended.lo for ended in producer.results(batch, 0, 2)) == 2


# -- bad lines ------------------------------------------------------------------------------------------------------


def test_slow_line_works_and_medium_messages_do_not_stall() -> None:
    """Row 37: slow network: 50 ms each way. (Loss would take tc netem, a kernel module; TCP repairs it.)"""
    with house() as home:
        # Given a line that takes 50 ms
        with slow_line(home.server.address[1], 0.05) as port:
            with Proxy([("127.0.0.1", port)], KEY, client()) as far:
                batches = [submit(far, 3, number) for number in range(1, 4)]
            # Then nothing is lost
            assert home.proxy().stats().counts.pending == 9
            assert len(set(batches)) == 3
        # And on the loopback, where Nagle would hold them for 40 ms, messages of 16 to 64 kB do not wait
        proxy = home.proxy()
        for size in (17_000, 40_000, 64_000):
            took = []
            for number in range(20):
                started = time.monotonic()
                arguments = pack([bytes(size)])
                send(proxy, Submission(spec=0, number=100 + size + number, arguments=arguments))
                took.append(time.monotonic() - started)
            assert min(took) < 0.03, f"{size} bytes took {took}"


@contextlib.contextmanager
def slow_line(to: int, delay_s: float, piece: int = 1 << 16) -> Iterator[int]:
    """Passes connections on, every piece of so many bytes later by so much."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(piece):
                over.wait(delay_s)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def run() -> None:
        while True:
            try:
                near = stack.enter_context(listener.accept()[0])
            except OSError:
                return
            far = stack.enter_context(socket.create_connection(("127.0.0.1", to)))
            for pair in ((near, far), (far, near)):
                threads.append(threading.Thread(target=pump, args=pair, daemon=True))
                threads[-1].start()

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        accepting = threading.Thread(target=run, daemon=True)
        accepting.start()
        yield listener.getsockname()[1]
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(DEADLINE_S)
        for thread in threads:
            thread.join(DEADLINE_S)


def test_worker_on_a_thin_line_keeps_its_leases_while_bytes_move() -> None:
    """A report that takes several leases to arrive: its sender is there."""
    with house(Rules(lease_s=0.5)) as home:
        producer = home.proxy()
        batch = submit(producer)
        # Given a worker on a line of 400 kB a second
        with slow_line(home.server.address[1], 0.02, piece=8_000) as port:
            hello = Hello(session="5" * 32, role=Role.WORKER, slots=1, primary=True, name="far")
            with Proxy([("127.0.0.1", port)], KEY, hello) as far:
                # When its result takes more than a second
                settle(far, lease(far), bytes(500_000))
        # Then it was never given up
        assert producer.batch(batch).counts.succeeded == 1
        seen = producer.stats()
        assert (seen.retries, seen.refused) == (0, 0)


def test_worker_that_only_fetches_lives_longer_than_its_lease() -> None:
    """The wait of a fetching call is longer than the lease."""
    with house(Rules(lease_s=0.5)) as home:
        producer, worker = home.proxy(), home.worker()
        submit(producer, 2)
        grant = lease(worker)
        # When it asks for more than a slot has room for, several times a lease long, and says no more
        held = (Holding(token=grant.token, started=0),)
        began = time.monotonic()
        while time.monotonic() < began + 1.5:
            assert not worker.exchange(Exchange(capacity=1, fetch=True, wait_s=10.0, holding=held)).drop
        # Then
        settle(worker, grant)
        assert producer.stats().counts.succeeded == 1
        assert producer.stats().retries == 0


def test_repeated_requests_have_no_second_effect() -> None:
    """Row 38: reordered, duplicated requests (of whoever has the key: replayed bytes are refused, see row 10)."""
    with house() as home:
        hello, worker = client(), home.worker()
        first, second = home.proxy(hello), home.proxy(hello)
        # When a submission comes again on another connection, Then it is the same one
        submission = Submission(spec=0, number=1, arguments=pack([b"x"]))
        (one,) = send(first, submission)
        (two,) = send(second, submission, repeated=True)
        assert (one.batch, one.size) == (two.batch, two.size)
        assert first.stats().counts.pending == 1
        # When a report comes again, also after other reports, Then it counts once
        grant = lease(worker)
        settle(worker, grant, b"first")
        other = lease_of_another(home, first, worker)
        settle(worker, grant, b"second")
        settle(worker, other)
        settle(worker, other)
        (ended,) = first.results(one.batch, 0, 1)
        assert ended.results == pack([b"first"])
        assert first.stats().counts.succeeded == 2
        # When a cancel comes again, Then it finds nothing to do
        batch = submit(first, number=3)
        named = Selection(ids=((batch, -1),), limit=0)
        assert [first.cancel(named).cancelled, second.cancel(named).cancelled] == [1, 0]


def lease_of_another(home: House, producer: Any, worker: Any) -> Any:
    submit(producer, number=2)
    return lease(worker)


# -- load -----------------------------------------------------------------------------------------------------------


def test_thousand_idle_connections_cost_forty_kilobytes_each(many_files: None) -> None:
    """Row 61: 1,000 idle workers."""
    with serving_apart() as apart, ExitStack() as stack:
        with proxy_to(apart) as warm:
            warm.connect()
        before = resident_mib(apart.pid)
        for _ in range(1000):
            stack.enter_context(proxy_to(apart)).connect()
        each_kib = (resident_mib(apart.pid) - before) * 1024 / 1000
        assert each_kib < 40, f"{each_kib:.1f} KiB each"


def test_million_tasks_cost_little_and_one_more_is_refused(tmp_path: Path) -> None:
    """Row 62: queue of 10^6 tasks."""
    with Cluster(tmp_path) as cluster:
        coordinator = cluster.coordinator("--max-tasks", "1000000", "--durability", "none")
        service = cluster.service()
        service.stats()
        before = resident_mib(coordinator.pid)
        # Given a million tasks in a thousand batches
        page = pack([b"12345678"] * 1000)
        for number in range(0, 1000, 20):
            receipts = send(service, *(Submission(spec=0, number=number + n, arguments=page) for n in range(20)))
            assert not any(receipt.code for receipt in receipts)
        # Then they cost less than 200 bytes each, the cache of their arguments included
        each = (resident_mib(coordinator.pid) - before) * 2**20 / 1e6
        assert each < 200, f"{each:.0f} bytes a task"
        # And one more is refused
        (receipt,) = send(service, Submission(spec=0, number=2000, arguments=pack([b"x"])))
        assert isinstance(from_wire(receipt.code, receipt.details), QueueFull)
        assert service.stats().counts.pending == 1_000_000
