"""The state that slots of a local cluster inherit from its program, as the processes of a standard pool do.

Client, beside `handover`, which brings it to the worker's process; the worker starts each slot with it.
"""

from __future__ import annotations

from dtq.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """A slot's inheritance.

    Attributes:
        streams: whether standard output and error of the slots are the program's; else the worker collects them.
        flags: options of the interpreter, as on its command line; None for the worker's own.
        authkey: multiprocessing's authentication key; empty for one of the slot's own.
        tracker: descriptor of the pipe to multiprocessing's resource tracker; -1 for none.
        initializer: pickle of ``(function, arguments)`` to be called when a slot starts; empty for none.
        addresses: of the coordinator for clients in its tasks, ``host:port`` each; empty if they may not submit.
        clientkey: the key for those clients.
    """

    streams: bool = False
    flags: tuple[str, ...] | None = None
    authkey: bytes = b""
    tracker: int = -1
    initializer: bytes = b""
    addresses: tuple[str, ...] = ()
    clientkey: bytes = b""
