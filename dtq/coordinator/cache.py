"""A cache of pages: those not committed yet, and the latest committed ones.

Arguments are usually read soon after they were submitted, results soon after they arrived; both are then found here,
and otherwise in the engine. An uncommitted page exists nowhere else, so it is never dropped.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, Final

from dtq.core.changes import ArgumentPage, Change, ResultPage, Stored
from dtq.engines.base import Engine, Page, fill
from dtq.errors import StoreDamaged
from dtq.model import pages

#: Bytes of committed pages in the cache, bookkeeping included.
BUDGET: Final = 16 << 20
#: Approximate bytes of a page beside its content.
_OVERHEAD: Final = 500
_by_lo = attrgetter("lo")


class PageCache:
    """Finds pages.

    Args:
        engine: has the other pages.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        #: By kind and batch, in rising order.
        self._pages: dict[tuple[type, int], list[Any]] = {}
        self._order: deque[ArgumentPage | ResultPage] = deque()
        self._bytes = 0
        self._committed = 0

    def add(self, new: Iterable[ArgumentPage | ResultPage]) -> None:
        """Add pages, in the order in which they will be committed."""
        with self._lock:
            for page in new:
                held: list[Any] = self._pages.setdefault((type(page), page.batch), [])
                insort(held, page, key=_by_lo)
                self._order.append(page)
                self._bytes += len(page.data) + _OVERHEAD

    def committed(self, changes: Iterable[Change]) -> None:
        """Note that these changes are in the engine: the pages among them may be dropped when room is needed."""
        stored = sum(type(c) is Stored and type(c.row) in (ArgumentPage, ResultPage) for c in changes)
        with self._lock:
            self._committed += stored
            while self._bytes > BUDGET and self._committed and self._order:
                self._committed -= 1
                self._drop(self._order.popleft())

    def forget(self, batches: set[int]) -> None:
        """Forget batches that will never be in the engine."""
        with self._lock:
            kept = deque(page for page in self._order if page.batch not in batches)
            self._bytes -= sum(len(page.data) + _OVERHEAD for page in self._order if page.batch in batches)
            self._order = kept
            for key in [key for key in self._pages if key[1] in batches]:
                del self._pages[key]

    def _drop(self, page: ArgumentPage | ResultPage) -> None:
        key = (type(page), page.batch)
        held = self._pages[key]
        del held[bisect_right(held, page.lo, key=_by_lo) - 1]
        if not held:
            del self._pages[key]
        self._bytes -= len(page.data) + _OVERHEAD

    def find(self, kind: type[Page], batch: int, lo: int, hi: int, room: int | None = None) -> list[Page]:
        """The pages of a batch that overlap ``[lo, hi)``, in rising order.

        Args:
            kind: which pages.
            batch: the batch.
            lo: index of its first task.
            hi: index after the last.
            room: about how many bytes of them; at least one page. None for all. If the last one ends before ``hi``
                there may be more.

        Raises:
            StoreDamaged: the engine finds a damaged page.
        """
        with self._lock:
            held: list[Page] = self._pages.get((kind, batch), [])
            first = max(0, bisect_right(held, lo, key=_by_lo) - 1)
            found = held[first : bisect_right(held, hi - 1, key=_by_lo)]
        found = [page for page in found if page.hi > lo]
        if _cover(found, lo, hi):
            return fill(found, room)
        here = {page.lo: page for page in found}
        stored = self._engine.pages(kind, batch, lo, hi, room)
        here.update((page.lo, page) for page in stored)
        if room is None or not stored:
            return fill([here[at] for at in sorted(here)], room)
        # The store may have more pages behind those that were read: the cached ones may not be adjacent to them.
        return fill([here[at] for at in sorted(here) if at <= stored[-1].lo], room)

    def arguments(self, batch: int, lo: int, hi: int, room: int, *, whatever: bool) -> bytes:
        """The arguments of the first of tasks ``[lo, hi)``, as one page: as many as fit.

        Args:
            batch: the batch.
            lo: index of its first task.
            hi: index after the last.
            room: bytes that they may take.
            whatever: whether the first is returned whatever its size; else the page may be empty.

        Raises:
            StoreDamaged: the engine finds those of the first task damaged.
            LookupError: those of the first task are missing.
        """
        page = self.held(ArgumentPage, batch, lo)
        if page is not None and hi <= page.hi and len(page.data) <= room:  # nearly always
            return pages.cut(page.data, lo - page.lo, hi - page.lo)
        parts: list[bytes] = []
        at = lo
        while at < hi:
            try:
                part = self._part(batch, at, hi, room, whatever=whatever and at == lo)
            except (StoreDamaged, LookupError):
                if at == lo:
                    raise
                break
            taken = pages.count(part)
            if not taken:
                break
            parts.append(part)
            at += taken
            room -= len(part)
        return pages.join(parts) if parts else pages.pack([])

    def held(self, kind: type[Page], batch: int, index: int) -> Page | None:
        """The cached page with a task's arguments or result; None for none."""
        with self._lock:
            held: list[Page] | None = self._pages.get((kind, batch))
            if held is None:
                return None
            page = held[bisect_right(held, index, key=_by_lo) - 1]
            return page if page.lo <= index < page.hi else None

    def _part(self, batch: int, lo: int, hi: int, room: int, *, whatever: bool) -> bytes:
        """The part that fits of the page with a task's arguments, from that task on."""
        page = self.held(ArgumentPage, batch, lo) or next(iter(self.find(ArgumentPage, batch, lo, lo + 1)), None)
        if page is None:
            raise LookupError(f"arguments of {batch}.{lo} are missing")
        first, last = lo - page.lo, min(hi, page.hi) - page.lo
        end = pages.fitting(page.data, first, last, room)
        return pages.cut(page.data, first, max(end, first + whatever))


def _cover(found: list[Page], lo: int, hi: int) -> bool:
    for page in found:
        if page.lo > lo:
            return False
        lo = max(lo, page.hi)
    return lo >= hi
