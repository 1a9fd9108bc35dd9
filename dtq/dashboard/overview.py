"""The first screen: tiles, chart, what needs attention, queues, workers, latest failures. Pure.

Written once for every width and height: what has no room is cut, and says how much is missing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dtq.dashboard import charts, rows, wording
from dtq.dashboard.board import Board, Page
from dtq.dashboard.lines import EMPTY, Line, Look, Span, at_cursor, beside, filled, fitted, foreign, line
from dtq.dashboard.tables import section, shares, table
from dtq.model.dashboard import Dashboard

#: From this width on, queues and failures stand beside each other.
_BESIDE: Final = 150
#: Rows of the screen from which on a series of the chart has two rows, and three.
_TALL: Final = (36, 60)
_NO_QUEUE: Final = "no task waits or runs: dtq submit"
_NO_WORKER: Final = "no worker is connected: dtq worker"
_NO_FAILURE: Final = "no attempt has failed since the start"


class Tile(NamedTuple):
    """A number of the health strip: title, value, its look, and a note below it."""

    title: str
    value: str
    look: Look
    note: str


def tiles(seen: Dashboard) -> list[Tile]:
    """The eight numbers of the health strip."""
    counts = seen.counts
    share = f"{seen.busy / seen.slots:.0%}" if seen.slots else ""
    oldest = "" if seen.oldest_s is None else f"{wording.age(seen.oldest_s)} old"
    longest = "" if seen.longest is None else f"{wording.age(seen.longest.seconds)} long"
    blocked = f"{wording.few(counts.blocked)} blocked" if counts.blocked else ""

    def tile(title: str, value: int, look: Look, note: str = "") -> Tile:
        return Tile(title, wording.few(value), look if value else Look.DIM, note)

    return [
        tile("QUEUED", counts.pending, Look.PENDING, oldest),
        tile("RUNNING", counts.running, Look.RUNNING, longest),
        tile("SCHEDULED", counts.scheduled + counts.blocked, Look.SCHEDULED, blocked),
        tile("DONE 1h", seen.hour_done, Look.SUCCEEDED, f"{charts.number(seen.rates.done)}/s"),
        tile("FAILED 1h", seen.hour_failed, Look.CANCELLED, f"{charts.number(seen.rates.failed)}/s"),
        tile("DEAD", counts.dead, Look.DEAD),
        tile("WORKERS", seen.alive, Look.PLAIN, f"{seen.lost} lost" if seen.lost else ""),
        Tile("SLOTS", f"{seen.busy}/{seen.slots}", Look.PLAIN if seen.busy else Look.DIM, share),
    ]


def strip(seen: Dashboard, columns: int) -> list[Line]:
    """The health strip."""
    found = tiles(seen)
    each, spare = divmod(columns, len(found))
    sizes = [each + (place < spare) for place in range(len(found))]

    def row(spans: list[Span]) -> Line:
        return tuple(
            span for one, wide in zip(spans, sizes, strict=True) for span in (*filled((one,), wide - 1), Span(" "))
        )

    notes = [Span(tile.note, Look.DEAD if tile.title == "WORKERS" else Look.DIM) for tile in found]
    return [
        row([Span(tile.title, Look.DIM) for tile in found]),
        row([Span(tile.value, tile.look) for tile in found]),
        row(notes),
    ]


def attention(seen: Dashboard, columns: int, most: int) -> list[Line]:
    """What needs attention, each with its remedy; no line if nothing does."""
    if not seen.attention or most <= 0:
        return []
    found: list[Line] = []
    shown = seen.attention if len(seen.attention) <= most else seen.attention[: max(1, most - 1)]
    for said in shown:
        remedy = f"  → {foreign(said.remedy)}"
        text = Span(f"! {foreign(said.text)}", Look.DEAD)
        room = max(columns // 3, columns - len(remedy))
        found.append((*fitted((text,), room), Span(remedy, Look.STRONG)))
    if len(shown) < len(seen.attention) and most > 1:
        found.append(line(Span(f"! {len(seen.attention) - len(shown)} more need attention", Look.DEAD)))
    return found


def chart(board: Board, seen: Dashboard, columns: int, rows_each: int) -> list[Line]:
    """The chart of the chosen period, of so many rows for each series."""
    waiting = seen.counts.pending + seen.counts.scheduled + seen.counts.blocked
    present = {
        "done/s": seen.rates.done,
        "failed/s": seen.rates.failed,
        "submitted/s": seen.rates.submitted,
        "backlog": float(waiting),
        "oldest": 1_000 * (seen.oldest_s or 0.0),
    }
    return charts.chart(board.history, seen.now, present, board.period, columns, rows_each, board.blocks)


def body(board: Board, seen: Dashboard, columns: int, height: int, rows_each: int = 0) -> list[Line]:
    """The first screen below its header, in so much room or less.

    Args:
        board: the state.
        seen: its snapshot.
        columns: the width.
        height: the room.
        rows_each: rows of each series of the chart; 0 for as many as suit the height.
    """
    found = strip(seen, columns)
    found += chart(board, seen, columns, rows_each or 1 + sum(height >= tall for tall in _TALL))
    left = height - len(found)
    alerts = attention(seen, columns, max(1, min(left // 3, 8)))
    found += alerts
    return found + _sections(board, seen, columns, height - len(found))


def _sections(board: Board, seen: Dashboard, columns: int, room: int) -> list[Line]:
    """Queues, workers and failures, each with as much room as it needs and there is."""
    wide = columns >= _BESIDE
    half = (columns - 3) // 2 if wide else columns
    queues = table(rows.QUEUES, [rows.queue_row(queue) for queue in seen.queues], half)
    failures = _failures(board, seen, half)
    workers = _workers(board, seen, columns, slots=True)
    if room < sum(map(len, (queues, workers, failures))) + 5:
        workers = _workers(board, seen, columns, slots=False)
    tops = [1 + (len(body) if len(body) > 1 else 0) for body in (queues, workers, failures)]
    if wide:
        top, below = shares(room, [max(tops[0], tops[2]), tops[1]])
        given = [top, below, top]
    else:
        given = shares(room, tops)
    parts = (
        section(_title("Queues", len(seen.queues) + seen.more_queues), queues, given[0], seen.more_queues, _NO_QUEUE),
        section(_title("Workers", seen.alive), workers, given[1], seen.more_workers, _NO_WORKER),
        section(_title("Latest failures", 0), failures, given[2], 0, _NO_FAILURE),
    )
    stacked = [beside(parts[0], parts[2], columns), parts[1]] if wide else list(parts)
    return _spaced(stacked, room)


def _spaced(parts: list[list[Line]], room: int) -> list[Line]:
    """The parts one below the other, with empty lines between them if there is room."""
    spare = room - sum(map(len, parts))
    found: list[Line] = []
    for part in parts:
        if spare > 0:
            found.append(EMPTY)
            spare -= 1
        found += part
    return found


def _failures(board: Board, seen: Dashboard, columns: int) -> list[Line]:
    found = table(rows.FAILURES, [rows.failure_row(failure, seen.now) for failure in seen.failures], columns)
    at = board.cursors.get(Page.OVERVIEW)  # there is no cursor until it is moved
    if at is not None and len(found) > 1:
        place = 1 + min(at, len(found) - 2)
        found[place] = at_cursor(found[place], columns)
    return found


def _workers(board: Board, seen: Dashboard, columns: int, *, slots: bool) -> list[Line]:
    parts = rows.worker_lines(seen.workers, seen.now, columns, board.blocks, slots=slots)
    return [each for head, below in parts for each in (head, *below)]


def _title(text: str, count: int) -> Line:
    return line(Span(text, Look.STRONG), Span(f" {count:,}" if count else "", Look.DIM))
