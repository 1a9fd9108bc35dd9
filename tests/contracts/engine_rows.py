"""Rows for the tests of engines: plain ones, with whatever matters named."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from dtq.core.changes import (
    ArgumentPage,
    AttemptRow,
    BatchRow,
    Change,
    HoldRow,
    LeaseRow,
    OutputPage,
    ResultPage,
    SpecRow,
    Stored,
    TaskRow,
)
from dtq.model import pages
from dtq.model.messages import Failure
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.resources import Portion
from dtq.model.snapshots import Attempt
from dtq.model.states import Outcome, State
from dtq.model.values import Value, describe

SESSION = "5e55" * 8


def spec(number: int = 1, name: str = "work:task", **options: Any) -> SpecRow:
    return SpecRow(number=number, spec=Spec(function=Function(name=name), options=Options(**options)))


def batch(number: int, **values: Any) -> BatchRow:
    row = BatchRow(
        batch=number, spec=1, size=1, complete=True, next=0, cut=None, due_at=None, submitted_at=100.0,
        finished_at=None, succeeded=0, dead=0, cancelled=0, purged=0, key=f"{SESSION}/{number}", user_key=False,
        session=SESSION,
    )  # fmt: skip
    return replace(row, **values)


def task(number: int, index: int = 0, state: State = State.PENDING, **values: Any) -> TaskRow:
    row = TaskRow(
        batch=number, index=index, state=state, attempt=1, failures=1, crashes=0, due_at=None,
        ended_at=200.0 if state.final else None, cancelling=False, outcome=Outcome.FAILED, exception="ValueError",
        message="no",
    )  # fmt: skip
    return replace(row, **values)


def attempt(number: int, index: int = 0, nth: int = 1, **values: Any) -> AttemptRow:
    made = Attempt(
        number=nth, outcome=Outcome.FAILED, started_at=150.0, ended_at=151.5, worker="w1", failure=Failure(message="no")
    )
    return AttemptRow(batch=number, index=index, attempt=replace(made, **values))


def lease(token: int, number: int = 1, **values: Any) -> LeaseRow:
    row = LeaseRow(token=token, session=SESSION, worker="w1", batch=number, lo=0, hi=1, attempt=1, granted_at=150.0)
    return replace(row, **values)


def arguments(number: int, lo: int = 0, hi: int = 1, blob: bytes = b"a") -> ArgumentPage:
    return ArgumentPage(batch=number, lo=lo, hi=hi, data=pages.pack([blob] * (hi - lo)))


def results(
    number: int, lo: int = 0, hi: int = 1, ended_at: float = 200.0, blob: bytes = b"r", **values: Any
) -> ResultPage:
    data = pages.pack([blob] * (hi - lo))
    return ResultPage(batch=number, lo=lo, hi=hi, data=data, worker="w1", ended_at=ended_at, **values)


def output(number: int, lo: int = 0, hi: int = 1, nth: int = 1, data: bytes = b"said") -> OutputPage:
    return OutputPage(batch=number, lo=lo, hi=hi, attempt=nth, data=data)


def described(number: int, *values: Value, lo: int = 0, kind: type = ArgumentPage) -> Any:
    """A page with a description of each of these values, of the tasks from one on."""
    data = pages.pack([describe([value]) for value in values], described=True)
    hi = lo + len(values)
    if kind is ArgumentPage:
        return ArgumentPage(batch=number, lo=lo, hi=hi, data=data)
    return ResultPage(batch=number, lo=lo, hi=hi, data=data, worker="w1", ended_at=200.0)


def hold(session: str = SESSION, digest: bytes = b"digest", *values: Value, until: float | None = None) -> HoldRow:
    return HoldRow(session=session, digest=digest, description=describe(values), ttl_s=60.0, until=until)


def stored(*rows: Any) -> list[Change]:
    return [Stored(row) for row in rows]


#: Rows with the values that are easiest to get wrong: none, zero, huge, empty, and text that is no text.
ODD_TEXT = "s\udc80\0/ü/7"
ODD_SPECS = [
    spec(2, name="m:f", priority=1, max_retries=0, timeout_s=0.25, queue="q/1", never_retry=("a.B", "KeyError")),
    SpecRow(
        number=3,
        spec=Spec(
            function=Function(kind=FunctionKind.VALUE, name=ODD_TEXT, body=bytes(range(256))),
            options=Options(priority=10, jitter=True, timeout_s=1e8),
        ),
    ),
    SpecRow(number=2**40, spec=Spec(function=Function(kind=FunctionKind.REGISTERED, name="mail"), options=Options())),
]
ODD_BATCHES = [
    batch(1, key="", session=""),
    batch(2, key=ODD_TEXT, session=ODD_TEXT, user_key=True, complete=False),
    batch(3, key=f"{ODD_TEXT}/12", session=ODD_TEXT, cut=0, due_at=0.0, next=1),
    batch(4, size=2**33, next=2**33, cut=2**33, succeeded=2**32, dead=2**32, cancelled=1, purged=2**35, due_at=1e300),
    batch(2**49, size=2**32 - 1, next=7, cut=2**32 - 2, submitted_at=1.7e9 + 1 / 3, key="user's own", user_key=True),
    batch(6, cut=2**32 - 1, size=2**32, key=f"{SESSION}/", session=SESSION),
]
ODD_TASKS = [
    task(1, 0, State.SCHEDULED, due_at=1.7e9 + 0.1, outcome=None, exception="", message=""),
    task(1, 1, State.PENDING, attempt=2**40, failures=2**40, crashes=2**40, outcome=Outcome.CRASHED),
    task(1, 2**40, State.RUNNING, cancelling=True, outcome=Outcome.TIMED_OUT, exception=ODD_TEXT, message=ODD_TEXT * 9),
    task(1, 3, State.PENDING, due_at=0.0, outcome=Outcome.CANCELLED),
]
ODD_LEASES = [
    lease(0, 1, session="", worker="", granted_at=0.0),
    lease(5, 1, units=()),
    lease(6, 1, units=(Portion(name="gpu", units=("0", "GPU-5f"), amount=2), Portion(name="memory", amount=2**40))),
    lease(2**62, 2**49, lo=2**40, hi=2**40 + 1024, attempt=2**40, session=ODD_TEXT, worker=ODD_TEXT),
]
ODD_ATTEMPTS = [
    attempt(1, 0, 1, outcome=Outcome.CRASHED, worker=ODD_TEXT, failure=Failure(exit_code=-9, signal=9)),
    attempt(
        1,
        0,
        2**40,
        outcome=Outcome.TIMED_OUT,
        started_at=0.0,
        failure=Failure(
            exception="m.E",
            bases=("builtins.Exception", ODD_TEXT),
            message=ODD_TEXT,
            traceback="t" * 9000,
            pickled=bytes(range(256)),
        ),
    ),
]


def every_field(row: Any) -> tuple[Any, ...]:
    """The values of a row and their types: 1, 1.0 and True are three things here."""
    return tuple((getattr(row, field.name), type(getattr(row, field.name))) for field in fields(row))
