"""The report as one page of HTML: no script, nothing from elsewhere, pictures within. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dtq.report import svg
from dtq.report.gathering import Facts
from dtq.report.lanes import MOST_BARS, MOST_LANES, bars, lanes, slots
from dtq.report.measures import kinds, series, times
from dtq.report.svg import text
from dtq.wording import counted, duration, rate, utc

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #667; --paper: #fff; --line: #d5d9de; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --dim: #99a; --paper: #15181c; --line: #343a41;
  --bad: #ef5350; } }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums slashed-zero; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
p.note, caption { color: var(--dim); text-align: left; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; padding: 0; list-style: none; }
.tiles li { border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .9rem; }
.tiles b { display: block; font-size: 1.3rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .2rem .8rem .2rem 0; text-align: left;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; } .n { text-align: right; white-space: nowrap; }
svg { width: 100%; height: auto; display: block; } .label { font-size: 11px; fill: var(--dim); }
.grid { stroke: var(--line); stroke-width: 1; } .line { fill: none; stroke-width: 1.5; }
.submitted { stroke: #8a94a0; } .done { stroke: #2e7d32; } .failed { stroke: var(--bad); } .bad { fill: var(--bad); }
.key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem; }
""" + "\n".join(
    f".hue{place} {{ fill: {colour}; background: {colour}; }}"
    for place, colour in enumerate(
        ("#1976d2", "#ef6c00", "#00897b", "#8e24aa", "#c0a000", "#5d4037", "#d81b60", "#546e7a", "#9e9e9e")
    )
)
_HEAD: Final = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
)


def page(facts: Facts, address: str) -> str:
    """The page.

    Args:
        facts: what it tells.
        address: the coordinator's address.
    """
    title = f"dtq report: {text(address)}, {utc(facts.seen.now)}"
    parts = [f"{_HEAD}<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"]
    parts += _top(facts, address)
    parts += _throughput(facts)
    parts += _times(facts)
    parts += _failures(facts)
    parts += _lanes(facts)
    parts.append("</body>\n</html>\n")
    return "\n".join(parts)


def covers(facts: Facts) -> str:
    """What the measures are of, in a sentence."""
    tasks = sum(row.count for row in facts.succeeded)
    of_it = f"{counted(tasks, 'task')} that succeeded, and {counted(len(facts.letters), 'dead letter')}"
    when = "of all that is kept" if facts.since is None else f"that ended since {utc(facts.since)}"
    bound = "; there were more, and only the newest are looked at" if facts.cut else ""
    return f"{of_it}, {when}{bound}"


def _top(facts: Facts, address: str) -> Iterator[str]:
    stats = facts.stats
    yield f"<h1>dtq at {text(address)}</h1>"
    yield f'<p class="note">{utc(facts.seen.now)}. Measured: {text(covers(facts))}. Moments are UTC.</p>'
    slots = sum(worker.slots for worker in stats.workers)
    tiles = (
        ("submitted", f"{stats.submitted:,}"),
        ("unfinished", f"{stats.counts.unfinished:,}"),
        ("succeeded", f"{stats.counts.succeeded:,}"),
        ("retries", f"{stats.retries:,}"),
        ("dead letters", f"{stats.dead_letters:,}"),
        ("cancelled", f"{stats.counts.cancelled:,}"),
        ("workers", f"{len(stats.workers):,}"),
        ("slots", f"{slots:,}"),
    )
    yield '<ul class="tiles">'
    yield from (f"<li><b>{number}</b>{name}</li>" for name, number in tiles)
    yield "</ul>"


def _throughput(facts: Facts) -> Iterator[str]:
    yield "<h2>Throughput</h2>"
    found = series(facts)
    if found is None:
        yield '<p class="note">The coordinator has just started, and has no history yet.</p>'
        return
    peak = max(found.done, default=0.0)
    yield (
        f'<p class="note">Tasks a second, in intervals of {duration(found.step_s)}. Green: succeeded (at most '
        f"{rate(peak)}); grey: submitted; red: attempts that failed.</p>"
    )
    yield from svg.throughput(found)


def _times(facts: Facts) -> Iterator[str]:
    yield "<h2>Waiting and running times</h2>"
    found = times(facts.succeeded)
    if not found:
        yield '<p class="note">No task has succeeded in this time.</p>'
        return
    names = ("Function", "", "Tasks", "Mean", "50 %", "90 %", "99 %", "Longest")
    rows = [
        (one.function, what, *of_it.cells)
        for one in found
        for what, of_it in (("wait", one.waits), ("run", one.runs))
        if of_it is not None
    ]
    yield from _table(names, rows, right=2)
    yield (
        '<p class="note">Waits are from submission to the start of the attempt that succeeded: earlier attempts and '
        "delays are in them. Short tasks are reported together; then each has the mean of its report.</p>"
    )


def _failures(facts: Facts) -> Iterator[str]:
    yield "<h2>Failures</h2>"
    found = kinds(facts.letters)
    if not found:
        yield '<p class="note">There are no dead letters of this time.</p>'
        return
    rows = [
        (
            kind.name,
            ", ".join(kind.functions),
            kind.told,
            utc(kind.example.died_at),
            f"{kind.count:,}",
        )
        for kind in found
    ]
    yield from _table(("Kind", "Functions", "Newest", "Died", "Dead letters"), rows, right=4)


def _lanes(facts: Facts) -> Iterator[str]:
    yield "<h2>What ran when</h2>"
    laid = lanes(bars(facts), slots(facts))
    if not laid:
        yield '<p class="note">Nothing with known times has run in this time.</p>'
        return
    yield (
        '<p class="note">A lane for each slot of a worker that was busy. The coordinator keeps the worker of a task '
        f"and its times; the lanes follow from these. The newest {MOST_BARS:,} bars at most, and {MOST_LANES} lanes. "
        "Red: failed attempts of dead letters.</p>"
    )
    colours = svg.hues(laid)
    keys = (f'<span class="key hue{place}"></span>{text(name, 60)}' for name, place in colours.items())
    yield f"<p>{''.join(keys)}</p>"
    yield from svg.stream(laid, colours)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], right: int) -> Iterator[str]:
    """A table; columns from ``right`` on are numbers."""
    kinds_of = ["" if place < right else ' class="n"' for place in range(len(names))]
    yield "<table>"
    yield f"<tr>{''.join(f'<th{kind}>{text(name)}</th>' for name, kind in zip(names, kinds_of, strict=True))}</tr>"
    for row in rows:
        yield f"<tr>{''.join(f'<td{kind}>{text(cell)}</td>' for cell, kind in zip(row, kinds_of, strict=True))}</tr>"
    yield "</table>"
