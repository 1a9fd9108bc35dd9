"""Tools for tests of programs that use dtq: an in-process queue, a real cluster, a manual clock, and a store that fails
on demand.

Part of the package, and kept to the same contracts as their counterparts; nothing in ``dtq`` imports them but the
pytest plugin, when one of its fixtures is requested. docs/testing.md shows how to use them.
"""

from __future__ import annotations

from dtq.testing.cluster import Cluster
from dtq.testing.doubles import FailingEngine, ManualClock
from dtq.testing.inline import InlineWorker, Ran
from dtq.testing.queue import InProcessQueue
from dtq.testing.submissions import Submitted

__all__ = ["Cluster", "FailingEngine", "InProcessQueue", "InlineWorker", "ManualClock", "Ran", "Submitted"]
