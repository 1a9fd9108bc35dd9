"""Tasks that a slot runs one behind the other, each with the result of the one before; and what becomes of those behind
one that has no result to hand on."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from dtq.client.parents import input_of
from dtq.client.payloads import decode_result
from dtq.model import pages
from dtq.model.inputs import PREVIOUS, with_inputs
from dtq.model.messages import Failed, Grant, Succeeded
from dtq.model.options import Function, Options, Spec
from dtq.model.states import Outcome
from dtq.worker.reports import KEPT_RESULTS, MAX_KEPT
from dtq.worker.supervisor import Supervisor
from dtq.worker.terms import SlotTerms, WorkerTerms
from tests.cluster import TASKS, until
from tests.integration.forks import fork_server

FUNCTIONS = ("add", "echo", "fail", "grown", "kill_self", "leave", "nap")
TERMS = SlotTerms(worker="w", paths=(str(TASKS),))


def spec(name: str) -> Spec:
    return Spec(function=Function(name=f"work:{name}"), options=Options())


class Given:
    """Stands for the result of the task before."""

    def __reduce__(self) -> tuple[Any, ...]:
        return input_of, (0, False)


class Scene:
    """A supervisor with one slot, whose loop is turned by the test; and a chain that it is given."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.token = 0
        self.until(lambda: any(child.ready for child in supervisor._children), "the slot to be ready")

    def until(self, seen: Any, what: str) -> None:
        def look() -> object:
            self.supervisor.wake()
            self.supervisor._turn()
            return seen()

        until(look, what, lambda: (self.supervisor._children, list(self.supervisor.holdings.outbox)))

    def give(self, *calls: tuple[Any, ...], behind: int = 0) -> list[int]:
        """Leases, each behind the one before: of each its function and its arguments. Their tokens."""
        granted = []
        for name, *arguments in calls:
            self.token += 1
            blob = pickle.dumps(tuple(arguments))
            if behind:
                blob = with_inputs(blob, [PREVIOUS])
            grant = Grant(
                token=self.token,
                batch=self.token,
                lo=0,
                hi=1,
                single=True,
                attempt=1,
                spec=1 + FUNCTIONS.index(name),
                arguments=pages.pack([blob]),
                behind=behind,
            )
            granted.append((grant, spec(name)))
            behind = self.token
        with self.supervisor.lock:
            self.supervisor.leases.granted(granted)
        return [grant.token for grant, _ in granted]

    def outcomes(self, tokens: list[int]) -> list[object]:
        """What becomes of leases: a result, how an attempt has ended, or None where it goes back unstarted."""
        self.until(lambda: {o.token for o in self.supervisor.holdings.outbox} >= set(tokens), "all outcomes")
        with self.supervisor.lock:
            said = {outcome.token: outcome for outcome in self.supervisor.holdings.take(1 << 20, 1 << 20)}
            self.supervisor.holdings.acknowledged()
        found: list[object] = []
        for token in tokens:
            outcome = said[token]
            if isinstance(outcome, Succeeded):
                (blob,) = pages.unpack(outcome.results)
                found.append(decode_result(blob))
            else:
                found.append(outcome.outcome if isinstance(outcome, Failed) else None)
                assert isinstance(outcome, Failed) or outcome.started == 0
        return found


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with fork_server(TERMS) as forks:
        supervisor = Supervisor(WorkerTerms(slots=1, slot=TERMS), forks)
        supervisor._pool.spawn(1)
        yield Scene(supervisor)
        supervisor._close()


def test_chain_runs_each_task_with_the_result_of_the_one_before(scene: Scene) -> None:
    tokens = scene.give(("add", 0, 1), *[("add", Given(), 1)] * 50)
    more = scene.give(("echo", None), behind=tokens[-1])  # which is given nothing, and waits all the same
    more += scene.give(("echo", (Given(), Given())), behind=more[-1])

    assert scene.outcomes([*tokens, *more]) == [*range(1, 52), None, (None, None)]


def test_chains_go_on_behind_tasks_that_have_ended_whatever_has_run_meanwhile(scene: Scene) -> None:
    first, other = scene.give(("add", 1, 1)) + scene.give(("add", 10, 10))
    assert scene.outcomes([first, other]) == [2, 20]

    second = scene.give(("add", Given(), 1), ("add", Given(), 1), behind=first)
    third = scene.give(("add", Given(), 1), behind=other)
    assert scene.outcomes([*second, *third]) == [3, 4, 21]


def test_task_goes_back_whose_slot_never_had_or_no_longer_has_what_it_is_given(scene: Scene) -> None:
    (first,) = scene.give(("add", 1, 1))
    assert scene.outcomes([first]) == [2]
    scene.outcomes(scene.give(*[("echo", None)] * KEPT_RESULTS))

    assert scene.outcomes(scene.give(("add", Given(), 1), behind=first)) == [None]
    assert scene.outcomes(scene.give(("add", Given(), 1), behind=12345)) == [None]


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (("fail", "no"), Outcome.FAILED),
        (("leave", 3), Outcome.CRASHED),
        (("kill_self",), Outcome.CRASHED),
        (("grown", b"x", MAX_KEPT), b"x" * MAX_KEPT),
    ],
    ids=["raises", "exits", "is killed", "returns what is large"],
)
def test_what_is_behind_a_task_without_a_result_to_hand_on_goes_back(
    scene: Scene, call: tuple[Any, ...], outcome: object
) -> None:
    tokens = scene.give(("add", 1, 1), call, ("echo", Given()), ("echo", Given()))

    assert scene.outcomes(tokens) == [2, outcome, None, None]
    scene.until(lambda: any(child.idle for child in scene.supervisor._children), "a slot that is idle")
    assert scene.outcomes(scene.give(("add", 1, 1), ("add", Given(), 1))) == [2, 3]


def test_result_that_is_handed_on_is_that_of_the_last_task_and_of_no_other(scene: Scene) -> None:
    """A lease of several tasks may be down to its last one when something is granted behind it."""
    for last, outcome in (((3, 3), 7), (("no", 1), None)):
        scene.token += 1
        grant = Grant(
            token=scene.token,
            batch=scene.token,
            lo=0,
            hi=3,
            single=False,
            attempt=1,
            spec=1,
            arguments=pages.pack([pickle.dumps(call) for call in ((1, 1), (2, 2), last)]),
        )
        with scene.supervisor.lock:
            scene.supervisor.leases.granted([(grant, spec("add"))])
        assert scene.outcomes(scene.give(("add", Given(), 1), behind=grant.token)) == [outcome]


def test_nothing_waits_behind_a_task_that_takes_long(scene: Scene) -> None:
    tokens = scene.give(("nap", 1.0), ("echo", Given()), ("echo", Given()))

    assert scene.outcomes(tokens[1:]) == [None, None]
    assert scene.outcomes(tokens[:1]) == [1.0]
