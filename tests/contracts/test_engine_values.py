"""The engine port's contract for values: where they lie, how long they are kept, and what is said of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dtq.engines.base import Engine
from dtq.model.values import Value
from dtq.values.local import LocalValues
from dtq.values.place import Place
from tests.contracts.engine_kinds import KINDS, Kind


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
