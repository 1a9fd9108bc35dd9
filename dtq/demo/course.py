"""The course of the demo: real work, then the load of requests twice, in the order of submission and by priority.

Everything is checked: the work against a run in this process, the requests against what the seed determines.
"""

from __future__ import annotations

import os
import secrets
import sysconfig
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Protocol

from dtq import Client
from dtq.client.handle import TaskHandle
from dtq.config import load_authkey, parse_address
from dtq.demo import tasks
from dtq.demo.cluster import DemoCluster
from dtq.demo.load import RETRIES, RETRY_DELAY_S, Load, Round
from dtq.errors import ClusterEnded, DtqError
from dtq.model.dashboard import Dashboard
from dtq.model.ids import parse_named
from dtq.model.messages import Hello, Role
from dtq.model.queues import SteeringChange
from dtq.model.snapshots import DeadLetter, Selection, Stats
from dtq.records import dataclass
from dtq.transport import Proxy

#: Pause between two looks at the cluster, in seconds.
_LOOK_S: Final = 0.25
#: How long nothing may end until the demo gives up, in seconds.
_STUCK_S: Final = 60.0
#: Bytes of files that are packed for each request of the load, and at most.
_WORK_BYTES: Final = (400, 2_000_000)
#: The priority of all requests in the order of their submission.
_EQUAL: Final = 5
#: Dead letters that the report shows.
_LETTERS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What was measured of the real work.

    Attributes:
        files: how many files were packed.
        size: their bytes.
        serial_s: seconds that this process took.
        cluster_s: seconds that the cluster took.
    """

    files: int
    size: int
    serial_s: float
    cluster_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything that was measured.

    Attributes:
        load: the load.
        slots: the cluster's slots.
        work: the real work; None if there are no files for it.
        fifo: the load in the order of submission.
        ranked: the load by priority.
        letters: some of the dead letters.
        stats: the coordinator's counts at the end.
        checks: what was checked, and whether it holds.
    """

    load: Load
    slots: int
    work: Work | None
    fifo: Round
    ranked: Round
    letters: tuple[DeadLetter, ...]
    stats: Stats
    checks: tuple[tuple[str, bool], ...]


class View(Protocol):
    """Shows the demo while it runs."""

    def say(self, text: str) -> None:
        """Say what happens next."""
        ...

    def show(self, title: str, ended: int, total: int, seen: Dashboard) -> None:
        """Show how far a part of the demo is, and the cluster."""
        ...


def run(cluster: DemoCluster, load: Load, view: View) -> Outcome:
    """Run the demo on a cluster.

    Args:
        cluster: the cluster, which runs.
        load: the load of requests.
        view: shows what happens.

    Raises:
        ClusterEnded: one of the processes has ended, or nothing goes on.
    """
    with ExitStack() as stack:
        client = Client(cluster.address, authkey_file=cluster.authkey_file)
        stack.callback(_close, client)
        key, origin = load_authkey(str(cluster.authkey_file))
        service = Proxy([parse_address(cluster.address)], key, _hello(), key_source=origin)
        stack.enter_context(service)
        try:
            return _Course(cluster, client, service, load, view).run()
        except DtqError:
            cluster.check()  # a process that has ended tells more than the calls that it does not answer
            raise


def _close(client: Client) -> None:
    with suppress(DtqError):
        client.close(timeout=0.5)


def _hello() -> Hello:
    return Hello(session=secrets.token_hex(16), role=Role.CLIENT, name="demo", pid=os.getpid())


