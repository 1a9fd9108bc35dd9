"""Runs hostile tasks among innocent ones, and says what was not as it should be; for a test and scripts/hostile.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dtq.model.states import Outcome, State
from tests.cluster import Process
from tests.producer import Producer
from tests.tasks.hostile_work import KINDS

#: Time limit of each hostile task, in seconds.
TIMEOUT_S = 3.0
#: How many innocent tasks run before each hostile one.
INNOCENTS = 5
_FUNCTION = "tests.tasks.hostile_work"


@dataclass(slots=True)
class Findings:
    """What came out.

    Attributes:
        outcomes: how each hostile task has ended, in their order.
        problems: what should not have been, in words.
    """

    outcomes: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run_kinds(producer: Producer, workers: Sequence[Process], kinds: Sequence[str]) -> Findings:
    """Run tasks of these kinds, all submitted at once, with innocent ones between them.

    Args:
        producer: submits them.
        workers: who runs them; all are to be there afterwards.
        kinds: the kinds.
    """
    findings = Findings()
    hostile: list[int] = []
    innocent: list[int] = []
    for kind in kinds:
        innocent.append(producer.submit(f"{_FUNCTION}:innocent", [(n,) for n in range(INNOCENTS)]))
        hostile.append(
            producer.submit(f"{_FUNCTION}:hostile", [(kind,)], max_retries=0, max_crashes=1, timeout_s=TIMEOUT_S)
        )
    innocent.append(producer.submit(f"{_FUNCTION}:innocent", [(n,) for n in range(INNOCENTS)]))
    for kind, batch in zip(kinds, hostile, strict=True):
        _judge(producer, kind, batch, findings)
    for batch in innocent:
        _acquit(producer, batch, findings)
    findings.problems += [f"{worker.name} has ended" for worker in workers if worker.popen.poll() is not None]
    return findings


def _judge(producer: Producer, kind: str, batch: int, findings: Findings) -> None:
    (ended,) = producer.finish(batch).values()
    history = producer.service.task(batch, 0).history
    outcome = "ok" if ended.state is State.SUCCEEDED else ended.outcome.value if ended.outcome is not None else "none"
    outcome = outcome.replace("_", " ")
    findings.outcomes.append((kind, outcome))
    _, honest = KINDS[kind]
    if outcome not in honest:
        findings.problems.append(f"{kind} ended as {outcome}, not {' or '.join(honest)}: {ended.failure}")
    if len(history) != (0 if outcome == "ok" else 1):
        findings.problems.append(f"{kind} has {len(history)} attempts in its history")


def _acquit(producer: Producer, batch: int, findings: Findings) -> None:
    for index, ended in producer.finish(batch).items():
        if ended.state is not State.SUCCEEDED:
            findings.problems.append(f"an innocent task ended as {ended.outcome}: {ended.failure}")
        for attempt in producer.service.task(batch, index).history:
            if attempt.outcome is Outcome.CANCELLED and "it runs again" in attempt.failure.message:
                continue  # it had begun in a slot that an earlier task had spoilt, and is blamed for nothing
            findings.problems.append(f"an innocent task was charged with {attempt.outcome}: {attempt.failure}")
