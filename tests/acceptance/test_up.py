"""``dtq up``: two processes that live and end together, and every signal at every moment."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.home import Command, Home
from tests.cluster import DEADLINE_S, until

UP = ("up", "--slots", "1", "--port", "0", "--memory")
BUSY = """import time
from pathlib import Path

def stay():
    Path("begun").touch()
    time.sleep(1000)
"""
#: What a command ends with that a signal finds before it can handle it: as any program.
UNREADY = {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 130, signal.SIGHUP: -signal.SIGHUP}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home whose processes are known by what they began with."""
    home = Home(tmp_path, anew=True)
    yield home
    home.close()


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[list[Home]]:
    """Four homes, for commands that run at the same time."""
    made = [Home(tmp_path / str(number), anew=True) for number in range(4)]
    yield made
    for home in made:
        home.close()


def running(home: Home, *words: str) -> Command:
    """A cluster with a task that runs, and does not end by itself."""
    (home.work / "busy.py").write_text(BUSY)
    command = home.start(*UP, *words)
    command.says(" ready: ")
    home.id("busy:stay")
    until((home.work / "begun").exists, "the task to run", command.__str__)
    (home.work / "begun").unlink()
    return command


def kill(home: Home, words: str, number: int = signal.SIGKILL) -> None:
    """Send a signal to the process with these words in its command line."""
    [pid] = [pid for pid, line in home.processes().items() if words in line]
    os.kill(pid, number)


def test_up_is_a_whole_cluster_in_one_command(home: Home) -> None:
    up = home.start(*UP)
    address = up.says("dtq is up at ").split("dtq is up at ")[1].split(";")[0]
    assert home.dtq("submit", "--wait", "jobs:add", "1", "b=2").out == "3\n"
    up.signal(signal.SIGINT)
    assert up.ends() == 0, up
    assert home.dtq("coordinator", "status", "--connect", address).process.returncode == 69


# -- together or not at all ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "number", "code", "sentence"),
    [
        ("coordinator start", signal.SIGKILL, 71, "the coordinator was killed by SIGKILL; the worker ends, too"),
        ("coordinator start", signal.SIGTERM, 0, "the coordinator has ended; the worker ends, too"),
        (" worker ", signal.SIGKILL, 71, "the worker was killed by SIGKILL; the coordinator ends, too"),
    ],
)
def test_when_one_part_ends_so_does_the_other(home: Home, part: str, number: int, code: int, sentence: str) -> None:
    up = running(home)
    kill(home, part, number)
    assert up.ends() == code, up
    assert sentence in up.err
    until(home.all_gone, "everything to end", home.processes)


def test_a_part_that_cannot_start_ends_both_with_its_code(home: Home) -> None:
    up = home.start(*UP, "--import", "nosuchmodule")
    assert up.ends() == 65, up
    assert "the worker ended with exit code 65; the coordinator ends, too" in up.err
    assert home.all_gone()


def test_nothing_outlives_an_up_that_is_killed(home: Home) -> None:
    up = running(home)
    up.signal(signal.SIGKILL)
    until(home.all_gone, "everything to end", home.processes)


def test_nothing_outlives_the_terminal(home: Home) -> None:
    # Given a cluster in a terminal, with a task that runs
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "dtq", *UP]
    with (home.directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["setsid", "--ctty", *command], env=home.environment, cwd=home.work, stdin=follower, stdout=log, stderr=log
        )
    os.close(follower)
    until(lambda: " ready: " in (home.directory / "log").read_text(), "the worker")
    (home.work / "busy.py").write_text(BUSY)
    home.id("busy:stay")
    until((home.work / "begun").exists, "the task to run")
    # When the terminal closes, Then all of it ends
    os.close(leader)
    assert process.wait(DEADLINE_S) == 0
    until(home.all_gone, "everything to end", home.processes)


def test_nohup_outlives_the_terminal(home: Home) -> None:
    up = home.start_within(("nohup",), *UP)
    up.says(" ready: ")
    up.signal(signal.SIGHUP)
    assert home.dtq("submit", "--wait", "jobs:add", "1").out == "1\n"


# -- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_at_any_moment_of_the_start_ends_up(homes: list[Home], number: signal.Signals) -> None:
    # Given some that start at the same time, When the signal comes at as many moments
    moments = ("", "store memory", "dtq is up", " ready: ") if number == signal.SIGTERM else ("", " ready: ")
    homes = homes[: len(moments)]
    ups = [home.start(*UP) for home in homes]
    for up, text in zip(ups, moments, strict=True):
        if text:
            up.says(text)
        else:  # it runs, but Python itself may still be on its way
            until(lambda up=up: b"dtq" in Path(f"/proc/{up.process.pid}/cmdline").read_bytes(), "its process")
        up.signal(number)
    # Then each has ended in a way that is written down, with all that it had started
    for up, home, text in zip(ups, homes, moments, strict=True):
        assert up.ends() in ((0,) if text else (0, 1, -number, UNREADY[number])), up
        until(home.all_gone, "everything to end", home.processes)


def test_a_second_signal_gives_back_what_runs_and_a_third_waits_for_nothing(home: Home) -> None:
    up = running(home, "--name", "one")
    up.signal(signal.SIGINT)
    up.says("finishing running tasks; a second signal")
    assert up.process.poll() is None
    up.signal(signal.SIGINT)
    assert up.ends() == 0, up
    assert "giving running tasks back" in up.err
    # And where the worker hangs, the third ends all
    up = running(home)
    kill(home, " worker ", signal.SIGSTOP)
    for _ in range(3):
        up.signal(signal.SIGINT)
        until(lambda: up.process.poll() is not None or not _pending(up.process.pid, signal.SIGINT), "the signal")
    assert up.ends() == 130, up
    until(home.all_gone, "everything to end", home.processes)


def _pending(pid: int, number: int) -> bool:
    """Whether a signal has been sent to a process and has not reached it."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:")).split()[1]
    return bool(int(pending, 16) >> (number - 1) & 1)


def test_a_home_that_cannot_be_written_is_a_warning(home: Home) -> None:
    # Given a store and a key, but no place for the connection file
    (home.work / "key").write_text("a key that is long enough")
    (home.work / "key").chmod(0o600)
    given = ("--db", "queue.db", "--authkey-file", "key", "--port", "0")
    nowhere = {"HOME": "/dev/null", "XDG_CONFIG_HOME": "/dev/null/config", "XDG_STATE_HOME": "/dev/null/state"}
    coordinator = home.start("coordinator", "start", *given, **nowhere)
    address = coordinator.says("coordinator ready at ").split("coordinator ready at ")[1].split()[0]
    assert f"they need --connect {address} or DTQ_ADDRESS" in coordinator.says("do not find this coordinator")
    assert home.dtq("stats", "--connect", address, "--authkey-file", "key", **nowhere).process.returncode == 0
    coordinator.signal(signal.SIGTERM)
    assert coordinator.ends() == 0, coordinator


def test_the_sweep_of_signals_finds_nothing() -> None:
    # In coarse steps, and of one command: the whole of it is for whoever changes how processes start and end
    script = Path(__file__).parents[2] / "scripts" / "signals.py"
    words = [sys.executable, str(script), "coordinator", "--step", "250", "--until", "500"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=4 * DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGHUP" in done.stdout
