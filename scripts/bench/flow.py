"""What does it cost that tasks wait for one another, and that queues, limits and rates hold some of them back?

``chain``: tasks of which each is given the result of the one before, with one slot: how many a second, durable and in
memory, of a client and of an executor. ``long``: a chain of 100,000: what it takes to submit, in the coordinator's
memory too; to restart in the middle of, killed; and to cancel, by its head. ``fan``: a million tasks, and a function
that is given all of their results, beside a plain map of as many.

``names``: a million tasks of 10,000 limits in 100 queues, beside as many in one queue without limits; each is a batch
of its own. ``own``: the same few tasks with nothing of their own, and with a label, a limit or a key each.
``closed``: a task behind 100,000 that a limit holds back, and what a lease costs then. ``rate``: starts of a limit of
50 a second.
``shares``: two queues of 3,000 tasks each, and when the second one has its turn.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import count as counting
from typing import Any

from rig.filling import NAMES, QUEUES, fill, served
from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.rounds import rate
from rig.scene import BENCH, Scene
from rig.work import begun, begun_at, noop

import dtq
from dtq import Client, TaskHandle

#: How often one looks, in seconds.
LOOK_S = 0.01


def chained(client: Client, length: int) -> TaskHandle[int]:
    """A chain; its last task."""
    last: TaskHandle[int] = client.submit(noop, 1)
    for _ in range(length - 1):
        last = client.submit(noop, last)
    return last


def run_chain(client: Client, length: int) -> int:
    chained(client, length).result()
    return length


def run_futures(executor: dtq.Executor, length: int) -> int:
    last: Any = executor.submit(noop, 1)  # a future stands for its result among the arguments
    for _ in range(length - 1):
        last = executor.submit(noop, last)
    last.result()
    return length


def chain(report: Report, options: Options) -> None:
    """A chain from its submission to its last result, with one slot."""
    length = options.pick(10_000, 20)
    title = f"chain of {length:,}, one slot"
    for store in ("fsync",) if options.quick else ("fsync", "memory"):
        with Scene(store, slots=1, directory=options.directory) as scene, scene.client() as client:
            run_chain(client, 20)
            before = scene.coordinator.cpu_s, scene.workers[0].cpu_s
            found = report.rounds.repeat(rate(partial(run_chain, client, length)))
            report.add(f"{title}, {'durable' if store == 'fsync' else 'in memory'}", found, "/s", Bar(least=1_500))
            count = length * len(found) / 1e6
            report.add("  coordinator's time a task", (scene.coordinator.cpu_s - before[0]) / count, "us")
            report.add("  worker's time a task", (scene.workers[0].cpu_s - before[1]) / count, "us")
    with dtq.Executor.local(1, paths=[BENCH]) as executor:
        run_futures(executor, 20)
        found = report.rounds.repeat(rate(partial(run_futures, executor, length)))
        report.add(f"{title}, of an executor", found, "/s", Bar(least=1_500))


def long(report: Report, options: Options) -> None:
    """A chain that is longer than anybody waits for."""
    length = options.pick(100_000, 20)
    with Scene("fsync", slots=0, directory=options.directory) as scene, scene.client() as client:
        start = time.perf_counter()
        last = chained(client, length)
        last.accepted()
        report.add(f"chain of {length:,}: submitted", length / (time.perf_counter() - start), "/s")
        report.add("  coordinator's memory", scene.coordinator.rss_mb, "MB", Bar(most=400))
        worker = scene.start_worker(1)
        until(lambda: client.stats().counts.succeeded >= length // 3)
        scene.coordinator.kill()
        report.add("  coordinator ready again, killed after a third", scene.start_coordinator().await_ready(), "s")
        start = time.perf_counter()
        before = client.stats().counts.succeeded
        until(lambda: client.stats().counts.succeeded >= min(length, before + 1))
        report.add("  goes on after", time.perf_counter() - start, "s")
        last.result()
        report.add("  the rest", (length - before) / (time.perf_counter() - start), "/s")
        assert client.stats().counts.succeeded == length
        worker.end()
        cancel_chain(report, scene, client, length)


def cancel_chain(report: Report, scene: Scene, client: Client, length: int) -> None:
    """One more, of which the first task is cancelled while nobody serves it."""
    first = client.submit(noop, 1)
    last = first
    for _ in range(length - 1):
        last = client.submit(noop, last)
    last.accepted()
    start = time.perf_counter()
    first.cancel()
    report.add("  another, cancelled by its head", time.perf_counter() - start, "s")
    until(lambda: client.stats().counts.cancelled == length)
    report.add("  coordinator's memory, most at any time", scene.coordinator.most_mb, "MB", Bar(most=400))


def until(seen: Callable[[], bool]) -> None:
    while not seen():
        time.sleep(LOOK_S)


def run_map(client: Client, count: int) -> int:
    return sum(1 for _ in client.map(noop, range(count)))


def run_fan(client: Client, count: int) -> int:
    assert client.submit(sum, client.submit_map(noop, range(count))).result() == count * (count - 1) // 2
    return count


def fan(report: Report, options: Options) -> None:
    """Out and in again, beside a map that is read."""
    count = options.pick(1_000_000, 200)
    with Scene("fsync", slots=2, directory=options.directory) as scene, scene.client() as client:
        run_fan(client, options.pick(2_000, 20))
        ways = {"map": rate(partial(run_map, client, count)), "fan": rate(partial(run_fan, client, count))}
        found = report.rounds.alternate(ways)
        plain = report.add(f"map of {count:,}, read", found["map"], "/s")
        both = report.add(f"fan-out and fan-in of {count:,}", found["fan"], "/s", Bar(least=100_000))
        report.add("  of the map", both / plain, "")
        report.add("  coordinator's memory, most at any time", scene.coordinator.most_mb, "MB", Bar(most=400))


def run_some(scene: Scene, client: Client, kind: str, count: int) -> float:
    """One round: some more tasks are queued, and as many run. How many a second."""
    fill(scene, kind, count)
    worker = scene.start_worker(2)
    rate = served(client, count)
    worker.end()
    return rate


def names(report: Report, options: Options) -> None:
    """Many limits and queues, beside one queue without any."""
    depth, count = options.pick(1_000_000, 100), options.pick(20_000, 50)
    ways = {"one queue, no limits": "batches", f"{NAMES:,} limits, {QUEUES} queues": "names"}
    if options.quick:
        del ways["one queue, no limits"]
    with ExitStack() as stack:
        rounds: dict[str, Callable[[], float]] = {}
        for name, kind in ways.items():
            scene = stack.enter_context(Scene("fsync", slots=0, directory=options.directory))
            client = stack.enter_context(scene.client())
            client.limits.set("name-*", concurrency=5)
            filled = fill(scene, kind, depth)
            report.add(f"{name}, {depth:,} waiting: coordinator's memory", filled.coordinator_mb, "MB")
            report.add("  submitted", depth / filled.seconds, "/s")
            rounds[name] = partial(run_some, scene, client, kind, count)
        rates = [
            report.add(f"{name}, {depth:,} waiting: run", found, "/s")
            for name, found in report.rounds.alternate(rounds).items()
        ]
        if not options.quick:
            report.add("  of the rate without limits", rates[1] / rates[0], "", Bar(least=0.8))


def one_by_one(submit: Callable[[int], TaskHandle[int]], count: int) -> int:
    assert sum([handle.result() for handle in [submit(n) for n in range(count)]]) == count * (count - 1) // 2
    return count


def own(report: Report, options: Options) -> None:
    """Tasks that have something of their own."""
    count = options.pick(10_000, 20)
    with Scene("fsync", slots=2, directory=options.directory) as scene, scene.client() as client:
        one_by_one(partial(client.submit, noop), options.pick(200, 20))
        turns = [client.options(max_retries=n).submit for n in (3, 4)]
        fresh = counting()
        ways: dict[str, Callable[[int], TaskHandle[int]]] = {
            "alike": lambda n: client.submit(noop, n),
            "each a batch": lambda n: turns[n % 2](noop, n),
            "each a label": lambda n: client.submit(noop, n, label=f"label-{n}"),
            "each a limit": lambda n: client.submit(noop, n, limits=f"limit-{n}"),
            "each a key": lambda n: client.submit(noop, n, key=f"key-{next(fresh)}"),
        }
        found = report.rounds.alternate({name: rate(partial(one_by_one, way, count)) for name, way in ways.items()})
        rates = {name: report.add(f"{count:,} no-op tasks, {name}", found[name], "/s") for name in ways}
        for name in list(ways)[2:]:
            report.add(f"  {name}, of each a batch", rates[name] / rates["each a batch"], "", Bar(least=1 / 1.3))


def closed(report: Report, options: Options) -> None:
    """Many tasks that a limit holds back, and some that nothing does."""
    depth, count = options.pick(100_000, 100), options.pick(10_000, 50)
    costs: dict[str, list[float]] = {}
    late: list[float] = []

    def turn(scene: Scene, client: Client) -> float:
        before = scene.coordinator.cpu_s
        run_some(scene, client, "batches", count)
        return (scene.coordinator.cpu_s - before) / count * 1e6

    with ExitStack() as stack:
        ways: dict[str, Callable[[], float]] = {}
        scenes = (("nothing held back", ""), (f"{depth:,} held back", "parked"))
        for name, kind in scenes[options.pick(0, 1) :]:
            scene = stack.enter_context(Scene("fsync", slots=0, directory=options.directory))
            client = stack.enter_context(scene.client())
            if kind:
                client.limits.set("parked-*", concurrency=0)
                fill(scene, kind, depth)
                worker = scene.start_worker(1)
                client.submit(begun).result()
                for _ in range(options.pick(20, 2)):
                    start = time.monotonic()
                    late.append((client.submit(begun).result() - start) * 1e3)
                worker.end()
            ways[name] = partial(turn, scene, client)
        costs = report.rounds.alternate(ways)
    report.add(f"a task behind {depth:,} that a limit holds back, until it starts", late, "ms", Bar(most=50))
    times = [report.add(f"coordinator's time a task, {name}", found, "us") for name, found in costs.items()]
    if not options.quick:
        report.add("  of that without", times[1] / times[0], "", Bar(most=1.2))


def paced(report: Report, options: Options) -> None:
    """Starts of a limit with a rate, by four workers."""
    seconds = options.pick(30, 1)
    with Scene("fsync", slots=2, directory=options.directory) as scene, scene.client() as client:
        for _ in range(options.pick(3, 0)):
            scene.start_worker(2)
        client.limits.set("paced", rate="50/s", burst=1)
        batch = client.submit_map(begun_at, range(50 * seconds + options.pick(50, 5)), limits="paced")
        starts = sorted(batch.results())
    within = [at for at in starts if at < starts[0] + seconds]
    report.add(f"starts in {seconds} s of a limit of 50 a second", len(within), "", Bar(least=49 * seconds))
    most = max(bisect_left(starts, at + 1.0) - place for place, at in enumerate(starts))
    report.add("  most starts in any second", most, "", Bar(most=52))


def shares(report: Report, options: Options) -> None:
    """Two users who submit one after the other."""
    count = options.pick(3_000, 20)
    with Scene("fsync", slots=0, directory=options.directory) as scene, scene.client() as client:
        first, second = (client.submit_map(begun_at, range(count), queue=user) for user in ("first", "second"))
        scene.start_worker(1)
        ours, theirs = sorted(first.results()), sorted(second.results())
    report.add(
        f"two queues of {count:,}: started of the first before the second",
        sum(at < theirs[0] for at in ours),
        "tasks",
        Bar(most=2),
    )
    half = [at for at in ours if at < theirs[count // 2]]
    report.add("  when half of the second has started, of the first", len(half) / count, "", Bar(most=0.6))


def main() -> None:
    parts = {
        "chain": chain,
        "long": long,
        "fan": fan,
        "names": names,
        "own": own,
        "closed": closed,
        "rate": paced,
        "shares": shares,
    }
    options = command_line(__doc__, parts=list(parts))
    report = Report("flow", "What does it cost that tasks wait: for one another, for limits, for their queue?", options)
    for name, part in parts.items():
        if options.wants(name):
            part(report, options)
    report.note("Durability fsync unless it says otherwise.")
    report.print()


if __name__ == "__main__":
    main()
