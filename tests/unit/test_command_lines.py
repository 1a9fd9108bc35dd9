"""Command lines from a template and inputs, and the log of commands."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from dtq.cli import joblog
from dtq.cli.command_lines import Job, Template, combined, divided, jobs, lines, shown
from dtq.client.commands import CommandResult
from dtq.errors import BadFile, BadInput, InvalidValue
from dtq.worker.kept_output import KeptOutput

PATH = "/data/in.d/photo.raw.jpg"


@pytest.mark.parametrize(
    ("place", "filled"),
    [
        ("{}", PATH),
        ("{.}", "/data/in.d/photo.raw"),
        ("{/}", "photo.raw.jpg"),
        ("{//}", "/data/in.d"),
        ("{/.}", "photo.raw"),
        ("{#}", "7"),
        ("{1}", PATH),
        ("{1/.}", "photo.raw"),
        ("out/{/.}-{#}.png", "out/photo.raw-7.png"),
        ("{print $1}", "{print $1}"),
        ("{0}{}", f"{{0}}{PATH}"),
    ],
)
def test_places_are_filled_as_gnu_parallel_fills_them(place: str, filled: str) -> None:
    assert Template(["echo", place, "{}"], False, 1).filled(7, (PATH,)) == ("echo", filled, PATH)


@pytest.mark.parametrize(
    ("name", "without", "directory"),
    [("plain", "plain", "."), (".hidden", "", "."), ("a.b/c", "a.b/c", "a.b"), ("/", "/", "/"), ("/x", "/x", "/")],
)
def test_names_without_extension_or_directory(name: str, without: str, directory: str) -> None:
    assert Template(["{.}", "{//}"], False, 1).filled(1, (name,)) == (without, directory)


def test_without_a_place_the_input_comes_last() -> None:
    assert Template(["gzip", "-9"], False, 1).filled(1, ("a b",)) == ("gzip", "-9", "a b")
    assert Template(["gzip -9"], True, 1).filled(1, ("a b",)) == "gzip -9 'a b'"
    # A single command is taken as it is, whatever is in it
    assert Template(["find", "-exec", "rm", "{}", ";"], False, 0).filled(1, ()) == ("find", "-exec", "rm", "{}", ";")


def test_inputs_stay_one_word_for_a_shell() -> None:
    template = Template(["cat {} > {/.}.txt; : {#}"], True, 1)
    assert template.filled(2, ("d/it's; rm -rf $HOME.x",)) == (
        "cat 'd/it'\"'\"'s; rm -rf $HOME.x' > 'it'\"'\"'s; rm -rf $HOME'.txt; : 2"
    )
    assert template.text("<{/}>", 2, ("d/a b",)) == "<a b>"


def test_several_sources_are_combined() -> None:
    command, sources = divided(["train", "--lr={1}", "--depth", "{2}", ":::", "0.1", "0.2", ":::", "3", "5"])
    found = [job.words for job in jobs(Template(command, False, 2), combined(sources), "the inputs")]
    assert found[1] == ("train", "--lr=0.1", "--depth", "5")
    assert len(found) == 4
    assert Template(["echo", "{}"], False, 2).filled(1, ("a", "b c")) == ("echo", "a", "b c")
    with pytest.raises(InvalidValue, match=r"each command has 2 of such inputs"):
        Template(["echo", "{3}"], False, 2)
    for words in (["echo", ":::"], [":::", "a"], ["echo", ":::", "a", ":::"]):
        with pytest.raises(InvalidValue):
            divided(words)


def test_lines_and_texts_that_end_with_nul() -> None:
    assert list(lines(io.BytesIO(b"a b\r\n\n\xff\nlast"), False)) == [("a b",), ("\udcff",), ("last",)]
    assert list(lines(io.BytesIO(b"a\nb\0\0c\n\0d"), True)) == [("a\nb",), ("c\n",), ("d",)]
    with pytest.raises(BadInput, match=r"list, line 2: it has a NUL"):
        list(jobs(Template(["echo"], False, 1), [("a",), ("b\0c",)], "list"))


def test_the_log_tells_what_is_left(tmp_path: Path) -> None:
    # Given a log of three commands, the last line of which was cut
    path = str(tmp_path / "log")
    made = [Job(n, (str(n),), ("echo", f"a\t{n}")) for n in (1, 2, 3, 4)]
    with joblog.written(path, 5, going_on=False) as log:
        log.add(made[0], CommandResult(worker="lab", started_at=1.5, seconds=2.25, printed=7))
        log.add(made[1], CommandResult(exit_code=137, signal=9))
        log.add(made[2], CommandResult(exit_code=3))
    text = Path(path).read_text()
    assert text.splitlines()[0].split("\t")[-3:] == ["Exitval", "Signal", "Command"]
    assert text.splitlines()[1] == "1\tlab\t1.500\t     2.250\t5\t7\t0\t0\techo 'a\\t1'"
    assert [line.split("\t")[6:8] for line in text.splitlines()[2:]] == [["0", "9"], ["3", "0"]]
    Path(path).write_text(text[:-4])
    # When it is read, then what has no whole line is left, and failures too where they are to run again
    logged = joblog.read(path)
    assert [job.sequence for job in joblog.unfinished(iter(made), logged, path, failed_too=False)] == [3, 4]
    assert [job.sequence for job in joblog.unfinished(iter(made), logged, path, failed_too=True)] == [2, 3, 4]
    # And the next line is whole again
    with joblog.written(path, 0, going_on=True) as log:
        log.add(made[2], CommandResult())
    assert joblog.read(path)[3].succeeded
    # And a log of other commands, or no log, is refused
    with pytest.raises(BadInput, match="number 1 was the command"):
        list(joblog.unfinished(iter([Job(1, ("x",), ("rm", "x"))]), logged, path, failed_too=False))
    Path(path).write_text("something else\n")
    with pytest.raises(BadFile):
        joblog.read(path)
    assert joblog.read(f"{path}.none") == {}


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_beginning_and_end_of_a_long_output_are_kept(piece: int) -> None:
    data = bytes(range(33, 123)) * 20
    kept = KeptOutput(100)
    for at in range(0, len(data), piece):
        kept.add(data[at : at + piece])
    assert kept.size == len(data)
    assert kept.kept() == data[:50] + b"\n[... 1,700 bytes left out ...]\n" + data[-50:]
    assert kept.kept(10) == data[:5] + b"\n[... 1,790 bytes left out ...]\n" + data[-5:]
    whole = KeptOutput(2000)
    whole.add(data)
    assert whole.kept() == data
    assert whole.kept(100) == kept.kept()
    assert KeptOutput(0).kept() == b""


def test_a_command_is_shown_as_one_types_it() -> None:
    assert shown(("echo", "a b")) == "echo 'a b'"
    assert shown("a | b") == "a | b"
