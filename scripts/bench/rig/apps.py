"""Small programs as they are written for any executor of `concurrent.futures`; each checks what comes out.

dtq has no dependencies between tasks yet: as with the standard pools, what needs the result of another task is
submitted when it is there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from rig import graph
from rig.graph import Call, Needs
from rig.steps import counted, following, halved, joined, turned
from rig.values import made
from rig.work import noop, spin


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a program's work is.

    Attributes:
        turns: how many turns of `spin` take 10 ms.
        quick: a very small one.
    """

    turns: int
    quick: bool

    def pick(self, usual: int, quick: int) -> int:
        return quick if self.quick else usual


def tasks(executor: Executor, scale: Scale) -> None:
    """400 tasks of 10 ms."""
    count = scale.pick(400, 4)
    assert sum(1 for _ in executor.map(spin, [scale.turns] * count)) == count


def chain(executor: Executor, scale: Scale) -> None:
    """Each needs the one before."""
    number, count = 0, scale.pick(100, 4)
    for _ in range(count):
        number = executor.submit(following, number).result()
    assert number == count


def diamonds(executor: Executor, scale: Scale, count: int, size: int) -> None:
    """Values that two tasks take, and whose results one task takes."""
    count = scale.pick(count, 2)
    calls: dict[Hashable, Call] = {}
    for number in range(count):
        calls["made", number] = (made, size, number)
        calls["turned", number] = (turned, Needs(("made", number)))
        calls["halved", number] = (halved, Needs(("made", number)))
        calls["joined", number] = (joined, Needs(("turned", number)), Needs(("halved", number)))
    results = graph.run(executor, calls)
    for number in range(count):
        value = results["made", number]
        assert results["joined", number] == joined(turned(value), halved(value))


def reduction(executor: Executor, scale: Scale, count: int, size: int) -> None:
    """Values of which always two become one."""
    count = scale.pick(count, 3)
    calls: dict[Hashable, Call] = {number: (made, size, number) for number in range(count)}
    level: list[Hashable] = list(calls)
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=False))
        calls.update({pair: (joined, Needs(pair[0]), Needs(pair[1])) for pair in pairs})
        level = [*pairs, *level[2 * len(pairs) :]]
    assert len(graph.run(executor, calls)[level[0]]) == size


def words(executor: Executor, scale: Scale) -> None:
    """How often each word is in 20 texts."""
    length = scale.pick(100_000, 1_000)
    some = random.Random(1).choices([f"{'abcdefghij'[n % 10] * (n % 7)}{n}" for n in range(5_000)], k=length)
    texts = [" ".join(some[start:] + some[:start]) for start in range(20)]
    total: Counter[str] = Counter()
    for count in executor.map(counted, texts):
        total.update(count)
    assert total.total() == 20 * length


def cholesky(executor: Executor, scale: Scale, size: int, step: int) -> None:
    """A factorisation in blocks."""
    from rig import blocks  # numpy is imported by whom it is needed by

    size, step = scale.pick(size, 40), scale.pick(step, 20)
    whole = blocks.matrix(size)
    calls, at = blocks.graph(whole, step)
    results = graph.run(executor, calls)
    assert blocks.is_factor(whole, step, {place: results[needs.key] for place, needs in at.items()})


def calls(executor: Executor, scale: Scale) -> None:
    """joblib's `Parallel`, with tiny calls."""
    import joblib

    ours = type(executor).__module__.startswith("dtq.")
    if ours:
        import dtq.joblib  # the others do without

        dtq.joblib.register(executor=cast("dtq.Executor", executor))
    count = scale.pick(20_000, 100)
    parallel = joblib.Parallel(2, backend="dtq" if ours else "loky")
    assert len(parallel(joblib.delayed(noop)(number) for number in range(count))) == count


App = Callable[[Executor, Scale], None]
#: By a name that says what it is.
APPS: Final[dict[str, App]] = {
    "400 tasks of 10 ms": tasks,
    "chain of 100": chain,
    "diamonds over 100 values of 100 kB": partial(diamonds, count=100, size=10**5),
    "diamonds over 20 values of 1 MB": partial(diamonds, count=20, size=10**6),
    "reduction of 100 values of 100 kB": partial(reduction, count=100, size=10**5),
    "reduction of 20 values of 1 MB": partial(reduction, count=20, size=10**6),
    "word counts over 20 texts": words,
    "Cholesky factorisation, 1200 in blocks of 200": partial(cholesky, size=1200, step=200),
    "Cholesky factorisation, 2400 in blocks of 800": partial(cholesky, size=2400, step=800),
    "20,000 calls by joblib": calls,
}
#: Those that need no more of an executor than its map.
MAPS: Final = ("400 tasks of 10 ms", "word counts over 20 texts")
#: Who can run what not everybody can.
SPECIAL: Final = {"20,000 calls by joblib": ("dtq", "joblib")}
#: Those whose tasks take 10 ms and more.
LONG: Final = ("400 tasks of 10 ms", "word counts over 20 texts", "Cholesky factorisation, 2400 in blocks of 800")
NUMPY: Final = tuple(name for name in APPS if name.startswith("Cholesky"))
