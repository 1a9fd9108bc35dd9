"""The demo's report, as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from dtq.demo.course import Outcome
from dtq.demo.load import URGENT, Round, mean_wait, reduction
from dtq.model.text import printable_line
from dtq.wording import counted, duration, rate

#: Width of the bars, in characters.
_BAR: Final = 24


def lines(outcome: Outcome) -> Iterator[str]:
    """The report."""
    load, work = outcome.load, outcome.work
    if work is not None:
        yield _title("Real work")
        yield f"{counted(work.files, 'file')} ({work.size / 1e6:.1f} MB) packed: serially in {duration(work.serial_s)}"
        yield (
            f"by {counted(outcome.slots, 'slot')} in {duration(work.cluster_s)},"
            f" {work.serial_s / max(work.cluster_s, 1e-9):.1f} times as fast, each task on disk before it was accepted"
        )
    yield _title(f"{load.tasks:,} requests, {load.failure_rate:.0%} of attempts fail, seed {load.seed}")
    yield f"{'':24}{'in order':>14}{'by priority':>14}"
    facts: tuple[tuple[str, Callable[[Round], str]], ...] = (
        ("held when it opened", lambda one: f"{one.held:,}"),
        ("answered", lambda one: f"{one.answered:,}"),
        ("retries", lambda one: f"{one.retries:,}"),
        ("dead letters", lambda one: f"{one.dead:,}"),
        ("took", lambda one: duration(one.seconds)),
        ("throughput", lambda one: rate((one.answered + one.dead) / max(one.seconds, 1e-9))),
    )
    for name, of in facts:
        yield f"{name:24}{of(outcome.fifo):>14}{of(outcome.ranked):>14}"
    yield _title("Mean wait from the opening of the queue to the first start")
    yield from _waits(outcome.fifo, outcome.ranked)
    if outcome.letters:
        yield _title(f"Dead letters ({outcome.stats.dead_letters:,} in both runs)")
        for letter in outcome.letters:
            message = printable_line(f"{letter.exception}: {letter.message}")
            yield f"task {letter.id}  {letter.attempts} attempts  {message}"[:100]
    yield _title("Checks")
    for promise, kept in outcome.checks:
        yield f"{'ok' if kept else 'NOT OK':6} {promise}"


def _waits(fifo: Round, ranked: Round) -> Iterator[str]:
    longest = max([mean_wait(one, [priority]) for one in (fifo, ranked) for priority in one.waits], default=0.0)
    yield f"{'':10}{'in order':>12}{'by priority':>14}"
    for priority in sorted(ranked.waits):
        before, after = mean_wait(fifo, [priority]), mean_wait(ranked, [priority])
        bar = "#" * round(_BAR * after / longest) if longest else ""
        change = f"{(after - before) / before:+.0%}" if before else ""
        yield f"{f'P{priority}':10}{duration(before):>12}{duration(after):>14}{change:>7}  {bar}"
    urgent = " and ".join(f"P{priority}" for priority in URGENT)
    before, after = mean_wait(fifo, URGENT), mean_wait(ranked, URGENT)
    yield (
        f"urgent tasks ({urgent}) wait {duration(after)} instead of {duration(before)}:"
        f" {reduction(fifo, ranked):.0%} less than in the order of submission"
    )


def _title(text: str) -> str:
    return f"\n{text}\n{'-' * len(text)}"
