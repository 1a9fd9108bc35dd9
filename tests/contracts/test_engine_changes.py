"""Random histories: after each commit every engine answers as the plain model does, also after a restart."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dtq.core.changes import (
    ArgumentPage,
    ArgumentsForgotten,
    BatchesRead,
    BatchFlow,
    BatchWithdrawn,
    Change,
    DefinitionEnded,
    DefinitionRow,
    EdgeRow,
    Expired,
    HoldEnded,
    LeaseEnded,
    OutputPage,
    OwnExpired,
    Read,
    ResultPage,
    Stored,
    TaskForgotten,
    Totals,
)
from dtq.engines import segments, sink
from dtq.engines.base import Engine
from dtq.model.snapshots import Selection
from dtq.model.states import State
from dtq.model.values import Value
from dtq.values.place import path_of
from tests.contracts.engine_kinds import KINDS, Kind
from tests.contracts.engine_model import Model
from tests.contracts.engine_rows import (
    ODD_TEXT,
    SESSION,
    arguments,
    attempt,
    batch,
    described,
    hold,
    lease,
    output,
    results,
    spec,
    stored,
    task,
)

NOW = 40
BATCHES = range(1, 5)
KEYS = {1: f"{SESSION}/1", 2: "mine", 3: ODD_TEXT, 4: "order/12"}
SPECS = {1: spec(1), 2: spec(2, "mail:send", queue="mail"), 3: spec(3, "mail:read")}
#: A batch that is put back after a restart may find its function under another number.
SPECS_OF = {1: (1, 2), 2: (2,), 3: (3, 1), 4: (1,)}

#: Values that rows name; the first two are in one segment.
VALUES = [Value(1, 0, 100), Value(1, 128, 50), Value(2, 0, 100), Value(2**62, 0, 100)]

numbers = st.sampled_from(BATCHES)
indexes = st.integers(0, 3)
moments = st.integers(1, 30).map(float)
values = st.sampled_from(VALUES)
holders = st.sampled_from([SESSION, ODD_TEXT])
digests = st.sampled_from([b"", b"\0\xff"])


flows = st.builds(
    BatchFlow,
    after=st.lists(st.tuples(numbers, indexes, indexes, st.booleans()), max_size=2).map(tuple),
    run_anyway=st.booleans(),
    blocked=st.booleans(),
    why=st.sampled_from(["", "parent 2 is dead"]),
)


@st.composite
def batches(draw: st.DrawFn, number: int | None = None) -> Change:
    number = draw(numbers) if number is None else number
    finished_at = draw(st.none() | moments)
    return Stored(
        batch(
            number,
            spec=draw(st.sampled_from(SPECS_OF[number])),
            key=KEYS[number],
            size=draw(st.integers(1, 6)),
            next=draw(st.integers(0, 6)),
            cut=draw(st.none() | st.integers(0, 6)),
            finished_at=finished_at,
            expires_at=None if finished_at is None else draw(st.none() | moments),
            flow=draw(st.none() | flows),
        )
    )


@st.composite
def tasks(draw: st.DrawFn) -> list[Change]:
    number, index = draw(numbers), draw(indexes)
    state = draw(st.sampled_from([state for state in State if state is not State.SUCCEEDED]))
    ended_at = draw(moments) if state.final else None
    exception = draw(st.sampled_from(["KeyError", "ValueError"]))
    row = Stored(task(number, index, state, ended_at=ended_at, exception=exception))
    nth = draw(st.integers(1, 3))
    return [row, Stored(attempt(number, index, nth, ended_at=draw(moments)))]


@st.composite
def pages(draw: st.DrawFn) -> list[Change]:
    """A page; the row of its batch changes with it."""
    number, lo = draw(numbers), draw(st.sampled_from([0, 2, 4]))
    hi = lo + draw(st.integers(1, 2))
    blob = draw(st.binary(max_size=3))
    if draw(st.booleans()):
        named = draw(st.lists(st.sampled_from(VALUES), min_size=hi - lo, max_size=hi - lo))
        kind = draw(st.sampled_from([ArgumentPage, ResultPage]))
        return [Stored(described(number, *named, lo=lo, kind=kind)), draw(batches(number))]
    page = arguments(number, lo, hi, blob) if draw(st.booleans()) else results(number, lo, hi, draw(moments), blob)
    return [Stored(page), draw(batches(number))]


@st.composite
def printed(draw: st.DrawFn) -> list[Change]:
    """Output of one task, or of several that succeeded together."""
    number, lo = draw(numbers), draw(st.integers(0, 4))
    hi = lo + draw(st.integers(1, 2))
    page = output(number, lo, hi, draw(st.integers(1, 2)), draw(st.binary(max_size=3)))
    return [Stored(page), draw(batches(number))]


@st.composite
def edges(draw: st.DrawFn) -> list[Change]:
    """A batch with what it waits for."""
    number = draw(numbers)
    return [draw(batches(number)), *stored(*[EdgeRow(child=number, parent=p) for p in draw(st.sets(numbers))])]


spared = st.lists(numbers, max_size=2).map(tuple)
kinds = st.sampled_from(["limit", "queue"])
names = st.sampled_from(["api", "tenant-*", "\ud800/é"])
changes = st.one_of(
    batches().map(lambda change: [change]),
    pages(),
    tasks(),
    edges(),
    printed(),
    st.builds(lambda number, token: [Stored(lease(token, number))], numbers, st.integers(1, 5)),
    st.integers(1, 5).map(lambda token: [LeaseEnded(token)]),
    st.builds(lambda number, index, history: [TaskForgotten(number, index, history)], numbers, indexes, st.booleans()),
    numbers.map(lambda number: [BatchWithdrawn(number)]),
    numbers.map(lambda number: [ArgumentsForgotten(number)]),
    st.builds(lambda number, lo, count: [Read(number, lo, lo + count)], numbers, st.integers(0, 5), st.integers(1, 6)),
    st.lists(numbers, min_size=1, max_size=3).map(lambda several: [BatchesRead(tuple(several))]),
    st.builds(lambda before, some: [Expired(before, some), *stored(*SPECS.values())], moments, spared),
    st.builds(lambda at, some: [OwnExpired(at, some)], moments, spared),
    st.sampled_from(list(SPECS.values())).map(lambda row: stored(row)),
    st.builds(lambda s, d, v: stored(hold(s, d, *v)), holders, digests, st.lists(values, min_size=1, max_size=2)),
    st.builds(lambda s, d: [HoldEnded(s, d)], holders, digests),
    st.builds(lambda k, n, b: stored(DefinitionRow(kind=k, name=n, body=b)), kinds, names, st.text(max_size=3)),
    st.builds(lambda k, n: [DefinitionEnded(k, n)], kinds, names),
    st.integers(0, 99).map(lambda count: stored(Totals(submitted=count))),
)
commits = st.lists(changes, max_size=8).map(lambda parts: [change for part in parts for change in part])

SELECTIONS = [
    Selection(limit=0),
    Selection(limit=0, state=State.SUCCEEDED, queue="mail"),
    Selection(limit=0, exception="Key*"),
    Selection(limit=0, function="mail:*", older_than_s=NOW - 15),
    Selection(limit=0, ids=((1, 2), (2, -1), (4, 0), (4, 3))),
]


def answers(store: Engine | Model) -> dict[str, Any]:
    """Everything a store can be asked about."""
    said: dict[str, Any] = {"restore": list(store.restore())}
    said["in use"] = [store.holds([value]) for value in VALUES] + [store.holds(VALUES), store.holds([])]
    said["children"] = [store.children([number]) for number in BATCHES] + [store.children(BATCHES), store.children([])]
    said["by number"] = store.batches(BATCHES)
    said["by key"] = [store.batches(keys=[key]) for key in KEYS.values()]
    for number in BATCHES:
        for kind in (ArgumentPage, ResultPage, OutputPage):
            said[f"{kind.__name__} of {number}"] = [store.pages(kind, number, lo, lo + 2) for lo in range(6)]
        said[f"attempts of {number}"] = [store.attempts(number, index) for index in range(4)]
    for selection in SELECTIONS:
        runs = store.ended(selection, float(NOW))
        assert [run.ended_at for run in runs] == sorted((run.ended_at for run in runs), reverse=True)
        said[str(selection)] = sorted(runs, key=repr)
    return said


#: Statements of a few rows, so that few changes make several of them.
SMALL = {"_MANY": 2, "_MOST_ROWS": 4, "_FEWEST_ROWS": 1}
ENGINES = [pytest.param(kind, {}, id=kind.name) for kind in KINDS if kind.name != "failing"]
ENGINES += [pytest.param(kind, SMALL, id="sqlite-small") for kind in KINDS if kind.name == "sqlite"]


#: No segment is waited for.
AT_ONCE = {"_SWEEP_S": 0.0, "_SWEEP_SOON_S": 0.0, "_ASKED_S": 0.0, "_FRESH_S": 0.0, "GRACE_S": 0.0}


@contextlib.contextmanager
def written(engine: Engine) -> Iterator[None]:
    """The values as files of the engine, held as by whoever has written them."""
    assert engine.place is not None
    with contextlib.ExitStack() as files:
        for segment in {value.segment for value in VALUES}:
            file = files.enter_context(open(path_of(engine.place.paths[-1], segment), "wb"))
            file.write(bytes(200))
            file.flush()
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


@pytest.mark.parametrize(("kind", "limits"), ENGINES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=st.lists(commits, min_size=1, max_size=6))
def test_engine_answers_as_the_model_does(kind: Kind, limits: dict[str, int], history: list[list[Change]]) -> None:
    now = mock.patch.dict(vars(segments), AT_ONCE)
    with tempfile.TemporaryDirectory() as directory, mock.patch.dict(vars(sink), limits), now:
        engine, model = kind.make(Path(directory)), Model()
        engine.open()
        try:
            with written(engine):
                for changes in [stored(*SPECS.values()), *history]:
                    engine.commit(changes)
                    model.commit(changes)
                    assert answers(engine) == answers(model)
            engine.close()
            if kind.survives_reopen:
                engine = kind.make(Path(directory))
            opened = engine.open()
            assert opened.losses == ()
            assert opened.totals == (model.of(Totals) or [Totals()])[0]
            assert answers(engine) == answers(model)
            # Values that no row names are gone with the last one of their segment, and others are not.
            for _ in range(4):
                engine.commit([])
            assert engine.place is not None
            assert set(engine.place.segments()) == {value.segment for value in VALUES if model.holds([value])}
        finally:
            engine.close()
