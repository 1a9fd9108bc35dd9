"""Tasks that are given the results of others, with real processes: the values never come through the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from dtq import AsyncClient, CannotPickle, Client, Executor, InvalidValue, State, TaskCancelled
from dtq.errors import ParentUnknown
from tests.cluster import DEADLINE_S, Cluster
from tests.tasks import work

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.coordinator()
        made.worker("--path", str(ROOT), slots=1)
        yield made


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address, authkey_file=cluster.key_file) as made:
        yield made


def test_handle_as_an_argument_stands_for_its_result_wherever_it_is(client: Client) -> None:
    one, two = client.submit(work.add, 1, b=2), client.submit(work.square, 2)
    direct = client.submit(work.add, one, b=two)
    inside = client.submit(work.echo, {"list": [one, (two, direct)], "twice": [one, one]})
    assert direct.result(DEADLINE_S) == 7
    assert inside.result(DEADLINE_S) == {"list": [3, (4, 7)], "twice": [3, 3]}


def test_then_calls_a_function_with_what_a_task_returns(client: Client) -> None:
    square = client.submit(work.square, 3).then(work.add, 1)
    assert square.then(work.add, b=5, priority=1).result(DEADLINE_S) == 15
    assert square.result(DEADLINE_S) == 10


def test_chain_runs_in_order(client: Client) -> None:
    last = client.submit(work.add, 0, 0)
    for _ in range(200):
        last = client.submit(work.add, last, 1)
    assert last.result(DEADLINE_S) == 200


def test_large_results_are_given_by_reference(client: Client) -> None:
    large = client.submit(work.echo, b"x" * (1 << 20))
    size = client.submit(len, large)
    both = client.submit(work.add, large, large)
    assert size.result(DEADLINE_S) == 1 << 20
    assert len(both.result(DEADLINE_S)) == 2 << 20


def test_parent_that_fails_cancels_what_is_given_its_result(client: Client) -> None:
    bad = client.options(max_retries=0).submit(work.fail, "no")
    child = client.submit(work.echo, bad)
    grandchild = client.submit(work.echo, [child])
    with pytest.raises(TaskCancelled, match=f"parent {bad.id} is dead"):
        child.result(DEADLINE_S)
    with pytest.raises(TaskCancelled, match=f"parent {child.id} is cancelled"):
        grandchild.result(DEADLINE_S)
    assert child.status().state is State.CANCELLED


def test_futures_stand_for_their_results_before_and_after_they_have_ended(cluster: Cluster) -> None:
    with Executor(cluster.address, authkey_file=cluster.key_file) as executor:
        done = executor.submit(work.square, 3)
        assert done.result(DEADLINE_S) == 9
        pending = executor.submit(work.nap, 0.2)
        both = executor.submit(work.add, done, pending)
        chain = executor.submit(work.echo, [both, both])
        assert chain.result(DEADLINE_S) == [9.2, 9.2]


def test_asyncio_handles_stand_for_their_results(cluster: Cluster) -> None:
    async def main() -> int:
        async with AsyncClient(cluster.address, authkey_file=cluster.key_file) as client:
            first = await client.submit(work.add, 1, 1)
            second = client.submit_nowait(work.add, first, first)
            third = await client.submit(work.add, second, 0)
            batch = await client.submit_map(work.square, range(4))
            assert await client.submit(sum, batch, after=[third, batch.id]) is not None
            assert await (await client.submit(sum, batch)).result(DEADLINE_S) == 14
            return await (await third.then(work.add, 1)).result(DEADLINE_S)

    assert asyncio.run(main()) == 5


def test_handle_elsewhere_than_in_a_call_is_refused_with_a_sentence(client: Client) -> None:
    handle = client.submit(work.square, 2)
    with pytest.raises(CannotPickle, match="handle of a task"):
        client.put(handle)


def test_map_over_a_map_is_given_its_results_one_by_one(client: Client) -> None:
    squares = client.submit_map(work.square, range(3_000))
    doubled = client.submit_map(work.add, squares, squares)
    large = client.submit_map(work.grown, [b"a", b"b"], [200_000, 100_000])
    assert list(client.map(work.add, doubled, squares))[:4] == [0, 3, 12, 27]
    assert sum(client.submit_map(abs, doubled).results()) == 2 * sum(n * n for n in range(3_000))
    assert list(client.submit_map(len, large).results()) == [200_000, 100_000]
    assert list(client.submit_map(work.add, squares, [1, 1]).results()) == [1, 2]
    assert list(client.submit_map(work.square, client.submit_map(work.square, ())).results()) == []


def test_handles_among_the_items_of_a_map_stand_for_their_results(client: Client) -> None:
    handle, batch = client.submit(work.square, 3), client.submit_map(work.square, range(3))
    assert list(client.map(work.echo, [handle, 5, [handle, {"in": handle}]])) == [9, 5, [9, {"in": 9}]]
    assert list(client.map(sum, [batch, [1, handle]])) == [5, 10]
    many = client.submit_map(work.add, [client.submit(work.square, n) for n in range(50)], range(50))
    assert list(many.results()) == [n * n + n for n in range(50)]


def test_part_of_a_map_that_fails_cancels_its_part_of_the_next(client: Client) -> None:
    roots = client.submit_map(work.add, [1, "a", 2], [1, 1, 1], max_retries=0)
    ended = list(client.submit_map(work.square, roots).results(return_exceptions=True))
    assert (ended[0], ended[2]) == (4, 9)
    assert f"parent {roots.id}.1 is dead" in str(ended[1])
    anyway = list(client.submit_map(repr, roots, on_failed="run").results())
    assert (anyway[0], anyway[1][:9]) == ("2", "TypeError")


def test_executor_maps_over_futures_and_batches(cluster: Cluster, client: Client) -> None:
    batch = client.submit_map(work.square, range(4))
    with Executor(cluster.address, authkey_file=cluster.key_file) as executor:
        future = executor.submit(work.square, 3)
        assert list(executor.map(work.add, [future, 1], [1, 1])) == [10, 2]
        assert list(executor.map(work.square, batch)) == [0, 1, 16, 81]
        assert list(executor.map(work.square, batch, chunksize=3)) == [0, 1, 16, 81]
        assert list(executor.map(work.add, batch, [1, 1], buffersize=1)) == [1, 2]


def test_asyncio_maps_over_maps_and_handles(cluster: Cluster) -> None:
    async def main() -> list[object]:
        async with AsyncClient(cluster.address, authkey_file=cluster.key_file) as client:
            squares = await client.submit_map(work.square, range(4))
            again = await client.submit_map(work.square, squares)
            handle = await client.submit(work.square, 5)

            async def items() -> AsyncIterator[object]:
                yield handle
                yield 1

            found: list[object] = [value async for value in client.map(work.add, again, squares)]
            found += [value async for value in client.map(work.echo, [handle, 0])]
            return found + [value async for value in client.map(work.echo, items())]

    assert asyncio.run(main()) == [0, 2, 20, 90, 25, 0, 25, 1]


def test_kills_on_the_way_through_maps_of_maps_lose_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        coordinator, worker = cluster.coordinator(), cluster.worker("--path", str(ROOT))
        with Client(cluster.address, authkey_file=cluster.key_file) as client:
            first = client.submit_map(work.square, range(2_000), max_crashes=50)
            second = client.submit_map(work.add, first, first, max_crashes=50)
            third = client.submit_map(abs, second, max_crashes=50, priority=1)
            for place in (1, 700, 1_500):
                second.task(place).wait(DEADLINE_S)
                if place == 700:
                    worker.kill()
                    worker = cluster.worker("--path", str(ROOT))
                else:
                    coordinator.kill()
                    coordinator = cluster.coordinator()
            assert list(third.results()) == [2 * n * n for n in range(2_000)]
            counts = client.stats().counts
            assert (counts.succeeded, counts.unfinished, counts.cancelled) == (6_000, 0, 0)


def test_batch_as_an_argument_stands_for_all_of_its_results(client: Client) -> None:
    few = client.submit_map(work.square, range(5))
    many = client.submit_map(work.square, range(20_000))
    large = client.submit_map(work.grown, [b"a", b"b"], [200_000, 100_000])
    assert client.submit(sum, few).result(DEADLINE_S) == 30
    assert client.submit(sum, many).result(DEADLINE_S) == sum(n * n for n in range(20_000))
    assert client.submit(work.ends, many, few).result(DEADLINE_S) == (20_000, 0, 19_999**2, [16, 9])
    assert client.submit(work.lengths, large).result(DEADLINE_S) == [200_000, 100_000]


def test_batch_with_a_dead_letter_is_given_with_its_exception(client: Client) -> None:
    batch = client.submit_map(work.leave_if_odd, range(3), max_retries=0)
    values = client.submit(list, batch, on_failed="run").result(DEADLINE_S)
    assert (values[0], str(values[1]), values[2]) == (0, "1 is odd", 2)
    with pytest.raises(TaskCancelled, match=f"parent {batch.id}"):
        client.submit(sum, batch).result(DEADLINE_S)


# -- after ------------------------------------------------------------------------------------------------------------


def test_task_starts_after_others_whatever_they_are_named_by(client: Client, cluster: Cluster, tmp_path: Path) -> None:
    batch = client.submit_map(work.note, [str(tmp_path)] * 3, ["a", "b", "c"])
    one = client.submit(work.note, str(tmp_path), "d")
    last = client.submit(work.seen, str(tmp_path), after=[batch, one, batch.task(1), batch.id, one.id])
    assert last.result(DEADLINE_S) == ["a", "b", "c", "d"]
    seen = client.submit_map(work.seen, [str(tmp_path)] * 2, after=client.submit(work.note, str(tmp_path), "e"))
    assert list(seen.results()) == [["a", "b", "c", "d", "e"]] * 2
    told = cluster.command("submit", "tests.tasks.work:seen", str(tmp_path), "--after", one.id, "--wait", "--json")
    assert told.returncode == 0, told.stderr


def test_on_failed_run_gives_the_exception_in_place_of_the_value(client: Client) -> None:
    bad = client.submit(work.fail, "no", max_retries=0)
    fine = client.submit(work.square, 3)
    told = client.submit(work.echo, [bad, fine], on_failed="run").result(DEADLINE_S)
    assert (type(told[0]), str(told[0]), told[1]) == (ValueError, "no", 9)
    with pytest.raises(TaskCancelled, match=f"parent {bad.id} is dead"):
        client.submit(work.square, 3, after=bad).result(DEADLINE_S)


def test_executor_waits_for_futures(cluster: Cluster) -> None:
    with Executor(cluster.address, authkey_file=cluster.key_file) as executor:
        first = executor.submit(work.nap, 0.1)
        assert executor.options(after=first).submit(work.square, 4).result(DEADLINE_S) == 16
        assert list(executor.options(after=[first]).map(work.square, range(3))) == [0, 1, 4]


def test_what_cannot_be_waited_for_is_refused(client: Client, cluster: Cluster) -> None:
    with pytest.raises(ParentUnknown, match=r"cannot wait for 9999: it was never accepted"):
        client.submit(work.square, 3, after="9999").result(DEADLINE_S)
    with pytest.raises(InvalidValue, match="handles and ids"):
        client.submit(work.square, 3, after=[7])
    with pytest.raises(InvalidValue, match="'cancel', 'run'"):
        client.options(on_failed="maybe").submit(work.square, 3)  # type: ignore[typeddict-item]  # to be found out
    told = cluster.command("submit", "math:factorial", "5", "--after", "9999")
    assert (told.returncode, told.stdout) == (65, "")
    assert "cannot wait for 9999" in told.stderr


def test_kills_of_coordinator_and_worker_lose_no_edge_and_no_result(tmp_path: Path) -> None:
    # Given a lattice: each task adds up the results of two before it; and a chain
    with Cluster(tmp_path) as cluster:
        coordinator, worker = cluster.coordinator(), cluster.worker("--path", str(ROOT))
        with Client(cluster.address, authkey_file=cluster.key_file) as client:
            row = [client.submit(work.add, 1, 0, max_crashes=50) for _ in range(8)]
            rows = [row]
            for _ in range(24):
                row = [client.submit(work.add, a, b, max_crashes=50) for a, b in pairwise([*row, row[0]])]
                rows.append(row)
            every = client.submit(work.square, 3, after=[handle for row in rows for handle in row])
            chain = [client.submit(work.add, 0, 0, max_crashes=50)]
            for _ in range(300):
                chain.append(client.submit(work.add, chain[-1], 1, max_crashes=50))
            chain[-1].accepted(DEADLINE_S)
            # When what runs it is killed again and again
            for place in (4, 10, 16):
                rows[place][0].wait(DEADLINE_S)
                chain[5 * place].wait(DEADLINE_S)
                if place == 10:
                    worker.kill()
                    cluster.worker("--path", str(ROOT))
                else:
                    coordinator.kill()
                    coordinator = cluster.coordinator()
            # Then each sum is right, and nothing waits any more
            assert [handle.result(DEADLINE_S) for handle in rows[-1]] == [2**24] * 8
            assert every.result(DEADLINE_S) == 9
            assert chain[-1].result(DEADLINE_S) == 300
            counts = client.stats().counts
            assert (counts.succeeded, counts.unfinished, counts.cancelled) == (8 * 25 + 1 + 301, 0, 0)
