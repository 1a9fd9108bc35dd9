"""The frame of the command line: help at once, one line and one code an error, nothing heavy imported."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dtq.cli.app import COMMANDS, root, run
from dtq.cli.click_classes import Command, Group
from dtq.cli.failures import EXIT_CODES, TaskTrouble, ending
from dtq.errors import DtqError, StoreFull, TaskFailed, UnknownId, _subclasses

#: What `dtq --help` must not pay for.
HEAVY = ("rich", "asyncio", "sqlite3", "multiprocessing", "psutil", "socket", "cloudpickle", "fastapi", "tomllib")


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


ALL = dict(_commands(root, "dtq"))


def test_help_imports_nothing_heavy_and_is_there_at_once() -> None:
    # Given the help, run in a process that tells what it has imported
    code = (
        "import sys, dtq.cli\n"
        "sys.argv = ['dtq', '--help']\n"
        "try: dtq.cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "sys.stderr.write(' '.join(sys.modules))\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Then it shows every command and exit code
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)
    for exit_code in EXIT_CODES:
        assert re.search(rf"^  {exit_code} ", done.stdout, re.MULTILINE)
    # And neither extras nor what takes long to import
    imported = {name.partition(".")[0] for name in done.stderr.split()}
    assert imported.isdisjoint(HEAVY), imported & set(HEAVY)
    # And it takes little work, which a busy machine cannot make longer (0.1 s, at most 0.15 are promised)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("path", ALL)
def test_every_help_shows_two_examples_first(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*path.split()[1:], "-h"]) == 0
    shown = capsys.readouterr().out
    command = ALL[path]
    assert isinstance(command, Command | Group)
    assert len(command.examples) >= 2
    for line, meaning in command.examples:
        assert line in shown
        assert meaning in shown
        assert shown.index("Examples:") < shown.index(f"  {line}") < shown.index("Options:")


@pytest.mark.parametrize("path", ["dtq", *ALL])
def test_every_example_is_a_command_line_that_parses(path: str) -> None:
    # Given the examples of a command
    command = root if path == "dtq" else ALL[path]
    assert isinstance(command, Command | Group)
    for line, _ in command.examples:
        if not line.startswith("dtq "):
            continue
        # Then click takes their words apart without a complaint
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line.partition(" > ")[0])][1:]
        current: click.Command = root
        context = click.Context(root, info_name="dtq")
        while isinstance(current, click.Group):
            name, found, words = current.resolve_command(context, words)
            assert found is not None, line
            current, context = found, click.Context(found, context, info_name=name)
        current.parse_args(context, words)


def test_summaries_of_the_table_are_those_of_the_commands() -> None:
    # The table repeats what the commands' own help says, so that help need not import them.
    for name, entry in COMMANDS.items():
        assert entry.summary.endswith(".")
        assert ALL[f"dtq {name}"].help


def test_version_names_dtq_python_and_platform(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-V"]) == 0
    versions = r"dtq \S+, Python 3\.\d+\.\S+, SQLite 3\S+ \(stores of version \d+\), protocol \d+, \w+ \w+\n"
    assert re.fullmatch(versions, capsys.readouterr().out)


def test_no_command_shows_help_as_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "Commands:" in streams.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sumbit"], "dtq: no such command 'sumbit'. Did you mean 'submit'? See `dtq --help`.\n"),
        (["dlq", "lits"], "dtq: no such command 'lits'. Did you mean 'list'? See `dtq dlq --help`.\n"),
        (["--nope"], "dtq: no such option '--nope'. See `dtq --help`.\n"),
        (["status"], "dtq: missing argument 'ID'. See `dtq status --help`.\n"),
        (["list", "--state", "gone"], "dtq: invalid value for '--state': 'gone' is not one of "),
        (
            ["status", "x"],
            "dtq: 'x' is not a task id: write a batch (17), one task of it (17.3), or a run of them (17.0-46).\n",
        ),
        (["status", "1", "--connect", "lab"], "dtq: 'lab' is not an address: write host:port, for example "),
        (["dlq", "list", "--older-than", "soon"], "dtq: a duration cannot be 'soon': write seconds (2.5), or "),
        (["run", "--tag", "--", "echo"], "dtq: option '--tag' needs a value before '--'. See `dtq run --help`.\n"),
        (["worker", "--max-memory-per-slot", "much"], "dtq: a size cannot be 'much': write bytes "),
    ],
)
def test_wrong_use_is_one_line_and_two(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith(sentence)
    assert streams.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("submit nocolon", r"a function cannot be 'nocolon': write module:function, for example mymodule:work\."),
        ("submit m:f x=1 x=2", r"the argument x cannot be '2': it is given twice\."),
        ("submit m:f -5", r"no such option '-5'.* Put -- before arguments that start with a dash\."),
        ("submit m:f -p 11", r"invalid value for '-p' / '--priority': 11 is not from 1 to 10\."),
        ("submit m:f --queue not/a*queue", r"queue cannot be 'not/a\*queue': it has 1 to 64 letters"),
        ("submit m:f --timeout soon", r"a duration cannot be 'soon': write seconds \(2\.5\), or units"),
        ("submit m:f --timeout 0", r"timeout cannot be 0\.0: "),
        ("submit m:f --delay 100000d", r"delay cannot be .*: it is a number of seconds from 0 to ten years"),
        ("submit m:f --each a --jsonl b", r"use --each or --jsonl, not both\."),
        ("submit m:f 1 --jsonl b", r"the lines of --jsonl have all arguments; give none beside it\."),
        ("submit m:f --wait-timeout 5s", r"--wait-timeout is for --wait\."),
        ("submit m:f --connect lab", r"'lab' is not an address: write host:port, for example 127\.0\.0\.1:3870\."),
        ("worker --slots 0", r"invalid value for '--slots': 0 is not from 1 to 4,096\."),
        ("limit set api --concurrency -1", r"invalid value for '--concurrency': -1 is less than 0\."),
        ("limit set api --concurrency 1.5", r"invalid value for '--concurrency': '1\.5' is not a whole number\."),
        ("limit set a;b --concurrency 1", r"the name of a limit cannot be 'a;b': it may hold letters, digits"),
        ("limit set [a- --concurrency 1", r"the name of a limit cannot be '\[a-'"),
        ("coordinator start --durability all", r"invalid value for '--durability': 'all' is not one of"),
    ],
)
def test_wrong_terms_are_refused_before_anybody_is_called(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtq.cli.calling.target", lambda *_: pytest.fail("it looks for the coordinator"))
    assert run(words.split()) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert re.match(f"dtq: {sentence}", streams.err)
    assert streams.err.count("\n") == 1


def test_wrong_use_is_json_where_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "x", "--json"]) == 2
    error = json.loads(capsys.readouterr().err)
    assert error == {
        "schema": 1,
        "error": {
            "code": "invalid-id",
            "message": "'x' is not a task id: write a batch (17), one task of it (17.3), or a run of them (17.0-46).",
            "hint": "",
        },
    }
    assert run(["list", "--json", "--nope"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage"


def test_every_error_of_the_tree_has_a_code_of_the_table() -> None:
    assert {kind.exit_code for kind in _subclasses(DtqError)} <= set(EXIT_CODES)


def _end(error: BaseException, *words: str) -> int:
    def command() -> None:
        raise error

    return ending(command, words)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            UnknownId("17.3"),
            65,
            "dtq: no task 17.3 is known here: it was never accepted, or it was purged. `dtq list` ",
        ),
        (StoreFull("/q.db", "no space"), 75, "dtq: the disk of the store /q.db is full (no space); accepted work "),
        (TaskFailed("3", "ValueError", "a\nb"), 1, "dtq: task 3 failed: ValueError: a b\n"),
        (FileNotFoundError(2, "No such file or directory", "in.txt"), 74, "dtq: in.txt: No such file or directory.\n"),
        (KeyboardInterrupt(), 130, "dtq: interrupted.\n"),
        (click.Abort(), 130, "dtq: interrupted.\n"),
        (KeyError("x"), 70, "dtq: unexpected KeyError: 'x'. This is a bug in dtq; run again with DTQ_DEBUG=1 for the "),
        (TaskTrouble(), 1, ""),
        (click.exceptions.Exit(3), 3, ""),
    ],
)
def test_ending_is_one_line_and_its_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DTQ_DEBUG", raising=False)
    assert _end(error) == code
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith(line)
    assert streams.err.count("\n") == (1 if line else 0)
    assert "Traceback" not in streams.err


def test_ending_shows_the_traceback_for_debugging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DTQ_DEBUG", "1")
    assert _end(UnknownId("17")) == 65
    assert "Traceback" in capsys.readouterr().err


def test_ending_separates_message_and_hint_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert _end(UnknownId("17"), "status", "17", "--json") == 65
    assert json.loads(capsys.readouterr().err)["error"] == {
        "code": "unknown-id",
        "message": "no task 17 is known here: it was never accepted, or it was purged.",
        "hint": "`dtq list` shows the tasks.",
    }
    # Words after -- belong to the task
    assert _end(UnknownId("17"), "submit", "m:f", "--", "--json") == 65
    assert capsys.readouterr().err.startswith("dtq: no task 17")


def test_a_reader_that_goes_away_is_no_error() -> None:
    # Given a reader that takes one line of the help and leaves
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "dtq", "completion", "bash"], stdout=write, stderr=subprocess.PIPE
    )
    os.close(read)
    os.close(write)
    # Then the command ends as if by SIGPIPE, in silence
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (141, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_error(closed: str, tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m dtq config {closed}"
    ended = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_and_answers_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_DTQ_COMPLETE" in capsys.readouterr().out


def test_completion_knows_the_commands() -> None:
    variables = {"_DTQ_COMPLETE": "bash_complete", "COMP_WORDS": "dtq co", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dtq"], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["plain,coordinator", "plain,config", "plain,completion"]
