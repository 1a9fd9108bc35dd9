"""A violation of a promise, with what is needed to look into it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be.

    Attributes:
        kind: which promise was broken, in a word or two.
        at: when, ``time.monotonic()``; the faults around it are shown.
        what: what happened, with ids.
    """

    kind: str
    at: float
    what: str


#: Every promise that is checked, in the order of the table, with what it says.
KINDS = {
    "lost": "acknowledged, and not in a final state, or not there at all",
    "wrong result": "a result that is not the task's, or of no execution that ended",
    "untrue state": "dead or cancelled without a reason that the ledgers know",
    "settled twice": "seen in two final states, or with two results",
    "unexpected": "executed or stored, but never submitted, refused, or submitted once and accepted twice",
    "repeated": "executed again, with no fault to explain it",
    "innocent blamed": "an attempt charged to a task that did not cause it",
    "early": "started before it was due",
    "after cancel": "started after its cancellation was acknowledged",
    "inversion": "started while a more urgent task of the queue had been waiting for more than 1 s",
    "before parents": "started before what it waits for had ended, or although that has no result",
    "limits": "more ran at once, or started in some time, than a limit allows",
    "due times": "a due time of a schedule that made no submission, or two",
    "stuck": "did not end, or was not told, although everything was healed",
    "stats": "counts that disagree with the tasks",
    "stuck process": "did not start, or did not end when asked",
    "exit code": "ended gracefully with an error",
    "orphan": "a process that outlived whom it belonged to",
    "memory": "memory that grew without bound",
    "error": "an error in a log, or a wrong answer to a producer",
}
