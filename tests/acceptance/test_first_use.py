"""What somebody trips over who uses dtq for the first time."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.home import Home
from tests.cluster import DEADLINE_S, until


def test_a_task_that_fails_says_meanwhile_why(cluster: Home) -> None:
    done = cluster.dtq("submit", "--wait", "jobs:fail", "--max-retries", "1", "--retry-delay", "3s")
    assert (done.process.returncode, done.out) == (1, "")
    lines = done.err.splitlines()
    assert re.fullmatch(r"dtq: attempt 1 of task \d+ failed: ValueError: no; again in 3 s", lines[0]), done
    assert lines[1] == "Traceback (most recent call last):"
    assert re.fullmatch(r"dtq: task \d+ failed: ValueError: no", lines[-1]), done
    # And whoever asks for silence or JSON gets no more than the end of it
    for words in ("--quiet", "--json"):
        done = cluster.dtq("submit", "--wait", "jobs:fail", "--max-retries", "1", "--retry-delay", "1s", words)
        assert "attempt" not in done.err, done


def test_a_wrong_argument_shows_no_frame_of_dtq(cluster: Home) -> None:
    for words in (["math:sqrt", "abc"], ["jobs:add"]):
        done = cluster.dtq("submit", "--wait", *words, "--max-retries", "0")
        assert done.process.returncode == 1, done
        assert re.fullmatch(r"dtq: task \d+ failed: TypeError: .*\n", done.err), done


def test_a_death_is_told_once(cluster: Home) -> None:
    done = cluster.dtq("submit", "--wait", "os:_exit", "3", "--max-crashes", "1")
    sentence = re.fullmatch(
        r"dtq: task (\d+) went to the dead letters: its process ended with exit code 3\.\n", done.err
    )
    assert sentence, done
    assert cluster.dtq("status", sentence[1]).out.count("exit code 3") == 1


def test_a_run_of_a_list_is_known_by_its_id_everywhere(home: Home) -> None:
    # Given a batch whose tasks nobody runs yet, in one line of the list
    home.coordinator("--memory")
    (home.work / "lines").write_text("".join(f"{n}\n" for n in range(50)))
    batch = home.id("jobs:add", "--each", "lines")
    listed = home.dtq("list", "--quiet").out.strip()
    assert listed == f"{batch}.0-49"
    assert [task["id"] for task in home.data("list")["tasks"]] == [listed]
    assert home.dtq("status", listed, "-q").out == f"{listed} pending\n"
    # When a part of it is cancelled, Then the other part is run, waited for and read by its ids
    assert home.dtq("cancel", f"{batch}.3-49").out.startswith("47 tasks cancelled")
    home.worker()
    waited = home.dtq("wait", f"{batch}.0-2", f"{batch}.1-2")
    assert (waited.process.returncode, waited.out) == (0, f"{batch}.0-2  3 succeeded\n{batch}.1-2  2 succeeded\n")
    assert home.dtq("result", f"{batch}.0-2").out == "0\n1\n2\n"
    rest = home.dtq("result", f"{batch}.3-49")
    assert (rest.process.returncode, rest.err) == (1, f"dtq: 47 tasks of batch {batch} were cancelled.\n")


def test_a_command_that_has_ended_is_no_client(cluster: Home) -> None:
    for _ in range(3):
        cluster.id("jobs:add", "1")
    until(lambda: cluster.data("stats")["stats"]["clients"] == 1, "nobody but the one that asks to be counted")


def _completed(home: Home, *words: str) -> list[str]:
    """What bash would offer for the last word."""
    line = " ".join(("dtq", *words))
    asked = home.dtq(_DTQ_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words)))
    assert asked.err == ""
    return [offer.partition(",")[2] for offer in asked.out.splitlines() if offer]


def test_the_shell_completes_ids_and_the_names_of_queues_and_limits(cluster: Home) -> None:
    # Given a task in a queue of its own, and a limit
    cluster.dtq("limit", "set", "narrow", "--concurrency", "1")
    task = cluster.id("jobs:add", "1", "--queue", "night", "--delay", "1h")
    # Then the shell knows them
    assert _completed(cluster, "queue", "pause", "ni") == ["night"]
    assert _completed(cluster, "submit", "jobs:add", "1", "--queue", "n") == ["night"]
    assert _completed(cluster, "limit", "remove", "na") == ["narrow"]
    assert task in _completed(cluster, "status", task[:1])
    assert _completed(cluster, "dlq", "show", task) == []
    # And where no coordinator answers, it has nothing to offer, and nothing to say
    assert _completed(cluster, "queue", "pause", "--connect", "127.0.0.1:1", "ni") == []
    assert cluster.dtq("cancel", task).process.returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_names_of_files(home: Home) -> None:
    # Given an interactive bash with dtq's completion, and two files
    for name in ("photographs.txt", "photographer.jpg"):
        (home.work / name).touch()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        ["bash", "--norc", "-i"],
        env={**home.environment, "PATH": path, "TERM": "dumb", "PS1": "$ "},
        cwd=home.work,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    try:
        os.write(leader, b'eval "$(dtq completion bash)"; echo begin$((1))\n')
        _read_until(leader, b"begin1")
        # Then the tabulator gives their names: of an option's value in both spellings, and of an argument
        for words in (b"submit m:f --each photographs", b"submit m:f --each=photographs", b"submit m:f photographs"):
            os.write(leader, b"dtq " + words + b"\t")
            assert b"photographs.txt" in _read_until(leader, b"photographs.txt")
            os.write(leader, b"\x15")  # clears the line
        # And of commands and options, what dtq has
        os.write(leader, b"dtq submit --prio\t")
        _read_until(leader, b"--priority")
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def _read_until(descriptor: int, text: bytes) -> bytes:
    """What a terminal shows, up to a text."""
    seen = b""
    deadline = time.monotonic() + DEADLINE_S
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{text!r} is not shown: {seen!r}"
        seen += os.read(descriptor, 4096)
    return seen