class _Course:
    """One run of the demo."""

    def __init__(self, cluster: DemoCluster, client: Client, service: Proxy, load: Load, view: View) -> None:
        self._cluster = cluster
        self._client = client
        self._service = service
        self._load = load
        self._view = view
        self._checks: list[tuple[str, bool]] = []
        #: The end of the history that the view knows.
        self._known = 0.0

    def run(self) -> Outcome:
        """See `run`."""
        work = self._work()
        fifo = self._round("fifo", "in the order of submission", [_EQUAL] * self._load.tasks)
        ranked = self._round("priority", "by priority, P1 first", self._load.priorities())
        letters = self._service.dead_letters(Selection(limit=_LETTERS))
        return Outcome(
            load=self._load,
            slots=self._cluster.workers * self._cluster.slots,
            work=work,
            fifo=fifo,
            ranked=ranked,
            letters=tuple(letters),
            stats=self._service.stats(),
            checks=tuple(self._checks),
        )

    def _check(self, promise: str, kept: bool) -> None:
        self._checks.append((promise, kept))

    def _look(self, title: str, ended: Callable[[Dashboard], int], total: int) -> None:
        """Show the cluster until so many tasks have ended."""
        most, at = -1, time.monotonic()
        while True:
            self._cluster.check()
            seen = self._service.dashboard(self._known)
            self._known = max((one.end for one in seen.history if one.step_s == 1), default=self._known)
            done = ended(seen)
            self._view.show(title, done, total, seen)
            if done >= total:
                return
            if done > most:
                most, at = done, time.monotonic()
            elif time.monotonic() - at > _STUCK_S:
                raise ClusterEnded(f"no task has ended for {_STUCK_S:g} s; {done:,} of {total:,} have")
            time.sleep(_LOOK_S)

    # -- real work ------------------------------------------------------------------------------------------------

    def _work(self) -> Work | None:
        paths = _files(min(_WORK_BYTES[1], self._load.tasks * _WORK_BYTES[0]))
        if not paths:
            self._view.say("no files of the standard library were found to work on: that part is left out")
            return None
        size = sum(os.path.getsize(path) for path in paths)
        self._view.say(f"real work: {len(paths):,} files of the standard library, first packed by this process alone")
        began = time.perf_counter()
        serial = [tasks.pack(path) for path in paths]
        serial_s = time.perf_counter() - began
        self._view.say("the same files, a task a file, by the cluster")
        began = time.perf_counter()
        batch = self._client.submit_map(tasks.pack, paths, label="packing")
        self._look("packing files", lambda seen: seen.counts.succeeded + seen.counts.dead, len(paths))
        clustered = list(batch.results(return_exceptions=True))
        cluster_s = time.perf_counter() - began
        self._check(f"all {len(paths):,} files are packed as by a serial run", clustered == serial)
        return Work(files=len(paths), size=size, serial_s=serial_s, cluster_s=cluster_s)

    # -- requests -------------------------------------------------------------------------------------------------

    def _round(self, queue: str, order: str, priorities: Sequence[int]) -> Round:
        load, service = self._load, self._service
        before = service.stats()
        self._view.say(f"{load.tasks:,} requests over a network that loses {load.failure_rate:.0%} of them, {order}")
        service.steer_queue(queue, SteeringChange(paused=True))
        handles = [
            self._client.submit(
                tasks.request,
                number,
                load.seed,
                load.failure_rate,
                queue=queue,
                priority=priority,
                label=f"P{drawn}",  # so that what is submitted is cut into the same batches in both rounds
                max_retries=RETRIES,
                retry_delay=RETRY_DELAY_S,
            )
            for number, (priority, drawn) in enumerate(zip(priorities, load.priorities(), strict=True))
        ]
        self._look(f"queueing requests, {order}", lambda seen: seen.counts.pending, load.tasks)
        held = service.stats().counts.pending
        opened = time.time()
        service.steer_queue(queue, SteeringChange(paused=False))
        already = before.counts.succeeded + before.counts.dead
        self._look(f"requests {order}", lambda seen: seen.counts.succeeded + seen.counts.dead - already, load.tasks)
        seconds = time.time() - opened
        after = service.stats()
        starts = list(self._starts(handles))
        waits: dict[int, list[float]] = defaultdict(list)
        for priority, (start, _) in zip(load.priorities(), starts, strict=True):
            waits[priority].append(max(0.0, start - opened))
        measured = Round(
            seconds=seconds,
            held=held,
            answered=sum(answered for _, answered in starts),
            retries=after.retries - before.retries,
            dead=after.counts.dead - before.counts.dead,
            waits=waits,
        )
        self._check_round(order, measured, [answered for _, answered in starts])
        return measured

    def _starts(self, handles: Sequence[TaskHandle[float]]) -> Iterator[tuple[float, bool]]:
        """When each request was first started, and whether it was answered."""
        for number, handle in enumerate(handles):
            if number % 500 == 0:
                self._cluster.check()
            error = handle.exception(timeout=_STUCK_S)
            attempts, _ = self._load.attempts(number)
            if error is None and attempts == 1:
                yield handle.result(), True
            else:
                named = parse_named(handle.id)
                history = self._service.attempts(named.batch, named.index or 0, 0)
                yield history[0].started_at if history else time.time(), error is None

    def _check_round(self, order: str, measured: Round, answered: Sequence[bool]) -> None:
        """Compare a round with what the seed determines."""
        expected = [self._load.attempts(number) for number in range(self._load.tasks)]
        get_through = [through for _, through in expected]
        self._check(
            f"{order}: the {sum(get_through):,} requests that get through in {RETRIES + 1} attempts are answered",
            list(answered) == get_through,
        )
        retries = sum(attempts - 1 for attempts, _ in expected)
        self._check(f"{order}: {retries:,} retries, as many as that takes", measured.retries == retries)
        dead = get_through.count(False)
        self._check(f"{order}: the other {dead:,} are dead letters, none is lost", measured.dead == dead)


def _files(most: int) -> list[str]:
    """Python files of the standard library, of together about this many bytes."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[str] = []
    for path in sorted(root.glob("*.py")):
        with suppress(OSError):
            size = path.stat().st_size
            if most - size < 0 and found:
                break
            most -= size
            found.append(str(path))
    return found
