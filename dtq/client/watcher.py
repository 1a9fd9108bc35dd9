"""The thread that waits for results: one long poll for everything the client follows.

Client, between the coordinator and `following`. After a restart of the coordinator it follows every unfinished task
anew, with a fresh cursor; the targets recognise news that arrive a second time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from dtq.client.following import Following
from dtq.client.links import AWAY, FATAL, Link, Session
from dtq.client.read_ranges import ReadRanges
from dtq.client.sender import FOLLOWED
from dtq.client.sharing import Shared
from dtq.errors import DtqError, UnknownId
from dtq.transport import Backoff

log = logging.getLogger("dtq.client")

#: Longest time that the coordinator may hold one call, in seconds.
WAIT_S: Final = 10.0
#: An empty answer that came sooner than this is no end of a full wait: the coordinator is stopping. In seconds.
_SHORT_S: Final = 1.0
_PAUSE_S: Final = 0.05
#: Errors of the coordinator in a row after which the client gives up.
MAX_FAILURES: Final = 5


class Watcher:
    """Watches for news.

    Args:
        session: the client's session.
        following: gets the news.
        fatal: called with an error that makes the client unusable.
        shared: the client's put values: the coordinator is told of unneeded ones.
        inherited: whether batches from before this session must be followed (in a child made by `os.fork`).
    """

    def __init__(
        self,
        session: Session,
        following: Following,
        fatal: Callable[[DtqError], None],
        shared: Shared,
        *,
        inherited: bool = False,
    ) -> None:
        self._session = session
        self._following = following
        self._fatal = fatal
        self._shared = shared
        self.link: Link = session.link()
        self._generation = -1 if inherited else 0
        self._cursor = 0
        self._quiet = True
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs. Not for two threads at once."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="dtq-watcher", daemon=True)
            thread.start()
            self._thread = thread

    def end(self) -> None:
        """Watch no more; a call under way ends."""
        self._ending.set()
        self._following.wanted.ring()
        self.link.close()

    def _run(self) -> None:
        backoff = Backoff()
        failures = 0
        try:
            while not self._ending.is_set():
                if self._following.idle and self._quiet:
                    self._following.wanted.wait()
                    self._quiet = False
                    continue
                try:
                    self._watch()
                    backoff.reset()
                    failures = 0
                except FATAL:
                    raise
                except DtqError as error:
                    failures += not isinstance(error, AWAY)
                    if failures > MAX_FAILURES:
                        raise
                    self._trouble(error, backoff)
        except DtqError as error:
            self._fatal(error)
        except Exception as error:
            log.exception("the client's watcher failed")
            self._fatal(DtqError(f"the client failed at something of its own ({error!r}); its log has the traceback"))
        finally:
            self.link.close()  # for good: `end` only interrupts the present call

    def _trouble(self, error: DtqError, backoff: Backoff) -> None:
        if self._ending.is_set():
            return
        if isinstance(error, AWAY):
            self._session.lost(error)
        else:
            log.error("the coordinator cannot report ended tasks, asking again: %s", error)
        self._ending.wait(backoff.next_s())

    def _watch(self) -> None:
        link = self.link
        link.connect()
        if self._session.generation != self._generation:
            self._follow_anew()
        self._shared.flush(lambda digests: link.service.release(digests))
        began = time.monotonic()
        link.steady(True)
        try:
            watched = link.service.watch(self._cursor, WAIT_S)
        finally:
            link.steady(False)
        self._cursor = watched.cursor
        # An answered call has also acknowledged everything before it.
        self._quiet = not watched.ended
        if watched.ended:
            self._following.on_news(watched.ended)
        read = self._following.read
        if read.due or (read and not watched.ended):
            self._let_go(read)
        elif not watched.ended and time.monotonic() - began < _SHORT_S:
            self._ending.wait(_PAUSE_S)

    def _let_go(self, read: ReadRanges) -> None:
        """Tell the coordinator of results that need not be kept. If it cannot remove them, they stay until they expire:
        a waiting caller must not get that error.
        """
        ranges = read.take()
        if not ranges:
            return
        try:
            self.link.service.let_go(ranges)
        except FATAL:
            raise
        except AWAY:
            read.put_back(ranges)
            raise
        except DtqError as error:
            log.warning("read results stay at the coordinator until they expire: %s", error)

    def _follow_anew(self) -> None:
        """Follow all unfinished batches anew, as the session is new to the coordinator."""
        generation = self._session.generation
        self._cursor = 0
        # Batches that were submitted in the very first session are followed by their submission.
        first = self._generation == 0 and generation == 1
        batches = [] if first else self._following.unfinished()
        for start in range(0, len(batches), FOLLOWED):
            unknown = self.link.service.follow(batches[start : start + FOLLOWED])
            self._following.lose(unknown, self._why)
        if not first:
            self._shared.hold_again(lambda *asked: self.link.service.hold(*asked))
        self._generation = generation

    def _why(self, number: int) -> DtqError:
        """Why a batch is missing: it has expired, or never existed."""
        try:
            self.link.service.batch(number)
        except DtqError as error:
            return error
        return UnknownId(str(number))
