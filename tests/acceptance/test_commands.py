"""The commands against a real cluster: what they print, as people and as scripts read it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.home import Home, without_progress
from tests.cluster import DEADLINE_S, until


def test_submit_prints_the_id_alone_and_wait_the_result(cluster: Home) -> None:
    task = cluster.id("math:factorial", "20")
    assert re.fullmatch(r"\d+", task)
    assert cluster.dtq("wait", task).out == f"{task}  1 succeeded\n"
    assert cluster.dtq("result", task).out == "2432902008176640000\n"
    assert cluster.dtq("submit", "--wait", "math:factorial", "5").out == "120\n"


def test_arguments_are_json_text_and_keywords(cluster: Home) -> None:
    words = ["jobs:echo", "20", '"20"', "a.jpg", "[1, null]", "size=128", "name=big", "--", "-5", "--wait"]
    done = cluster.dtq("submit", "--wait", *words)
    assert json.loads(done.out) == [[20, "20", "a.jpg", [1, None], -5, "--wait"], {"size": 128, "name": "big"}]


def test_each_makes_a_batch_of_the_lines(cluster: Home) -> None:
    # Given a file of lines
    (cluster.work / "numbers.txt").write_text("".join(f"{n}\n" for n in range(3000)))
    # When each is a task
    batch = cluster.id("jobs:add", "--each", "numbers.txt", "b=0.5")
    # Then they are one batch, and their results come in the order of the lines
    assert cluster.dtq("wait", batch).out == f"{batch}  3,000 succeeded\n"
    assert cluster.dtq("result", batch).out == "".join(f"{n + 0.5}\n" for n in range(3000))
    assert cluster.data("status", batch)["batch"]["size"] == 3000
    assert cluster.data("status", f"{batch}.7")["task"]["state"] == "succeeded"
    assert cluster.dtq("result", f"{batch}.7").out == "7.5\n"


def test_each_reads_standard_input_and_streams_results(cluster: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dtq", "submit", "jobs:add", "--each", "-", "--wait", "--max-retries", "0"],
        input=b"1\n2\nthree\n",
        env=cluster.environment,
        cwd=cluster.work,
        capture_output=True,
        check=False,
    )
    # The third adds a number to a text: its line is empty, and standard error says why
    assert done.returncode == 1
    assert done.stdout == b"1\n2\n\n"
    assert re.fullmatch(
        r'dtq: task \d+\.2 failed: TypeError: can only concatenate str \(not "int"\) to str\n',
        without_progress(done.stderr.decode()),
    )


def test_jsonl_has_all_arguments_in_its_lines(cluster: Home) -> None:
    calls = [{"args": [1, "a"], "kwargs": {"k": None}}, {"args": []}, {"kwargs": {"x": [1]}}]
    (cluster.work / "calls.jsonl").write_text("\n".join(json.dumps(call) for call in calls))
    done = cluster.dtq("submit", "jobs:echo", "--jsonl", "calls.jsonl", "--wait")
    assert [json.loads(line) for line in done.out.splitlines()] == [[[1, "a"], {"k": None}], [[], {}], [[], {"x": [1]}]]


def test_a_bad_line_submits_nothing_that_runs_on(cluster: Home) -> None:
    # Given a file with a bad line after several pages of good ones
    good = json.dumps({"args": [60]}) + "\n"
    (cluster.work / "bad.jsonl").write_text(good * 5000 + "nonsense\n")
    before = cluster.data("stats")["stats"]["submitted"]
    # When it is submitted, on a queue that nobody serves but everybody
    done = cluster.dtq("submit", "jobs:nap", "--jsonl", "bad.jsonl", "--delay", "1h")
    # Then the line is named, and what was sent before it is cancelled
    assert (done.process.returncode, done.out) == (65, "")
    assert done.err.startswith("dtq: bad.jsonl, line 5001: it is not JSON (")
    stats = until(
        lambda: (s := cluster.data("stats")["stats"])["tasks"]["scheduled"] == 0 and s, "what was sent is cancelled"
    )
    assert stats["tasks"]["cancelled"] >= stats["submitted"] - before


def test_a_file_that_the_queue_has_no_room_for_is_cancelled_as_a_whole(home: Home) -> None:
    # Given a queue with room for fewer tasks than a file has lines
    home.coordinator("--memory", "--max-tasks", "5000")
    (home.work / "lines").write_text("1\n" * 20_000)
    # When the file is submitted
    done = home.dtq("submit", "jobs:add", "--each", "lines")
    # Then it is refused, and what was accepted of it does not stay
    assert (done.process.returncode, done.out) == (75, ""), done
    assert re.match(r"dtq: the queue already holds [\d,]+ tasks, its limit is 5,000\.", done.err), done
    assert home.data("stats")["stats"]["tasks"]["pending"] == 0


def test_a_file_is_never_in_memory_as_a_whole(home: Home) -> None:
    # Given a file of 150 MB, and a process that says at its end how much memory it had
    home.coordinator("--durability", "none")
    with (home.work / "large").open("wb") as file:
        for _ in range(150):
            file.write((b"x" * 9_999 + b"\n") * 100)
    code = (
        "import re, sys\n"
        "from dtq.cli.app import run\n"
        "code = run(sys.argv[1:])\n"
        # not what getrusage says, which counts the process that it was forked from
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "sys.exit(code)\n"
    )
    command = [sys.executable, "-c", code, "submit", "jobs:add", "--each", "large", "--delay", "1h"]
    done = subprocess.run(command, env=home.environment, cwd=home.work, capture_output=True, text=True, check=True)
    # Then that is far less than the file
    batch, peak_kib = done.stdout.split()
    assert home.data("status", batch)["batch"]["size"] == 15_000
    assert int(peak_kib) * 1024 < 120_000_000


def test_a_submission_survives_a_kill_of_the_coordinator(home: Home) -> None:
    # Given a file that comes line by line, and a coordinator that is killed in the middle of it
    coordinator = home.start("coordinator", "start", "--port", "0")
    port = coordinator.says("coordinator ready").split("ready at ")[1].split()[0].rpartition(":")[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "dtq", "submit", "jobs:add", "--each", "-"],
        env=home.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b"1\n" * 10_000)
    process.stdin.flush()
    until(lambda: home.data("stats")["stats"]["submitted"] > 1000, "a part of it is accepted")
    coordinator.signal(signal.SIGKILL)
    coordinator.ends()
    # When more lines come while there is none, and another one is started in its place
    process.stdin.write(b"1\n" * 9_000)
    process.stdin.flush()
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"dtq: lost the coordinator at ")
    home.start("coordinator", "start", "--port", port).says("coordinator ready")
    out, err = process.communicate(b"1\n" * 1_000, timeout=60)
    # Then all of it is one batch, each line once
    assert process.returncode == 0, err
    assert home.data("status", out.decode().strip())["batch"]["size"] == 20_000
    assert home.data("stats")["stats"]["submitted"] == 20_000


def test_an_empty_file_submits_nothing(cluster: Home) -> None:
    (cluster.work / "empty").write_text("\n\n")
    done = cluster.dtq("submit", "jobs:add", "--each", "empty")
    assert (done.process.returncode, done.out) == (0, "")
    assert done.err == "dtq: there is no line to make a task of; nothing was submitted.\n"


def test_a_failure_prints_the_remote_traceback_and_ends_with_1(cluster: Home) -> None:
    done = cluster.dtq("submit", "--wait", "jobs:fail", "text=two words", "--max-retries", "0")
    assert done.process.returncode == 1
    assert done.out == ""
    assert done.err.startswith("Traceback (most recent call last):\n")
    ending = re.search(r"\nValueError: two words\ndtq: task (\d+) failed: ValueError: two words\n$", done.err)
    assert ending, done
    # And again, later, by its id, as text and as JSON
    task = ending[1]
    again = cluster.dtq("result", task)
    assert (again.process.returncode, again.out, again.err) == (1, done.out, done.err)
    described = cluster.dtq("result", task, "--json")
    assert (described.process.returncode, described.err) == (1, "")
    document = json.loads(described.out)
    assert (document["schema"], document["id"], document["state"]) == (1, task, "dead")
    assert (document["error"]["exception"], document["error"]["message"]) == ("ValueError", "two words")
    assert cluster.dtq("wait", task).process.returncode == 1


def test_results_that_are_no_json_are_shown_as_repr(cluster: Home) -> None:
    assert cluster.dtq("submit", "--wait", "jobs:raw").out == "b'raw\\x1b'\n"
    # A class of the user's own is found in the current directory
    assert cluster.dtq("submit", "--wait", "jobs:point", "3").out == "Point(3)\n"
    assert json.loads(cluster.dtq("submit", "--wait", "jobs:raw", "--json").out)["repr"] == "b'raw\\x1b'"
    assert json.loads(cluster.dtq("submit", "--wait", "jobs:add", "1", "--json").out)["result"] == 1


def test_json_lines_of_a_batch_say_what_became_of_each(cluster: Home) -> None:
    (cluster.work / "three").write_text("1\n2\n3\n")
    done = cluster.dtq("submit", "jobs:odd", "--each", "three", "--max-retries", "0", "--wait", "--json")
    assert done.process.returncode == 1
    documents = [json.loads(line) for line in done.out.splitlines()]
    assert [(d["schema"], d["state"], d.get("result")) for d in documents] == [
        (1, "succeeded", 1),
        (1, "dead", None),
        (1, "succeeded", 3),
    ]
    assert documents[1]["error"]["message"] == "2 is even"


def test_many_failures_of_a_batch_are_told_in_short(cluster: Home) -> None:
    (cluster.work / "evens2").write_text("2\n" * 30)
    done = cluster.dtq("submit", "jobs:odd", "--each", "evens2", "--max-retries", "0", "--wait")
    assert (done.process.returncode, done.out) == (1, "\n" * 30)
    told = done.err.splitlines()
    assert len(told) == 21
    assert re.fullmatch(r"dtq: task \d+\.0 failed: ValueError: 2 is even", told[0])
    assert re.fullmatch(r"dtq: 10 more tasks of batch \d+ failed \(dtq dlq list\)\.", told[20])


def test_a_key_submits_once(cluster: Home) -> None:
    first = cluster.id("jobs:record", str(cluster.work / "once"), "--key", "only once")
    second = cluster.id("jobs:record", str(cluster.work / "once"), "--key", "only once")
    assert first == second
    cluster.dtq("wait", first)
    assert (cluster.work / "once").read_text() == "x"
    # And once more when the first has ended, where that is asked for
    words = ["jobs:record", str(cluster.work / "once"), "--key", "only once"]
    assert cluster.id(*words, "--unique", "unfinished") != first
    taken = cluster.dtq("submit", *words, "--unique", "1h", "--on-conflict", "error")
    assert taken.process.returncode == 65
    assert "the key 'only once' is taken by batch" in taken.err


def test_terms_arrive_with_the_task(cluster: Home) -> None:
    words = ["-p", "2", "--max-retries", "7", "--max-crashes", "2", "--timeout", "1m", "--queue", "later"]
    words += ["--keep-results", "10m", "--soft-timeout", "50s", "--expires", "2h"]
    task = cluster.id("jobs:add", "1", *words, "--delay", "1h", "--never-retry", "KeyError")
    seen = cluster.data("status", task)["task"]
    assert (seen["priority"], seen["max_retries"], seen["max_crashes"], seen["timeout"]) == (2, 7, 2, 60.0)
    assert (seen["queue"], seen["state"], seen["never_retry"]) == ("later", "scheduled", ["KeyError"])
    assert (seen["keep_results"], seen["soft_timeout"]) == (600.0, 50.0)
    assert seen["start_by"] > seen["due_at"]
    assert "delay" in seen["reason"]
    listed = cluster.data("list", "--queue", "later")["tasks"]
    assert [(entry["id"], entry["state"]) for entry in listed] == [(task, "scheduled")]
    # And it can be cancelled while it waits
    assert cluster.data("cancel", task) == {"schema": 1, "cancelled": 1, "stopping": 0, "finished": 0}
    assert cluster.dtq("status", task, "-q").out == "cancelled\n"
    done = cluster.dtq("result", task)
    assert (done.process.returncode, done.err) == (1, f"dtq: task {task} was cancelled.\n")


def test_cancel_stops_a_running_task(cluster: Home) -> None:
    # Given a task that never ends by itself, and says how far it is
    task = cluster.id("jobs:halfway", str(cluster.work / "never"))
    running = until(
        lambda: (t := cluster.data("status", task)["task"])["progress"] and t, "the task runs and says how far it is"
    )
    assert (running["state"], running["worker"], running["progress"]) == ("running", "lab", {"done": 1.0, "total": 2.0})
    assert "1 of 2 (50%)" in cluster.dtq("status", task).out
    # When it is cancelled
    assert cluster.dtq("cancel", task).out == "0 tasks cancelled, 1 being stopped, 0 had ended before\n"
    # Then it ends at once
    waited = cluster.dtq("wait", task)
    assert (waited.process.returncode, waited.out) == (1, f"{task}  1 cancelled\n")


def test_wait_gives_up_in_time_and_the_task_goes_on(cluster: Home) -> None:
    # Given a task that cannot end yet
    gate = cluster.work / "wait-gate"
    task = cluster.id("jobs:gate", str(gate))
    # When somebody waits for too short a time, or asks for its result
    done = cluster.dtq("wait", task, "--timeout", "100ms")
    early = cluster.dtq("result", task)
    impatient = cluster.dtq("submit", "--wait", "--wait-timeout", "100ms", "jobs:gate", str(gate))
    # Then each says so, with its own code
    assert done.process.returncode == impatient.process.returncode == 124
    assert done.err.startswith(f"dtq: task {task} did not finish within ")
    assert impatient.out == ""
    assert early.process.returncode == 75
    assert re.match(f"dtq: task {task} is still (running|pending)", early.err)
    # And the task ends when it can
    gate.touch()
    assert cluster.data("wait", task)["ended"][0]["tasks"]["succeeded"] == 1
    assert cluster.dtq("result", task).out == '"open"\n'


def test_ctrl_c_ends_the_waiting_and_not_the_task(cluster: Home) -> None:
    gate = cluster.work / "interrupt-gate"
    task = cluster.id("jobs:gate", str(gate))
    waiting = cluster.start("wait", task)
    until(lambda: waiting.connected, "somebody waits", lambda: waiting)
    waiting.signal(signal.SIGINT)
    assert waiting.ends() == 130
    assert waiting.err.endswith("dtq: interrupted.\n")
    assert "Traceback" not in waiting.err
    gate.touch()
    assert cluster.dtq("wait", task).process.returncode == 0


def test_a_wait_carries_on_over_a_restart_of_the_coordinator(home: Home) -> None:
    # Given somebody who waits for a task of a coordinator with a port of its own
    coordinator = home.start("coordinator", "start", "--port", "0")
    port = coordinator.says("coordinator ready").split("ready at ")[1].split()[0].rpartition(":")[2]
    home.worker()
    gate = home.work / "restart-gate"
    waiting = home.start("submit", "--wait", "jobs:gate", str(gate))
    until(lambda: home.data("stats")["stats"]["tasks"]["running"], "the task runs")
    # When the coordinator is killed, and another one starts in its place
    coordinator.signal(signal.SIGKILL)
    coordinator.ends()
    home.start("coordinator", "start", "--port", port).says("coordinator ready")
    # Then the result arrives
    gate.touch()
    assert waiting.ends() == 0, waiting
    assert waiting.out == '"open"\n'


def test_dead_letters_are_listed_retried_and_purged(home: Home) -> None:
    # Given three dead letters of two functions
    home.coordinator()
    home.worker()
    (home.work / "evens").write_text("2\n4\n")
    evens = home.id("jobs:odd", "--each", "evens", "--max-retries", "0")
    other = home.id("jobs:fail", "--max-retries", "1", "--retry-delay", "10ms")
    home.dtq("wait", evens, other)
    letters = home.data("dlq", "list")["dead_letters"]
    assert {(entry["id"], entry["function"], entry["exception"], entry["attempts"]) for entry in letters} == {
        (f"{evens}.0", "jobs:odd", "ValueError", 1),
        (f"{evens}.1", "jobs:odd", "ValueError", 1),
        (other, "jobs:fail", "ValueError", 2),
    }
    # When one is shown, it has the traceback of each attempt
    shown = home.dtq("dlq", "show", other)
    assert shown.out.count("ValueError: no\n") == 4  # a line and a traceback for each of both attempts
    assert shown.out.count("Traceback") == 2
    # When some are put back by a filter, they fail again with their history kept
    assert home.dtq("dlq", "retry", "--all", "--function", "jobs:odd", "--dry-run").out == (
        "2 dead letters would be put back\n"
    )
    assert home.dtq("dlq", "retry", "--all", "--function", "jobs:odd").out == "2 dead letters put back\n"
    home.dtq("wait", evens)
    history = home.data("dlq", "show", f"{evens}.0")["task"]["history"]
    assert len(history) == 2
    # When they are purged, by id and all, they are gone
    refused = home.dtq("dlq", "purge", "--all")
    assert refused.process.returncode == 2
    assert refused.err.startswith("dtq: this would purge 3 dead letters for good; add --yes.")
    assert home.dtq("dlq", "purge", f"{evens}.0", "--yes").out == "1 dead letter purged\n"
    assert home.data("dlq", "purge", "--all", "--yes") == {"schema": 1, "purged": 2}
    assert home.dtq("dlq", "list").err == "no dead letters.\n"


def test_a_listing_shows_what_waits_and_why(home: Home) -> None:
    # Given a thousand tasks and no worker
    home.coordinator("--memory", "--highest-first")
    (home.work / "lines").write_text("".join(f"{n}\n" for n in range(1000)))
    batch = home.id("jobs:add", "--each", "lines", "-p", "7")
    listed = home.dtq("list").out.splitlines()
    assert len(listed) == 2
    assert listed[1].startswith(f"{batch}.0-999  pending  jobs:add  0 …  ")
    assert "no worker" in home.dtq("status", f"{batch}.5").out
    stats = home.data("stats")["stats"]
    assert (stats["tasks"]["pending"], stats["store"], stats["highest_first"]) == (1000, "memory", True)
    assert stats["workers"] == []
    # When half of the world's work is cancelled, it says so
    assert home.dtq("cancel", batch).out == "1,000 tasks cancelled, 0 being stopped, 0 had ended before\n"


def test_coordinator_status_and_stop(home: Home) -> None:
    # Given a coordinator, and then none
    coordinator = home.coordinator()
    where = ("--connect", coordinator.out.split("ready at ")[1].split()[0])
    shown = home.dtq("coordinator", "status")
    assert shown.process.returncode == 0
    assert f"pid {coordinator.process.pid}" in shown.out
    assert home.data("coordinator", "status")["stats"]["pid"] == coordinator.process.pid
    stopped = home.dtq("coordinator", "stop")
    assert (stopped.process.returncode, stopped.out) == (0, "stopped\n")
    assert coordinator.ends() == 0
    assert home.dtq("coordinator", "status", *where).process.returncode == 69
    assert not list((home.directory / "state" / "dtq").glob("coordinator.json*"))


def test_workers_never_show_tasks_the_key(home: Home) -> None:
    # Given a coordinator and a worker that got their key in a variable
    key = "a secret of enough length"
    home.start("coordinator", "start", "--port", "0", DTQ_AUTHKEY=key).says("coordinator ready")
    home.start("worker", "--slots", "1", DTQ_AUTHKEY=key).says(" ready: ")
    # Then a task does not see it
    done = home.dtq("submit", "--wait", "jobs:key_in_sight", DTQ_AUTHKEY=key)
    assert done.out == "[]\n", done
    assert not home.key.exists()


def screen_of(leader: int, up_to: bytes | None = None) -> bytes:
    """What comes to a terminal's screen: up to a text, or until nobody writes to it any more."""
    deadline = time.monotonic() + DEADLINE_S
    screen = b""
    while up_to is None or up_to not in screen:
        ready, _, _ = select.select([leader], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"waited for {up_to or 'its end'!r}: {screen!r}"
        try:
            screen += os.read(leader, 4096)
        except OSError:  # a terminal whose last writer is gone says EIO
            break
    return screen


def test_a_terminal_gets_a_progress_bar_and_a_pipe_does_not(cluster: Home) -> None:
    # Given tasks that end when the bar has been seen, however late it comes
    (cluster.work / "gates").write_text("seen\n" * 4)
    words = ["submit", "jobs:gate", "--each", "gates", "--wait"]
    # Given standard error on a terminal, and standard output in a file
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "dtq", *words]
    environment = cluster.environment | {"TERM": "xterm", "COLUMNS": "80"}
    with (cluster.work / "out").open("wb") as out:
        process = subprocess.Popen(command, env=environment, cwd=cluster.work, stdout=out, stderr=follower)
    os.close(follower)
    try:
        # Then the bar is on the terminal,
        assert b"/4" in screen_of(leader, b"/4")
    finally:
        (cluster.work / "seen").touch()
    screen_of(leader)
    os.close(leader)
    # the results alone are in the file,
    assert process.wait(DEADLINE_S) == 0
    assert Path(cluster.work / "out").read_text() == '"open"\n' * 4
    # and a pipe gets no bar, also where colours are wanted in it
    told = cluster.dtq(*words, FORCE_COLOR="1").err
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" not in told


@pytest.mark.parametrize("command", ["list", "stats", "dlq list", "coordinator status"])
def test_a_closed_pipe_ends_a_command_in_silence(cluster: Home, command: str) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "dtq", *command.split(), "--json"],
        env=cluster.environment,
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(read)
    os.close(write)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (141, b"")
