"""The engine port's contract, sentence by sentence, for every engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dtq.core.changes import (
    ArgumentPage,
    ArgumentsForgotten,
    BatchRow,
    BatchWithdrawn,
    Change,
    Expired,
    ExpiryRow,
    LeaseEnded,
    LeaseRow,
    OwnExpired,
    ResultPage,
    SpecRow,
    Stored,
    TaskForgotten,
    TaskRow,
    Totals,
)
from dtq.engines.base import EndedRun, Engine, Opened
from dtq.engines.memory import MemoryEngine
from dtq.engines.selection_filter import SelectionFilter
from dtq.errors import StoreError
from dtq.model import pages
from dtq.model.messages import Failure
from dtq.model.snapshots import Selection
from dtq.model.states import Outcome, State
from tests.contracts.engine_kinds import KINDS, Kind
from tests.contracts.engine_rows import (
    ODD_ATTEMPTS,
    ODD_BATCHES,
    ODD_LEASES,
    ODD_SPECS,
    ODD_TASKS,
    ODD_TEXT,
    SESSION,
    arguments,
    attempt,
    batch,
    every_field,
    lease,
    results,
    spec,
    stored,
    task,
)

NOW = 1000.0


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


@pytest.fixture
def make(kind: Kind, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Makes engines at one place, and closes what was made at the end."""
    made: list[Engine] = []

    def engine() -> Engine:
        made.append(kind.make(tmp_path))
        return made[-1]

    yield engine
    for each in made:
        each.close()


@pytest.fixture
def engine(make: Callable[[], Engine]) -> Engine:
    made = make()
    made.open()
    return made


@pytest.fixture
def reopen(kind: Kind, engine: Engine, make: Callable[[], Engine]) -> Callable[[], tuple[Engine, Opened]]:
    """Restarts: closes the engine, and opens another at the same place, or the same one where rows die with it."""
    current = [engine]

    def restart() -> tuple[Engine, Opened]:
        current[0].close()
        if kind.survives_reopen:
            current[0] = make()
        return current[0], current[0].open()

    return restart


# -- open and close -----------------------------------------------------------------------------------------------


def test_open_of_a_new_store_says_epoch_one_and_nothing_else(make: Callable[[], Engine]) -> None:
    opened = make().open()
    assert opened == Opened(epoch=1, store=opened.store, totals=Totals(), losses=())


def test_open_says_which_store_it_is(make: Callable[[], Engine], reopen: Callable[[], tuple[Engine, Opened]]) -> None:
    # Given a store that is opened several times, and another one
    stores = {reopen()[1].store for _ in range(3)}
    # Then it has one name, which nobody else has
    (store,) = stores
    assert len(store) >= 8
    assert MemoryEngine().open().store not in stores


def test_open_counts_the_openings(reopen: Callable[[], tuple[Engine, Opened]]) -> None:
    assert [reopen()[1].epoch for _ in range(3)] == [2, 3, 4]


def test_open_says_the_totals_that_were_stored_last(
    engine: Engine, reopen: Callable[[], tuple[Engine, Opened]]
) -> None:
    totals = Totals(
        last_batch=2**49, last_spec=7, clock=1.7e9 + 1 / 3, submitted=2**50, succeeded=5, dead=4, cancelled=3, retries=2
    )
    engine.commit(stored(Totals(last_batch=1), totals))
    engine.commit(stored(spec()))

    opened = reopen()[1]

    assert every_field(opened.totals) == every_field(totals)
    assert opened.losses == ()


def test_another_engine_at_the_same_place_finds_the_rows_where_declared(
    kind: Kind, engine: Engine, make: Callable[[], Engine]
) -> None:
    engine.commit(stored(spec(), batch(1)))
    engine.close()

    other = make()
    other.open()

    assert list(other.restore()) == ([spec(), batch(1)] if kind.survives_reopen else [])


def test_everything_committed_is_in_place_after_close(
    engine: Engine, reopen: Callable[[], tuple[Engine, Opened]]
) -> None:
    rows = [spec(), batch(1, size=3, next=2), task(1, 0), lease(7), arguments(1, 0, 3), results(1, 1, 2)]
    engine.commit(stored(*rows, attempt(1)))

    again = reopen()[0]

    assert list(again.restore()) == rows[:4]
    assert again.pages(ArgumentPage, 1, 0, 9) == rows[4:5]
    assert again.pages(ResultPage, 1, 0, 9) == rows[5:]
    assert again.attempts(1, 0) == [attempt(1).attempt]
    assert [found.row for found in again.batches([1])] == [rows[1]]


def test_close_twice_does_no_harm(engine: Engine) -> None:
    engine.close()
    engine.close()


def test_use_after_close_is_a_store_error(engine: Engine) -> None:
    engine.close()

    for use in (
        lambda: engine.commit([]),
        lambda: list(engine.restore()),
        lambda: engine.pages(ArgumentPage, 1, 0, 1),
        lambda: engine.batches([1]),
        lambda: engine.ended(Selection(), NOW),
        lambda: engine.attempts(1, 0),
    ):
        with pytest.raises(StoreError):
            use()


# -- restore ------------------------------------------------------------------------------------------------------


