"""Returns free pages of a store to the file system, a slice at a time.

Engines, used by `sqlite`. Removed rows leave free pages in the file, which later rows use again. Further free pages are
given back by SQLite's incremental vacuum (https://sqlite.org/pragma.html#pragma_incremental_vacuum): it moves pages
from the end of the file to free places, and the next checkpoint cuts the file. A slice takes milliseconds, so that
commits go on between two of them.

A store that an earlier version made cannot do that. It is rewritten once, at a start, if it is small.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from typing import Final

_log = logging.getLogger("dtq.engines")

#: Pages of one slice: 4 MiB.
_SLICE: Final = 1024
#: Free pages that the file keeps for the next rows: at least this many (16 MiB), and this share of those in use.
_KEPT: Final = 4096
_KEPT_SHARE: Final = 8
#: Largest store that is rewritten at a start, in bytes: a second or two.
_MOST_REWRITTEN: Final = 256 * 2**20


class Vacuum:
    """Gives free pages of one store back.

    Args:
        writer: the connection that writes.
    """

    def __init__(self, writer: sqlite3.Connection) -> None:
        self._writer = writer
        #: Whether there may be pages to give back.
        self.due = True
        self._under_way = False

    def step(self, *, all_of_it: bool = False) -> bool:
        """Give one slice back, if the file has more free pages than it should keep.

        Args:
            all_of_it: whether the file should keep none, because the disk is full.

        Returns:
            Whether the last slice of several was given, so that a checkpoint cuts the file.
        """
        try:
            free, pages = self._number("freelist_count"), self._number("page_count")
            kept = 0 if all_of_it else _KEPT + (pages - free) // _KEPT_SHARE
            if free <= (kept if self._under_way or all_of_it else 2 * kept):
                ended, self._under_way, self.due = self._under_way, False, False
                return ended
            # A page a step, without a row, for which `execute` would take one step only.
            self._writer.executescript(f"PRAGMA incremental_vacuum({min(_SLICE, free - kept)})")
            if self._number("freelist_count") < free:
                self._under_way = True
                return False
        except sqlite3.Error as error:  # a full disk: the pages stay free for rows
            _log.debug("free pages cannot be given back now: %s", error)
        ended, self._under_way, self.due = self._under_way, False, False
        return ended

    def _number(self, pragma: str) -> int:
        ((number,),) = self._writer.execute(f"PRAGMA {pragma}").fetchall()
        return int(number)


def enable(path: str, writer: sqlite3.Connection) -> None:
    """Rewrite a store of an earlier version so that it can give pages back, if that is quick.

    Args:
        path: the store.
        writer: the connection that writes; nothing else is connected.
    """
    if writer.execute("PRAGMA auto_vacuum").fetchone()[0] != 0:
        return
    if os.path.getsize(path) > _MOST_REWRITTEN:
        _log.warning(
            "the file %s never becomes smaller, as an earlier version of dtq made it; to change that, stop the"
            " coordinator and run: sqlite3 %s 'PRAGMA auto_vacuum = INCREMENTAL; VACUUM'",
            path,
            path,
        )
        return
    try:
        writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        writer.execute("VACUUM")
    except sqlite3.Error as error:
        _log.warning("the file %s still cannot shrink: %s", path, error)
