"""What tasks print, from the slot to `dtq logs`."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq import AsyncClient, Client, TaskCrashed
from tests.cluster import Cluster, until
from tests.tasks import printing_work

DEADLINE_S = 30.0
KEPT = 4096


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), memory=True) as made:
        made.coordinator()
        made.worker("--keep-output", str(KEPT), "--name", "w1")
        yield made


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address, authkey_file=cluster.key_file) as made:
        yield made


def test_output_of_tiny_tasks_in_shared_leases_is_each_tasks_own(client: Client) -> None:
    # Given so many tasks that a lease has many of them, of which every third prints
    batch = client.submit_map(printing_work.say_once_in, range(3000), [3] * 3000)
    assert list(batch.results()) == list(range(3000))
    # Then
    for index in (0, 1, 2, 3, 1497, 1498, 2996, 2997, 2999):
        assert batch.task(index).output() == ("" if index % 3 else f"I am {index}\n"), index


def test_command_shows_the_tasks_of_a_batch_that_printed(client: Client, cluster: Cluster) -> None:
    batch = client.submit_map(printing_work.say_once_in, range(7), [3] * 7)
    list(batch.results())
    number = batch.id
    shown = cluster.command("logs", number)
    assert shown.stdout == "".join([f"==> {number}.{n} <==\nI am {n}\n" for n in (0, 3, 6)])
    assert cluster.command("logs", f"{number}.1-4", "--raw").stdout == "I am 3\n"
    told = [json.loads(line) for line in cluster.command("logs", number, "--json").stdout.splitlines()]
    assert [(each["id"], each["output"]) for each in told] == [(f"{number}.{n}", f"I am {n}\n") for n in (0, 3, 6)]
    refused = cluster.command("logs", "-f", number)
    assert refused.stderr == f"dtq: a task to follow cannot be '{number}': it names 7; name one of them.\n"


def test_raw_output_without_its_middle_does_not_pass_for_all_of_it(client: Client, cluster: Cluster) -> None:
    # Given a task that prints more than the 4 KiB that the worker keeps
    handle = client.submit("builtins:print", "x" * 100_000)
    handle.result(60)
    # When it is shown byte by byte, then the bytes are on standard output, and a remark beside them
    shown = cluster.command("logs", handle.id, "--raw")
    assert len(shown.stdout) == 4096
    assert shown.stderr == "dtq: 95,905 bytes of output are left out before what follows\n"


def test_output_of_programs_and_of_forked_children_is_their_tasks(client: Client) -> None:
    handle = client.submit(printing_work.say_fork_and_child, "said")
    handle.result(DEADLINE_S)
    assert handle.output() == "said itself\nsaid by a program\nsaid by a child\n"


def test_output_into_a_file_is_as_the_task_wrote_it(client: Client) -> None:
    handle = client.submit(printing_work.redirected, "mine")
    assert handle.result(DEADLINE_S) == "mine\n"
    assert handle.output() == ""


def test_output_is_followed_while_the_task_runs(client: Client, tmp_path: Path) -> None:
    # Given a follower of a task
    go = tmp_path / "go"
    handle = client.submit(printing_work.say_until, str(go), "first", "last")
    pieces = handle.follow_output()
    # When it has said one thing, Then that is here, and the task runs
    assert next(pieces) == "first\n"
    assert not handle.done()
    assert handle.output() == "first\n"
    # When it goes on, Then the rest comes, and the end
    go.touch()
    assert "".join(pieces) == "last\n"
    handle.result(DEADLINE_S)


def test_coroutines_follow_likewise(cluster: Cluster, tmp_path: Path) -> None:
    async def follow() -> list[str]:
        go = tmp_path / "go"
        async with AsyncClient(cluster.address, authkey_file=cluster.key_file) as client:
            handle = await client.submit(printing_work.say_until, str(go), "first", "last")
            pieces = []
            async for piece in handle.follow_output():
                pieces.append(piece)
                go.touch()
            assert await handle.output() == "".join(pieces)
            return pieces

    assert asyncio.run(asyncio.wait_for(follow(), DEADLINE_S)) == ["first\n", "last\n"]


def test_each_attempt_is_shown_and_followed(client: Client, cluster: Cluster, tmp_path: Path) -> None:
    handle = client.submit(printing_work.fail_at_first, str(tmp_path), retry_delay=0.1)
    assert "".join(handle.follow_output()) == "try 1\ntry 2\n"
    assert [handle.output(n) for n in (None, 1, 2)] == ["try 2\n", "try 1\n", "try 2\n"]
    assert handle.status().history[0].failure.output == "try 1\n"
    shown = cluster.command("logs", "-f", handle.id, "--attempt", "1")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "try 1\n", "")
    refused = cluster.command("logs", handle.id, "--attempt", "3")
    assert refused.stderr == "dtq: an attempt cannot be 3: the task has ended after 2.\n"


def test_flood_keeps_its_two_ends_and_says_how_much_is_left_out(client: Client) -> None:
    handle = client.submit(printing_work.flood, 100_000)
    handle.result(DEADLINE_S)
    text = handle.output()
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == ("line 0", "line 99999")
    assert KEPT - 100 < len(text) < KEPT + 100
    (gap,) = [line for line in lines if "left out" in line]
    whole = sum(len(f"line {n}\n") for n in range(100_000))
    left_out = int(gap.split()[1].replace(",", ""))
    assert left_out == whole - (len(text) - len(f"\n{gap}\n"))


@pytest.mark.parametrize("data", [bytes(range(256)) * 4, b"x" * 3000, b"caf\xe9 \xff", b"\0\xf5dtq", b""])
def test_bytes_come_back_as_they_were(client: Client, cluster: Cluster, data: bytes) -> None:
    handle = client.submit(printing_work.write, data)
    handle.result(DEADLINE_S)
    batch = int(handle.id)
    assert client._core.output(batch, 0, 0, 0, 0.0).data == data
    assert handle.output() == data.decode("utf-8", "replace")


def test_last_words_of_a_killed_slot_are_kept(client: Client) -> None:
    handle = client.submit(printing_work.say_and_die, "last words", max_crashes=1)
    with pytest.raises(TaskCrashed):
        handle.result(DEADLINE_S)
    assert handle.output() == "last words"


def test_what_a_process_prints_after_its_tasks_end_is_not_its_output(cluster: Cluster, tmp_path: Path) -> None:
    with Cluster(tmp_path, memory=True) as own:
        own.coordinator()
        worker = own.worker("--keep-processes", slots=1)
        with Client(own.address, authkey_file=own.key_file) as client:
            go = tmp_path / "go"
            handle = client.submit(printing_work.leave_behind, str(go))
            handle.result(DEADLINE_S)
            go.touch()
            worker.await_line("too late")
            assert handle.output() == "in time\n"
            after = client.submit(printing_work.say, "the next")
            after.result(DEADLINE_S)
            assert after.output() == "the next\n"


def test_command_escapes_what_drives_a_terminal_and_shows_the_end_of_a_progress_bar(
    client: Client, cluster: Cluster
) -> None:
    handle = client.submit(printing_work.write, "\x1b[31mred \u202e\r\n10%\r20%\r\r30%\nend".encode())
    handle.result(DEADLINE_S)
    shown = cluster.command("logs", handle.id)
    assert shown.stdout == "\\u001b[31mred \\u202e\n30%\nend\n"
    assert cluster.command("logs", handle.id, "--tail", "1").stdout == "end\n"
    (document,) = map(json.loads, cluster.command("logs", handle.id, "--json").stdout.splitlines())
    assert document["output"].startswith("\x1b[31mred")
    assert (document["attempt"], document["state"], document["left_out"], document["over"]) == (1, "succeeded", 0, True)
    assert cluster.command("logs", "999999").returncode == cluster.command("status", "999999").returncode


def test_followers_outlive_a_coordinator_and_a_worker_that_keeps_nothing_has_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path) as own:
        coordinator = own.coordinator()
        own.worker("--queue", "kept", slots=1)
        own.worker("--queue", "silent", "--keep-output", "0", slots=1)
        with Client(own.address, authkey_file=own.key_file) as client:
            # Given a task that is followed, and one on a worker that keeps nothing
            go = tmp_path / "go"
            handle = client.submit(printing_work.say_until, str(go), "first", "last", queue="kept")
            silent = client.submit(printing_work.say, "unheard", queue="silent")
            silent.result(DEADLINE_S)
            pieces = handle.follow_output()
            assert next(pieces) == "first\n"
            # When the coordinator is killed, and comes back
            coordinator.signal(signal.SIGKILL)
            coordinator.popen.wait()
            own.coordinator()
            until(lambda: client.status(handle.id).worker, "the worker to claim its task")
            go.touch()
            # Then the follower misses nothing
            assert "".join(pieces) == "last\n"
            assert handle.output() == "first\nlast\n"
            assert silent.output() == ""
