"""Large arguments and results on the way over connections: what is killed, cut off or slow meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dtq.client.sync import Client
from dtq.errors import DtqError, Unreachable
from dtq.model.values import CHUNK
from dtq.transport.connection import Connection
from tests.cluster import DEADLINE_S, TASKS, Cluster, Process, until

sys.path.append(str(TASKS))

import work

#: A value of several pieces.
SIZE = 5 * CHUNK + 12_345


class Scene:
    """A coordinator with a store and a worker, and a client that has values travel over the connection."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        self.coordinator: Process = cluster.coordinator()
        cluster.worker(slots=1)
        monkeypatch.setenv("DTQ_BY_REFERENCE", "no")
        self.client = Client(cluster.address, authkey_file=cluster.key_file, timeout=DEADLINE_S)
        self.client.submit(work.echo, 1).result(DEADLINE_S)

    def restart(self) -> None:
        """Kill the coordinator, and start it again on the same store."""
        self.coordinator.kill()
        self.coordinator = self.cluster.coordinator()

    @property
    def up(self) -> Any:
        """What makes the client's calls that write values."""
        return self.client._core._values._up

    @property
    def down(self) -> Any:
        """What makes those that read them."""
        return self.client._core._values._down


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with Cluster(tmp_path) as cluster:
        scene = Scene(cluster, monkeypatch)
        assert not scene.client._core._values.local
        yield scene
        scene.client.close()


