"""The engine that ships: one SQLite file, its write-ahead log, and a mark beside it.

`sink` has its commits, `schema` and `rowcodec` its file format, `integrity_check` and `commit_marker` its check at
start, `reading` its answers.

Durability. With ``fsync``, `commit` returns when the log is on disk (``synchronous=FULL``): nothing acknowledged is
lost by a kill or a power cut. With ``os`` or ``none`` it returns when the operating system has it
(``synchronous=OFF``): a killed process loses nothing, a power cut may lose the last commits or damage the store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal
from urllib.parse import quote

from dtq.core.changes import Change, OutputPage, Row, Stored, Totals
from dtq.engines import commit_marker as marks
from dtq.engines import schema
from dtq.engines.base import Committed, EndedRun, Opened, Page, StoredBatch
from dtq.engines.commit_marker import CommitMarker
from dtq.engines.faults import commit_error, file_error, store_error
from dtq.engines.head import HEAD_BYTES, Head
from dtq.engines.integrity_check import Survey, look_over
from dtq.engines.places import BESIDE, beside_store
from dtq.engines.reading import Reader, restore
from dtq.engines.reserve import Reserve
from dtq.engines.segments import Ranges, Segments, found
from dtq.engines.selection_filter import SelectionFilter
from dtq.engines.sink import FREED, FREED_SEEN, SETUP, Statement, WritePlan, remade_uses
from dtq.engines.storefile import Presence, StoreLock, check_names
from dtq.engines.vacuum import Vacuum, enable
from dtq.engines.walcheck import damaged_start
from dtq.errors import StoreDamaged, StoreError, StoreFull, StoreUnwritable
from dtq.model.snapshots import Attempt, Selection
from dtq.model.values import Value
from dtq.records import dataclass, replace
from dtq.values.place import MAX_VALUE, Place

_log = logging.getLogger("dtq.engines")

Durability = Literal["fsync", "os", "none"]

#: Pages of the write-ahead log after which a commit also moves it into the file: 8 MB, a pause of about 20 ms. Fewer
#: with a small reserve, so that the log alone does not use it up.
_CHECKPOINT_PAGES: Final = 2000
#: Kibibytes of pages that the writing connection caches.
_CACHE_KIB: Final = 16384
#: Seconds that the log waits for readers before it is given back to a disk that is full.
_BUSY_S: Final = 0.2
#: Bytes of the log that stay on disk after it has been larger.
_LOG_BYTES: Final = 64 * 2**20


@dataclass(slots=True, kw_only=True)
class _Use:
    """The parts of an open engine."""

    writer: sqlite3.Connection
    segments: Segments
    mark: CommitMarker
    head: Head
    reserve: Reserve
    vacuum: Vacuum
    presence: Presence
    page_reader: Reader
    reader: Reader
    missing_batches: bool
    #: Whether rows may name values.
    valued: bool
    #: Whether batches may have parents.
    linked: bool
    #: Whether there may be output of tasks.
    printed: bool
    closing: contextlib.ExitStack
    #: Whether output was left out, for lack of room.
    output_left_out: bool = False


class SqliteEngine:
    """Keeps rows in a SQLite file.

    Beside the file lie its write-ahead log (``-wal``, ``-shm``), its ``.mark``, its ``.reserve``, its ``.lock``, and
    the directory ``.values``.

    Args:
        path: the file; it and its directory are made if missing.
        durability: see above.
        max_value: largest value in bytes.
        epoch: number of the run before a new store's first one, below 2**30; see `MemoryEngine`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "fsync",
        max_value: int = MAX_VALUE,
        epoch: int = 0,
    ) -> None:
        self._path = os.path.realpath(path)
        self._first_epoch = epoch
        self._max_value = max_value
        self._sync = durability == "fsync"
        self._use: _Use | None = None

    @property
    def place(self) -> Place:
        """See `Engine.place`."""
        return self._used().segments.place

    def open(self) -> Opened:
        """See `Engine.open`."""
        with contextlib.ExitStack() as closing:
            try:
                os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
                check_names(self._path)
                lock = StoreLock(self._path)
                closing.callback(lock.release)
                survey = self._look_over(lock)
                use = self._take(survey, closing)
            except OSError as error:
                raise file_error(self._path, error) from error
            except sqlite3.Error as error:
                raise store_error(self._path, error) from error
            except UnicodeError as error:  # SQLite quotes damaged text in its messages
                raise StoreDamaged(self._path, "its tables cannot be read") from error
            use.closing = closing.pop_all()
            self._use = use
        return Opened(epoch=use.head.epoch, store=use.head.store, totals=use.head.totals, losses=survey.losses)

    def restore(self) -> Iterable[Row]:
        """See `Engine.restore`."""
        return restore(self._path, missing_batches=self._used().missing_batches)

    def commit(self, changes: Sequence[Change], *, insist: bool = False) -> Committed:
        """See `Engine.commit`."""
        use = self._used()
        self._check_presence(use)
        if changes and use.reserve.short:
            changes = self._without_output(use, changes)
        if changes:
            sheet = WritePlan(changes, valued=use.valued, linked=use.linked, printed=use.printed)
            use.linked |= sheet.linked
            use.printed |= sheet.printed
            head = replace(use.head, sequence=use.head.sequence + 1, totals=sheet.totals or use.head.totals)
            use.reserve.want(head.totals)
            if sheet.values:
                use.valued = True
                use.segments.ensure(sheet.values)
            if not sheet.argument_bytes or insist:
                self._write(use.writer, _steps(sheet, head), use.reserve)
            else:
                self._try(use, _steps(sheet, head), sheet.argument_bytes)
            use.head = head
            if use.valued and (sheet.removes or sheet.values):  # values of replaced pages are found by the next commit
                self._note_freed(use)
            use.mark.write(head)
            use.vacuum.due |= sheet.removes
            self._check_presence(use)
        if use.vacuum.due and use.vacuum.step(all_of_it=use.reserve.short):
            self._shorten_log(use.writer)  # which shortens the file
        if use.segments.unfinished:
            use.segments.step()
        short = use.reserve.short and not (use.reserve.due and self._fill(use))
        return Committed(
            shortage=self._shortage(use) if short else None,
            unfinished=use.vacuum.due or use.segments.unfinished,
            again_s=use.segments.again_s,
        )

    def _without_output(self, use: _Use, changes: Sequence[Change]) -> Sequence[Change]:
        """The changes without what tasks have printed: the room that is left is for the ends of accepted work."""
        kept = [change for change in changes if type(change) is not Stored or type(change.row) is not OutputPage]
        if len(kept) < len(changes) and not use.output_left_out:
            _log.warning("no room in %s for what tasks print: it is left out", self._path)
        use.output_left_out = use.output_left_out or len(kept) < len(changes)
        return kept

    def sync(self, values: Sequence[Value]) -> None:
        """See `Engine.sync`."""
        self._used().segments.sync(values)

    def pages(self, kind: type[Page], batch: int, lo: int, hi: int, room: int | None = None) -> list[Page]:
        """See `Engine.pages`."""
        return self._used().page_reader.pages(kind, batch, lo, hi, room)

    def batches(self, numbers: Sequence[int] = (), keys: Sequence[str] = (), most: int = 1) -> list[StoredBatch]:
        """See `Engine.batches`."""
        return self._used().reader.batches(numbers, keys, most)

    def newest(self, before: int, most: int) -> list[StoredBatch]:
        """See `Engine.newest`."""
        return self._used().reader.newest(before, most)

    def ended(self, selection: Selection, now: float) -> list[EndedRun]:
        """See `Engine.ended`."""
        return self._used().reader.ended(SelectionFilter(selection, now))

    def children(self, parents: Sequence[int]) -> list[int]:
        """See `Engine.children`."""
        return self._used().reader.children(parents)

    def holds(self, values: Sequence[Value]) -> bool:
        """See `Engine.holds`."""
        use = self._used()
        use.segments.asked(value.segment for value in values)
        return use.page_reader.holds(values)

    def attempts(self, batch: int, index: int, *, first: int = 0, room: int | None = None) -> list[Attempt]:
        """See `Engine.attempts`."""
        return self._used().reader.attempts(batch, index, first, room)

    def close(self) -> None:
        """See `Engine.close`."""
        use, self._use = self._use, None
        if use is not None:
            use.closing.close()

    def _used(self) -> _Use:
        if self._use is None:
            raise StoreError(self._path, "it is not open")
        return self._use

    # -- opening --------------------------------------------------------------------------------------------------

    def _look_over(self, lock: StoreLock) -> Survey:
        """Make the store if there is none, lock it, and check it without changing it."""
        mark_path, log_path = self._path + ".mark", self._path + "-wal"
        if _size(self._path) == 0:
            self._make(mark_path, log_path)
        lock.hold_store()
        schema.check_header(self._path)
        damaged_log = damaged_start(log_path)
        size = _size(self._path) + _size(log_path)
        looking = sqlite3.connect(f"file:{quote(self._path)}?mode=ro", uri=True, isolation_level=None)
        looking.text_factory = schema.lenient
        with contextlib.closing(looking):
            version = schema.check_tables(self._path, looking)
            if _size(log_path) == 0:
                schema.check_roots(self._path, looking)
            mark = marks.read(mark_path)
            return look_over(
                self._path,
                looking,
                mark,
                damaged_log=damaged_log,
                size=size,
                version=version,
                segments=found(Place((self._path + BESIDE,))),
            )

    def _make(self, mark_path: str, log_path: str) -> None:
        mark = marks.read(mark_path)
        begun = _size(mark_path) >= HEAD_BYTES  # a smaller mark belongs to a store whose creation was not finished
        if _size(log_path) or (begun and (mark is None or mark.sequence > 0)):
            commits = "" if mark is None else f" with {mark.sequence} commits"
            beside = mark_path if _size(mark_path) else log_path
            raise StoreDamaged(
                self._path, f"the file{commits} is gone, though {beside} is there; to begin anew, remove that too"
            )
        head = Head(store=secrets.token_bytes(8), sequence=0, epoch=self._first_epoch, totals=Totals())
        with contextlib.closing(CommitMarker(mark_path, sync=self._sync)) as new:
            new.start(head)
        schema.create(self._path, head)

    def _take(self, survey: Survey, closing: contextlib.ExitStack) -> _Use:
        """Begin a new epoch, on disk."""
        place = beside_store(self._path, durable=self._sync, max_value=self._max_value)
        writer = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        closing.callback(writer.close)
        reserve = Reserve(self._path)
        self._write(writer, [(sql, ()) for sql in schema.upgrade_steps(survey.version)], reserve, opening=True)
        if not survey.losses:
            enable(self._path, writer)
        self._set_up(writer, min(_CHECKPOINT_PAGES, reserve.base // 2 // schema.PAGE_SIZE))
        if survey.uses_damaged:
            self._write(writer, remade_uses(writer), reserve, opening=True)
        head = replace(survey.head, sequence=survey.head.sequence + 1, epoch=survey.head.epoch + 1)
        self._write(writer, _steps(WritePlan(()), head), reserve, opening=True)
        reserve.want(head.totals)
        reserve.fill()
        mark = CommitMarker(self._path + ".mark", sync=self._sync)
        closing.callback(mark.close)
        mark.start(head)
        segments = Segments(place, self._path, sync=self._sync, used=lambda number: _ranges(writer, number))
        closing.callback(segments.close)
        readers = [Reader(self._path), Reader(self._path)]
        for reader in readers:
            closing.callback(reader.close)
        return _Use(
            writer=writer,
            segments=segments,
            mark=mark,
            head=head,
            reserve=reserve,
            vacuum=Vacuum(writer),
            presence=Presence(self._path),
            page_reader=readers[0],
            reader=readers[1],
            missing_batches=survey.missing_batches,
            valued=writer.execute("SELECT 1 FROM uses LIMIT 1").fetchone() is not None,
            linked=writer.execute("SELECT 1 FROM edges LIMIT 1").fetchone() is not None,
            printed=writer.execute("SELECT 1 FROM output LIMIT 1").fetchone() is not None,
            closing=closing,
        )

    def _set_up(self, writer: sqlite3.Connection, log_pages: int) -> None:
        for setting in (
            "journal_mode = WAL",
            f"synchronous = {'FULL' if self._sync else 'OFF'}",
            f"wal_autocheckpoint = {log_pages}",
            f"journal_size_limit = {_LOG_BYTES}",
            f"cache_size = -{_CACHE_KIB}",
            "temp_store = MEMORY",
            "secure_delete = OFF",
        ):
            writer.execute(f"PRAGMA {setting}").fetchall()
        for statement in SETUP:
            writer.execute(statement)

    # -- writing --------------------------------------------------------------------------------------------------

    def _write(
        self, writer: sqlite3.Connection, steps: list[Statement], reserve: Reserve, *, opening: bool = False
    ) -> None:
        """Write a commit that cannot be refused, with room from the reserve if there is no other.

        Raises:
            StoreFull: no room.
            StoreError: it failed in another way.
        """
        shortened = False
        while True:
            try:
                return self._put(writer, steps)
            except StoreFull:
                if not shortened:
                    shortened = self._shorten_log(writer)
                    if shortened:
                        continue
                if not reserve.give(all_of_it=opening):
                    raise
                self._shorten_log(writer)  # the file may need the given room to take in the log

    def _try(self, use: _Use, steps: list[Statement], size: int) -> None:
        """Write a commit of this many bytes, for which there must be room beside the reserve.

        Raises:
            StoreFull: no room.
            StoreError: it failed in another way.
        """
        if use.reserve.short and not self._fill(use):
            raise self._shortage(use)
        try:
            self._put(use.writer, steps)
        except StoreFull:
            use.reserve.refused(size)
            self._shorten_log(use.writer)
            raise

    def _put(self, writer: sqlite3.Connection, steps: list[Statement]) -> None:
        """Write a commit as a whole, or nothing of it.

        Raises:
            StoreFull: no room.
            StoreError: it failed in another way.
        """
        try:
            for sql, parameters in steps:
                self._execute(writer, sql, parameters)
        except sqlite3.Error as error:
            self._take_back(writer)
            raise commit_error(self._path, error) from error
        except BaseException:
            self._take_back(writer)
            raise

    def _execute(self, writer: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> None:
        """The only place where a commit reaches SQLite; tests inject their faults here."""
        writer.execute(sql, parameters)

    def _take_back(self, writer: sqlite3.Connection) -> None:
        try:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
        except sqlite3.Error as error:
            _log.warning("after a failed commit to %s, its rollback failed, too: %s", self._path, error)

    def _check_presence(self, use: _Use) -> None:
        """Check that the next start will find the written files.

        Raises:
            StoreUnwritable: it will not.
        """
        if missing := use.presence.missing():
            raise StoreUnwritable(self._path, missing)

    # -- values ---------------------------------------------------------------------------------------------------

    def _note_freed(self, use: _Use) -> None:
        """Have the room of unused values given back."""
        try:
            if freed := use.writer.execute(FREED).fetchall():
                use.writer.execute(FREED_SEEN)
                use.segments.freed(number for (number,) in freed)
        except sqlite3.Error as error:
            _log.warning("the unused values cannot be listed now: %s", store_error(self._path, error))

    # -- room -----------------------------------------------------------------------------------------------------

    def _fill(self, use: _Use) -> bool:
        """Make the reserve whole; whether there is room for new work. Free pages inside the file are room too."""
        if use.reserve.fill() or (self._shorten_log(use.writer) and use.reserve.fill()):
            return True
        try:
            ((pages,),) = use.writer.execute("PRAGMA freelist_count").fetchall()
        except sqlite3.Error:
            return False
        return use.reserve.fill(elsewhere=pages * schema.PAGE_SIZE)

    def _shorten_log(self, writer: sqlite3.Connection) -> bool:
        """Move the log into the file, which may have room for it, and free the log's own room.

        Returns:
            Whether there is more room than before.
        """
        if _size(self._path + "-wal") == 0:
            return False
        try:
            ((busy, *_),) = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            return False
        return not busy

    def _shortage(self, use: _Use) -> StoreFull:
        return StoreFull(self._path, f"{use.reserve.missing / 2**20:.1f} MiB more have to be free for new work")


def _steps(sheet: WritePlan, head: Head) -> list[Statement]:
    """A commit as one transaction."""
    steps = sheet.statements(head.pack())
    return steps if len(steps) == 1 else [("BEGIN IMMEDIATE", ()), *steps, ("COMMIT", ())]


def _size(path: str) -> int:
    """Bytes in a file; 0 if there is none."""
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _ranges(writer: sqlite3.Connection, segment: int) -> Ranges:
    """The used parts of a segment."""
    sql = "SELECT DISTINCT start, start + length FROM uses WHERE segment = ? ORDER BY start, length"
    return writer.execute(sql, (segment,)).fetchall()
