"""For tests of programs that use dtq: a queue in this process, a real cluster for a test, a clock that stands still,
and a store that fails on demand.

Part of the package, and kept to the same contracts as what they stand in for; nothing in ``dtq`` imports them but the
pytest plugin, when one of its fixtures is asked for. docs/testing.md shows how they are used.
"""

from __future__ import annotations

from dtq.testing.cluster import Cluster
from dtq.testing.doubles import FailingEngine, ManualClock
from dtq.testing.inline import InlineWorker, Ran
from dtq.testing.queue import InProcessQueue
from dtq.testing.submissions import Submitted

__all__ = ["Cluster", "FailingEngine", "InProcessQueue", "InlineWorker", "ManualClock", "Ran", "Submitted"]
