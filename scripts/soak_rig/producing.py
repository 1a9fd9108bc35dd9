"""A producer's process: submits orders until it is asked to stop, then waits until it knows how all of them ended.

``python -m soak_rig.producing NAME KIND SEED ADDRESS KEY_FILE LEDGER``. Everything that it does stands in its ledger
before it does it, and what it learns after: whatever it was killed in the middle of, the ledger says what may be there.

Records: ``try`` an order; ``ack`` (which tasks of it are accepted, as ``[batch, first index, count, from]`` pieces);
``refused``; ``unknown`` (nobody will ever say); ``cancel`` and ``cancelled``; ``end`` (how its tasks ended, as this
producer saw it, a letter each); ``wrong`` (what cannot be, with the reason); ``done``.
"""

from __future__ import annotations

import faulthandler
import random
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from soak_rig.ledgers import Ledger
from soak_rig.orders import LARGEST, MODULE, Order, draw_order
from soak_rig.tasks import checksum

#: Longest pause between two orders, in seconds.
PAUSE_S: Final = 0.5
#: How many of its latest orders a producer has others wait for.
REMEMBERED: Final = 8
#: How many tasks of a producer may be unfinished before it submits more.
MOST_OPEN: Final = 6_000


class Producer:
    """What producers of either kind have in common."""

    #: Most tasks in an order.
    most = LARGEST

    def __init__(self, name: str, seed: str, ledger: Path) -> None:
        self.name = name
        self.draw = random.Random(f"{name} {seed}")
        self.ledger = Ledger(ledger)
        self.stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
        self._serial = 0
        #: The sizes of the latest orders that others may wait for, by serial.
        self.before: dict[int, int] = {}

    def next_order(self) -> Order:
        """Draw the next order; what is tried stands in the ledger."""
        self._serial += 1
        order = draw_order(self.draw, self._serial, self.most, self.before)
        self.say("try", order, drawn=asdict(order))
        return order

    def remember(self, order: Order) -> None:
        """Later orders may wait for this one."""
        self.before[order.serial] = order.size
        if len(self.before) > REMEMBERED:
            del self.before[min(self.before)]

    def say(self, what: str, order: Order | None = None, **fields: Any) -> None:
        """Write to the ledger."""
        serial = {} if order is None else {"serial": order.serial}
        self.ledger.write(what, t=round(time.monotonic(), 6), **serial, **fields)

    def pause(self) -> None:
        """Wait a moment between two orders."""
        self.stopping.wait(self.draw.random() * PAUSE_S)

    def right(self, order: Order, index: int, value: object) -> bool:
        """Whether a result is that of the task."""
        tag = order.tag(self.name, index)
        return isinstance(value, tuple) and len(value) == 4 and value[:2] == (tag, checksum(tag))

    def function(self, order: Order) -> str:
        """The function of an order, as it travels."""
        return f"{MODULE}:{order.function}"

    def key(self, order: Order) -> str | None:
        """Its key, if it has one."""
        return f"{self.name}/{order.serial}" if order.keyed else None


def main(words: list[str]) -> int:
    """Run a producer of the named kind."""
    name, kind, seed, address, key_file, ledger = words
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # says what it waits for
    if kind == "client":
        from soak_rig.byclient import ClientProducer

        ClientProducer(name, seed, Path(ledger)).run(address, key_file)
    else:
        from soak_rig.byhand import RawProducer

        RawProducer(name, seed, Path(ledger)).run(address, key_file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
