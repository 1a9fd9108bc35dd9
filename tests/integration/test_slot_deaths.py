"""Slots that die in the moment in which they are given work: nothing of it is lost, and the right task is blamed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from dtq.errors import WorkerBroken
from dtq.model import pages
from dtq.model.messages import Failed, Failure, Grant
from dtq.model.options import Function, Options, Spec
from dtq.model.states import Outcome
from dtq.model.wire import codec
from dtq.worker.child import Child
from dtq.worker.chunks import Chunk
from dtq.worker.forking import ForkServer
from dtq.worker.program import Program
from dtq.worker.slot_exit import SlotExit
from dtq.worker.supervisor import Supervisor
from dtq.worker.terms import SlotTerms, WorkerTerms
from tests.cluster import TASKS, until
from tests.integration.forks import fork_server

TERMS = SlotTerms(worker="w", paths=(str(TASKS),))


def a_chunk(token: int, function: str, *arguments: object) -> Chunk:
    spec = Spec(function=Function(name=f"work:{function}"), options=Options())
    grant = Grant(
        token=token, batch=token, lo=0, hi=1, single=True, attempt=1, spec=token,
        arguments=pages.pack([pickle.dumps(arguments)]),
    )  # fmt: skip
    return Chunk(grant, spec, 0.0)


def see_dead(pid: int) -> None:
    """Wait until a child of ours has died, and leave its exit to be collected."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def close(child: Child) -> SlotExit:
    """See a slot's end, and let go of it."""
    remains = child.collect()
    child.let_go()
    return remains


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """A supervisor whose loop is turned by the test."""
    supervisor = Supervisor(WorkerTerms(slots=1, slot=TERMS))
    supervisor._pool.spawn(1)
    yield supervisor
    supervisor._close()


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with fork_server(TERMS) as made:
        yield made


@pytest.fixture
def forking(forks: ForkServer) -> Iterator[Supervisor]:
    """The same, with slots that are ready at once."""
    supervisor = Supervisor(WorkerTerms(slots=1, slot=TERMS), forks)
    supervisor._pool.spawn(1)
    yield supervisor
    supervisor._close()


def turn_until(supervisor: Supervisor, seen: str) -> Child:
    """Turn the loop until the only slot is as described."""

    def look() -> Child | None:
        supervisor.wake()
        supervisor._turn()
        children = [child for child in supervisor._children if getattr(child, seen)]
        return children[0] if children else None

    return until(look, f"a slot that is {seen}", lambda: supervisor._children)


def test_dead_slot_that_is_sent_a_lease_does_not_have_it() -> None:
    # Given a slot that has died, and nobody has seen it yet
    child = Child(1, TERMS)
    os.kill(child.pid, signal.SIGKILL)
    see_dead(child.pid)
    chunk = a_chunk(1, "add", 1, 2)
    # When it is sent a lease
    with pytest.raises(OSError):
        child.send(chunk, chunk.spec, time.monotonic())
    # Then the lease can be sent to another
    assert (list(child.chunks), chunk.serial) == ([], -1)
    close(child)


def test_slot_whose_warden_is_stopped_is_killed_all_the_same() -> None:
    # Given a slot that runs, and a reaper that somebody has stopped
    child = Child(1, TERMS)
    until(lambda: child.channel.gather().messages, "the slot to be ready")
    slots = psutil.Process(child.pid).children()
    os.kill(child.pid, signal.SIGSTOP)
    # When it is killed
    child.kill()
    # Then both are gone
    until(child.exited, "the reaper to end")
    assert close(child).code == -signal.SIGKILL
    assert not any(slot.is_running() for slot in slots)


