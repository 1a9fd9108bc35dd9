"""Calls from the command line in all their forms, and results as they are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.home import Home

MODULE = """
from dtq import task

@task(name="email")
def email(payload, subject="none"): return f"to {payload['to']}: {subject}"

def kind(value): return type(value).__name__
def data(size): return bytes(range(256)) * (size // 256)
def text(size): return "\\u00fc" * size
def array(size): return bytearray(size)
def odd(): return "caf\\udce9"
def number(): return [1, 2]
def boom(): raise ValueError("no")
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with a worker that knows the module and its task type."""
    home = Home(tmp_path_factory.mktemp("calls"))
    (home.work / "shapes.py").write_text(MODULE)
    home.coordinator()
    home.worker("--import", "shapes")
    yield home
    home.close()


def submitted(home: Home, *words: str) -> str:
    """Submit, wait for the end, and return the id."""
    task_id = home.id(*words)
    home.dtq("wait", task_id)
    return task_id


def raw(home: Home, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose output is bytes."""
    return subprocess.run(
        [sys.executable, "-m", "dtq", *words],
        env=home.environment,
        cwd=home.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("shapes:data", "1024"), bytes(range(256)) * 4),
        (("shapes:data", "5000192"), bytes(range(256)) * 19_532),
        (("shapes:text", "200000"), "ü".encode() * 200_000),
        (("shapes:text", "3"), "ü".encode() * 3),
        (("shapes:array", "100000"), bytes(100_000)),
        (("shapes:odd",), b"caf\xe9"),
        (("shapes:number",), b"[1, 2]\n"),
    ],
    ids=["bytes", "large bytes", "large text", "text", "bytearray", "file name", "others"],
)
def test_result_is_written_as_it_is(calls: Home, call: tuple[str, ...], expected: bytes) -> None:
    task_id = submitted(calls, *call)
    shown = raw(calls, "result", task_id, "--raw")
    assert (shown.stdout, shown.stderr, shown.returncode) == (expected, b"", 0)
    out = calls.work / "out"
    saved = raw(calls, "result", task_id, "--out", str(out))
    assert (out.read_bytes(), saved.stdout, saved.returncode) == (expected, b"", 0)
    assert b" written to " in saved.stderr


def test_large_result_is_never_held_whole(calls: Home) -> None:
    # Given a result that is larger than the memory that its reader may take
    task_id = submitted(calls, "shapes:data", str(128 << 20))
    program = (
        "import re, sys; from dtq.cli.app import run\n"
        "code = run(sys.argv[1:])\n"
        # Not getrusage: that counts what the process had before it became this program, the tests' own memory.
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) >> 10, file=sys.stderr)\n"
        "sys.exit(code)"
    )

    # When it is written to a file, on this machine and over the wire
    for by_reference in ("1", "0"):
        done = subprocess.run(
            [sys.executable, "-c", program, "result", task_id, "--out", "large"],
            env=calls.environment | {"DTQ_BY_REFERENCE": by_reference},
            cwd=calls.work,
            capture_output=True,
            text=True,
            check=False,
        )

        # Then all of it is there, and little of it was in memory at once
        assert done.returncode == 0, done.stderr
        assert (calls.work / "large").stat().st_size == 128 << 20
        assert int(done.stderr.splitlines()[-1]) < 110, done.stderr
        (calls.work / "large").unlink()


def test_file_is_there_whole_or_not_at_all(calls: Home) -> None:
    task_id = submitted(calls, "shapes:data", "1024")
    failed = submitted(calls, "shapes:boom", "--max-retries", "0")
    missing = calls.dtq("result", task_id, "--out", "nowhere/file")
    assert (missing.process.returncode, missing.err) == (74, "dtq: nowhere/file: No such file or directory.\n")
    none = calls.dtq("result", failed, "--out", "file")
    assert none.process.returncode == 1
    assert "ValueError: no" in none.err
    assert not (calls.work / "file").exists()
    for words, sentence in [(["--raw", "--json"], "use --json, or --raw or --out."), (["--raw"], "are for one task")]:
        batch = calls.id("shapes:kind", "--each", str(_lines(calls, "1\n2\n")))
        wrong = calls.dtq("result", batch, *words)
        assert (wrong.process.returncode, sentence in wrong.err) == (2, True), wrong


def _lines(home: Home, text: str) -> Path:
    path = home.work / "lines"
    path.write_text(text)
    return path