def test_restore_of_an_empty_store_is_empty(engine: Engine) -> None:
    assert list(engine.restore()) == []


def test_restore_gives_unfinished_batches_rising_each_spec_once_before_its_first(engine: Engine) -> None:
    engine.commit(stored(spec(1), spec(2, "work:other"), spec(3, "work:unused")))
    engine.commit(stored(batch(30, spec=1), batch(4, spec=2), batch(5, spec=1), batch(100, spec=2)))
    engine.commit(stored(batch(6, spec=3, finished_at=9.0)))

    rows = list(engine.restore())

    assert rows == [
        spec(2, "work:other"), batch(4, spec=2), spec(1), batch(5, spec=1), batch(30, spec=1), batch(100, spec=2)
    ]  # fmt: skip


def test_restore_gives_tasks_of_live_batches_not_final_or_never_leased_then_all_leases(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(2, size=9, next=9), batch(1, finished_at=5.0), batch(3, size=2, next=2)))
    ahead = [batch(4, size=9, next=3), task(4, 3, State.CANCELLED), task(4, 8, State.CANCELLED)]
    engine.commit(stored(*ahead, task(4, 2, State.CANCELLED), task(4, 1)))
    tasks = [task(2, index, state) for index, state in enumerate(State) if state is not State.SUCCEEDED]
    engine.commit(stored(*reversed(tasks), task(1, 0, State.PENDING), task(3, 1), task(3, 0)))
    engine.commit(stored(lease(9, 3), lease(2, 2), lease(5, 77)))

    rows = list(engine.restore())

    live = [row for row in tasks if not row.state.final]
    assert [row for row in rows if isinstance(row, TaskRow)] == [
        *live, task(3, 0), task(3, 1), task(4, 1), *ahead[1:]
    ]  # fmt: skip
    assert rows[-3:] == [lease(2, 2), lease(5, 77), lease(9, 3)]
    assert [type(row) for row in rows] == [SpecRow, *[BatchRow] * 3, *[TaskRow] * 9, *[LeaseRow] * 3]


def test_restore_can_be_read_while_commits_go_on(engine: Engine) -> None:
    engine.commit(stored(spec(), *(batch(number) for number in range(1, 300))))
    rows = iter(engine.restore())
    first = [next(rows) for _ in range(3)]

    engine.commit(stored(*(batch(number, next=1) for number in range(1, 600))))

    assert [*first, *rows] == [spec(), *(batch(number) for number in range(1, 300))]


# -- rows come back as they were ----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [spec(), *ODD_SPECS], ids=lambda row: f"spec-{row.number}")
def test_spec_comes_back_as_it_was(reopen: Callable[[], tuple[Engine, Opened]], engine: Engine, row: SpecRow) -> None:
    engine.commit(stored(row, batch(1, spec=row.number)))

    again = reopen()[0]

    assert next(iter(again.restore())) == row
    assert again.batches([1])[0].spec == row.spec


def test_batches_come_back_as_they_were(reopen: Callable[[], tuple[Engine, Opened]], engine: Engine) -> None:
    rows = sorted(ODD_BATCHES, key=lambda row: row.batch)
    finished = [
        replace(row, batch=row.batch + more, finished_at=0.0, key=f"{row.key}!{more}", expires_at=expires_at)
        for row in rows
        for more, expires_at in ((100, None), (200, 0.0), (300, 1e11 + 1 / 3))
    ]
    engine.commit(stored(spec(), *rows, *finished))

    again = reopen()[0]
    restored: list[Any] = [row for row in again.restore() if isinstance(row, BatchRow)]
    found = [each.row for each in again.batches([row.batch for row in finished])]

    assert [every_field(row) for row in restored] == [every_field(row) for row in rows]
    assert found == sorted(finished, key=lambda row: row.batch)


def test_rows_that_come_back_are_rows_like_any_other(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1)))

    restored: Any = list(engine.restore())[1]

    assert (type(restored), hash(restored), repr(restored)) == (BatchRow, hash(batch(1)), repr(batch(1)))
    with pytest.raises(AttributeError):
        restored.size = 2


def test_tasks_and_leases_come_back_as_they_were(reopen: Callable[[], tuple[Engine, Opened]], engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1, size=2**41), *ODD_TASKS, *ODD_LEASES))

    rows: list[Any] = [row for row in reopen()[0].restore() if isinstance(row, TaskRow | LeaseRow)]

    expected = [*sorted(ODD_TASKS, key=lambda row: row.index), *ODD_LEASES]
    assert [every_field(row) for row in rows] == [every_field(row) for row in expected]


def test_attempts_come_back_oldest_first_as_they_were(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1), *reversed(ODD_ATTEMPTS), attempt(1, 1), attempt(2, 0)))

    assert engine.attempts(1, 0) == [row.attempt for row in ODD_ATTEMPTS]
    assert engine.attempts(1, 2) == []


