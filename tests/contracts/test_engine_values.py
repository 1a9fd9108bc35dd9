"""The engine port's contract for values: where they lie, how long they are kept, and what is said of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dtq.core.changes import (
    ArgumentPage,
    ArgumentsForgotten,
    BatchesRead,
    BatchWithdrawn,
    Expired,
    OwnExpired,
    Read,
    ResultPage,
    Stored,
)
from dtq.engines import segments
from dtq.engines.base import Engine, Opened
from dtq.engines.memory import MemoryEngine
from dtq.errors import StoreError, ValueGone
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.values import Value, describe
from dtq.values import local
from dtq.values.local import LocalValues
from dtq.values.place import Place
from tests.contracts.engine_kinds import KINDS, Kind
from tests.contracts.engine_rows import SpecRow, batch, described, hold, spec, stored


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


def place_of(engine: Engine) -> Place:
    place = engine.place
    assert place is not None
    return place


@pytest.fixture
def values(engine: Engine) -> Iterator[LocalValues]:
    """A writer of values."""
    writer = LocalValues(place_of(engine))
    yield writer
    writer.close()


def write(values: LocalValues, data: bytes) -> Value:
    draft = values.draft()
    draft.write(data)
    return draft.finish()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines look at once for what they can give back."""
    for name in ("_SWEEP_S", "_SWEEP_SOON_S", "_QUIET_S"):
        monkeypatch.setattr(segments, name, 0.0)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left alone for a while."""
    for name in ("_ASKED_S", "_FRESH_S", "GRACE_S"):
        monkeypatch.setattr(segments, name, 0.0)


@pytest.fixture
def reopen(kind: Kind, engine: Engine, make: Callable[[], Engine]) -> Callable[[], tuple[Engine, Opened]]:
    """Restarts, as in `test_engine`."""
    current = [engine]

    def restart() -> tuple[Engine, Opened]:
        current[0].close()
        if kind.survives_reopen:
            current[0] = make()
        return current[0], current[0].open()

    return restart


def give_back(engine: Engine) -> None:
    """Let an engine give back whatever room it can."""
    for _ in range(50):
        engine.commit([])


def on_disk(engine: Engine) -> int:
    """Bytes that the segments of an engine have on their disks."""
    return sum(512 * os.stat(path).st_blocks for path in place_of(engine).segments().values())


def data_of(engine: Engine, value: Value) -> bytes:
    return bytes(memoryview(LocalValues(place_of(engine)).fetch(value)))


LARGE = 3 << 20


# -- the place ----------------------------------------------------------------------------------------------------


def test_place_is_this_users_alone_and_takes_values(engine: Engine, values: LocalValues) -> None:
    value = write(values, b"x" * 100_000)

    assert bytes(memoryview(values.fetch(value))) == b"x" * 100_000
    for path in place_of(engine).paths:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_place_of_a_store_stays_with_it(kind: Kind, engine: Engine, make: Callable[[], Engine]) -> None:
    place = place_of(engine)
    engine.close()
    if not kind.survives_reopen:
        return
    again = make()
    again.open()

    assert place_of(again) == place


def test_values_of_an_engine_that_is_closed_are_a_store_error(engine: Engine) -> None:
    engine.close()

    with pytest.raises(StoreError):
        engine.holds([])
    with pytest.raises(StoreError):
        place_of(engine)


# -- how long values are kept -------------------------------------------------------------------------------------


def test_value_is_in_use_as_long_as_a_row_names_it(engine: Engine, values: LocalValues) -> None:
    # Given a value that two pages name, and one that a page names twice
    both, twice = write(values, b"x" * 1000), write(values, b"y" * 1000)
    assert not engine.holds([both])
    engine.commit(stored(spec(), batch(1, size=2), described(1, both, twice), described(1, both, kind=ResultPage)))
    engine.commit(stored(described(1, twice, twice, lo=2)))
    assert engine.holds([both, twice])
    assert not engine.holds([both, Value(both.segment, both.offset, both.length - 1)])

    # When these pages go, one after the other, Then it is in use up to the last
    engine.commit([Read(1, 0, 2)])
    assert [engine.holds([both]), engine.holds([twice]), engine.holds([both, twice])] == [False, True, False]
    engine.commit([Read(1, 2, 4)])
    assert not engine.holds([twice])
    assert engine.holds([])


def test_page_that_replaces_another_names_what_it_names(engine: Engine, values: LocalValues) -> None:
    old, new = write(values, b"x" * 1000), write(values, b"y" * 1000)
    engine.commit(stored(spec(), batch(1), described(1, old)))

    engine.commit(stored(described(1, new)))

    assert (engine.holds([old]), engine.holds([new])) == (False, True)


@pytest.mark.parametrize("page", [ArgumentPage, ResultPage])
@pytest.mark.parametrize(
    "gone",
    [
        Read(1, 0, 2),
        BatchesRead((1,)),
        Expired(60.0),
        OwnExpired(60.0),
        BatchWithdrawn(1),
        ArgumentsForgotten(1),
        "replaced",
    ],
    ids=lambda gone: gone if isinstance(gone, str) else type(gone).__name__,
)
def test_values_go_with_their_pages_however_these_go(
    engine: Engine, values: LocalValues, page: type, gone: Any
) -> None:
    # Given a finished batch with a page of values, and another one
    first, second, other = (write(values, b"x" * 1000) for _ in range(3))
    expires_at = 55.0 if isinstance(gone, OwnExpired) else None
    row = batch(1, size=2, finished_at=50.0, expires_at=expires_at)
    engine.commit(stored(spec(), row, described(1, first, second, kind=page)))
    engine.commit(stored(batch(2, size=1), described(2, other, kind=page)))
    assert engine.holds([first, second, other])

    # When the page goes
    engine.commit(stored(described(1, other, kind=page)) if gone == "replaced" else [gone])

    # Then what it named is no longer in use, and the rest is
    stays = isinstance(gone, ArgumentsForgotten) and page is ResultPage
    assert (engine.holds([first]), engine.holds([second])) == (stays, stays)
    assert engine.holds([other])


def test_function_and_hold_name_values(engine: Engine, values: LocalValues) -> None:
    body, put = write(values, b"f" * 1000), write(values, b"p" * 1000)
    function = Function(kind=FunctionKind.VALUE, name="f", body=describe([body]))
    row = SpecRow(number=7, spec=Spec(function=function, options=Options()))
    engine.commit(stored(row, batch(1, spec=7), hold("s", b"d", put)))
    assert engine.holds([body, put])

    engine.commit([Stored(batch(1, spec=7, finished_at=1.0)), Stored(hold("s", b"d", body))])
    engine.commit([Expired(2.0)])
    assert (engine.holds([body]), engine.holds([put])) == (True, False)
    assert engine.holds([body])


def test_values_in_use_outlast_a_restart(
    engine: Engine, values: LocalValues, reopen: Callable[[], tuple[Engine, Opened]], at_once: None
) -> None:
    value = write(values, b"x" * 100_000)
    engine.commit(stored(spec(), batch(1), described(1, value)))
    values.close()

    again, opened = reopen()
    give_back(again)

    assert opened.losses == ()
    assert again.holds([value])
    assert data_of(again, value) == b"x" * 100_000


def test_segment_goes_with_its_last_value_when_nobody_holds_it(
    engine: Engine, values: LocalValues, at_once: None
) -> None:
    # Given two values in a segment that is held by its writer
    values_ = [write(values, b"x" * 1000) for _ in range(2)]
    engine.commit(stored(spec(), batch(1, size=2), *(described(1, v, lo=n) for n, v in enumerate(values_))))
    path = Path(place_of(engine).find(values_[0].segment))

    # When both are no longer in use, Then it is there as long as it is held
    engine.commit([Read(1, 0, 1)])
    give_back(engine)
    engine.commit([Read(1, 1, 2)])
    give_back(engine)
    assert path.exists()
    values.close()
    give_back(engine)
    assert not path.exists()


def test_what_somebody_was_told_is_there_stays(
    engine: Engine, values: LocalValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "GRACE_S", 0.0)
    value = write(values, b"x" * 1000)
    engine.commit(stored(spec(), batch(1), described(1, value)))
    values.close()

    assert engine.holds([value])
    engine.commit([Read(1, 0, 1)])
    give_back(engine)

    assert data_of(engine, value) == b"x" * 1000
    engine.commit(stored(described(1, value)))
    assert engine.holds([value])


def test_what_nobody_names_is_left_alone_for_a_while(
    engine: Engine,
    values: LocalValues,
    reopen: Callable[[], tuple[Engine, Opened]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its writer may have been cut off by a restart, and submit it yet."""
    monkeypatch.setattr(segments, "_ASKED_S", 0.0)
    young, old = write(values, b"x" * segments_bytes()), write(values, b"y" * 1000)
    assert young.segment != old.segment
    path = place_of(engine).find(old.segment)
    values.close()
    again, _ = reopen()
    os.utime(path, (1.0, 1.0))

    give_back(again)

    assert list(place_of(again).segments()) == [young.segment]


