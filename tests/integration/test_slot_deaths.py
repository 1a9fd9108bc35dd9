"""Slots that die in the moment in which they are given work: nothing of it is lost, and the right task is blamed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest

from dtq.errors import WorkerBroken
from dtq.model import pages
from dtq.model.messages import Failed, Grant
from dtq.model.options import Function, Options, Spec
from dtq.model.states import Outcome
from dtq.worker.child import Child
from dtq.worker.chunks import Chunk
from dtq.worker.supervisor import Supervisor
from dtq.worker.terms import SlotTerms, WorkerTerms
from tests.cluster import TASKS, until

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


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """A supervisor whose loop is turned by the test."""
    supervisor = Supervisor(WorkerTerms(slots=1, slot=TERMS))
    supervisor._spawn(1)
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
        child.send(chunk, chunk.spec)
    # Then the lease can be sent to another
    assert (list(child.chunks), chunk.serial) == ([], -1)
    child.close()


def test_slot_whose_warden_is_stopped_is_killed_all_the_same() -> None:
    # Given a slot that runs, and a warden that somebody has stopped
    child = Child(1, TERMS)
    until(lambda: child.channel.gather()[0], "the slot to be ready")
    slots = psutil.Process(child.pid).children()
    os.kill(child.pid, signal.SIGSTOP)
    # When it is killed
    child.kill()
    # Then both are gone
    until(child.exited, "the warden to end")
    assert child.close().code == -signal.SIGKILL
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
        return supervisor.fatal is not None

    until(given_up, "the worker to give up", lambda: supervisor._children)
    # Then it says so, and what the dead slot had open is closed
    assert isinstance(supervisor.fatal, WorkerBroken)
    assert len(os.listdir("/proc/self/fd")) == before - 3


def test_slot_ends_with_its_warden() -> None:
    child = Child(1, TERMS)
    until(lambda: child.channel.gather()[0], "the slot to be ready")
    slots = psutil.Process(child.pid).children()
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: not any(slot.is_running() for slot in slots), "the slot to end")
    remains = child.close()
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
        supervisor.granted([(chunk.grant, chunk.spec)])
    # Then the slot that replaces the dead one runs it, or it is given back, and nobody is blamed
    turn_until_settled(supervisor, 1)
    turn_until(supervisor, "idle")
    assert supervisor.holdings.outbox.failed == []


def test_task_that_kills_its_slot_is_blamed_also_when_more_work_finds_it_dead(supervisor: Supervisor) -> None:
    # Given a task that has ended its slot, unseen
    slot = turn_until(supervisor, "idle")
    poison, innocent = a_chunk(1, "leave", 9), a_chunk(2, "add", 1, 2)
    with supervisor.lock:
        supervisor.granted([(poison.grant, poison.spec)])
    see_dead(slot.pid)
    # When the supervisor tries to put another one behind it
    with supervisor.lock:
        supervisor.holdings.add(innocent)
        supervisor._waiting.append(innocent)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(supervisor, "_nearly_idle", lambda chunk, now: slot if slot.usable else None)
            supervisor._assign(0.0)
    # Then the poison is blamed with its exit code, and the other one is not
    turn_until_settled(supervisor, 2)
    turn_until(supervisor, "idle")
    (failed,) = supervisor.holdings.outbox.failed
    assert isinstance(failed, Failed)
    assert (failed.token, failed.outcome, failed.failure.exit_code) == (1, Outcome.CRASHED, 9)