def test_worker_that_can_start_no_process_tries_again_and_gives_up(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 27: the machine has no processes left: it is tried again, nothing leaks, and after ten times it is enough."""
    slot = turn_until(supervisor, "idle")
    before = len(os.listdir("/proc/self/fd"))

    def refuse(*args: object, **kwargs: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("dtq.worker.respawns.RESPAWN_S", (0.0, 0.0))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    # When a slot dies, and none can take its place
    os.kill(slot.pid, signal.SIGKILL)

    def given_up() -> bool:
        supervisor.wake()
        supervisor._turn()
        return supervisor.lifecycle.fatal is not None

    until(given_up, "the worker to give up", lambda: supervisor._children)
    # Then it says so, and what the dead slot had open is closed
    assert isinstance(supervisor.lifecycle.fatal, WorkerBroken)
    assert len(os.listdir("/proc/self/fd")) == before - 4


def test_slot_ends_with_its_warden() -> None:
    child = Child(1, TERMS)
    until(lambda: child.channel.gather().messages, "the slot to be ready")
    slots = psutil.Process(child.pid).children()
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: not any(slot.is_running() for slot in slots), "the slot to end")
    remains = close(child)
    assert (remains.code, remains.peak_memory) == (-signal.SIGKILL, None)


def turn_until_settled(supervisor: Supervisor, token: int) -> None:
    """Turn the loop until a lease was run, or was given back because nobody could run it soon."""
    box = supervisor.holdings.outbox

    def look() -> list[int]:
        supervisor.wake()
        supervisor._turn()
        return [said.token for said in (*box.succeeded, *box.released) if said.token == token]

    until(look, "the lease to be run or given back", lambda: box)


def test_lease_for_a_slot_that_just_died_is_not_lost(supervisor: Supervisor) -> None:
    # Given an idle slot that has died, and a worker that has not seen it yet
    slot = turn_until(supervisor, "idle")
    os.kill(slot.pid, signal.SIGKILL)
    see_dead(slot.pid)
    # When a lease arrives
    chunk = a_chunk(1, "add", 1, 2)
    with supervisor.lock:
        supervisor.leases.granted([(chunk.grant, chunk.spec)])
    # Then the slot that replaces the dead one runs it, or it is given back, and nobody is blamed
    turn_until_settled(supervisor, 1)
    turn_until(supervisor, "idle")
    assert supervisor.holdings.outbox.failed == []


def test_task_that_kills_its_slot_is_blamed_also_when_more_work_finds_it_dead(supervisor: Supervisor) -> None:
    # Given a task that has ended its slot, unseen
    slot = turn_until(supervisor, "idle")
    poison, innocent = a_chunk(1, "leave", 9), a_chunk(2, "add", 1, 2)
    with supervisor.lock:
        supervisor.leases.granted([(poison.grant, poison.spec)])
    see_dead(slot.pid)
    # When the supervisor tries to put another one behind it
    with supervisor.lock:
        supervisor.holdings.add(innocent)
        supervisor._dispatch.waiting.append(innocent)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(supervisor._dispatch, "_nearly_idle", lambda chunk, now: slot if slot.usable else None)
            supervisor._dispatch.assign(0.0)
    # Then the poison is blamed with its exit code, and the other one is not
    turn_until_settled(supervisor, 2)
    turn_until(supervisor, "idle")
    (failed,) = supervisor.holdings.outbox.failed
    assert isinstance(failed, Failed)
    assert (failed.token, failed.outcome, failed.failure.exit_code) == (1, Outcome.CRASHED, 9)


def slot_of(child: Child) -> psutil.Process:
    """The slot's own process."""
    (slot,) = psutil.Process(child.pid).children()
    return slot


@pytest.mark.parametrize("size", [10, 6 << 20], ids=["small", "large"])
def test_slot_that_does_not_read_holds_nobody_up(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A stopped slot is sent a lease, however large: nothing waits, the slot is replaced, and nobody is blamed."""
    child = turn_until(supervisor, "idle")
    slot = slot_of(child)
    slot.suspend()
    # When it is sent a lease
    chunk = a_chunk(1, "echo", b"x" * size)
    begun = time.thread_time()
    with supervisor.lock:
        supervisor.leases.granted([(chunk.grant, chunk.spec)])
    # Then that is done at once, and the loop turns
    assert child.channel.unsent is (size > 1 << 20)
    monkeypatch.setattr("dtq.worker.child.START_TIMEOUT_S", 0.2)
    turn_until_settled(supervisor, 1)
    assert time.thread_time() - begun < 5, "it waited by turning"
    assert supervisor.holdings.outbox.failed == []
    assert [said.token for said in supervisor.holdings.outbox.released] == [1]
    turn_until(supervisor, "idle")
    assert not slot.is_running()


def test_lease_that_does_not_fit_into_the_pipe_arrives_whole(supervisor: Supervisor) -> None:
    turn_until(supervisor, "idle")
    chunk = a_chunk(1, "echo", b"x" * (6 << 20))
    with supervisor.lock:
        supervisor.leases.granted([(chunk.grant, chunk.spec)])
    turn_until_settled(supervisor, 1)
    (succeeded,) = supervisor.holdings.outbox.succeeded
    assert len(succeeded.results) > 6 << 20


def test_greeting_that_does_not_fit_into_the_pipe_is_no_matter() -> None:
    # Given a worker with a program of 6 MB, which every slot is sent
    program = Program(handlers=(("large", pickle.dumps(b"x" * (6 << 20))),))
    supervisor = Supervisor(WorkerTerms(slots=1, slot=replace(TERMS, program=program)))
    supervisor._pool.spawn(1)
    try:
        turn_until(supervisor, "ready")
    finally:
        supervisor._close()


def text(number: int) -> str:
    """A text of so many bytes."""
    return "x" * number


LIES: dict[str, tuple[object, ...]] = {
    "no kind": (),
    "an unknown kind": ("gone",),
    "a kind that is a number": (7, 1),
    "too few fields": ("returned", 1),
    "a text for a number": ("returned", "1", 0, pages.pack([b""]), 0.0, 0),
    "no time": ("returned", 1, 0, pages.pack([b""]), float("nan"), 0),
    "endless time": ("returned", 1, 0, pages.pack([b""]), float("inf"), 0),
    "more memory than there is": ("returned", 1, 0, pages.pack([b""]), 0.0, 1 << 51),
    "another lease": ("returned", 2, 0, pages.pack([b""]), 0.0, 0),
    "another lease's exception": ("raised", 2, 0, 0.0, codec(Failure).plain(Failure(message="x"))),
    "a task before": ("returned", 1, -1, pages.pack([b""]), 0.0, 0),
    "more than there is": ("returned", 1, 0, pages.pack([b""] * 2), 0.0, 0),
    "no results": ("returned", 1, 0, pages.pack([]), 0.0, 0),
    "no page": ("returned", 1, 0, b"\0\0\0\1", 0.0, 0),
    "a page that does not add up": ("returned", 1, 0, b"\0\0\0\1\7\0\0\0x", 0.0, 0),
    "a task that does not run": ("raised", 1, 3, 0.0, codec(Failure).plain(Failure(message="x"))),
    "a long message": ("raised", 1, 0, 0.0, codec(Failure).plain(Failure(message=text(1 << 20)))),
    "a long name": ("raised", 1, 0, 0.0, codec(Failure).plain(Failure(exception=text(20 << 20)))),
    "surrogates": ("raised", 1, 0, 0.0, codec(Failure).plain(Failure(message="\ud800"))),
    "an exit code": ("raised", 1, 0, 0.0, codec(Failure).plain(Failure(exit_code=0))),
    "a stop that nobody asked for": ("stopped", 1, 0),
    "progress without an end": ("advanced", 1, 0, float("inf"), 1.0),
    "progress that is none": ("advanced", 1, 0, float("nan"), 1.0),
    "long traces": ("changed", 1, text(1 << 20)),
    "a long farewell": ("leaving", 1, text(1 << 20)),
    "readiness, again": ("ready", 1),
    "what is said at the start": ("unusable", "x", ("a", "b", "c", "d", "e")),
    "a failed initializer": ("uninitialized", "x", "y"),
}


@pytest.mark.parametrize("lie", LIES)
def test_slot_that_says_what_cannot_be_is_killed_and_its_task_blamed(forking: Supervisor, lie: str) -> None:
    supervisor = forking
    # Given a slot that runs a task
    child = turn_until(supervisor, "idle")
    chunk = a_chunk(1, "nap", 60)
    with supervisor.lock:
        supervisor.leases.granted([(chunk.grant, chunk.spec)])

    def running() -> bool:
        supervisor.wake()
        supervisor._turn()
        return child.running() is not None

    until(running, "the task to run")
    # When something comes out of its pipe that cannot be true
    with supervisor.lock:
        supervisor._messages.take(child, [LIES[lie]], "", time.monotonic())
    # Then it is killed, and the task is blamed
    turn_until(supervisor, "idle")
    (failed,) = supervisor.holdings.outbox.failed
    assert (failed.token, failed.outcome) == (1, Outcome.CRASHED)
    assert failed.failure.message.startswith("it wrote over what its slot and the worker share")
    assert supervisor.lifecycle.fatal is None
    assert supervisor.holdings.outbox.succeeded == []


@pytest.mark.parametrize("seconds", [-1.0, 1e308])
def test_time_that_cannot_be_is_not_believed(forking: Supervisor, seconds: float) -> None:
    supervisor = forking
    child = turn_until(supervisor, "idle")
    chunk = a_chunk(1, "nap", 60)
    with supervisor.lock:
        supervisor.leases.granted([(chunk.grant, chunk.spec)])
        supervisor._messages.take(
            child, [("returned", 1, 0, pages.pack([b""]), seconds, 1 << 20)], "", time.monotonic()
        )
    (succeeded,) = supervisor.holdings.outbox.succeeded
    assert 0 <= succeeded.seconds < 60
    assert succeeded.peak_memory == 1 << 20
