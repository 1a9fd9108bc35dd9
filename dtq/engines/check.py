"""A full check of a store, values too, that changes nothing: the work of ``dtq store check``.

Engines. A start checks only the parts it needs (`integrity_check`); this check reads every row and every value, which
takes as long as reading the files does. No coordinator may use the store meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from dtq.core.changes import ArgumentPage, HoldRow, ResultPage, SpecRow
from dtq.engines import commit_marker as marks
from dtq.engines import rowcodec, schema
from dtq.engines.faults import file_error, store_error
from dtq.engines.integrity_check import look_over
from dtq.engines.places import BESIDE
from dtq.engines.rowcodec import DamagedRow
from dtq.engines.segments import found
from dtq.engines.storefile import check_names, without_coordinator
from dtq.engines.uses import named_by, places
from dtq.engines.walcheck import damaged_start
from dtq.errors import BadMessage, StoreDamaged, StoreError
from dtq.model import pages, values
from dtq.model.ids import TaskId
from dtq.model.values import Value
from dtq.records import dataclass, field
from dtq.values.place import Place
from dtq.wording import counted

#: Bytes per read.
_READ_BYTES: Final = 1 << 20
#: Most damaged values that are listed one by one.
_MOST_TOLD: Final = 100
_BLOCK: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedValue:
    """A damaged value.

    Attributes:
        named_by: the rows that name it, in words, as "the arguments of task 17.3".
        length: its length in bytes.
        why: the fault.
    """

    named_by: str
    length: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A store's contents and faults.

    Attributes:
        path: the store.
        schema: version of its tables.
        batches: number of its batches.
        unfinished: number of unfinished batches.
        values: number of values that its rows name.
        value_bytes: bytes of these values.
        segments: number of files of values.
        unused_segments: number of these without a value that a row names.
        unused_bytes: bytes on the disk that no row names.
        damage: missing or damaged parts, a sentence each.
        damaged_values: the first damaged values.
    """

    path: str
    schema: int = 0
    batches: int = 0
    unfinished: int = 0
    values: int = 0
    value_bytes: int = 0
    segments: int = 0
    unused_segments: int = 0
    unused_bytes: int = 0
    damage: tuple[str, ...] = ()
    damaged_values: tuple[DamagedValue, ...] = ()


def check(path: str | os.PathLike[str]) -> Checked:
    """Check all of a store.

    Raises:
        StoreLocked: a coordinator uses it.
        StoreTooNew: a newer dtq wrote it.
        StoreError: it does not exist, or cannot be read.
    """
    store = os.path.realpath(path)
    try:
        if not os.path.exists(store):
            raise StoreError(store, "it is not there")
        check_names(store)
        with without_coordinator(store):
            return _check(store)
    except StoreDamaged as error:
        return Checked(path=store, damage=(str(error.args[1]),))
    except OSError as error:
        raise file_error(store, error) from error
    except sqlite3.Error as error:
        raise store_error(store, error) from error


def _check(store: str) -> Checked:
    schema.check_header(store)
    damaged_log = damaged_start(store + "-wal")
    segments = found(Place((store + BESIDE,)))
    with contextlib.closing(_connect(store)) as connection:
        version = schema.check_tables(store, connection)
        survey = look_over(
            store,
            connection,
            marks.read(store + ".mark"),
            damaged_log=damaged_log,
            size=0,  # so that all of it is checked
            version=version,
            segments=segments,
        )
        batches, unfinished = _counts(connection, version)
        named = _Named(connection, version)
        differing = version >= 3 and not survey.uses_damaged and named.recorded != _recorded(connection)
    damaged = _damaged_values(store + BESIDE, named)
    losses = list(survey.losses)
    if differing:
        losses.append("the record of which values are in use is not what the rows name")
    if wrong := [each for each in damaged if each.why == _CHECKSUM]:
        losses.append(f"{counted(len(wrong), 'value')} of {len(named.by)} {_are(wrong)} damaged")
    unused_bytes, unused_segments = _unused(store + BESIDE, segments, named)
    return Checked(
        path=store,
        schema=version,
        batches=batches,
        unfinished=unfinished,
        values=len(named.by),
        value_bytes=sum(length for _, _, length in named.by),
        segments=len(segments),
        unused_segments=unused_segments,
        unused_bytes=unused_bytes,
        damage=tuple(losses),
        damaged_values=tuple(damaged[:_MOST_TOLD]),
    )


_CHECKSUM: Final = "its checksum is wrong"


def _are(some: list[Any]) -> str:
    return "is" if len(some) == 1 else "are"


def _connect(store: str) -> sqlite3.Connection:
    """A connection that only reads. A store without a log has nothing to share, so the connection makes no log."""
    log = store + "-wal"
    empty = not os.path.exists(log) or os.path.getsize(log) == 0
    uri = f"file:{quote(store)}?{'immutable=1' if empty else 'mode=ro'}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    connection.text_factory = schema.lenient
    return connection


def _counts(connection: sqlite3.Connection, version: int) -> tuple[int, int]:
    live = schema.LIVE if version >= 3 else schema.LIVE_BEFORE_3
    ((batches,),) = connection.execute("SELECT count(*) FROM batches").fetchall()
    ((unfinished,),) = connection.execute(f"SELECT count(*) FROM batches WHERE {live}").fetchall()
    return int(batches), int(unfinished)


