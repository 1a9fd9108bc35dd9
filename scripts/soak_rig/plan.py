"""The schedule of faults, from a seed and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from soak_rig.wire import Mode

COORDINATOR: Final = "coordinator"
MACHINE: Final = "machine"
#: Workers by name: how many slots, which queues (none for all), whether they reach the coordinator through a wire.
WORKERS: Final = {
    "w1": (2, (), False),
    "w2": (2, (), True),
    "w3": (1, ("side",), True),
}
#: Producers by name: which kind, whether through a wire.
PRODUCERS: Final = {"p1": ("client", False), "p2": ("client", True), "p3": ("raw", True)}
WIRED: Final = [name for name, (*_, wired) in {**WORKERS, **PRODUCERS}.items() if wired]
#: How long a worker may be silent, in seconds.
LEASE_S: Final = 5.0
#: Shortest and longest pause between two faults, in seconds.
PAUSE_S: Final = (0.8, 2.0)

#: Each kind of fault: how often relative to the others, whom it hits, how long it lasts or what it kills stays away,
#: in seconds. A kind may stand here twice: once shorter than a lease, once longer.
_WORKERS = list(WORKERS)
KINDS: Final[list[tuple[str, int, list[str], tuple[float, float]]]] = [
    ("kill slot", 4, _WORKERS, (0.0, 0.0)),
    ("kill worker", 3, _WORKERS, (0.0, 2.0)),
    ("stop worker", 2, _WORKERS, (0.3, 2.5)),
    ("stop worker", 1, _WORKERS, (6.0, 8.0)),
    ("stop slot", 1, _WORKERS, (0.5, 3.0)),
    ("drain worker", 2, _WORKERS, (0.0, 0.5)),
    ("end worker", 1, _WORKERS, (0.0, 0.5)),
    ("kill coordinator", 2, [COORDINATOR], (0.0, 2.0)),
    ("stop coordinator", 1, [COORDINATOR], (0.3, 4.0)),
    ("restart coordinator", 1, [COORDINATOR], (0.0, 1.0)),
    ("kill producer", 1, list(PRODUCERS), (0.0, 0.5)),
    ("reset wire", 2, WIRED, (0.0, 0.0)),
    ("cut wire", 1, WIRED, (1.0, 3.0)),
    ("stall wire", 1, WIRED, (0.5, 2.5)),
    ("stall wire", 1, WIRED, (6.0, 8.0)),
    ("stall wire up", 1, WIRED, (0.5, 7.0)),
    ("stall wire down", 1, WIRED, (0.5, 7.0)),
    ("drop wire up", 1, WIRED, (0.5, 3.0)),
    ("drop wire down", 1, WIRED, (0.5, 3.0)),
    ("delay wire", 1, WIRED, (1.0, 5.0)),
    ("busy disk", 1, [MACHINE], (0.5, 3.0)),
    ("busy processors", 1, [MACHINE], (0.5, 3.0)),
]

MODES: Final = {
    "reset wire": Mode.CUT,
    "cut wire": Mode.CUT,
    "stall wire": Mode.STALL,
    "stall wire up": Mode.STALL_UP,
    "stall wire down": Mode.STALL_DOWN,
    "drop wire up": Mode.DROP_UP,
    "drop wire down": Mode.DROP_DOWN,
    "delay wire": Mode.DELAY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is done to the cluster.

    Attributes:
        at_s: when, in seconds from the start.
        kind: what.
        target: to whom.
        seconds: for how long; or how long what was killed stays away.
        pick: a number from [0, 1) that settles what the kind leaves open (which slot, how long a delay).
    """

    at_s: float
    kind: str
    target: str
    seconds: float
    pick: float


def schedule(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run: every kind once, in a drawn order, then kinds drawn by their weight.

    A target is left in peace until it should be back from the fault before.
    """
    draw = random.Random(f"faults {seed}")
    first = KINDS.copy()
    draw.shuffle(first)
    weights = [weight for _, weight, _, _ in KINDS]
    busy: dict[str, float] = {}
    faults: list[Fault] = []
    at_s = draw.uniform(*PAUSE_S)
    while at_s < seconds:
        kind, _, targets, (least, most) = first.pop() if first else draw.choices(KINDS, weights)[0]
        target = draw.choice(targets)
        lasts = draw.uniform(least, most)
        pick = draw.random()
        place = f"wire {target}" if "wire" in kind else target
        if busy.get(place, 0.0) > at_s:
            at_s += 0.1  # not now; the draw goes on, so that the schedule stays the seed's
            continue
        busy[place] = at_s + lasts + 1.0
        faults.append(Fault(at_s=round(at_s, 3), kind=kind, target=target, seconds=round(lasts, 3), pick=pick))
        at_s += draw.uniform(*PAUSE_S)
    return faults