def test_attempts_are_told_from_one_on_the_last_ones_or_as_many_as_there_is_room_for(engine: Engine) -> None:
    rows = [attempt(1, 0, nth, failure=Failure(message="m" * 1000)) for nth in (1, 2, 4, 5, 9)]
    engine.commit(stored(spec(), batch(1), *rows))
    kept = [row.attempt for row in rows]

    assert engine.attempts(1, 0, first=4) == kept[2:]
    assert engine.attempts(1, 0, first=10) == []
    assert engine.attempts(1, 0, first=-2) == kept[-2:]
    assert engine.attempts(1, 0, first=-9) == kept
    assert engine.attempts(1, 0, room=3_000) == kept[:2]
    assert engine.attempts(1, 0, first=5, room=1) == kept[3:4]


@pytest.mark.parametrize("data", [b"", b"\0", pages.pack([b""] * 1024), bytes(range(256)) * 4000], ids=len)
def test_pages_come_back_as_they_were(reopen: Callable[[], tuple[Engine, Opened]], engine: Engine, data: bytes) -> None:
    ours = ArgumentPage(batch=2**49, lo=2**40, hi=2**40 + 1024, data=data)
    theirs = ResultPage(batch=2**49, lo=2**40, hi=2**40 + 1, data=data, worker=ODD_TEXT, ended_at=1.7e9 + 1 / 3)
    engine.commit(stored(spec(), batch(2**49), ours, theirs))

    again = reopen()[0]

    assert again.pages(ArgumentPage, 2**49, 2**40, 2**40 + 1) == [ours]
    assert again.pages(ResultPage, 2**49, 0, 2**62) == [theirs]
    assert [run.worker for run in again.ended(Selection(), NOW) if run.ended_at == theirs.ended_at] != []


@pytest.mark.parametrize("seconds", [None, 0.0, 1 / 3, 1e9])
@pytest.mark.parametrize("peak", [None, 0, 2**50])
def test_pages_of_results_say_how_their_tasks_ran(
    reopen: Callable[[], tuple[Engine, Opened]], engine: Engine, seconds: float | None, peak: int | None
) -> None:
    page = results(1, 0, 3, seconds=seconds, peak_memory=peak)
    engine.commit(stored(spec(), batch(1, size=3, next=3, succeeded=3, finished_at=200.0), page))

    again = reopen()[0]

    assert again.pages(ResultPage, 1, 0, 3) == [page]
    assert [(run.worker, run.seconds, run.peak_memory) for run in again.ended(Selection(), NOW)] == [
        ("w1", seconds, peak)
    ]


# -- commit -------------------------------------------------------------------------------------------------------


def test_commit_applies_changes_in_order(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1), batch(1, next=1), batch(1, size=2, next=1), lease(5, lo=0), lease(5, lo=1)))
    engine.commit([Stored(lease(6)), LeaseEnded(6), LeaseEnded(8), Stored(lease(8))])
    engine.commit([Stored(task(1)), TaskForgotten(1, 0, False), Stored(task(1, attempt=9))])

    assert list(engine.restore()) == [
        spec(), batch(1, size=2, next=1), task(1, attempt=9), lease(5, lo=1), lease(8)
    ]  # fmt: skip


def test_commit_of_what_has_never_been_there_removes_nothing(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1), task(1)))

    engine.commit([LeaseEnded(1), TaskForgotten(1, 1, True), TaskForgotten(2, 0, True), BatchWithdrawn(2)])

    assert list(engine.restore()) == [spec(), batch(1), task(1)]


def test_commit_of_a_page_again_replaces_it(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1), results(1, blob=b"old"), arguments(1, 0, 1)))
    engine.commit(stored(results(1, 0, 2, 300.0, b"new"), arguments(1, 0, 2)))

    assert engine.pages(ResultPage, 1, 0, 9) == [results(1, 0, 2, 300.0, b"new")]
    assert engine.pages(ArgumentPage, 1, 0, 9) == [arguments(1, 0, 2)]


def test_commit_of_thousands_of_rows_of_every_kind_stores_them_all(engine: Engine) -> None:
    numbers = range(1, 2600)
    leases = [lease(number, number) for number in numbers]
    tasks = [task(number) for number in numbers]
    args, done = [arguments(number) for number in numbers], [results(number) for number in numbers]
    rows = [row for group in zip(map(batch, numbers), args, done, tasks, leases, strict=True) for row in group]
    engine.commit(stored(spec(), *rows, *(attempt(number) for number in numbers)))
    engine.commit([LeaseEnded(number) for number in numbers if number % 5])

    restored = list(engine.restore())

    assert restored == [spec(), *map(batch, numbers), *tasks, *(row for row in leases if row.token % 5 == 0)]
    assert [engine.pages(ArgumentPage, number, 0, 1) for number in numbers] == [[row] for row in args]
    assert [engine.pages(ResultPage, number, 0, 1) for number in numbers] == [[row] for row in done]
    assert all(engine.attempts(number, 0) == [attempt(number).attempt] for number in numbers)


def test_commit_that_cannot_be_made_applies_nothing(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1)))

    changes: list[Any] = [Stored(batch(2)), "no change", Stored(batch(3))]
    with pytest.raises((TypeError, KeyError)):
        engine.commit(changes)
    engine.commit(stored(batch(4)))

    assert list(engine.restore()) == [spec(), batch(1), batch(4)]


