"""What a person should look at, each with the remedy: made here once, for every face.

Each look is a function that is given the facts, and says nothing where all is well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from dtq import __version__
from dtq.coordinator.lost_workers import LostWorker
from dtq.core.glance import Glance
from dtq.errors import StoreError
from dtq.model.dashboard import Attention, WorkerLine, WorkerState
from dtq.model.states import State
from dtq.wording import PYTHON_VERSION, counted, duration

if TYPE_CHECKING:
    from dtq.coordinator.service import Coordinator

#: Most sentences of one kind, and of all.
_OF_A_KIND: Final = 5
MOST: Final = 20
#: Minutes in which new dead letters are news.
_MINUTES: Final = 10
#: Seconds that a worker's wall clock may differ from the coordinator's.
_SKEW_S: Final = 5.0


def gather(
    c: Coordinator,
    glance: Glance,
    workers: Sequence[WorkerLine],
    lost: Sequence[LostWorker],
    trouble: StoreError | None,
    now: float,
) -> tuple[Attention, ...]:
    """What a person should look at, the most urgent first. Under the lock."""
    alive = [worker for worker in workers if worker.state is not WorkerState.LOST]
    kinds: tuple[Iterable[Attention], ...] = (
        _of_store(c, trouble),
        _of_queues(glance.unserved(), alive),
        _of_needs(c),
        _of_troubled(alive),
        _of_lost(lost, now),
        _of_dead_letters(c),
        _of_paused(glance.paused()),
        _of_versions(alive),
        _of_clocks(alive),
    )
    return tuple(said for kind in kinds for said in _few(kind))[:MOST]


def _few(kind: Iterable[Attention]) -> Iterator[Attention]:
    told = iter(kind)
    yield from islice(told, _OF_A_KIND)
    if (last := next(told, None)) is not None:
        yield Attention(kind=last.kind, text="and more of this kind", remedy="dtq stats")


def _of_store(c: Coordinator, trouble: StoreError | None) -> Iterator[Attention]:
    if trouble is not None:
        yield Attention(
            kind="store",
            text=f"no new work is accepted ({trouble.code}): {trouble}",
            remedy=trouble.hint or "look into the coordinator's log",
        )
    for loss in c.opened.losses[:1]:
        more = f" (and {len(c.opened.losses) - 1:,} more)" if len(c.opened.losses) > 1 else ""
        yield Attention(
            kind="store", text=f"the store had losses when it was opened: {loss}{more}", remedy="dtq coordinator status"
        )


def _of_queues(unserved: dict[str, int], alive: Sequence[WorkerLine]) -> Iterator[Attention]:
    if unserved and not alive:
        waiting = _waiting(sum(unserved.values()))
        yield Attention(kind="no-worker", text=f"{waiting}, and no worker is connected", remedy="dtq worker")
        return
    for queue, count in unserved.items():
        yield Attention(
            kind="no-worker",
            text=f"{_waiting(count)} in the queue {queue!r}, which no worker serves",
            remedy=f"dtq worker --queue {queue}",
        )


def _waiting(count: int) -> str:
    return f"{counted(count, 'task')} {'waits' if count == 1 else 'wait'}"


def _of_needs(c: Coordinator) -> Iterator[Attention]:
    queue_state = c.machine.queue_state
    workers = list(queue_state.workers.values())
    for need in queue_state.lines.needs() if workers else ():
        if not any(worker.room is not None and worker.room.could(need) for worker in workers):
            wants = [f"--resource {name}={amount}" for name, amount in need.amounts.items()]
            wants += [f"--tag {tag}" for tag in sorted(need.tags)]
            wants += [f"--slots {need.slots}"] if need.slots > 1 else []
            yield Attention(
                kind="needs",
                text=f"tasks wait that need {need}, which no worker offers",
                remedy=" ".join(["dtq worker", *wants]),
            )


def _of_troubled(alive: Sequence[WorkerLine]) -> Iterator[Attention]:
    for worker in alive:
        if worker.state is WorkerState.IN_TROUBLE:
            yield Attention(
                kind="trouble",
                text=f"slots of the worker {worker.name} do not start: {worker.trouble}",
                remedy=f"look into the log of the worker on {worker.host or 'its machine'}",
            )


def _of_lost(lost: Sequence[LostWorker], now: float) -> Iterator[Attention]:
    for worker in lost:
        back = f"; {counted(worker.leases, 'lease')} of it went back to the queue" if worker.leases else ""
        on = f"on {worker.line.host}: " if worker.line.host else ""
        queues = "".join(f" --queue {queue}" for queue in worker.line.queues[:4])
        yield Attention(
            kind="worker-lost",
            text=f"the worker {worker.line.name} was lost {duration(max(1.0, now - worker.at))} ago{back}",
            remedy=f"{on}dtq worker{queues}",
        )


def _of_dead_letters(c: Coordinator) -> Iterator[Attention]:
    died = c.history.died_of_late(c.totals(), _MINUTES)
    dead = c.machine.queue_state.tally[State.DEAD]
    if died and dead:
        grew = "task has become a dead letter" if died == 1 else "tasks have become dead letters"
        yield Attention(
            kind="dead-letters",
            text=f"{died:,} {grew} in the last ten minutes; there {'is' if dead == 1 else 'are'} {dead:,}",
            remedy="dtq dlq list",
        )


def _of_paused(paused: dict[str, int]) -> Iterator[Attention]:
    for queue, count in paused.items():
        yield Attention(
            kind="paused",
            text=f"the queue {queue!r} is paused; {_waiting(count)} in it",
            remedy=f"dtq queue resume {queue}",
        )


def _of_versions(alive: Sequence[WorkerLine]) -> Iterator[Attention]:
    for worker in alive:
        if worker.version and worker.version != __version__:
            yield Attention(
                kind="version",
                text=f"the worker {worker.name} runs dtq {worker.version}, the coordinator {__version__}",
                remedy=f"on {worker.host or 'its machine'}: pip install dtq=={__version__}",
            )
    pythons = {_minor(worker.python) for worker in alive if worker.python}
    if len(pythons) > 1:
        theirs = ", ".join(sorted(pythons, key=lambda version: [int(n) for n in version.split(".") if n.isdigit()]))
        yield Attention(
            kind="python",
            text=f"the workers run Python {theirs}: functions that travel by value may not run on all of them",
            remedy=f"run all of them with one, for example {_minor(PYTHON_VERSION)}",
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _of_clocks(alive: Sequence[WorkerLine]) -> Iterator[Attention]:
    for worker in alive:
        ahead_s = worker.ahead_s
        if ahead_s is not None and abs(ahead_s) > _SKEW_S:
            way = "ahead of" if ahead_s > 0 else "behind"
            yield Attention(
                kind="clock",
                text=f"the clock of the worker {worker.name} is {duration(abs(ahead_s))} {way} the coordinator's",
                remedy=f"on {worker.host or 'its machine'}: timedatectl set-ntp true",
            )
