"""How fast do values of each size travel?

Bytes objects of 1 kB to 64 MB and numpy arrays from 10 kB on, as maps, two slots: there and back, as an argument only,
as a result only; and one task there and back by itself. With the queue in memory and durable; by reference, as clients
and workers on the coordinator's machine have it, and over the wire, as others do. Beside the standard pool and, where
it is installed, Dask; and beside what the machine gives: a plain loop of write and fdatasync, and a plain socket.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import socket
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.rounds import rate
from rig.scene import PATIENCE_S, Scene
from rig.values import echo, made, made_array, taken

import dtq

SLOTS: Final = 2
SIZES: Final = {"1 kB": 10**3, "10 kB": 10**4, "100 kB": 10**5, "1 MB": 10**6, "8 MB": 8 * 10**6, "64 MB": 64 * 10**6}
WAYS: Final = ("echo", "argument", "result")
#: The sizes that go there and back one at a time.
SINGLES: Final = ("1 kB", "10 kB", "100 kB")
#: What values are, and how one of a size is made; arrays are not worth it below the first size.
KINDS: Final[dict[str, Callable[[int, int], Any]]] = {"bytes": made, "array": made_array}
POOL, MEMORY, DURABLE, DASK = "ProcessPoolExecutor", "dtq, memory", "dtq, durable", "Dask"
WIRE, DURABLE_WIRE = "dtq, memory, wire", "dtq, durable, wire"
DISK, SOCKET = "write + fdatasync", "plain socket"
#: About how long a turn takes, in seconds.
TURN_S: Final = 0.7
#: Most bytes in a turn: all of them are in memory, at several places.
MOST_BYTES: Final = 256 * 10**6
MOST_TASKS: Final = 20_000

#: Has a function called for the values of some iterables.
Runs = Callable[..., Iterable[Any]]


def run(kind: str, way: str, runs: Runs, size: int, values: list[Any]) -> int:
    """One map; how many values went that way."""
    count = len(values)
    if way == "echo":
        assert sum(map(len, runs(echo, values))) == size * count
    elif way == "argument":
        assert sum(runs(taken, values)) == size * count
    else:
        assert sum(map(len, runs(KINDS[kind], [size] * count, range(count)))) == size * count
    return count


def enough(kind: str, way: str, runs: Runs, size: int, options: Options) -> list[Any]:
    """Values for a turn of the right length."""
    most = max(2 * SLOTS, min(MOST_TASKS, MOST_BYTES // size))
    count = 2 * SLOTS
    while True:
        values = [KINDS[kind](size, number) for number in range(count)]
        start = time.perf_counter()
        run(kind, way, runs, size, values)
        seconds = time.perf_counter() - start
        if options.quick or count >= most or seconds > TURN_S / 2:
            return values
        count = min(most, max(2 * count, int(count * min(10.0, TURN_S / seconds))))


def written(directory: Path, size: int, count: int) -> int:
    """What a loop without any queue gets to the disk: each value written and synced by itself."""
    value = made(size, 0)
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(count):
            rest = memoryview(value)
            while rest:
                rest = rest[file.write(rest) :]
            os.fdatasync(file.fileno())
    return count


class PlainSocket:
    """A process that sends back whatever it is sent."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._child = os.fork()
            if self._child == 0:
                try:
                    self._answer(server.accept()[0])
                finally:
                    os._exit(0)
            self._socket = socket.create_connection(server.getsockname(), PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()
        os.waitpid(self._child, 0)

    def echo(self, size: int, count: int) -> int:
        """So many values there and back, sent without waiting for those before to return."""
        value, room = made(size, 0), bytearray(size)

        def send() -> None:
            self._socket.sendall(size.to_bytes(8, "big") + count.to_bytes(8, "big"))
            for _ in range(count):
                self._socket.sendall(value)

        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(count):
            _fill(self._socket, room)
        sender.join()
        return count

    @staticmethod
    def _answer(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = bytearray(16)
        while _fill(sock, head):
            room = bytearray(int.from_bytes(head[:8], "big"))
            for _ in range(int.from_bytes(head[8:], "big")):
                _fill(sock, room)
                sock.sendall(room)


def _fill(sock: socket.socket, room: bytearray) -> bool:
    rest = memoryview(room)
    while rest:
        got = sock.recv_into(rest)
        if not got:
            return False
        rest = rest[got:]
    return True


def dask(stack: ExitStack, report: Report) -> Runs | None:
    """Dask's client, as its users would map."""
    try:
        distributed = importlib.import_module("distributed")
    except ImportError:
        report.note("absent: Dask (distributed)")
        return None
    warnings.filterwarnings("ignore", message="Sending large graph")  # its advice is to have no such arguments
    cluster = distributed.LocalCluster(n_workers=SLOTS, threads_per_worker=1, processes=True, dashboard_address=None)
    client = stack.enter_context(distributed.Client(stack.enter_context(cluster)))

    def runs(function: Callable[..., Any], *values: Iterable[Any]) -> list[Any]:
        return list(client.gather(client.map(function, *values, pure=False)))

    return runs


def contenders(stack: ExitStack, report: Report, options: Options) -> tuple[dict[str, Runs], dict[str, Executor]]:
    """Everybody, warm; those that fork first, before there are threads."""
    executors: dict[str, Executor] = {POOL: stack.enter_context(ProcessPoolExecutor(SLOTS))}
    list(executors[POOL].map(len, [b""] * 100))
    for name, store in ((MEMORY, "memory"), (DURABLE, "fsync"), (WIRE, "memory"), (DURABLE_WIRE, "fsync")):
        if options.quick and name == DURABLE_WIRE:
            continue
        by_reference = name in (MEMORY, DURABLE)
        scene = Scene(store, slots=SLOTS, directory=options.directory, by_reference=by_reference)
        stack.enter_context(scene)
        executors[name] = stack.enter_context(dtq.Executor(scene.address, authkey_file=scene.key_file))
    everybody: dict[str, Runs] = {name: executor.map for name, executor in executors.items()}
    theirs = None if options.quick else dask(stack, report)
    return everybody if theirs is None else everybody | {DASK: theirs}, executors


def maps(report: Report, options: Options, everybody: dict[str, Runs], plain: PlainSocket, directory: Path) -> None:
    """Each kind, way and size, all in turns."""
    report.grid("as a map", (*everybody, DISK, SOCKET))
    for kind, (name, size), way in itertools.product(KINDS, SIZES.items(), WAYS):
        if options.quick and (kind, name, way) != ("bytes", "100 kB", "echo"):
            continue
        if (kind == "array" and name == "1 kB") or not options.wants(f"{kind} {way} {name}"):
            continue
        turns: dict[str, Callable[[], float]] = {}
        for contender, runs in everybody.items():
            values = enough(kind, way, runs, size, options)
            turns[contender] = rate(functools.partial(run, kind, way, runs, size, values))
        count = options.pick(max(2, min(2_000, 50 * 10**6 // size)), 2)
        turns[DISK] = rate(functools.partial(written, directory, size, count))
        turns[SOCKET] = rate(functools.partial(plain.echo, size, count))
        title = f"{kind}, {way}, {name}"
        medians = report.beside(title, report.rounds.alternate(turns), "/s", size)
        judge(report, title, medians, stored=2 if way == "echo" else 1)


def judge(report: Report, name: str, medians: dict[str, float], stored: int) -> None:
    """What the figures have to reach."""
    if MEMORY in medians:
        report.add(f"{name}: memory against the pool", medians[MEMORY] / medians[POOL], "times", Bar(least=1))
    if name.endswith(" 1 kB"):
        return
    if "echo" in name:
        report.add("  memory, wire, against a plain socket", medians[WIRE] / medians[SOCKET], "times", Bar(least=0.3))
    if DURABLE in medians:
        least = 1.5 if name.endswith(" 100 kB") else 0.7
        share = medians[DURABLE] * stored / medians[DISK]
        report.add("  durable, bytes stored, against write + fdatasync", share, "times", Bar(least=least))
        if DASK in medians:
            report.add("  durable against Dask", medians[DURABLE] / medians[DASK], "times", Bar(least=1))


def singles(report: Report, options: Options, executors: dict[str, Executor]) -> None:
    """One task at a time."""
    report.grid("one there and back", tuple(executors))
    durable: list[float] = []
    for name in SINGLES:
        if not options.wants(f"single {name}"):
            continue
        value = made(SIZES[name], 0)
        turns = {who: functools.partial(one, executor, value, options) for who, executor in executors.items()}
        durable.append(report.beside(name, report.rounds.alternate(turns), "ms")[DURABLE])
    if len(durable) > 1:
        report.add("one there and back, durable: 10 kB against 1 kB", durable[1] / durable[0], "times", Bar(most=1.3))


def one(executor: Executor, value: bytes, options: Options) -> float:
    """The median of some round trips, in milliseconds."""
    times = []
    for _ in range(options.pick(100, 5)):
        start = time.perf_counter()
        assert len(executor.submit(echo, value).result()) == len(value)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def main() -> None:
    parts = [f"{kind} {way} {size}" for kind, way, size in itertools.product(KINDS, WAYS, SIZES)]
    options = command_line(__doc__, parts=[*parts, "single"])
    report = Report("payloads", "How fast do values of each size travel?", options)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dtq-bench-", dir=options.directory)))
        plain = PlainSocket()
        stack.callback(plain.close)
        everybody, executors = contenders(stack, report, options)
        maps(report, options, everybody, plain, directory)
        singles(report, options, executors)
    report.note("wire: with --no-by-reference, through the coordinator.")
    report.note("echo stores each value twice where it is durable: as argument and as result.")
    report.print()


if __name__ == "__main__":
    main()
