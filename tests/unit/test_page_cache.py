"""Pages on their way: never dropped before they are committed, found in one place or the other, and cut to size."""

from __future__ import annotations

import pytest

from dtq.coordinator import cache as cache_module
from dtq.coordinator.cache import PageCache
from dtq.core.changes import ArgumentPage, BatchRow, Change, ResultPage, SpecRow, Stored
from dtq.engines.memory import MemoryEngine
from dtq.model import pages
from tests.driver import spec

ROOM = 1 << 20


def page(batch: int, lo: int, hi: int, size: int = 1) -> ArgumentPage:
    blobs = [(b"%d" % index).ljust(size) for index in range(lo, hi)]
    return ArgumentPage(batch=batch, lo=lo, hi=hi, data=pages.pack(blobs))


def result(batch: int, lo: int, hi: int) -> ResultPage:
    return ResultPage(batch=batch, lo=lo, hi=hi, data=pages.pack([b""] * (hi - lo)), worker="w", ended_at=1.0)


class Scene:
    """A cache over a memory engine, and a committer that is the test."""

    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.engine.open()
        row = BatchRow(
            batch=1,
            spec=1,
            size=99,
            complete=True,
            next=0,
            cut=None,
            due_at=None,
            submitted_at=0.0,
            finished_at=None,
            succeeded=0,
            dead=0,
            cancelled=0,
            purged=0,
            key="s/1",
            user_key=False,
            session="s",
        )
        self.engine.commit([Stored(SpecRow(number=1, spec=spec())), Stored(row)])
        self.cache = PageCache(self.engine)

    def commit(self, *new: ArgumentPage | ResultPage) -> None:
        changes: list[Change] = [Stored(page) for page in new]
        self.engine.commit(changes)
        self.cache.committed(changes)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held that need not be."""
    monkeypatch.setattr(cache_module, "BUDGET", 0)


def test_page_is_found_before_it_is_committed(scene: Scene) -> None:
    scene.cache.add([page(1, 0, 3)])

    assert scene.cache.find(ArgumentPage, 1, 0, 3) == [page(1, 0, 3)]
    assert scene.engine.pages(ArgumentPage, 1, 0, 3) == []


@pytest.mark.usefixtures("no_room")
def test_page_that_is_not_committed_is_never_dropped(scene: Scene) -> None:
    # Given four pages of which two are committed
    new = [page(1, lo, lo + 2) for lo in (0, 2, 4, 6)]
    scene.cache.add(new)

    # When
    scene.commit(*new[:2])

    # Then those two make room, and all are found
    assert [p.lo for p in scene.cache._order] == [4, 6]
    assert scene.cache.find(ArgumentPage, 1, 0, 8) == new


@pytest.mark.usefixtures("no_room")
def test_dropped_pages_are_found_in_the_engine_and_joined_with_those_that_are_here(scene: Scene) -> None:
    scene.cache.add([page(1, 0, 3), page(1, 3, 6)])
    scene.commit(page(1, 0, 3))

    assert pages.unpack(scene.cache.arguments(1, 1, 5, ROOM, whatever=True)) == [b"1", b"2", b"3", b"4"]


def test_latest_committed_pages_are_held_as_long_as_there_is_room(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given room for two pages
    monkeypatch.setattr(cache_module, "BUDGET", 2 * (1000 + 500 + 100))
    new = [page(1, lo, lo + 1, size=1000) for lo in range(5)]

    # When five are committed
    for each in new:
        scene.cache.add([each])
        scene.commit(each)

    # Then
    assert [p.lo for p in scene.cache._order] == [3, 4]
    assert scene.cache._bytes == sum(len(p.data) + 500 for p in new[3:])


def test_arguments_and_results_of_a_batch_are_kept_apart(scene: Scene) -> None:
    scene.cache.add([page(1, 0, 3), result(1, 0, 1)])

    assert scene.cache.find(ResultPage, 1, 0, 3) == [result(1, 0, 1)]
    assert scene.cache.find(ArgumentPage, 1, 0, 1) == [page(1, 0, 3)]


def test_results_are_found_in_their_order_whatever_the_order_of_their_arrival(scene: Scene) -> None:
    new = [result(1, lo, lo + 2) for lo in (6, 0, 4)]
    scene.cache.add(new)

    assert [p.lo for p in scene.cache.find(ResultPage, 1, 0, 10)] == [0, 4, 6]
    assert [p.lo for p in scene.cache.find(ResultPage, 1, 1, 5)] == [0, 4]
    assert scene.cache.find(ResultPage, 1, 2, 4) == []


def test_arguments_that_are_nowhere_are_an_error(scene: Scene) -> None:
    scene.cache.add([page(1, 0, 3)])

    with pytest.raises(LookupError, match=r"of 1\.3 are"):
        scene.cache.arguments(1, 3, 5, ROOM, whatever=True)


def test_forgotten_batches_leave_nothing_and_the_others_alone(scene: Scene) -> None:
    # Given
    scene.cache.add([page(1, 0, 3), page(2, 0, 3), result(2, 0, 1), page(3, 0, 1)])

    # When
    scene.cache.forget({2})

    # Then
    assert scene.cache.find(ArgumentPage, 2, 0, 3) == []
    assert scene.cache.find(ResultPage, 2, 0, 1) == []
    assert [p.batch for p in scene.cache._order] == [1, 3]
    assert scene.cache._bytes == sum(len(p.data) + 500 for p in (page(1, 0, 3), page(3, 0, 1)))