@dataclass(slots=True)
class _Use:
    """A named value: as the first description has it, and the rows that name it."""

    value: Value
    rows: list[str] = field(default_factory=list)


class _Named:
    """The values that all sound rows name, by their places; and the records of uses that there should be."""

    def __init__(self, connection: sqlite3.Connection, version: int) -> None:
        self.by: dict[tuple[int, int, int], _Use] = {}
        self.recorded: set[tuple[int, ...]] = set()
        for kind, owner, lo, what, row in _rows(connection, version):
            self.recorded |= {(kind, owner, lo, *at) for at in places(named_by(row))}
            for where, named in what:
                for value in named:
                    use = self.by.setdefault((value.segment, value.offset, value.length), _Use(value))
                    if len(use.rows) < 3:
                        use.rows.append(where)


_Row = SpecRow | ArgumentPage | ResultPage | HoldRow
_What = list[tuple[str, tuple[Value, ...]]]


def _rows(connection: sqlite3.Connection, version: int) -> Iterator[tuple[int, int, int, _What, _Row]]:
    """The rows that name values: kind and key, the naming row in words, and the row. Damaged rows are left out."""
    for number, body in connection.execute("SELECT number, body FROM specs"):
        with contextlib.suppress(DamagedRow):
            spec = SpecRow(number=number, spec=rowcodec.decode_spec(number, body))
            if named := tuple(named_by(spec)):
                yield rowcodec.SPEC, number, 0, [(f"the function {spec.spec.function.name}", named)], spec
    for kind, noun, sql, decode in _PAGES:
        for row in connection.execute(sql):
            with contextlib.suppress(DamagedRow, BadMessage):
                page = decode(row)
                yield kind, page.batch, page.lo, _of_page(connection, noun, page), page
    if version >= 3:
        for hold, body in connection.execute("SELECT hold, body FROM holds"):
            with contextlib.suppress(DamagedRow):
                held = rowcodec.decode_hold(hold, body)
                yield rowcodec.HOLD, hold, 0, [("what a client has put", tuple(named_by(held)))], held


_PAGES: Final[tuple[tuple[int, str, str, Any], ...]] = (
    (
        rowcodec.ARGUMENTS,
        "the arguments",
        "SELECT batch, lo, hi, crc, data FROM arguments WHERE data >= x'80'",
        rowcodec.decode_arguments,
    ),
    (
        rowcodec.RESULTS,
        "the result",
        "SELECT batch, lo, hi, ended_at, worker, crc, data FROM results WHERE data >= x'80'",
        rowcodec.decode_results,
    ),
)


def _is_single(connection: sqlite3.Connection, batch: int) -> bool:
    """Whether a batch has one task only, as far as its row can be read."""
    for (body,) in connection.execute("SELECT body FROM batches WHERE batch = ?", (batch,)):
        with contextlib.suppress(DamagedRow):
            row = rowcodec.decode_batch(batch, body, {})
            return row.complete and row.size == 1
    return False


def _of_page(connection: sqlite3.Connection, noun: str, page: ArgumentPage | ResultPage) -> _What:
    blobs = enumerate(pages.unpack(page.data), page.lo)
    single = (page.lo, page.hi) == (0, 1) and _is_single(connection, page.batch)
    return [
        (f"{noun} of task {TaskId(page.batch, index, single)}", values.named(blob))
        for index, blob in blobs
        if values.is_description(blob)
    ]


def _recorded(connection: sqlite3.Connection) -> set[tuple[int, ...]]:
    return set(connection.execute("SELECT kind, owner, lo, segment, start, length FROM uses"))


def _damaged_values(directory: str, named: _Named) -> list[DamagedValue]:
    """Read every value, and return the damaged ones."""
    place = Place((directory,))
    damaged = []
    current, file = -1, -1
    try:
        for (segment, _, length), use in sorted(named.by.items(), key=lambda item: item[0]):
            if segment != current:
                if file >= 0:
                    os.close(file)
                current, file = segment, _opened(place, segment)
            if why := _wrong(file, use.value):
                damaged.append(DamagedValue(named_by=", ".join(use.rows), length=length, why=why))
    finally:
        if file >= 0:
            os.close(file)
    return damaged


def _opened(place: Place, segment: int) -> int:
    try:
        return os.open(place.find(segment), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return -1


def _wrong(file: int, value: Value) -> str:
    """The fault of a value; empty for a sound value."""
    if file < 0:
        return "its file is missing"
    crc, at = 0, value.offset
    while at < value.end:
        try:
            data = os.pread(file, min(_READ_BYTES, value.end - at), at)
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        if not data:
            return "it is cut short"
        crc = zlib.crc32(data, crc)
        at += len(data)
    return _CHECKSUM if value.crc and crc != value.crc else ""


def _unused(directory: str, segments: dict[int, int], named: _Named) -> tuple[int, int]:
    """Unused bytes on the disk, and number of segments without any used value."""
    used: dict[int, int] = {}
    for segment, _, length in named.by:
        used[segment] = used.get(segment, 0) + length
    on_disk = 0
    for path in Place((directory,)).segments().values():
        with contextlib.suppress(FileNotFoundError):
            on_disk += os.stat(path).st_blocks * _BLOCK
    in_use = sum(length for segment, length in used.items() if segment in segments)
    return max(0, on_disk - in_use), len(segments.keys() - used.keys())