def test_what_a_writer_has_left_that_is_gone_goes_soon(
    engine: Engine, values: LocalValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given what nobody names, of a writer that lives, and of one that was killed in the middle of something
    killed = LocalValues(place_of(engine))
    held, left = write(values, b"x" * 1000), write(killed, b"y" * 1000)
    give_back(engine)
    killed.close()

    # When it is not new any more
    give_back(engine)
    assert set(place_of(engine).segments()) == {held.segment, left.segment}
    monkeypatch.setattr(segments, "_FRESH_S", -1.0)
    give_back(engine)

    # Then only what is held is there
    assert set(place_of(engine).segments()) == {held.segment}


def segments_bytes() -> int:
    """So many that nothing more goes into the same segment."""
    return local.SEGMENT_BYTES


def test_sparse_segment_is_rewritten_with_what_is_in_use(engine: Engine, values: LocalValues, at_once: None) -> None:
    # Given a segment of which little is in use, and somebody who has all of it mapped
    kept = [write(values, b"a" * 70_000), None, write(values, b"b" * 300_000)]
    dropped = write(values, b"x" * LARGE)
    kept[1] = write(values, b"c" * 65_537)
    kept_values = [value for value in kept if value is not None]
    engine.commit(stored(spec(), batch(1, size=9), described(1, *kept_values), described(1, dropped, lo=5)))
    reader = LocalValues(place_of(engine), map_from=1)
    before = memoryview(reader.fetch(dropped))
    engine.commit([Read(1, 5, 6)])
    values.close()
    size = on_disk(engine)

    # When there is time
    give_back(engine)

    # Then the rest takes no room, is gone for those who look now, and who has it mapped still has it
    assert on_disk(engine) < size - LARGE + 100_000
    assert [data_of(engine, value)[:1] * value.length for value in kept_values] == [
        data_of(engine, value) for value in kept_values
    ]
    assert before == b"x" * LARGE
    with pytest.raises(ValueGone):
        reader.fetch(dropped)
    with pytest.raises(ValueGone):
        reader.stream(dropped)
    reader.close()


def test_segment_of_which_values_go_one_after_the_other_is_not_rewritten(
    engine: Engine, values: LocalValues, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a segment that became sparse just now
    monkeypatch.setattr(segments, "_QUIET_S", 3600.0)
    written = [write(values, b"x" * LARGE) for _ in range(3)]
    engine.commit(stored(spec(), batch(1, size=9), *(described(1, value, lo=n) for n, value in enumerate(written))))
    engine.commit([Read(1, 0, 2)])
    values.close()
    size = on_disk(engine)

    # When there is time, Then it stays as it is, until nothing is left of it
    give_back(engine)
    assert on_disk(engine) == size
    engine.commit([Read(1, 2, 3)])
    give_back(engine)
    assert on_disk(engine) == 0


def test_segment_that_is_rewritten_can_be_named_meanwhile(engine: Engine, values: LocalValues, at_once: None) -> None:
    # Given a sparse segment whose rewriting has begun
    kept, dropped = write(values, b"a" * (9 << 20)), write(values, b"x" * (30 << 20))
    engine.commit(stored(spec(), batch(1, size=9), described(1, kept), described(1, dropped, lo=5)))
    values.close()
    engine.commit([Read(1, 5, 6)])
    engine.commit([])
    assert any(name.endswith(segments.UNFINISHED) for path in place_of(engine).paths for name in os.listdir(path))

    # When what is dropped there is named again
    engine.commit(stored(described(1, dropped, lo=5)))
    give_back(engine)

    # Then it is there
    assert data_of(engine, dropped) == b"x" * (30 << 20)
    assert data_of(engine, kept) == b"a" * (9 << 20)


def test_commit_that_names_what_is_not_there_is_made_and_logged(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """What others have committed with it is not theirs to lose."""
    place_of(engine)

    engine.commit(stored(spec(), batch(1), described(1, Value(5, 0, 1000))))

    assert "are missing" in caplog.text
    assert engine.pages(ResultPage, 1, 0, 1) == []
    assert [found.row for found in engine.batches([1])] == [batch(1)]


def test_commit_that_cannot_be_told_of_its_values_is_applied_once() -> None:
    """In memory, where nothing can be taken back."""
    engine = MemoryEngine()
    engine.open()
    writer = LocalValues(place_of(engine))
    value = write(writer, b"x" * 1000)
    shutil.rmtree(place_of(engine).paths[0])

    engine.commit(stored(spec(), batch(1), described(1, value)))
    engine.commit([Read(1, 0, 1)])

    assert not engine.holds([value])
    writer.close()
    engine.close()


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_values_that_are_missing_are_said(
    kind: Kind, engine: Engine, values: LocalValues, reopen: Callable[[], tuple[Engine, Opened]], damage: str
) -> None:
    if not kind.survives_reopen:
        return
    # Given three values, two of which are on a segment that loses its end, or is lost
    first, *others = [write(values, b"x" * 1000) for _ in range(3)]
    engine.commit(stored(spec(), batch(1, size=3), described(1, first, *others)))
    path = place_of(engine).find(first.segment)
    values.close()
    if damage == "removed":
        os.unlink(path)
    else:
        os.truncate(path, others[0].end - 1)

    # Then a start says so
    _, opened = reopen()
    sentence = "3 values (3,000 bytes) are missing" if damage == "removed" else "2 values (2,000 bytes) are cut short"
    assert [loss for loss in opened.losses if loss.startswith(sentence)] == list(opened.losses) != []


@pytest.mark.parametrize("act", ["hold", "append"])
def test_segment_that_somebody_takes_while_it_is_rewritten_stays_as_it_was(
    engine: Engine, values: LocalValues, at_once: None, act: str
) -> None:
    # Given a sparse segment whose rewriting has begun
    kept, dropped = write(values, b"a" * (9 << 20)), write(values, b"x" * (30 << 20))
    engine.commit(stored(spec(), batch(1, size=9), described(1, kept), described(1, dropped, lo=5)))
    values.close()
    engine.commit([Read(1, 5, 6)])
    engine.commit([])
    path = place_of(engine).find(kept.segment)
    assert os.path.exists(path + segments.UNFINISHED)

    # When somebody holds it, or writes to it
    with open(path, "ab") as file:
        if act == "hold":
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        else:
            file.write(b"more")
            file.flush()
        while os.path.exists(path + segments.UNFINISHED):
            engine.commit([])

        # Then it is the same file, with all that is in it
        assert os.stat(path).st_ino == os.fstat(file.fileno()).st_ino
        assert data_of(engine, dropped) == b"x" * (30 << 20)