def test_readers_see_whole_commits_only(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1, size=1000), batch(2, size=1000), batch(3, finished_at=1.0)))
    torn: list[Any] = []
    done = threading.Event()
    reads = [0]

    def read() -> None:
        while not done.is_set():
            one, two, *_ = engine.batches([2, 1])
            ended = {run.batch.row.next for run in engine.ended(Selection(limit=0), NOW)}
            at_least, page = one.row.next, engine.pages(ResultPage, 1, 0, 2000)
            if one.row.next != two.row.next or len(ended) > 1 or len(page) < at_least:
                torn.append((one.row.next, two.row.next, ended, len(page)))
            reads[0] += 1

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 301):
        rows = [batch(1, size=1000, next=step), batch(2, size=1000, next=step)]
        engine.commit(stored(*rows, results(1, step - 1, step, step), results(2, step - 1, step, step)))
    while reads[0] < 20 and not torn and reader.is_alive():
        engine.commit([])
    ended = not reader.is_alive()
    done.set()
    reader.join(30)

    assert torn == []
    assert not ended, "reading has failed"
    assert not reader.is_alive()


# -- pages and batches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lo", "hi", "found"),
    [
        (0, 5000, [0, 1024, 2048, 3000]),
        (0, 1, [0]),
        (1023, 1024, [0]),
        (1023, 1025, [0, 1024]),
        (1024, 2048, [1024]),
        (2500, 2999, [2048]),
        (2600, 3000, []),
        (2560, 3001, [3000]),
        (3001, 9999, []),
        (5, 5, []),
    ],
)
def test_pages_are_those_that_overlap_rising_and_whole(engine: Engine, lo: int, hi: int, found: list[int]) -> None:
    kept = {0: 1024, 1024: 2048, 2048: 2560, 3000: 3001}
    rows = {start: results(1, start, end) for start, end in kept.items()}
    engine.commit(stored(spec(), batch(1, size=5000), *(rows[start] for start in (1024, 3000, 0, 2048))))
    engine.commit(stored(arguments(1, 0, 5), results(2, 0, 1024), arguments(2, 0, 5)))

    if lo < hi:
        assert engine.pages(ResultPage, 1, lo, hi) == [rows[start] for start in found]
    assert engine.pages(ArgumentPage, 1, 5, 9) == []
    assert engine.pages(ResultPage, 3, lo, hi) == []


@pytest.mark.parametrize(("room", "count"), [(0, 1), (1_500, 1), (2_000, 2), (10_000, 4)])
def test_pages_are_as_many_as_there_is_room_for(engine: Engine, room: int, count: int) -> None:
    rows = [results(1, lo, lo + 1, blob=bytes(900)) for lo in range(4)]
    engine.commit(stored(spec(), batch(1, size=4), *rows))

    assert engine.pages(ResultPage, 1, 0, 4, room) == rows[:count]
    assert engine.pages(ResultPage, 1, 4, 9, room) == []


def test_batches_are_found_by_number_and_by_key(engine: Engine) -> None:
    rows = [
        batch(1), batch(2, key="mine", user_key=True), batch(3, finished_at=4.0), batch(4, key=ODD_TEXT),
        batch(5, key="order/17", user_key=True), batch(6, key="order/017", user_key=True), batch(7, key=""),
    ]  # fmt: skip
    engine.commit(stored(spec(), *rows))

    def numbers(*args: Any, **options: Any) -> list[int]:
        return [found.row.batch for found in engine.batches(*args, **options)]

    assert [found.row for found in engine.batches(range(9))] == rows
    assert numbers([3, 1, 3, 99]) == [1, 3]
    assert numbers() == numbers([]) == numbers([99]) == numbers(keys=["nobody's"]) == []
    assert numbers(keys=[f"{SESSION}/3"]) == [3]
    assert [numbers(keys=[row.key]) for row in rows] == [[row.batch] for row in rows]
    assert numbers([1], keys=["mine", "order/17", "mine"]) == [1, 2, 5]
    assert engine.batches([2])[0].spec == spec().spec


def test_newest_batches_come_first_whatever_the_order_of_their_rows(
    engine: Engine, reopen: Callable[[], tuple[Engine, Opened]]
) -> None:
    # Given batches that were not stored in the order of their numbers, one of them without its spec
    engine.commit(stored(spec(), *[batch(number) for number in (1, 5, 3, 9, 7)], batch(8, spec=99)))
    engine.commit(stored(batch(3, size=2), batch(4)))
    engine.commit([BatchWithdrawn(5)])

    def newest(engine: Engine, before: int, most: int) -> list[int]:
        return [one.row.batch for one in engine.newest(before, most)]

    # Then they come by falling number, as many as are wanted
    assert newest(engine, 100, 100) == [9, 7, 4, 3, 1]
    assert newest(engine, 9, 2) == [7, 4]
    assert newest(engine, 3, 5) == [1]
    assert newest(engine, 1, 5) == []
    assert engine.newest(4, 1)[0].row.size == 2
    assert newest(reopen()[0], 100, 3) == [9, 7, 4]