def once_before(target: Any, name: str, nth: int, act: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Do something before the nth call of a method, once."""
    method, count = getattr(target, name), 0

    def calling(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            act()
        return method(*args, **kwargs)

    patch.setattr(target, name, calling)


@pytest.mark.parametrize("nth", [1, 3, 5, 6])
def test_coordinator_killed_in_the_middle_of_a_value(scene: Scene, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces were sent then of which it is not known whether they have arrived, or none."""
    data = os.urandom(SIZE)
    once_before(Connection, "send_around", nth, scene.restart, monkeypatch)

    assert scene.client.submit(work.echo, data).result(DEADLINE_S) == data


def test_coordinator_killed_between_a_value_and_its_submission(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(SIZE)
    once_before(scene.client._core.outbox, "put", 1, scene.restart, monkeypatch)

    assert scene.client.submit(work.echo, data).result(DEADLINE_S) == data


def test_coordinator_killed_between_a_submission_and_its_receipt(scene: Scene) -> None:
    # Given a submission that is accepted, but whose answer is lost with the coordinator
    data = os.urandom(SIZE)
    link = scene.client._core.sender.link
    submit, lost = link.service.submit, []

    def losing(*args: Any) -> Any:
        receipts = submit(*args)
        if not lost:
            lost.append(receipts)
            scene.restart()
            raise Unreachable("the coordinator", "it was killed")
        return receipts

    link.service.submit = losing  # type: ignore[method-assign]

    # Then it is one task, and has its value
    assert scene.client.submit(work.echo, data).result(DEADLINE_S) == data
    assert lost
    assert scene.client.stats().submitted == 2


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_coordinator_killed_while_a_result_is_read(scene: Scene, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(SIZE)
    once_before(Connection, "_place", nth, scene.restart, monkeypatch)

    assert scene.client.submit(work.echo, data).result(DEADLINE_S) == data


def test_a_queue_in_memory_that_begins_anew_has_another_place(tmp_path: Path) -> None:
    # Given a client and a worker on the machine of a coordinator without a store
    with Cluster(tmp_path, memory=True) as cluster:
        coordinator = cluster.coordinator()
        cluster.worker(slots=1)
        data = os.urandom(SIZE)
        with Client(cluster.address, authkey_file=cluster.key_file, timeout=DEADLINE_S) as client:
            assert client.submit(work.echo, data).result(DEADLINE_S) == data
            # When it is killed, and another one begins
            coordinator.kill()
            cluster.coordinator()
            # Then large values go by its files, there and back
            assert client.submit(work.echo, 1).result(DEADLINE_S) == 1
            assert client.submit(work.echo, data).result(DEADLINE_S) == data
            assert client._core._values.local


def test_client_killed_in_the_middle_of_a_value(scene: Scene) -> None:
    # Given a client that is killed after some pieces
    code = (
        "import os, signal, work, dtq\n"
        "from dtq.transport.connection import Connection\n"
        "client = dtq.Client()\n"
        "client.submit(work.echo, 1).accepted()\n"
        "send, count = Connection.send_around, [0]\n"
        "def dying(*args):\n"
        "    send(*args)\n"
        "    count[0] += 1\n"
        "    if count[0] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Connection.send_around = dying\n"
        f"client.submit(work.echo, os.urandom({SIZE}))\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(TASKS),
        "DTQ_ADDRESS": scene.cluster.address,
        "DTQ_AUTHKEY_FILE": str(scene.cluster.key_file),
        "DTQ_BY_REFERENCE": "no",
    }
    killed = subprocess.run([sys.executable, "-c", code], env=environment, timeout=DEADLINE_S, check=False)
    assert killed.returncode == -signal.SIGKILL

    # Then there is no task of it, and others go on, also after a restart
    data = os.urandom(SIZE)
    assert scene.client.submit(work.echo, data).result(DEADLINE_S) == data
    scene.restart()
    assert scene.client.submit(work.echo, data).result(DEADLINE_S) == data
    assert scene.client.stats().submitted == 4


def test_small_calls_pass_a_large_value_on_its_way(scene: Scene) -> None:
    """What is counted is how many pieces of the value pass while a small call is made, not the time that it takes."""
    # Given a value of 150 MB that is being written, and then read
    pieces = 0
    for line, name in ((scene.up, "write_values"), (scene.down, "read_values")):
        method = getattr(line, name)

        def counting(asked: Any, *args: Any, method: Any = method) -> Any:
            nonlocal pieces
            found = method(asked, *args)
            pieces += len(asked)
            return found

        setattr(line, name, counting)
    data = bytes(150_000_000)
    found: list[bytes] = []
    sending = threading.Thread(target=lambda: found.append(scene.client.submit(work.echo, data).result(4 * DEADLINE_S)))
    sending.start()
    until(lambda: pieces > 5, "the value to be on its way")

    # When small calls are made meanwhile
    passed: list[int] = []
    while sending.is_alive() and len(passed) < 200:
        before = pieces
        scene.client.stats()
        passed.append(pieces - before)
    sending.join(4 * DEADLINE_S)

    # Then each of them has passed nearly all of it
    assert found
    assert found[0] == data
    assert len(passed) >= 20
    assert sorted(passed)[len(passed) // 2] <= 30, passed
    assert max(passed) <= 75, passed


def test_readers_that_read_no_answer_hold_up_nobody(scene: Scene) -> None:
    # Given a value, and peers that ask for it again and again and take nothing
    value = scene.client._core._values
    draft = value.draft()
    draft.write(b"x" + os.urandom(CHUNK - 1))
    written = draft.finish()
    proxies = [scene.cluster.service() for _ in range(8)]
    for proxy in proxies:
        proxy.connect()
        connection: Any = proxy._connection
        for _ in range(20):
            connection.send(("read_value", (written.segment, written.offset, CHUNK)))

    # Then others are answered, and large results too
    data = os.urandom(SIZE)
    assert scene.client.submit(work.echo, data).result(DEADLINE_S) == data


def test_peers_cannot_write_or_name_what_is_not_theirs(scene: Scene) -> None:
    # Given the segment of a client's value, and a stranger
    values = scene.client._core._values
    draft = values.draft()
    draft.write(b"x" + os.urandom(199_999))
    value = draft.finish()
    stranger = scene.cluster.service()

    # Then whatever the stranger tries is refused, one by one
    for segment, offset, data in (
        (value.segment, value.offset, b"x"),
        (value.segment, value.end, b"x"),
        (value.segment, 0, b""),
        (value.segment, (1 << 63) - 1, b"x"),
        (1, 1 << 62, b"x"),
    ):
        if data:
            with pytest.raises(DtqError):
                stranger.write_value(segment, offset, data)
        else:
            stranger.write_value(segment, offset, data)  # says nothing of others' segments
    for arguments in ((value.segment, value.offset, CHUNK), (value.segment, 1 << 62, 1), (2, 0, 1)):
        with pytest.raises(DtqError):
            stranger.read_value(*arguments)
    for malformed in ((-1, 0, 1), (0, -1, 1), (0, 0, -1), (0, 0, CHUNK + 1), (1 << 64, 0, 1)):
        with pytest.raises(DtqError):
            stranger.read_value(*malformed)
    # And the client goes on with it
    draft = values.draft()
    draft.write(b"y" * 200_000)
    assert draft.finish().segment == value.segment