def test_lines_may_stay_text(calls: Home) -> None:
    path = str(_lines(calls, '7\n{"a": 1}\ntrue\n'))
    as_json = calls.dtq("submit", "--wait", "shapes:kind", "--each", path)
    assert as_json.out.splitlines() == ['"int"', '"dict"', '"bool"']
    as_text = calls.dtq("submit", "--wait", "shapes:kind", "--each", path, "--text")
    assert as_text.out.splitlines() == ['"str"'] * 3
    assert calls.dtq("submit", "shapes:kind", "7", "--text").process.returncode == 2


def test_registered_task_type_is_called_by_its_name(calls: Home) -> None:
    payload = '{"to": "a=b@example.com"}'
    done = calls.dtq("submit", "--wait", "--type", "email", payload, "subject=hello")
    assert done.out == '"to a=b@example.com: hello"\n', done
    view = calls.data("status", calls.id("--type", "email", payload))["task"]
    assert (view["function"], view["kind"]) == ("email", "registered")
    for words, sentence in [
        (["--type", "e mail"], "a task's name cannot be 'e mail'"),
        ([], "name a function, as in mymodule:work, or a task type with --type."),
        (["--type", "email", "--here"], "a task type is registered at the workers."),
    ]:
        wrong = calls.dtq("submit", *words)
        assert (wrong.process.returncode, sentence in wrong.err) == (2, True), wrong


def test_lines_have_terms_of_their_own(calls: Home) -> None:
    # Given lines with and without terms of their own
    lines = [
        {"args": [1]},
        {"args": ["a"], "priority": 2, "key": "once", "label": "own"},
        {"args": [2.5]},
        {"args": [None], "timeout": "90s", "max_retries": 0},
    ]
    path = str(_lines(calls, "".join(f"{json.dumps(line)}\n" for line in lines)))

    # When they are submitted, Then the lines without make a batch, and each of the others a task
    first = calls.dtq("submit", "shapes:kind", "--jsonl", path, "-p", "7")
    ids = first.out.split()
    assert len(ids) == 3, first
    views = [calls.data("status", task_id) for task_id in ids]
    assert (views[0]["batch"]["size"], views[0]["batch"]["priority"]) == (2, 7)
    own = [view["task"] for view in views[1:]]
    assert [(view["priority"], view["key"], view["label"]) for view in own] == [(2, "once", "own"), (7, None, "")]
    assert (own[1]["timeout"], own[1]["max_retries"]) == (90.0, 0)

    # And their results come behind those of the batch; what has a key is submitted once
    again = calls.dtq("submit", "--wait", "shapes:kind", "--jsonl", path)
    assert again.out.splitlines() == ['"int"', '"float"', '"str"', '"NoneType"'], again
    assert calls.dtq("submit", "-q", "shapes:kind", "--jsonl", path).out.split()[1] == ids[1]

    # And a wrong line is named, with nothing submitted
    before = calls.data("stats")["stats"]["submitted"]
    for line, sentence in [
        ('{"args": [1], "priority": 99}', "line 1: priority cannot be 99"),
        ('{"args": [1], "colour": 1}', "line 1: 'colour' is none of args, kwargs, "),
        ('{"args": [1], "unique": "kept"}', "line 1: "),
    ]:
        wrong = calls.dtq("submit", "shapes:kind", "--jsonl", str(_lines(calls, f"{line}\n")))
        assert (wrong.process.returncode, sentence in wrong.err) == (65, True), wrong
    assert calls.data("stats")["stats"]["submitted"] == before


def test_filters_name_what_is_waited_for(calls: Home) -> None:
    # Given waiting tasks of a label, one of which will fail, and one of another label
    calls.dtq("queue", "pause", "night")
    later = ("--queue", "night", "--max-retries", "0", "--label")
    other = calls.id("shapes:number", *later, "other")
    ids = [calls.id(function, *later, "nightly") for function in ("shapes:number", "shapes:number", "shapes:boom")]

    # When they are waited for by the label, Then it is for all of them
    done = calls.start("wait", "--label", "nightly")
    done.says(f"task {ids[0]} waits: ")
    calls.dtq("cancel", other)
    calls.dtq("queue", "resume", "night")
    done.ends()
    assert [line.split()[0] for line in done.out.splitlines()] == ids, done
    assert done.process.returncode == 1
    again = calls.dtq("wait", "--label", "nightly")
    assert (again.out, again.err, again.process.returncode) == ("", "nothing that matches is unfinished.\n", 0)
    assert calls.dtq("wait").process.returncode == 2
    assert [task["id"] for task in calls.data("list", "--exception", "ValueError", "--label", "nightly")["tasks"]] == [
        ids[2]
    ]
