"""The reception: one thread that accepts connections and holds them until they are authenticated.

A stranger costs a descriptor and a few hundred bytes here, not a thread, so silent connections by the hundred delay
nobody. If there are too many, the oldest makes room for the next, and each is closed at its handshake's deadline. An
authenticated connection is handed on, and only then gets a thread. The loop survives every failure: lack of descriptors
or threads, connections that vanish.
"""

from __future__ import annotations

import logging
import math
import selectors
import socket
import time
from collections.abc import Callable, Generator
from typing import Final

from dtq.config.keys import Key
from dtq.transport.connection import Connection
from dtq.transport.connection_table import RateLimitedLog
from dtq.transport.endpoints import reason
from dtq.transport.handshake import HANDSHAKE_S
from dtq.transport.listening import Listener
from dtq.transport.server_handshake import Stranger, Waits

#: Seconds for a newcomer before another may displace it: an honest client on a busy machine needs a few milliseconds,
#: and a burst of them must not push itself out.
GRACE_S: Final = 0.02
#: This many newcomers are a crowd; when nearly all of it has left, its memory is given back, at most once in this many
#: seconds.
CROWD: Final = 256
FEW: Final = 32
QUIET_S: Final = 2.0
#: Connections accepted before those already here have their turn.
_AT_ONCE: Final = 32
#: Pause in seconds when the machine has no descriptor or thread to spare.
_REST_S: Final = 0.05

log = logging.getLogger("dtq.transport")

#: The dialogue with a newcomer; returns its key, or None for a refusal.
Talk = Generator[Waits, None, Key | None]


class _Newcomer:
    """An unauthenticated connection."""

    __slots__ = ("awaits", "connection", "since", "talk")

    def __init__(self, connection: Connection, talk: Talk, now: float) -> None:
        self.connection = connection
        self.talk = talk
        self.since = now
        self.awaits = 0


