"""Values between a worker and a coordinator on another machine: the worker's own directory, downloads and uploads.

Worker, below the supervisor. The directory is this user's alone and is removed with the worker; the next worker on the
machine removes the directory of a killed one.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable
from typing import Final

from dtq.model import pages
from dtq.model.messages import ValuesOffer, Welcome
from dtq.model.values import MIN_CALLED, Value, is_description, named, rest
from dtq.records import replace
from dtq.values import directories
from dtq.values.place import Place
from dtq.values.wire import WireValues
from dtq.worker.chunks import Chunk, Holdings, Outcome
from dtq.worker.copies import Copies
from dtq.worker.downloads import Downloads
from dtq.worker.uploads import Uploads
from dtq.worker.valueline import ValueCalls, ValueLine

#: Default bound of copies' bytes: the most, and the share of the disk's free room.
MOST_COPIES: Final = 4 << 30
COPIES_SHARE: Final = 10


class Transfers:
    """Everything that a worker needs for values of a coordinator whose files it cannot access.

    Args:
        offer: the coordinator's offer of values.
        connect: makes a connection for values, which calls the given function at each hello.
        holdings: the worker's.
        lock: the supervisor's.
        on_ready: called with it when a lease has all its arguments, with its token.
        on_no_room: likewise, when they have no room.
        announce: likewise, when further outcomes wait for a report.
        most_inline: most bytes of a result that goes with a report.
        most_copies: most bytes of copies; None for `MOST_COPIES`, or less.

    Raises:
        OSError: the directory cannot be made.
    """

    def __init__(
        self,
        offer: ValuesOffer,
        connect: Callable[[Callable[[Welcome], None]], ValueCalls],
        holdings: Holdings,
        lock: threading.Lock,
        *,
        on_ready: Callable[[int], None],
        on_no_room: Callable[[int], None],
        announce: Callable[[], None],
        most_inline: int,
        most_copies: int | None = None,
    ) -> None:
        parent = tempfile.gettempdir()
        directories.remove_abandoned(parent)
        made = [directories.make(parent)]
        self._remove = weakref.finalize(self, directories.remove, made, os.getpid())
        self.directory = made[0][0]
        results, copies = os.path.join(self.directory, "results"), os.path.join(self.directory, "copies")
        for path in (results, copies):
            os.mkdir(path, 0o700)
        if most_copies is None:
            disk = os.statvfs(parent)
            most_copies = min(MOST_COPIES, disk.f_bavail * disk.f_frsize // COPIES_SHARE)
        #: The slots' place of values.
        self.place = Place(
            (results,), least=MIN_CALLED, checked=offer.checked, max_value=offer.max_value, copies=copies
        )
        down, up = (self._line(connect) for _ in range(2))
        self.copies = Copies(copies, most_copies)
        self._values = [_values(offer, line) for line in (down, up)]
        self._downloads = Downloads(self._values[0], down, self.copies, lock, on_ready, on_no_room)
        self._uploads = Uploads(self._values[1], up, self.place, most_inline, holdings, lock, announce)
        holdings.on_over = self._over

    @staticmethod
    def _line(connect: Callable[[Callable[[Welcome], None]], ValueCalls]) -> ValueLine:
        made: list[ValueLine] = []
        made.append(ValueLine(connect(lambda welcome: made[0].on_welcome(welcome))))
        return made[0]

    def adapt(self, offer: ValuesOffer) -> None:
        """Note that the coordinator was restarted, and may have other limits. Any thread, one at a time."""
        if (offer.checked, offer.max_value) != (self.place.checked, self.place.max_value):
            self.place = replace(self.place, checked=offer.checked, max_value=offer.max_value)
            self._uploads.move(self.place)
            for values in self._values:
                values.checked, values.max_value = offer.checked, offer.max_value

    # -- with the lock --------------------------------------------------------------------------------------------

    def fetch(self, chunk: Chunk) -> bool:
        """Fetch the arguments of a lease, and a function that came by value, until it is over; whether they are here
        already.
        """
        page, body = chunk.grant.arguments, chunk.spec.function.body
        shared = list(named(body)) if is_description(body) else []
        own: list[Value] = []
        if pages.has_descriptions(page):
            for part in pages.parts(page):
                if is_description(bytes(part[:1])):
                    blob = bytes(part)
                    first, *others = named(blob)
                    (shared if rest(blob) else own).append(first)
                    shared += others
        return not (own or shared) or self._downloads.fetch(chunk.token, own, shared)

    def takes(self, outcome: Outcome) -> bool:
        """Whether an outcome must wait until its values, or those of one before it, are sent."""
        return self._uploads.takes(outcome)

    def cancel(self, token: int, index: int) -> bool:
        """See `Uploads.cancel`."""
        return self._uploads.cancel(token, index)

    @property
    def stalled(self) -> int:
        """See `Uploads.stalled`."""
        return self._uploads.stalled

    def _over(self, token: int) -> None:
        self._downloads.let_go(token)
        self._uploads.let_go(token)

    def close(self) -> None:
        """End, and remove the directory. Not with the lock."""
        self._downloads.close()
        self._uploads.close()
        self._remove()


def _values(offer: ValuesOffer, line: ValueLine) -> WireValues:
    return WireValues(line, max_value=offer.max_value, checked=offer.checked)
