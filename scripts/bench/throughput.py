"""How many tasks a second, from the call to the last result at the caller?

No-op and 1 ms tasks as one map; no-op tasks submitted one by one, from one client and from four at once, all results
gathered. Against the standard library's pools, which keep everything in memory, in turns in one run.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing.pool import Pool
from typing import Any

from rig.options import Options, command_line
from rig.report import Bar, Report
from rig.rounds import rate
from rig.scene import Scene
from rig.work import noop, spin, turns_for

from dtq import Client

SLOTS = 2
CLIENTS = 4


def checked(results: Iterable[int], count: int) -> int:
    assert sum(results) == count * (count - 1) // 2
    return count


def one_by_one(submit: Callable[..., Any], count: int) -> int:
    handles = [submit(noop, number) for number in range(count)]
    return checked((handle.result() for handle in handles), count)


class Elsewhere:
    """Clients in processes of their own, each with its own connection."""

    def __init__(self, scene: Scene, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pools = [
            context.Pool(1, initializer=_connect, initargs=(scene.address, str(scene.key_file))) for _ in range(count)
        ]
        self.submit(CLIENTS)

    def submit(self, count: int) -> int:
        share = count // len(self._pools)
        return sum([answer.get() for answer in [pool.apply_async(_submit, (share,)) for pool in self._pools]])

    def close(self) -> None:
        for pool in self._pools:
            pool.terminate()
            pool.join()


#: The client of such a process.
_clients: list[Client] = []


def _connect(address: str, key_file: str) -> None:
    _clients.append(Client(address, authkey_file=key_file))


def _submit(count: int) -> int:
    return one_by_one(_clients[0].submit, count)


def contenders(stack: ExitStack, options: Options) -> tuple[dict[str, Client], Elsewhere, Pool, ProcessPoolExecutor]:
    """Everybody, started and warm; those that fork first, before there are threads."""
    pool = stack.enter_context(multiprocessing.Pool(SLOTS))
    executor = stack.enter_context(ProcessPoolExecutor(SLOTS))
    checked(executor.map(noop, range(100)), 100)
    warm_up = options.pick(1000, 100)
    clients: dict[str, Client] = {}
    for store in ("fsync", "none"):
        scene = stack.enter_context(Scene(store, slots=SLOTS, directory=options.directory))
        clients[store] = stack.enter_context(scene.client())
        checked(clients[store].map(noop, range(warm_up)), warm_up)
        if store == "fsync":
            elsewhere = Elsewhere(scene, options.pick(CLIENTS, 1))
            stack.callback(elsewhere.close)
    return clients, elsewhere, pool, executor


def maps(
    clients: dict[str, Client], pool: Pool, executor: ProcessPoolExecutor, function: Any, items: Any, check: Any
) -> dict[str, Callable[[], float]]:
    """The same map by everybody."""
    return {
        "dtq.map": rate(lambda: check(clients["fsync"].map(function, items))),
        "dtq.map, durability none": rate(lambda: check(clients["none"].map(function, items))),
        "Pool.imap(chunksize=1)": rate(lambda: check(pool.imap(function, items))),
        "ProcessPoolExecutor.map(chunksize=1)": rate(lambda: check(executor.map(function, items))),
    }


def main() -> None:
    options = command_line(__doc__)
    report = Report("throughput", "How many tasks a second, from the call to the last result?", options)
    count = options.pick(200_000, 500)
    singles = options.pick(20_000, 100)
    milliseconds = options.pick(4_000, 20)
    with ExitStack() as stack:
        turns = turns_for(0.001)
        clients, elsewhere, pool, executor = contenders(stack, options)
        everybody = functools.partial(maps, clients, pool, executor)

        alternate = report.rounds.alternate

        found = alternate(everybody(noop, range(count), lambda results: checked(results, count)))
        rates = {name: report.add(f"{name}, {count:,} no-op", values, "/s") for name, values in found.items()}
        durable, none, imap, executed = rates.values()
        report.add("  dtq against ProcessPoolExecutor", durable / executed, "times", Bar(least=10))
        report.add("  dtq against Pool.imap", durable / imap, "times", Bar(least=1.5))
        report.add("  durability none against fsync", none / durable, "times", Bar(least=1.3, where="or say why"))

        found = alternate(everybody(spin, [turns] * milliseconds, lambda results: sum(1 for _ in results)))
        for name, values in found.items():
            report.add(f"{name}, {milliseconds:,} of 1 ms", values, "/s")

        found = alternate(
            {
                "dtq.submit": rate(lambda: one_by_one(clients["fsync"].submit, singles)),
                "dtq.submit, durability none": rate(lambda: one_by_one(clients["none"].submit, singles)),
                f"dtq.submit, {CLIENTS} clients at once": rate(lambda: elsewhere.submit(singles)),
                "ProcessPoolExecutor.submit": rate(lambda: one_by_one(executor.submit, singles)),
            }
        )
        rates = {name: report.add(f"{name}, {singles:,} no-op", values, "/s") for name, values in found.items()}
        ratio = rates["dtq.submit"] / rates["ProcessPoolExecutor.submit"]
        report.add("  dtq against ProcessPoolExecutor", ratio, "times", Bar(least=1))
    report.note(f"{SLOTS} processes run tasks for everybody. The pools keep everything in memory.")
    report.note("dtq with durability fsync unless said: every task and every result is on disk before it is told.")
    report.print()


if __name__ == "__main__":
    main()
