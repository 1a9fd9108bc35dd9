"""``dtq run``: commands on a worker, as if they ran here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.home import Home
from tests.cluster import DEADLINE_S, until


def run(home: Home, *words: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """``dtq run``, with bytes in and out."""
    return subprocess.run(
        [sys.executable, "-m", "dtq", "run", *words],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        env=home.environment,
        cwd=home.work,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )


def alive(mark: str) -> list[int]:
    """The processes whose command line has a text in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "cmdline").read_text().replace("\0", " "):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_command_is_as_if_it_ran_here(cluster: Home) -> None:
    # Given a command that reads, prints bytes on both outputs, and fails
    script = "cat; printf '\\377\\000'; echo problem >&2; exit 7"
    done = run(cluster, "--wait", "--stdin", "-", "--", "sh", "-c", script, input=b"in\n")
    # Then it is as if it had run here
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in\n\xff\x00", b"problem\n")


def test_words_reach_the_command_unchanged_and_no_shell_is_between(cluster: Home) -> None:
    words = ["a b", "$HOME", "*", "'", '"', "", "-x", "--wait", ":", "{}", "\u202e", "ünï"]
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    done = run(cluster, "--wait", "--", sys.executable, "-c", program, *words)
    assert json.loads(done.stdout) == words
    assert run(cluster, "--wait", "--shell", "echo a b | tr a-z A-Z; exit 4").returncode == 4


def test_directory_and_environment(cluster: Home) -> None:
    # Given a directory of the submitter's, and variables
    (cluster.work / "sub").mkdir()
    program = "pwd; echo $GIVEN $HERE $DTQ_SEQ; env | grep -i authkey"
    cluster.environment["HERE"] = "from-here"
    there = str(cluster.work / "sub")
    done = run(cluster, "--wait", "--cwd", there, "--env", "GIVEN=a b", "--env", "HERE", "--", "sh", "-c", program)
    # Then the command has them, and nothing secret
    assert done.stdout.decode().splitlines() == [there, "a b from-here"]
    # And a secret, a variable without a value and a directory that is not there are refused
    assert run(cluster, "--env", "DTQ_AUTHKEY", "true").returncode == 2
    assert run(cluster, "--env", "NOT_THERE", "true").returncode == 2
    done = run(cluster, "--wait", "--cwd", "/not/there", "true")
    assert done.returncode == 126
    assert b"there is no directory /not/there on the worker lab" in done.stderr


def test_a_command_that_is_not_there_ends_with_127(cluster: Home) -> None:
    done = run(cluster, "--wait", "not-there")
    assert done.returncode == 127
    assert b"there is no not-there on the worker lab." in done.stderr
    assert b"Traceback" not in done.stderr
    (cluster.work / "data").write_text("")
    assert run(cluster, "--wait", "./data").returncode == 126


def test_a_failure_is_a_dead_letter_with_its_exit_code(cluster: Home) -> None:
    done = run(cluster, "--max-retries", "1", "--retry-delay", "10ms", "--", "sh", "-c", "echo why >&2; exit 3")
    task = done.stdout.decode().strip()
    assert cluster.dtq("wait", task).process.returncode == 1
    shown = cluster.dtq("dlq", "show", task).out
    assert "the command ended with exit code 3: why" in shown
    assert "attempt    2" in shown
    # One that a signal ends has the signal
    done = run(cluster, "--wait", "--shell", "kill -TERM $$")
    assert done.returncode == 128 + signal.SIGTERM