def test_latest_of_several_batches_with_a_key_has_it(engine: Engine) -> None:
    # Given three, of which an earlier one is written last
    rows = [batch(number, key="mine", user_key=True) for number in (1, 2, 3)]
    engine.commit(stored(spec(), *rows, batch(4)))
    engine.commit(stored(replace(rows[0], finished_at=9.0)))

    def having(most: int = 1) -> list[int]:
        return [found.row.batch for found in engine.batches(keys=["mine"], most=most)]

    assert (having(), having(2), having(9)) == ([3], [2, 3], [1, 2, 3])
    # and when that is gone, the next
    engine.commit([BatchWithdrawn(3)])
    assert (having(), having(9)) == ([2], [1, 2])


def test_key_is_free_again_when_its_batch_is_gone(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1, key="k"), batch(2, key="e", finished_at=1.0)))
    engine.commit(
        [BatchWithdrawn(1), Expired(2.0), Stored(spec()), Stored(batch(3, key="k")), Stored(batch(4, key="e"))]
    )

    assert [found.row.batch for found in engine.batches(keys=["k", "e", "new"])] == [3, 4]


# -- expiry and withdrawal ----------------------------------------------------------------------------------------


def stored_tasks(count: int) -> list[Any]:
    return [task(7, index, State.DEAD) for index in range(count)]


def stored_results(count: int) -> list[Any]:
    return [results(7, index, index + 1) for index in range(count)]


def everything(engine: Engine, number: int) -> tuple[list[Any], ...]:
    """All rows of a batch but its tasks and leases."""
    found = engine.batches([number])
    attempts = [each for index in range(4) for each in engine.attempts(number, index)]
    return found, engine.pages(ArgumentPage, number, 0, 99), engine.pages(ResultPage, number, 0, 99), attempts


def test_expired_batches_go_with_all_their_rows(engine: Engine) -> None:
    for number, finished_at in ((1, 99.0), (2, 100.0), (3, None)):
        row = batch(number, size=2, next=2, finished_at=finished_at)
        rows = [row, arguments(number, 0, 2), results(number), attempt(number, 1), task(number, 1, State.CANCELLED)]
        engine.commit(stored(spec(), *rows))
    before = [everything(engine, number) for number in (2, 3)]

    engine.commit([Expired(100.0)])

    assert everything(engine, 1) == ([], [], [], [])
    assert [everything(engine, number) for number in (2, 3)] == before
    assert {run.batch.row.batch for run in engine.ended(Selection(), NOW)} == {2, 3}
    assert engine.batches(keys=[f"{SESSION}/1"]) == []


def test_batches_with_a_time_of_their_own_expire_by_that_only(engine: Engine) -> None:
    # Given batches without a time of their own, with a long one, and with shorter ones
    for number, expires_at in ((1, None), (2, 9000.0), (3, 300.0), (4, 200.0)):
        row = batch(number, finished_at=50.0, expires_at=expires_at)
        engine.commit(stored(spec(), row, arguments(number), results(number)))
    assert list(engine.restore()) == [ExpiryRow(at=200.0), ExpiryRow(at=300.0), ExpiryRow(at=9000.0)]

    # When the usual time is over, and the shortest one; Then nothing else goes
    engine.commit([Expired(5000.0)])
    assert [found.row.batch for found in engine.batches([1, 2, 3, 4])] == [2, 3, 4]
    engine.commit([OwnExpired(299.0)])
    assert [found.row.batch for found in engine.batches([1, 2, 3, 4])] == [2, 3]
    assert everything(engine, 4) == ([], [], [], [])
    assert list(engine.restore()) == [ExpiryRow(at=300.0), ExpiryRow(at=9000.0)]


#: Batches that expire by the coordinator's time, and by one of their own.
EXPIRING = pytest.mark.parametrize(
    ("own", "expired"),
    [
        pytest.param({}, Expired(100.0), id="usual"),
        pytest.param({"expires_at": 100.0}, OwnExpired(100.0), id="own"),
    ],
)


@EXPIRING
def test_expired_batch_with_dead_letters_keeps_what_they_need(
    engine: Engine, own: dict[str, Any], expired: Change
) -> None:
    row = batch(1, size=8, next=8, finished_at=50.0, **own, dead=1, cancelled=1)
    args = [arguments(1, lo, lo + 2) for lo in (0, 2, 4)]
    kept, gone = task(1, 2, State.DEAD), task(1, 0, State.CANCELLED)
    engine.commit(stored(spec(), row, *args, results(1, 4, 6), kept, gone, attempt(1, 2), attempt(1, 2, 2), attempt(1)))

    for _ in range(2):
        engine.commit([expired])

        assert [found.row for found in engine.batches([1])] == [row]
        assert engine.pages(ArgumentPage, 1, 0, 99) == [args[1]]
        assert engine.pages(ResultPage, 1, 0, 99) == []
        assert [each.number for each in engine.attempts(1, 2)] == [1, 2]
        assert engine.attempts(1, 0) == []
        assert [run.task for run in engine.ended(Selection(), NOW)] == [kept]


@EXPIRING
def test_expired_batch_goes_when_its_last_dead_letter_has_gone(
    engine: Engine, own: dict[str, Any], expired: Change
) -> None:
    engine.commit(stored(spec(), batch(1, finished_at=50.0, **own), arguments(1), task(1, 0, State.DEAD), attempt(1)))
    engine.commit([expired])

    engine.commit([TaskForgotten(1, 0, True)])
    assert [found.row.batch for found in engine.batches([1])] == [1]
    engine.commit([expired])

    assert everything(engine, 1) == ([], [], [], [])


