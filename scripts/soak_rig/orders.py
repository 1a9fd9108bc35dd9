"""What producers submit: drawn from their seed, so that the same run submits the same orders."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Final

#: Queues, drawn from evenly; "side" is served by all workers, "default" not by the last one.
QUEUES: Final = ("default", "side")
PRIORITIES: Final = (1, 3, 5, 9)
MODULE: Final = "soak_rig.tasks"
#: Largest batch of tiny tasks.
LARGEST: Final = 3000
#: The limits that tasks count against: how many may run at once; or starts in a second, and together.
BOUNDS: Final[dict[str, int | tuple[float, int]]] = {
    "lone": 1,
    "pair": 2,
    "tenant-1": 1,
    "tenant-2": 1,
    "paced": (20.0, 2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One thing that a producer submits.

    Attributes:
        serial: its number, from 1.
        kind: what it is called in the figures.
        function: ``tiny``, ``slow`` or ``wicked`` of `soak_rig.tasks`.
        size: how many tasks.
        hows: how those behave that do not just return, by index (see `soak_rig.tasks`).
        options: of the submission.
        delay_s: how long its tasks wait before they are due.
        singly: whether its tasks are submitted one by one.
        keyed: whether it has a key of its own.
        cancel_after_s: when it is cancelled, from its acceptance; None for never.
        cancel_index: which task of it; -1 for all.
        after: earlier orders of its producer that its tasks wait for, by serial; each with the index of a task, or -1
            for all of it.
        run_anyway: whether its tasks run where one of those ends without a result.
        given: whether its tasks are given the results of those, by reference.
    """

    serial: int
    kind: str
    function: str
    size: int
    hows: dict[int, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    delay_s: float = 0.0
    singly: bool = False
    keyed: bool = False
    cancel_after_s: float | None = None
    cancel_index: int = -1
    after: list[tuple[int, int]] = field(default_factory=list)
    run_anyway: bool = False
    given: bool = False

    def tags(self, producer: str) -> list[str]:
        """The names of its tasks, each used once in a run."""
        return [f"{producer}.{self.serial}.{index}" for index in range(self.size)]

    def wanted(self, producer: str, index: int) -> str | list[str]:
        """The names of the tasks whose results stand for one of its tasks, or for all of it."""
        return self.tags(producer) if index < 0 else self.tag(producer, index)

    def tag(self, producer: str, index: int) -> str:
        """The name of one of its tasks."""
        return f"{producer}.{self.serial}.{index}"


def _tiny(draw: random.Random) -> dict[str, Any]:
    return {"function": "tiny", "size": int(LARGEST ** draw.random())}


def _slow(draw: random.Random) -> dict[str, Any]:
    size = draw.randint(1, 8)
    return {"function": "slow", "size": size, "hows": {n: round(draw.uniform(0.01, 0.3), 3) for n in range(size)}}


def _singles(draw: random.Random) -> dict[str, Any]:
    return {"function": "tiny", "size": draw.randint(1, 60), "singly": True}


def _flaky(draw: random.Random) -> dict[str, Any]:
    """Fails a few times: some get through, some become dead letters."""
    size = draw.randint(1, 6)
    hows = {n: ["fail", draw.choice((1, 2, 2, 9))] for n in range(size) if draw.random() < 0.8}
    options = {"max_retries": 2, "retry_delay": round(draw.uniform(0.05, 0.5), 3), "jitter": draw.random() < 0.5}
    return {"function": "wicked", "size": size, "hows": hows, "options": options}


def _poisoned(draw: random.Random) -> dict[str, Any]:
    """One task that ends its process, among innocents."""
    size = draw.randint(1, 60)
    how = [draw.choice(("segv", "exit", "kill"))]
    return {"function": "tiny", "size": size, "hows": {draw.randrange(size): how}, "options": {"max_crashes": 3}}


def _limited(draw: random.Random) -> dict[str, Any]:
    """One task that never ends, among innocents; all have a time limit."""
    size = draw.randint(1, 20)
    options = {"timeout": round(draw.uniform(0.2, 0.5), 3), "max_retries": 1, "retry_delay": 0.1}
    return {"function": "tiny", "size": size, "hows": {draw.randrange(size): ["hang"]}, "options": options}


def _delayed(draw: random.Random) -> dict[str, Any]:
    return {"function": "tiny", "size": draw.randint(1, 100), "delay_s": round(draw.uniform(0.3, 5.0), 3)}


def _cancelled(draw: random.Random) -> dict[str, Any]:
    """A batch that is cancelled, or one task of it: while it waits, runs, or after."""
    kind = draw.choice((_tiny, _slow, _delayed))(draw)
    index = draw.choice((-1, draw.randrange(kind["size"])))
    return {**kind, "cancel_after_s": round(draw.choice((0.0, 0.05, 0.5)) * draw.random(), 3), "cancel_index": index}


def _bounded(draw: random.Random) -> dict[str, Any]:
    """Counts against limits: few tasks, as they come one by one."""
    size = draw.randint(1, 12)
    names = draw.sample(sorted(BOUNDS), draw.choice((1, 1, 2)))
    hows = {n: round(draw.uniform(0.0, 0.2), 3) for n in range(size)}
    return {"function": "slow", "size": size, "hows": hows, "options": {"limits": names}}


def _waiting(draw: random.Random) -> dict[str, Any]:
    """Waits for earlier orders; which, is drawn with the order."""
    kind = draw.choice((_tiny, _slow, _singles, _flaky))(draw)
    return {**kind, "size": min(kind["size"], 200), "run_anyway": draw.random() < 0.3, "given": draw.random() < 0.5}


KINDS: Final = {
    "tiny": (8, _tiny),
    "slow": (3, _slow),
    "singles": (2, _singles),
    "flaky": (2, _flaky),
    "poisoned": (1, _poisoned),
    "limited": (1, _limited),
    "delayed": (2, _delayed),
    "cancelled": (2, _cancelled),
    "bounded": (6, _bounded),
    "waiting": (4, _waiting),
}


def draw_order(draw: random.Random, serial: int, most: int, before: dict[int, int]) -> Order:
    """The next order.

    Args:
        draw: what it is drawn from.
        serial: its number.
        most: how many tasks it has at most.
        before: the sizes of earlier orders that it may wait for, by serial.
    """
    kind = draw.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    what = KINDS[kind][1](draw)
    if kind == "waiting":
        parents = draw.sample(sorted(before), min(len(before), draw.choice((1, 1, 2, 3))))
        what["after"] = [(parent, draw.choice((-1, draw.randrange(before[parent])))) for parent in parents]
    what["size"] = min(what["size"], most)
    what["cancel_index"] = min(what.get("cancel_index", -1), what["size"] - 1)
    options = {
        "priority": draw.choice(PRIORITIES),
        "queue": draw.choice(QUEUES),
        "max_crashes": 20,  # faults may hit a task again and again; poison says otherwise
        **what.pop("options", {}),
    }
    keyed = draw.random() < 0.2 and not what.get("singly")
    return Order(serial=serial, kind=kind, options=options, keyed=keyed, **what)