def test_each_input_is_a_task_of_one_batch(cluster: Home) -> None:
    # Given inputs, of which some fail
    numbers = b"".join(b"%d\n" % n for n in range(30))
    log = cluster.work / "log"
    words = ["--each", "-", "--wait", "-k", "--joblog", str(log), "--tagstring", "<{}>"]
    script = "echo {#}; echo err >&2; test $(({} % 3)) != 0"
    done = run(cluster, *words, "--shell", script, input=numbers)
    # Then the outputs are grouped and in order, and the exit code is the number of those that failed
    assert done.stdout.decode().splitlines() == [f"<{n}>\t{n + 1}" for n in range(30)]
    assert done.stderr.decode().splitlines()[0] == "<0>\terr"
    assert b"10 commands of batch" in done.stderr
    assert done.returncode == 10
    # And the log has a line for each; only the failed ones run again
    assert len(log.read_text().splitlines()) == 31
    done = run(cluster, *words, "--resume-failed", "--shell", script, input=numbers)
    assert done.stdout.decode().splitlines() == [f"<{n}>\t{n + 1}" for n in range(0, 30, 3)]
    assert run(cluster, *words, "--resume", "--shell", script, input=numbers).returncode == 0


def test_a_log_that_cannot_be_written_submits_nothing(cluster: Home) -> None:
    before = cluster.data("stats")["stats"]["submitted"]
    done = run(cluster, "--wait", "--joblog", "/not/there/log", "true", ":::", "a")
    assert (done.returncode, b"No such file" in done.stderr) == (74, True)
    assert cluster.data("stats")["stats"]["submitted"] == before


def test_many_lines_are_one_batch(cluster: Home) -> None:
    lines = b"".join(b"%d\n" % n for n in range(100_000))
    done = run(cluster, "--each", "-", "--delay", "1h", "true", input=lines)
    batch = done.stdout.decode().strip()
    assert cluster.data("status", batch)["batch"]["size"] == 100_000
    assert cluster.dtq("cancel", batch).process.returncode == 0
    # And a large standard input is sent once for all of them
    (cluster.work / "large").write_bytes(b"x" * 100_000)
    done = run(cluster, "--wait", "--stdin", "large", "wc", "{}", ":::", "-c", "--bytes")
    assert (done.returncode, done.stdout) == (0, b"100000\n" * 2)


def test_each_line_may_be_a_command(cluster: Home) -> None:
    lines = b"echo one; exit 1\necho 'a  b' | tr a-z A-Z\n"
    done = run(cluster, "--shell", "--each", "-", "--wait", "-k", input=lines)
    assert (done.returncode, done.stdout) == (1, b"one\nA  B\n")


def test_nothing_is_submitted_by_a_dry_run(cluster: Home) -> None:
    done = run(cluster, "--dry-run", "--", "cp", "{}", "{.}.bak", ":::", "a b.txt", "c")
    assert done.stdout.decode() == "cp 'a b.txt' 'a b.bak'\ncp c c.bak\n"
    # And names of files that are no text are told as they are
    done = run(cluster, "--dry-run", "-0", "--each", "-", "--", "rm", input=b"\xff\xfe\0")
    assert done.stdout == b"rm '\xff\xfe'\n"


def test_output_without_end_is_bounded(cluster: Home) -> None:
    # Given a command that prints 30 MB in one line, and dies of it only at the end
    program = "import os; [os.write(1, b'x' * 1_000_000) for _ in range(30)]; os.write(1, b'end')"
    done = run(cluster, "--wait", "--keep-output", "100k", "--", sys.executable, "-c", program)
    # Then beginning and end are kept, and the length of the rest is told
    assert done.returncode == 0
    assert len(done.stdout) < 103_000
    assert b"\n[... 29,897,603 bytes left out ...]\n" in done.stdout
    assert done.stdout.endswith(b"xend")
    # And of one that fails the bounds of a failure hold
    done = run(cluster, "--wait", "--", sys.executable, "-c", f"{program}; os._exit(9)")
    assert done.returncode == 9
    assert done.stdout.endswith(b"xend")


def test_output_comes_as_it_is_printed(cluster: Home) -> None:
    # Given a command that prints, and then waits for a file
    script = "echo begun; echo problem >&2; while [ ! -e go ]; do sleep 0.05; done; echo over; exit 6"
    command = cluster.start("run", "--wait", "--live", "sh", "-c", script)
    # Then what it prints is there at once, both outputs together
    assert "problem" in command.says("begun") or command.says("problem")
    assert "over" not in command.out
    (cluster.work / "go").write_text("")
    assert command.ends() == 6
    assert command.out == "begun\nproblem\nover\n"


