"""``dtq report``: what the queue did in a time, as text or as one page of HTML."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from dtq.cli import options
from dtq.cli.bars import share
from dtq.cli.calling import service
from dtq.cli.click_classes import Command
from dtq.cli.output import moment, say, write, write_json, write_table
from dtq.cli.render_json import letter_json
from dtq.model.text import printable_line
from dtq.records import asdict
from dtq.wording import duration, rate

if TYPE_CHECKING:
    from dtq.report.gathering import Facts

#: Lines of the chart of throughput.
_LINES: Final = 12


@click.command(
    cls=Command,
    examples=(
        ("dtq report", "throughput, times and failures, as text"),
        ("dtq report --since 1h --html report.html", "of the last hour, as one page for a browser"),
    ),
)
@click.option("--html", metavar="FILE", type=options.FILE, help="Write a page to FILE (-: standard output).")
@click.option("--since", metavar="DURATION", type=options.DURATION, help="Only what ended in so long a time.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=10_000,
    show_default=True,
    help="Look at the newest N rows of tasks, and as many dead letters.",
)
@options.connecting
@options.as_json
def report(
    html: str | None,
    since: float | None,
    limit: int,
    addresses: tuple[str, ...],
    authkey_file: str | None,
    as_json: bool,
) -> None:
    """Report what the queue did: throughput over time, waiting and running times, failures by kind.

    The page also shows what ran when, a lane for each slot. It needs no network and no script. A row is a task, or up
    to 1,024 short ones that were reported together.
    """
    if html is not None and as_json:
        raise click.UsageError("choose --html or --json.", click.get_current_context())
    from dtq.report.gathering import gather

    with service(addresses, authkey_file) as queue:
        facts, address = gather(queue, since, limit), queue.address
    if as_json:
        write_json({"report": _json(facts)})
        return
    if html is None:
        _show(facts, address)
        return
    from dtq.report.page import page

    text = page(facts, address)
    if html == "-":
        sys.stdout.write(text)
        return
    with open(html, "w", encoding="utf-8") as file:
        file.write(text)
    say(f"{html}: {len(text.encode()):,} bytes")


def _json(facts: Facts) -> dict[str, Any]:
    """The measures; durations are seconds."""
    from dtq.report.measures import kinds, series, times

    found = series(facts)
    return {
        "since": moment(facts.since),
        "cut": facts.cut,
        "throughput": None if found is None else asdict(found) | {"begin": moment(found.begin)},
        "times": [asdict(one) for one in times(facts.succeeded)],
        "failures": [
            {"name": kind.name, "count": kind.count, "functions": kind.functions, "newest": letter_json(kind.example)}
            for kind in kinds(facts.letters)
        ],
    }


def _show(facts: Facts, address: str) -> None:
    from dtq.report.measures import kinds, times
    from dtq.report.page import covers

    stats = facts.stats
    write(f"dtq at {address}: {covers(facts)}")
    write(
        f"since the store was made: {stats.submitted:,} submitted, {stats.counts.succeeded:,} succeeded, "
        f"{stats.retries:,} retries, {stats.dead_letters:,} dead letters"
    )
    _show_throughput(facts)
    found = times(facts.succeeded)
    if found:
        write()
        rows = [
            (one.function, what, *of_it.cells)
            for one in found
            for what, of_it in (("wait", one.waits), ("run", one.runs))
            if of_it is not None
        ]
        names = ("FUNCTION", "TIME", "TASKS", "MEAN", "50%", "90%", "99%", "LONGEST")
        write_table(names, rows, right=range(2, len(names)))
    letters = kinds(facts.letters)
    if letters:
        write()
        most = letters[0].count
        write_table(
            ("FAILURE", "DEAD LETTERS", "", "FUNCTIONS", "NEWEST"),
            [
                (
                    kind.name,
                    f"{kind.count:,}",
                    share(kind.count, most, 10),
                    ", ".join(kind.functions),
                    printable_line(kind.told),
                )
                for kind in letters
            ],
            right=(1,),
        )


def _show_throughput(facts: Facts) -> None:
    from dtq.report.measures import series, thinned

    found = series(facts)
    if found is None:
        return
    few = thinned(found, _LINES)
    highest = max(few.done, default=0.0)
    rows = []
    for place, (done, failed, backlog) in enumerate(zip(few.done, few.failed, few.backlog, strict=True)):
        ago_s = max(0.0, facts.seen.now - few.begin - place * few.step_s)
        bar = share(round(done * 1e6), round(highest * 1e6) or 1)
        rows.append((f"{duration(ago_s)} ago", rate(done), bar, rate(failed), f"{backlog:,}"))
    write()
    write_table(("FROM", "DONE", "", "FAILED", "WAITING"), rows, right=(1, 3, 4))
