"""The connections between coordinator, workers and clients; the only room that knows `multiprocessing.managers`.

`Server` is given a function that opens sessions (`model.service.Session`), `Proxy` is such a service across the wire,
`Backoff` computes the waits between retries. Each is imported at its first use: a slot needs `safepickle` alone, and so
starts sooner.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dtq.transport.backoff import Backoff
    from dtq.transport.proxy import Proxy
    from dtq.transport.server import Server

__all__ = ["Backoff", "Proxy", "Server"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"dtq.transport.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