def test_live_output_ends_with_its_reader(cluster: Home) -> None:
    words = f"{sys.executable} -m dtq run --wait --live --shell 'while [ ! -e enough ]; do echo y; sleep 0.05; done'"
    line = f"{words} | head -n 2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line],
        env=cluster.environment,
        cwd=cluster.work,
        capture_output=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout == b"y\ny\n141\n"
    (cluster.work / "enough").write_text("")
    until(lambda: not cluster.data("stats")["stats"]["tasks"]["running"], "the command to end")


def test_what_a_command_leaves_running_ends_with_it(cluster: Home) -> None:
    mark = f"sleep 4{os.getpid()}.5"
    done = run(cluster, "--wait", "--", "sh", "-c", f"{mark} & echo started")
    assert (done.returncode, done.stdout) == (0, b"started\n")
    until(lambda: not alive(mark), "what it has left to end")


def test_cancel_and_time_limit_end_the_command_and_all_below_it(cluster: Home) -> None:
    mark = f"sleep 5{os.getpid()}.5"
    script = f"trap '' TERM; {mark} & {mark}"
    task = run(cluster, "--", "sh", "-c", script).stdout.decode().strip()
    until(lambda: len(alive(mark)) > 1, "the command to run")
    assert cluster.dtq("cancel", task).process.returncode == 0
    until(lambda: not alive(mark), "the command to end")
    done = run(cluster, "--wait", "--timeout", "300ms", "--", "sh", "-c", script)
    assert done.returncode == 1
    assert b"time limit" in done.stderr
    until(lambda: not alive(mark), "the command to end")
    # On the soft time limit it may end in its own way
    done = run(cluster, "--wait", "--soft-timeout", "300ms", "--shell", "trap 'echo bye; exit 5' TERM; sleep 50 & wait")
    assert (done.returncode, done.stdout) == (5, b"bye\n")


def test_a_killed_worker_leaves_no_command(tmp_path: Path) -> None:
    # Given a worker of its own that runs a command
    home = Home(tmp_path)
    try:
        home.coordinator("--memory")
        worker = home.worker()
        mark = f"sleep 6{os.getpid()}.5"
        run(home, "--", "sh", "-c", f"setsid {mark} & {mark}")
        until(lambda: len(alive(mark)) > 1, "the command to run")
        # When the worker is killed, then so is the command, and all below it
        os.kill(worker.process.pid, signal.SIGKILL)
        until(lambda: not alive(mark), "the command to end")
    finally:
        home.close()


def test_a_worker_of_registered_task_types_refuses_commands(tmp_path: Path) -> None:
    home = Home(tmp_path)
    try:
        home.coordinator("--memory")
        home.worker("--only-registered", "--import", "jobs")
        done = run(home, "--wait", "touch", "made")
        assert done.returncode == 1
        assert b"runs registered task types only" in done.stderr
        assert not (home.work / "made").exists()
    finally:
        home.close()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--joblog", "log", "true"], "--joblog is for --wait."),
        (["--wait", "-k", "true"], "--keep-order is for many commands"),
        (["--wait", "--resume", "true", ":::", "a"], "need --joblog"),
        (["--each", "jobs.py", "true", ":::", "a"], "use --each or :::, not both."),
        (["true", ":::"], "inputs come after it"),
        (["--each", "-", "--stdin", "-", "true"], "cannot both be standard input"),
        ([], "missing argument"),
        (["-j4", "true"], "no such option '-j': the slots of the workers"),
        (["--each", "jobs.py"], "missing argument"),
        (["--live", "--wait", "true", ":::", "a"], "--live is for a single command"),
    ],
)
def test_options_that_do_not_fit_are_wrong_use(cluster: Home, words: list[str], sentence: str) -> None:
    done = cluster.dtq("run", *words)
    assert done.process.returncode == 2
    assert sentence in done.err