@EXPIRING
def test_expired_batch_goes_when_its_last_dead_letter_is_one_no_more(
    engine: Engine, own: dict[str, Any], expired: Change
) -> None:
    engine.commit(stored(spec(), batch(1, finished_at=50.0, **own), arguments(1), task(1, 0, State.DEAD), attempt(1)))
    engine.commit([expired])

    engine.commit(stored(task(1, 0, State.CANCELLED)))
    engine.commit([expired])

    assert everything(engine, 1) == ([], [], [], [])


@EXPIRING
def test_expired_batch_that_is_stored_as_unfinished_is_restored(
    engine: Engine, own: dict[str, Any], expired: Change
) -> None:
    engine.commit(stored(spec(), batch(1, finished_at=50.0, **own), task(1, 0, State.DEAD)))
    engine.commit([expired])

    engine.commit(stored(batch(1, next=1)))

    assert list(engine.restore()) == [spec(), batch(1, next=1)]


def test_expired_batch_that_was_put_back_is_kept_until_it_finishes_again(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1, finished_at=50.0), arguments(1), task(1, 0, State.DEAD)))
    engine.commit([Expired(100.0)])
    engine.commit(stored(batch(1), task(1)))

    engine.commit([Expired(500.0)])
    assert list(engine.restore()) == [spec(), batch(1), task(1)]
    engine.commit([Stored(batch(1, finished_at=600.0)), TaskForgotten(1, 0, False), Stored(results(1))])
    engine.commit([Expired(601.0)])

    assert everything(engine, 1) == ([], [], [], [])


def test_expired_takes_specs_that_no_batch_uses(engine: Engine) -> None:
    engine.commit(
        stored(spec(1), spec(2), spec(3), batch(1, spec=1, finished_at=1.0), batch(2, spec=2, finished_at=1.0))
    )
    engine.commit([Stored(batch(3, spec=2)), Expired(2.0)])
    engine.commit(stored(batch(4, spec=1), batch(5, spec=3)))

    assert list(engine.restore()) == [spec(2), batch(3, spec=2)]


def test_batch_whose_function_got_another_number_keeps_its_function(
    reopen: Callable[[], tuple[Engine, Opened]], engine: Engine
) -> None:
    # Given a batch that finished, and is put back after a restart, when its function has been given a new number
    dead = task(1, state=State.DEAD)
    engine.commit(stored(spec(1), batch(1, spec=1, dead=1, finished_at=200.0), dead, arguments(1)))
    engine.commit(stored(spec(2), batch(1, spec=2, finished_at=None)))
    engine.commit(stored(batch(1, spec=2, dead=1, finished_at=300.0)))
    # When functions that no batch uses are thrown away
    engine.commit([Expired(before=0.0)])
    # Then its own is still there, also after another restart
    for looked_at in (engine, None):
        looked_at = looked_at or reopen()[0]
        assert [(each.row.spec, each.spec) for each in looked_at.batches([1])] == [(2, spec(2).spec)]
        assert [run.batch.spec for run in looked_at.ended(Selection(function="work:*"), NOW)] == [spec(2).spec]


def test_expired_applies_between_the_changes_around_it(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1, finished_at=1.0), batch(2, finished_at=1.0)))

    before = [Stored(batch(1)), Stored(results(2, 0, 1)), Stored(batch(2, finished_at=1.0))]
    engine.commit([*before, Expired(2.0), Stored(batch(1, finished_at=1.0)), Stored(results(2, 1, 2))])

    assert [found.row.batch for found in engine.batches([1, 2])] == [1]
    assert engine.pages(ResultPage, 2, 0, 9) == [results(2, 1, 2)]


def test_withdrawn_batch_goes_with_every_row_and_may_come_back(engine: Engine) -> None:
    rows = [batch(1), arguments(1), results(1), attempt(1), task(1), lease(5, 1), lease(6, 2)]
    engine.commit(stored(spec(), *rows, batch(2)))

    engine.commit([BatchWithdrawn(1)])
    assert everything(engine, 1) == ([], [], [], [])
    assert list(engine.restore()) == [spec(), batch(2), lease(6, 2)]

    engine.commit([*stored(*rows), BatchWithdrawn(1), *stored(batch(1, size=7))])
    assert list(engine.restore()) == [spec(), batch(1, size=7), batch(2), lease(6, 2)]
    assert engine.pages(ArgumentPage, 1, 0, 9) == []


def test_forgotten_arguments_are_those_without_a_dead_letter(engine: Engine) -> None:
    # Given a finished batch with three pages, in one of which there is a dead letter
    pages = [arguments(1, 0, 2), arguments(1, 2, 4), arguments(1, 4, 6)]
    dead, other = task(1, 3, State.DEAD, ended_at=2.0), task(1, 0, State.CANCELLED, ended_at=2.0)
    engine.commit(stored(spec(), batch(1, size=6, finished_at=3.0), *pages, dead, other, arguments(2, 0, 2), batch(2)))

    # Then the others go, and at the end that one
    engine.commit([ArgumentsForgotten(1)])
    assert engine.pages(ArgumentPage, 1, 0, 9) == [pages[1]]
    engine.commit([TaskForgotten(1, 3, True), ArgumentsForgotten(1)])
    assert engine.pages(ArgumentPage, 1, 0, 9) == []
    assert len(engine.pages(ArgumentPage, 2, 0, 9)) == 1