class PendingConnections:
    """Accepts connections, and authenticates them.

    Args:
        listener: accepts them; does not block from now on.
        greet: begins the dialogue with a new connection.
        show_in: takes over an authenticated connection.
        most: bound of the unauthenticated connections.
        strangers: their log.
        on_quiet: called when a crowd has left, to give its memory back.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        greet: Callable[[Connection], Talk],
        show_in: Callable[[Connection, Key], None],
        most: int,
        strangers: RateLimitedLog,
        on_quiet: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_quiet = on_quiet
        #: Connections since the last crowd left.
        self._crowd = 0
        self._quiet_from = 0.0
        self._listener = listener
        self._greet = greet
        self._show_in = show_in
        self._most = most
        self._strangers = strangers
        self._newcomers: dict[_Newcomer, None] = {}  # oldest first
        self._open_again_at = 0.0
        self._accepting = False
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._rope = socket.socketpair()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        listener.socket.setblocking(False)

    def run(self) -> None:
        """Run until `close` is called."""
        try:
            while not self._closing:
                try:
                    self._round()
                except Exception:
                    # The edge of the thread, which must not end: without it no connection is accepted any more.
                    log.exception("the reception failed, and goes on")
                    time.sleep(_REST_S)
        finally:
            for newcomer in list(self._newcomers):
                self._part(newcomer)
                newcomer.connection.close()
            self._selector.close()
            self._wakeup.close()

    def _round(self) -> None:
        """Wait for the next event or deadline, and handle it."""
        self._open_or_shut()
        for key, _ in self._selector.select(self._patience_s()):
            if key.data is not None:
                self._attend(key.data)
            elif key.fileobj is self._listener.socket:
                self._accept()
        self._send_away(time.monotonic() - HANDSHAKE_S)
        if self._crowd_has_left and time.monotonic() >= self._quiet_from:
            self._crowd = 0
            self._quiet_from = time.monotonic() + QUIET_S
            self._on_quiet()

    @property
    def _crowd_has_left(self) -> bool:
        return self._crowd >= CROWD and len(self._newcomers) <= FEW

    def close(self) -> None:
        """Make `run` end soon; from any thread, once."""
        self._closing = True
        self._rope.close()

    def _patience_s(self) -> float | None:
        """Seconds until the next deadline, if no peer sends anything."""
        oldest = next(iter(self._newcomers), None)
        due = oldest.since + HANDSHAKE_S if oldest is not None else math.inf
        if self._crowd_has_left:
            due = min(due, self._quiet_from)
        if not self._accepting:
            due = min(due, self._open_again_at)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    # -- the listener -----------------------------------------------------------------------------------------------

    def _open_or_shut(self) -> None:
        accepting = self._open_again_at <= time.monotonic()
        if accepting and not self._accepting:
            self._selector.register(self._listener.socket, selectors.EVENT_READ)
        elif self._accepting and not accepting:
            self._selector.unregister(self._listener.socket)
        self._accepting = accepting

    def _rest(self, seconds: float) -> None:
        """Accept no connections for a while; they wait in the kernel's queue."""
        self._open_again_at = time.monotonic() + seconds

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if len(self._newcomers) >= self._most and not self._make_room():
                self._rest(GRACE_S)
                return
            try:
                connection = self._listener.accept()
            except BlockingIOError:
                return
            except (OSError, MemoryError) as error:  # no descriptors, or a connection that is gone already
                if not self._closing and not self._make_room():
                    self._strangers.warning("cannot accept a connection: %s", reason(error))
                    self._rest(_REST_S)
                return
            connection.sock.setblocking(False)
            newcomer = _Newcomer(connection, self._greet(connection), time.monotonic())
            self._newcomers[newcomer] = None
            self._crowd += 1
            self._attend(newcomer)

    def _make_room(self) -> bool:
        """Close the oldest newcomer, if its grace is over; whether it was."""
        oldest = next(iter(self._newcomers), None)
        if oldest is None or oldest.since + GRACE_S > time.monotonic():
            return False
        self._end(oldest)
        return True

    # -- newcomers ----------------------------------------------------------------------------------------------------

    def _attend(self, newcomer: _Newcomer) -> None:
        """Go on with a dialogue, as far as possible without waiting."""
        if newcomer not in self._newcomers:
            return  # closed in this very round
        peer = newcomer.connection.peer
        try:
            self._await(newcomer, next(newcomer.talk))
        except StopIteration as end:
            self._part(newcomer)
            if end.value is None:
                newcomer.connection.close()
            else:
                self._hand_on(newcomer.connection, end.value)
        except Stranger as stranger:
            self._strangers.warning("refused %s: %s", peer, stranger)
            self._end(newcomer)
        except (EOFError, OSError) as error:
            log.debug("the connection from %s ended: %s", peer, reason(error))
            self._end(newcomer)
        except Exception:
            log.exception("the connection from %s failed", peer)  # the edge of what a stranger can reach
            self._end(newcomer)

    def _await(self, newcomer: _Newcomer, events: Waits) -> None:
        if not newcomer.awaits:
            self._selector.register(newcomer.connection.sock, events, newcomer)
        elif newcomer.awaits != events:
            self._selector.modify(newcomer.connection.sock, events, newcomer)
        newcomer.awaits = events

    def _hand_on(self, connection: Connection, key: Key) -> None:
        try:
            connection.sock.setblocking(True)
            self._show_in(connection, key)
        except (RuntimeError, MemoryError, OSError) as error:  # "can't start new thread" is a RuntimeError
            self._strangers.warning("turned %s away: %s", connection.peer, error)
            connection.close()
            self._rest(_REST_S)

    def _send_away(self, before: float) -> None:
        """Close the newcomers from before a moment."""
        while self._newcomers:
            newcomer = next(iter(self._newcomers))
            if newcomer.since > before:
                break
            log.debug("the connection from %s ended: the handshake took too long", newcomer.connection.peer)
            self._end(newcomer)

    def _end(self, newcomer: _Newcomer) -> None:
        self._part(newcomer)
        newcomer.connection.close()

    def _part(self, newcomer: _Newcomer) -> None:
        """Forget a newcomer."""
        if self._newcomers.pop(newcomer, newcomer) is None and newcomer.awaits:
            self._selector.unregister(newcomer.connection.sock)
        newcomer.talk.close()
