"""The rules of fields: there is one for each, and what breaks it is refused with the field's name, and alone."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from dtq.errors import BadMessage
from dtq.model.fields import Blob, Items, Label, Number, Text, fitting
from dtq.model.messages import (
    Exchange,
    Failed,
    Failure,
    Hello,
    Holding,
    Progress,
    Released,
    Role,
    Submission,
    Succeeded,
)
from dtq.model.options import Function, FunctionKind, Options
from dtq.model.pages import pack
from dtq.model.service import Service
from dtq.model.snapshots import Attempt, Selection
from dtq.model.states import Outcome
from dtq.model.wire import codec, methods

#: What needs a rule, and which kinds of rule it may have.
NEEDS: dict[Any, type] = {str: Text, int: Number, float: Number, bytes: Blob, list: Items}


def unruled(place: str, hint: Any, seen: set[Any]) -> Iterator[str]:
    """The places below a type that have no rule of the right kind."""
    rules: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *extra = get_args(hint)
        rules = tuple(extra)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        scalars = [one for one in inner if one is not type(None)]
        if len(scalars) > 1:  # arguments of errors
            if not any(isinstance(rule, Text) for rule in rules):
                yield place
            return
        yield from unruled(place, scalars[0], seen)
        return
    variable = origin is list or (origin is tuple and inner[-1] is Ellipsis)
    needed = Items if variable else NEEDS.get(hint)
    if needed is not None and not any(isinstance(rule, needed) for rule in rules):
        yield place
    for number, one in enumerate(inner):
        if one is not Ellipsis:
            yield from unruled(f"{place}[{number}]", one, seen)
    if is_dataclass(hint) and hint not in seen:
        seen.add(hint)
        hints = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            yield from unruled(f"{getattr(hint, '__name__', hint)}.{field.name}", hints[field.name], seen)


def test_every_field_of_every_message_has_a_rule() -> None:
    # Given all that crosses the wire: what each method takes and returns, and what that is made of
    without: list[str] = []
    seen: set[Any] = set()
    for name in methods(Service):
        for parameter, hint in get_type_hints(getattr(Service, name), include_extras=True).items():
            without += unruled(f"{name}.{parameter}", hint, seen)

    # Then every text, number, blob and sequence has a rule of its kind
    assert without == []
    assert len(seen) > 25


def test_a_field_without_a_rule_is_found() -> None:
    @dataclass
    class Careless:
        name: str
        sizes: Annotated[tuple[int, ...], Items(3)]
        wrong: Annotated[str, Number(0, 1)]

    hints = {field.name: field.type for field in fields(Careless)}
    assert set(hints) == {"name", "sizes", "wrong"}
    found = [*unruled("name", str, set()), *unruled("sizes", Annotated[tuple[int, ...], Items(3)], set())]
    found += unruled("wrong", Annotated[str, Number(0, 1)], set())
    assert found == ["name", "sizes[0]", "wrong"]


HELLO = Hello(session="s", role=Role.WORKER)
EXCHANGE = Exchange(capacity=1)
SUBMISSION = Submission(spec=0, number=1, arguments=pack([b"x"]))
UNSEEN = ["a\nb", "a\rb", "a\x00", "a\x1b[2J", "a\u2028b", "a\u202eb", "a\u200bb", "\ufeffa", "a\ud800", "a\x85b"]


@pytest.mark.parametrize("text", [*UNSEEN, "x" * 201, "x" * (15 << 20)], ids=lambda text: repr(text[:6]))
def test_name_of_a_worker_is_short_and_printable(text: str) -> None:
    for name in ("name", "host"):
        with pytest.raises(BadMessage, match=rf"Hello\.{name} "):
            crossed(replace(HELLO, **{name: text}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"session": ""},
        {"session": "x" * 65},
        {"session": "a/1"},
        {"queues": ("q",) * 257},
        {"queues": ("a b",)},
        {"queues": ("",)},
        {"queues": ("x" * 65,)},
        {"slots": -1},
        {"slots": 1 << 40},
        {"pid": -1},
        {"protocol": 1 << 20},
        {"version": "1\n2"},
    ],
    ids=str,
)
def test_hello_is_held_to_its_rules(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadMessage, match=f"Hello.{next(iter(wrong))} "):
        crossed(replace(HELLO, **wrong))


NOT_NUMBERS = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("number", [*NOT_NUMBERS, -1.0, 1e300])
def test_no_duration_is_negative_endless_or_no_number(number: float) -> None:
    for message in (
        replace(SUBMISSION, delay_s=number),
        replace(SUBMISSION, wait_s=number),
        replace(EXCHANGE, wait_s=number),
        Selection(older_than_s=number),
    ):
        with pytest.raises(BadMessage, match=f"{type(message).__name__}.*_s is out of range"):
            crossed(message)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (replace(SUBMISSION, key="x" * 513), "Submission.key"),
        (replace(SUBMISSION, key=""), "Submission.key"),
        (replace(SUBMISSION, key="a\nb"), "Submission.key"),
        (replace(SUBMISSION, offset=-1), "Submission.offset"),
        (replace(SUBMISSION, number=-1), "Submission.number"),
        (replace(EXCHANGE, capacity=-1), "Exchange.capacity"),
        (replace(EXCHANGE, capacity=1 << 31), "Exchange.capacity"),
        (Selection(function="[" * 20_000), "Selection.function"),
        (Selection(exception="*" * 201), "Selection.exception"),
        (Selection(limit=-1), "Selection.limit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_breach_names_message_and_field(message: Any, field: str) -> None:
    with pytest.raises(BadMessage, match=field.replace(".", r"\.") + " "):
        crossed(message)


def test_arguments_of_a_method_are_named_too() -> None:
    for name, arguments in (("task", (1, -1)), ("watch", (0, math.nan)), ("results", (1, 0, 1 << 62))):
        with pytest.raises(BadMessage, match=rf"{name}\.\w+ is out of range"):
            methods(Service)[name].decode_arguments(arguments)


def test_name_of_a_function_is_printable() -> None:
    with pytest.raises(BadMessage, match=r"Function\.name may hold printable ones only"):
        crossed(Function(kind=FunctionKind.VALUE, name="a\u202eb"))
    with pytest.raises(BadMessage, match=r"Options\.queue "):
        codec(Options).decode(tuple({**asdict(Options()), "queue": "a b"}.values()))


# -- one bad report harms its own lease alone -----------------------------------------------------------------------


GOOD = Succeeded(token=7, lo=0, results=pack([b"r"]), seconds=0.5)
FAILED = Failed(token=9, index=4, outcome=Outcome.FAILED, failure=Failure(exception="ValueError"), seconds=1.0)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        *[(replace(GOOD, token=8, lo=3, seconds=s), "Succeeded.seconds") for s in (*NOT_NUMBERS, -1.0, 1.7e308)],
        (replace(GOOD, token=8, lo=3, results=b"no page"), "Succeeded.results"),
        (replace(FAILED, token=8, index=3, seconds=math.nan), "Failed.seconds"),
        (replace(FAILED, token=8, index=3, failure=Failure(exception="E" * 20_000_000)), "Failure.exception"),
        (replace(FAILED, token=8, index=3, failure=Failure(exit_code=1 << 40)), "Failure.exit_code"),
        (replace(FAILED, token=8, index=3, failure=Failure(traceback="x" * (1 << 20))), "Failure.traceback"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_outcome_that_breaks_a_rule_fails_its_own_task_and_no_other(bad: Any, why: str) -> None:
    # Given a report of three leases, of which one says what nobody can
    kind = "succeeded" if isinstance(bad, Succeeded) else "failed"
    report = Exchange(succeeded=(GOOD,), failed=(FAILED,), holding=(Holding(token=5),), capacity=2)
    report = replace(report, **{kind: (bad, *getattr(report, kind))})

    # When it is read
    read = crossed(report)

    # Then the others count as they were said, and that one as failed for this reason
    assert read.succeeded == (GOOD,)
    assert read.holding == report.holding
    assert read.failed[0] == FAILED
    (instead,) = read.failed[1:]
    assert (instead.token, instead.index, instead.outcome) == (8, 3, Outcome.FAILED)
    assert why in instead.failure.message


def test_claim_that_breaks_a_rule_was_not_made() -> None:
    progress = Progress(token=1, index=0, done=1.0, total=2.0)
    report = Exchange(
        progress=(replace(progress, done=math.nan), progress, replace(progress, total=math.inf)),
        released=(Released(token=1, lo=-1, hi=5),),
        holding=(Holding(token=-4), Holding(token=4)),
    )
    read = crossed(report)
    assert (read.progress, read.released, read.holding, read.failed) == ((progress,), (), (Holding(token=4),), ())


def test_report_that_is_none_is_refused_whole() -> None:
    good = codec(Exchange).plain(EXCHANGE)
    for broken in (("x", *good[1:]), (good[0], 5, *good[2:]), (((1, 2),) * 300_001, *good[1:])):
        with pytest.raises(BadMessage, match="Exchange"):
            codec(Exchange).decode(broken)


# -- answers --------------------------------------------------------------------------------------------------------


def test_text_of_an_answer_is_made_to_fit() -> None:
    # Given an attempt of a store of old, with names that nobody checked
    old = Attempt(
        number=1,
        outcome=Outcome.FAILED,
        started_at=1.0,
        ended_at=2.0,
        worker="w\nforged " + "x" * 1000,
        failure=Failure(exception="E" * 20_000, traceback="line\nline", exit_code=1 << 40),
    )

    # When it is read as an answer
    wire = codec(Attempt, answer=True)
    read = wire.decode(wire.plain(old))

    # Then it is readable, and short
    assert read.worker.startswith("w\\nforged xxx")
    assert len(read.worker) == 200
    assert len(read.failure.exception) == 512
    assert read.failure.traceback == "line\nline"


def test_number_of_an_answer_is_finite() -> None:
    wire = codec(Progress, answer=True)
    with pytest.raises(BadMessage, match=r"Progress\.done"):
        wire.decode((1, 2, math.nan, 1.0))


@pytest.mark.parametrize("text", ["host", "a b", *UNSEEN, "x" * 1000, "\u00a0\ue000"], ids=lambda text: repr(text[:6]))
def test_label_is_always_one_that_is_accepted(text: str) -> None:
    hello = replace(HELLO, name=fitting(Label, text))
    assert crossed(hello) == hello
    assert fitting(Label, "host-7") == "host-7"


def crossed(message: Any) -> Any:
    wire = codec(type(message))
    return wire.decode(wire.plain(message))