@pytest.mark.parametrize("history", [False, True])
def test_forgotten_task_loses_its_row_and_maybe_its_history(engine: Engine, history: bool) -> None:
    engine.commit(stored(spec(), batch(1, size=2), task(1, 0), task(1, 1), attempt(1, 0), attempt(1, 1)))

    engine.commit(
        [Stored(attempt(1, 0, 2)), Stored(task(1, 0)), TaskForgotten(1, 0, history), Stored(attempt(1, 0, 3))]
    )

    assert list(engine.restore()) == [spec(), batch(1, size=2), task(1, 1)]
    assert [each.number for each in engine.attempts(1, 0)] == ([3] if history else [1, 2, 3])
    assert [each.number for each in engine.attempts(1, 1)] == [1]


def test_attempt_stored_again_after_its_history_was_forgotten_is_kept(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1), attempt(1, 0, 1)))

    engine.commit([Stored(attempt(1, 0, 2)), TaskForgotten(1, 0, True), Stored(attempt(1, 0, 2, worker="w2"))])

    assert engine.attempts(1, 0) == [attempt(1, 0, 2, worker="w2").attempt]


def test_task_forgotten_and_stored_again_in_one_commit_keeps_only_the_new_history(engine: Engine) -> None:
    engine.commit(stored(spec(), batch(1), task(1), attempt(1)))

    engine.commit([TaskForgotten(1, 0, True), Stored(task(1, attempt=4)), Stored(attempt(1, 0, 4))])
    engine.commit([TaskForgotten(1, 0, True), TaskForgotten(1, 0, False), Stored(task(1, attempt=5))])

    assert list(engine.restore()) == [spec(), batch(1), task(1, attempt=5)]
    assert engine.attempts(1, 0) == []


# -- ended --------------------------------------------------------------------------------------------------------


