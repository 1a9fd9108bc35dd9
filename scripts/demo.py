"""The demo: real work through a real coordinator and two real workers, checked against a serial run; then tasks that
fail at random, retried until they succeed or are dead letters. Ends by itself; 1 if a check fails."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from demo_tasks import SETTINGS, gets_through, pack, request

from dtq import Client
from dtq.config import read_connection, usable_cores
from dtq.errors import TaskError
from dtq.model.snapshots import Stats

HERE = Path(__file__).resolve().parent
WORKERS = 2
#: How many requests are made of the flaky service, and how often each is tried again.
REQUESTS = 80
RETRIES = 2
#: How long anything may take to start or stop, in seconds.
PATIENCE_S = 60.0
#: How long the demo may take in all, in seconds: far more than it does on a slow machine.
LIMIT_S = 1800.0


class CheckFailed(Exception):
    """What the demo promises did not happen."""


def check(promise: str, kept: bool) -> None:
    print(f"  {'ok ' if kept else 'NOT OK '} {promise}", flush=True)
    if not kept:
        raise CheckFailed(promise)


@contextmanager
def watching(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Fail if one of the processes ends, or the time runs out: whoever waits for a task would wait for ever."""
    deadline = time.monotonic() + LIMIT_S

    def look(*_: object) -> None:
        ended = [process for process in processes if process.poll() is not None]
        if ended:
            raise CheckFailed(f"process {ended[0].pid} ended too early, with exit code {ended[0].returncode}")
        if time.monotonic() > deadline:
            raise CheckFailed(f"it takes more than {LIMIT_S:g} s")

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def headline(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def dtq(*words: str) -> list[str]:
    return [sys.executable, "-m", "dtq", *words]


@contextmanager
def background(log: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A dtq command in the background; ended with SIGTERM, its log shown if something went wrong."""
    print(f"  $ dtq {shlex.join(words)} &", flush=True)
    with log.open("wb") as output:
        process = subprocess.Popen(dtq(*words), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    except BaseException:
        print(f"\n--- the log of `dtq {shlex.join(words)}`:\n{log.read_text(errors='replace')[-4000:]}", flush=True)
        raise
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def foreground(*words: str) -> None:
    """A dtq command as a user would type it."""
    print(f"\n  $ dtq {shlex.join(words)}", flush=True)
    done = subprocess.run(dtq(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    print("".join(f"  {line}\n" for line in (done.stdout + done.stderr).splitlines()), end="", flush=True)
    check(f"dtq {shlex.join(words)} ended with 0", done.returncode == 0)


def await_coordinator(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while read_connection() is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise CheckFailed(f"the coordinator did not start (exit code {process.poll()})")
        time.sleep(0.02)


def await_slots(client: Client, slots: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (ready := sum(worker.slots for worker in client.stats().workers)) < slots:
        if time.monotonic() > deadline:
            raise CheckFailed(f"only {ready} of {slots} slots are ready")
        time.sleep(0.05)


def library_files() -> list[str]:
    """Every Python file of the running Python's standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    return [str(path) for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts]


def real_work(client: Client, slots: int) -> None:
    paths = library_files()
    size = sum(len(Path(path).read_bytes()) for path in paths)  # reads every file once: both runs find them in memory
    headline(f"1. {len(paths):,} files of the standard library ({size / 1e6:.0f} MB): LZMA and SHA-256, a task a file")
    print(f"  each under {len(SETTINGS)} settings of LZMA, the smallest of which counts")

    print("  serial, in this process ...", end=" ", flush=True)
    started = time.perf_counter()
    serial = [pack(path) for path in paths]
    serial_s = time.perf_counter() - started
    print(f"{serial_s:6.2f} s", flush=True)

    print(f"  by the cluster's {slots} slots ...", end=" ", flush=True)
    started = time.perf_counter()
    batch = client.submit_map(pack, paths)
    while (counts := batch.status().counts).unfinished:
        if sys.stdout.isatty():
            print(f"\r  by the cluster's {slots} slots ... {counts.succeeded:6,}", end="", flush=True)
        time.sleep(0.1)
    clustered = list(batch.results())
    cluster_s = time.perf_counter() - started
    print(f"\r  by the cluster's {slots} slots ..." if sys.stdout.isatty() else "", end="")
    print(f"{cluster_s:7.2f} s", flush=True)
    print(f"  {serial_s / cluster_s:.2f} times as fast, every task on disk before it was acknowledged")

    check(f"all {len(paths):,} digests are equal", [a for a, _ in serial] == [a for a, _ in clustered])
    check(f"all {len(paths):,} sizes are equal", [a for _, a in serial] == [a for _, a in clustered])


def show(stats: Stats, since_s: float, retries_before: int) -> None:
    counts = stats.counts
    waiting = f"{counts.pending + counts.running:3} waiting or running, {counts.scheduled:3} backing off"
    print(f"  {since_s:4.1f} s: {waiting}, {stats.retries - retries_before:3} retries, {stats.dead_letters:2} dead")


def flaky_network(client: Client) -> None:
    headline(f"2. {REQUESTS} requests over a network that loses 45 % of them, each tried again {RETRIES} times")
    before = client.stats()
    started = time.monotonic()
    handles = [client.submit(request, number, max_retries=RETRIES, retry_delay=0.5) for number in range(REQUESTS)]
    for handle in handles:
        handle.accepted(PATIENCE_S)
    while (stats := client.stats()).counts.unfinished:
        show(stats, time.monotonic() - started, before.retries)
        if time.monotonic() - started > PATIENCE_S:
            raise CheckFailed("the requests did not end")
        time.sleep(0.25)
    show(stats, time.monotonic() - started, before.retries)

    answered: list[int] = []
    for number, handle in enumerate(handles):
        try:
            if handle.result(timeout=PATIENCE_S) == f"answer {number}":
                answered.append(number)
        except (ConnectionError, TaskError):
            pass
    attempts = {n: [gets_through(n, attempt) for attempt in range(1, RETRIES + 2)] for n in range(REQUESTS)}
    expected = [number for number, tries in attempts.items() if any(tries)]
    retries = sum(min([*tries, True].index(True), RETRIES) for tries in attempts.values())
    check(
        f"{len(expected)} were answered, exactly those that get through in {RETRIES + 1} attempts", answered == expected
    )
    check(f"{retries} retries, as many as it takes", stats.retries - before.retries == retries)
    dead = REQUESTS - len(expected)
    check(f"{dead} that never got through are dead letters, none is lost", stats.dead_letters == dead)


def run(directory: Path) -> None:
    slots = max(1, usable_cores() // WORKERS)
    headline(
        f"A coordinator and {WORKERS} workers of {slots} slot{'s' if slots > 1 else ''} each, as processes of their own"
    )
    with ExitStack() as stack:
        words: tuple[str, ...] = ("coordinator", "start", "--port", "0", "--db", str(directory / "queue.db"))
        processes = [stack.enter_context(background(directory / "coordinator.log", *words))]
        await_coordinator(processes[0])
        for number in range(1, WORKERS + 1):
            words = ("worker", "--slots", str(slots), "--path", str(HERE), "--import", "demo_tasks")
            words = (*words, "--name", f"worker-{number}")
            processes.append(stack.enter_context(background(directory / f"worker-{number}.log", *words)))
        client = stack.enter_context(Client())
        stack.enter_context(watching(processes))
        await_slots(client, slots * WORKERS)
        real_work(client, slots * WORKERS)
        flaky_network(client)
        headline("3. What an operator sees")
        foreground("dlq", "list")
        foreground("stats")


def main() -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dtq-demo-") as name:
        directory = Path(name)
        for variable in [variable for variable in os.environ if variable.startswith("DTQ_")]:
            del os.environ[variable]
        # A home of the demo's own: the key, the store and the address are found there, and nothing else is touched.
        os.environ["XDG_CONFIG_HOME"] = str(directory / "config")
        os.environ["XDG_STATE_HOME"] = str(directory / "state")
        try:
            run(directory)
        except CheckFailed as failure:
            print(f"\nThe demo failed: {failure}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return 130
    print(f"\nEverything is as it should be, after {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
