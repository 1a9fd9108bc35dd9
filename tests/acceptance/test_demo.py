"""`dtq demo`: what it promises to show, with few tasks; and its end by Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import DEADLINE_S, clean_environment, until

DEMO = (sys.executable, "-m", "dtq", "demo", "--workers", "2", "--slots", "1", "--seed", "3")


def _environment(place: Path) -> dict[str, str]:
    return clean_environment(place) | {"TMPDIR": str(place / "tmp"), "DTQ_ADDRESS": "nowhere:1", "DTQ_TLS": "/nowhere"}


def _left(place: Path) -> list[str]:
    """Processes of a demo that was run there."""
    found = []
    for status in Path("/proc").glob("[0-9]*"):
        try:
            words = (status / "cmdline").read_bytes() + (status / "environ").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if str(place).encode() in words:
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_demo_measures_priorities_against_the_order_of_submission(tmp_path: Path) -> None:
    # Given a user whose settings name another coordinator
    (tmp_path / "tmp").mkdir()
    (tmp_path / "dtq.toml").write_text('connect = "nowhere:1"\ntls = "/nowhere"\n[worker]\nqueues = ["other"]\n')
    # When the demo runs with so many failures that some requests are given up
    done = subprocess.run(
        [*DEMO, "--tasks", "400", "--failure-rate", "0.4", "--no-live"],
        env=_environment(tmp_path), cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=DEADLINE_S,
    )  # fmt: skip
    # Then every check holds, with as many retries and dead letters in one run as in the other
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT OK" not in done.stdout
    facts = dict(re.findall(r"^(held when it opened|retries|dead letters) +(\S+ +\S+)$", done.stdout, re.MULTILINE))
    assert facts["held when it opened"].split() == ["400", "400"]
    for name in ("retries", "dead letters"):
        one, other = facts[name].split()
        assert one == other
        assert int(one) > 0
    # and urgent tasks wait far shorter
    less = re.search(r"urgent tasks \(P1\) wait .* instead of .*: (\d+)% less", done.stdout)
    assert less is not None, done.stdout
    assert int(less[1]) >= 60
    # and nothing is left
    assert list((tmp_path / "tmp").iterdir()) == []
    assert _left(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_interrupted_ends_at_once_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    # Given a demo in the middle of its work
    (tmp_path / "tmp").mkdir()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*DEMO, "--tasks", "100000"],
            env=_environment(tmp_path), cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: "real work" in (tmp_path / "log").read_text(), "its cluster to run", (tmp_path / "log").read_text)
        assert len(_left(tmp_path)) >= 3
        # When it is interrupted, by somebody who is impatient
        for _ in range(2):
            process.send_signal(number)
        # Then it ends with the code of that
        assert process.wait(DEADLINE_S) == 128 + number
    finally:
        process.kill()
        process.wait()
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text, text
    until(lambda: not _left(tmp_path), "its processes to end", lambda: _left(tmp_path))
    assert list((tmp_path / "tmp").iterdir()) == []
