"""`Service.arguments`: the arguments of tasks as they are stored, bounded, wherever their pages are."""

from __future__ import annotations

from dtq.model import pages
from dtq.model.inputs import elements_call
from dtq.model.messages import Conditions
from dtq.model.snapshots import TaskArguments
from tests.contracts.service_scene import House


def asked(house: House, *tasks: tuple[int, int], most: int = 1000) -> list[TaskArguments]:
    return house.client().service.arguments(list(tasks), most)


def test_arguments_of_tasks_in_any_state_are_answered_in_the_order_of_the_question(house: House) -> None:
    # Given tasks that wait, run, have succeeded and died
    client, hand = house.client(), house.worker()
    done = client.submit()
    hand.succeed(hand.fetch_one())
    dead = client.submit(max_retries=0)
    hand.fail(hand.fetch_one())
    many = client.submit(3)
    hand.fetch_one()

    # Then, also when they are no longer in memory
    for _ in range(2):
        found = asked(house, (many, 2), (done, 0), (dead, 0), (many, 0), (many, 3), (99, 0))
        assert [(one.batch, one.index, one.kept, one.blob, one.size) for one in found] == [
            (many, 2, True, b"2", 1),
            (done, 0, True, b"0", 1),
            (dead, 0, True, b"0", 1),
            (many, 0, True, b"0", 1),
            (many, 3, False, b"", 0),
            (99, 0, False, b"", 0),
        ]
        house.restart()


def test_no_more_of_them_is_answered_than_asked_for(house: House) -> None:
    number = house.client().submit(2, submission={"size": 100_000})

    (found,) = asked(house, (number, 1), most=10)
    assert (found.blob, found.size) == (b"1".ljust(10), 100_000)
    (found,) = asked(house, (number, 1), most=1 << 20)
    assert (len(found.blob), found.size) == (64 << 10, 100_000)
    # and what does not fit into one answer is asked for again
    several = house.client().submit(300, submission={"size": 30_000})
    found_first = asked(house, *[(several, index) for index in range(300)], most=1 << 20)
    assert 0 < len(found_first) < 300


def test_results_that_a_task_is_given_are_named(house: House) -> None:
    # Given parents of one task and of two, and tasks after them, together, one by one, and each for itself
    client = house.client()
    alone, pair = client.submit(), client.submit(2)
    after = ((alone, 0, 1, True), (pair, 1, 2, True), (pair, 0, 0, True), (pair, 0, 1, False))
    waits = client.submit(submission={"conditions": Conditions(after=after)})
    each = client.submit(
        submission={"arguments": pages.pack(()), "conditions": Conditions(each=((pair, False), (pair, True)))}
    )
    own = client.submit(2, submission={"items": ((1, ((alone, 0, 1, True),)),)})

    # Then
    for _ in range(2):
        found = asked(house, (waits, 0), (each, 1), (own, 0), (own, 1))
        assert [one.given for one in found] == [
            (f"result of {alone}", f"result of {pair}.1", f"results of {pair}"),
            (f"result of {pair}.1", f"result of {pair}.1"),
            (),
            (f"result of {alone}",),
        ]
        assert found[1].blob == elements_call([False, True])
        assert all(one.kept for one in found)
        house.restart()


def test_so_many_results_are_named_and_no_more(house: House) -> None:
    client = house.client()
    parents = client.submit(100)
    after = tuple((parents, index, index + 1, True) for index in range(100))
    waits = client.submit(submission={"conditions": Conditions(after=after)})

    found = asked(house, *[(waits, 0)] * 60)

    assert [len(one.given) for one in found] == [50] * 40 + [0] * 20
    assert found[0].given[:2] == (f"result of {parents}.0", f"result of {parents}.1")