@pytest.fixture
def history(engine: Engine) -> Engine:
    """A store in which tasks have ended in every way; their ends are 10, 20, 30, ... seconds."""
    mail = spec(2, "mail:send", queue="mail")
    engine.commit(stored(spec(), mail))
    engine.commit(stored(batch(1, size=6, next=6), results(1, 0, 2, 30.0), results(1, 2, 4, 10.0)))
    engine.commit(stored(task(1, 4, State.DEAD, ended_at=50.0, exception="KeyError"), task(1, 5)))
    engine.commit(stored(batch(2, spec=2, finished_at=60.0), results(2, 0, 1, 60.0)))
    engine.commit(stored(batch(3, spec=2, size=9, next=3, cut=3, finished_at=70.0), results(3, 0, 2, 20.0)))
    engine.commit(stored(task(3, 2, State.CANCELLED, ended_at=40.0, exception="ValueError")))
    engine.commit(stored(batch(4, size=5, next=5, cut=5), batch(5, size=1)))
    return engine


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (Selection(), ["3.3-9", "2.0-1", "1.4-5", "3.2-3", "1.0-2", "3.0-2", "1.2-4"]),
        (Selection(limit=0), ["3.3-9", "2.0-1", "1.4-5", "3.2-3", "1.0-2", "3.0-2", "1.2-4"]),
        (Selection(limit=2), ["3.3-9", "2.0-1"]),
        (Selection(limit=1, state=State.DEAD), ["1.4-5"]),
        (Selection(state=State.SUCCEEDED), ["2.0-1", "1.0-2", "3.0-2", "1.2-4"]),
        (Selection(state=State.DEAD), ["1.4-5"]),
        (Selection(state=State.CANCELLED), ["3.3-9", "3.2-3"]),
        (Selection(state=State.PENDING), []),
        (Selection(queue="mail"), ["3.3-9", "2.0-1", "3.2-3", "3.0-2"]),
        (Selection(queue="default", state=State.SUCCEEDED), ["1.0-2", "1.2-4"]),
        (Selection(queue="none"), []),
        (Selection(function="mail:*"), ["3.3-9", "2.0-1", "3.2-3", "3.0-2"]),
        (Selection(function="*:task"), ["1.4-5", "1.0-2", "1.2-4"]),
        (Selection(function="MAIL:*"), []),
        (Selection(exception="*Error"), ["1.4-5", "3.2-3"]),
        (Selection(exception="Key*"), ["1.4-5"]),
        (Selection(exception="*"), ["1.4-5", "3.2-3"]),
        (Selection(exception="*", state=State.SUCCEEDED), []),
        (Selection(outcome=Outcome.FAILED), ["1.4-5", "3.2-3"]),
        (Selection(outcome=Outcome.FAILED, exception="Key*"), ["1.4-5"]),
        (Selection(outcome=Outcome.CRASHED), []),
        (Selection(older_than_s=NOW - 30), ["1.0-2", "3.0-2", "1.2-4"]),
        (Selection(older_than_s=NOW - 30 + 0.5), ["3.0-2", "1.2-4"]),
        (Selection(older_than_s=NOW - 40, exception="*"), ["3.2-3"]),
        (Selection(ids=((1, -1),)), ["1.4-5", "1.0-2", "1.2-4"]),
        (Selection(ids=((1, 3),)), ["1.2-4"]),
        (Selection(ids=((1, 0), (1, 1), (3, 8))), ["3.3-9", "1.0-2"]),
        (Selection(ids=((1, 0), (1, 5))), ["1.0-2"]),
        (Selection(ids=((1, 5), (5, 0), (9, 0))), []),
        (Selection(ids=((2, 0), (1, -1), (1, 4)), limit=2), ["2.0-1", "1.4-5"]),
        (Selection(ids=((2, 1),)), []),
        (Selection(ids=((1, -1), (3, -1)), queue="mail", state=State.SUCCEEDED), ["3.0-2"]),
        (Selection(after=("dead", 50.0, 1, 4)), ["3.2-3", "1.0-2", "3.0-2", "1.2-4"]),
        (Selection(after=("succeeded", 30.0, 1, 0), limit=1), ["3.0-2"]),
        (Selection(after=("succeeded", 30.0, 1, 1), limit=1), ["1.0-2"]),
        (Selection(after=("pending", 5.0, 1, 4), limit=2), ["3.3-9", "2.0-1"]),
        (Selection(after=("succeeded", 10.0, 1, 2)), []),
    ],
    ids=str,
)
def test_ended_gives_what_matches_latest_first(history: Engine, selection: Selection, found: list[str]) -> None:
    runs = history.ended(selection, NOW)

    assert [f"{run.batch.row.batch}.{run.lo}-{run.hi}" for run in runs] == found


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first tasks of the runs that listings have looked at."""
    seen: list[int] = []
    wants = SelectionFilter.wants

    def noted(selector: SelectionFilter, run: EndedRun) -> bool:
        seen.append(run.lo)
        return wants(selector, run)

    monkeypatch.setattr(SelectionFilter, "wants", noted)
    return seen


@pytest.mark.parametrize("rows", [stored_tasks, stored_results], ids=["tasks", "pages"])
def test_ended_page_by_page_looks_at_each_run_once_also_where_all_ended_at_once(
    engine: Engine, rows: Callable[[int], list[Any]], looked_at: list[int]
) -> None:
    # Given five hundred runs with one end
    engine.commit(stored(spec(), batch(7, size=500, next=500), *rows(500)))

    # When they are listed ten at a time
    found: list[int] = []
    after = None
    while runs := engine.ended(Selection(limit=10, after=after), now=999.0):
        found += [run.lo for run in runs]
        last = runs[-1]
        after = (last.state.value, last.ended_at, last.batch.row.batch, last.lo)

    # Then no page has looked at what is on another
    assert found == list(range(499, -1, -1))
    assert len(looked_at) <= 500 + 50


def test_ended_finds_dead_letters_without_a_look_at_what_succeeded(engine: Engine, looked_at: list[int]) -> None:
    # Given two dead letters, the results of five hundred tasks
    dead = [task(7, index, State.DEAD) for index in (500, 501)]
    engine.commit(stored(spec(), batch(7, size=502, next=502), *stored_results(500), *dead))

    # When
    runs = engine.ended(Selection(state=State.DEAD), now=999.0)
    runs += engine.ended(Selection(exception="KeyError"), now=999.0)

    # Then
    assert [run.lo for run in runs] == [501, 500]
    assert len(looked_at) <= 4


def test_ended_says_all_about_a_run(history: Engine) -> None:
    by_lo = {(run.batch.row.batch, run.lo): run for run in history.ended(Selection(), NOW)}

    dead, cancelled, tail, page = by_lo[1, 4], by_lo[3, 2], by_lo[3, 3], by_lo[1, 2]
    assert (dead.state, dead.ended_at, dead.worker) == (State.DEAD, 50.0, "")
    assert dead.task == task(1, 4, State.DEAD, ended_at=50.0, exception="KeyError")
    assert cancelled.task is not None
    assert (cancelled.state, tail.state, tail.ended_at, tail.task) == (State.CANCELLED, State.CANCELLED, 70.0, None)
    assert (page.state, page.ended_at, page.worker, page.task) == (State.SUCCEEDED, 10.0, "w1", None)
    assert (page.batch.row, page.batch.spec) == (batch(1, size=6, next=6), spec().spec)


def test_ended_counts_the_tail_of_an_unfinished_batch_as_cancelled_just_now(engine: Engine) -> None:
    engine.commit(
        stored(spec(), batch(1, size=4, next=1, cut=1), batch(2, finished_at=NOW - 1), results(2, 0, 1, NOW - 1))
    )

    runs = engine.ended(Selection(), NOW)

    assert [(run.batch.row.batch, run.lo, run.hi, run.ended_at) for run in runs] == [(1, 1, 4, NOW), (2, 0, 1, NOW - 1)]
    assert engine.ended(Selection(older_than_s=1.0, state=State.CANCELLED), NOW) == []
