"""A TCP proxy that misbehaves on request: stands between one peer and the coordinator.

Two threads a connection, one a direction; before a piece is passed on, its thread asks how the wire is.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from enum import Enum

_PIECE = 1 << 16


class Mode(Enum):
    """How a wire is."""

    PASS = "pass"
    DELAY = "delay"  #: every piece comes later
    STALL = "stall"  #: nothing moves, nothing is lost
    STALL_UP = "stall up"  #: nothing moves towards the coordinator
    STALL_DOWN = "stall down"  #: nothing moves towards the peer
    DROP_UP = "drop up"  #: what goes towards the coordinator vanishes; connections end when this does
    DROP_DOWN = "drop down"  #: what goes towards the peer vanishes; connections end when this does
    CUT = "cut"  #: no connection lives


_STALLED = {True: (Mode.STALL, Mode.STALL_UP), False: (Mode.STALL, Mode.STALL_DOWN)}
_DROPPED = {True: Mode.DROP_UP, False: Mode.DROP_DOWN}


class Wire:
    """One peer's way to the coordinator.

    Args:
        to: the coordinator's port on this machine.
    """

    def __init__(self, to: int) -> None:
        self._to = to
        self._mode = Mode.PASS
        self._delay_s = 0.0
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="wire", daemon=True).start()

    def be(self, mode: Mode, delay_s: float = 0.0) -> None:
        """Change how the wire is."""
        with self._changed:
            lossy = self._mode in (Mode.DROP_UP, Mode.DROP_DOWN)
            self._mode, self._delay_s = mode, delay_s
            self._changed.notify_all()
            # A stream with a hole in it is of no use to anybody.
            ending = list(self._open) if lossy or mode is Mode.CUT else []
        _end(ending)

    def close(self) -> None:
        """End it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            ending = [*self._open, self._listener]
        _end(ending)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                self._listener.close()
                return
            threading.Thread(target=self._serve, args=(near,), name="wire", daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near:
            if self._mode is Mode.CUT or self._closed:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to), timeout=5.0)
            except OSError:
                return
            with far:
                far.settimeout(None)
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._join(near, far)

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        with self._changed:
            self._open |= {near, far}
        down = threading.Thread(target=self._carry, args=(far, near, False), name="wire", daemon=True)
        down.start()
        self._carry(near, far, True)
        down.join()
        with self._changed:
            self._open -= {near, far}

    def _carry(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        try:
            while self._mode is not Mode.CUT and (piece := source.recv(_PIECE)):
                if self._lets_pass(up):
                    sink.sendall(piece)
        except OSError:
            pass
        finally:
            _end([source, sink])

    def _lets_pass(self, up: bool) -> bool:
        """Wait as long as the wire is stalled; whether what was read is passed on."""
        with self._changed:
            while self._mode in _STALLED[up] and not self._closed:
                self._changed.wait()
            mode, delay_s = self._mode, self._delay_s
        if mode is Mode.DELAY:
            time.sleep(delay_s)
        return mode is not _DROPPED[up]


def _end(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
