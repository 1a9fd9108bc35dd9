"""``dtq doctor`` on machines where something is wrong, and where nothing is."""

from __future__ import annotations

import json
from typing import Any

from dtq import __version__
from dtq.cli.doctor import Check, of_stats
from dtq.records import replace
from tests.acceptance.home import Home
from tests.cluster import free_port
from tests.unit.cli_scene import NOW, STATS


def checked(home: Home, *words: str, **variables: str) -> tuple[int | None, dict[str, dict[str, Any]]]:
    """The exit code, and the checks by name."""
    done = home.start("doctor", "--json", *words, **variables)
    done.ends()
    found = json.loads(done.out)["checks"]
    return done.process.returncode, {each["name"]: each for each in found}


def test_doctor_says_what_is_wrong_and_what_to_do(home: Home) -> None:
    # Given a machine on which nothing was ever started
    code, found = checked(home)
    assert (code, found["configuration"]["ok"], found["key"]["ok"]) == (1, True, False)
    assert "dtq up" in found["key"]["remedy"]

    # When a coordinator runs, without a worker
    home.coordinator()
    code, found = checked(home)
    assert (code, [name for name, each in found.items() if not each["ok"]]) == (1, ["workers"])
    assert found["workers"]["remedy"] == "dtq worker"
    assert "are free where the store is" in found["disk"]["text"]

    # When a worker runs too, Then all is well
    home.worker("--name", "lab")
    home.dtq("submit", "--wait", "math:sqrt", "4")
    code, found = checked(home)
    assert (code, [each for each in found.values() if not each["ok"]]) == (0, [])
    assert found["workers"]["text"] == "1 worker, 2 slots"
    shown = home.dtq("doctor")
    assert all(line.startswith("ok ") for line in shown.out.splitlines()), shown

    # And what is wrong here is found before anything is called
    code, found = checked(home, DTQ_LEASE="soon")
    assert (code, found["configuration"]["ok"], list(found)) == (1, False, ["configuration", "key", "tls"])
    home.key.chmod(0o644)
    code, found = checked(home)
    assert (code, "chmod 600" in found["key"]["text"] + found["key"]["remedy"]) == (1, True)
    home.key.chmod(0o600)
    other = home.work / "other"
    other.write_text("another key, long enough")
    other.chmod(0o600)
    code, found = checked(home, "--authkey-file", str(other))
    assert (code, found["address"]["ok"]) == (1, False)
    code, found = checked(home, "--connect", f"127.0.0.1:{free_port()}")
    assert (code, found["address"]["ok"]) == (1, False)


def told(now: float, **stats: Any) -> dict[str, Check]:
    fine = {"version": __version__, "losses": ()}
    return {each.name: each for each in of_stats(replace(STATS, **(fine | stats)), now, here=False)}


def test_clocks_versions_and_stores_are_compared() -> None:
    fine = told(NOW + 1)
    assert all(each.ok for each in fine.values())
    assert "another machine" in fine["disk"].text
    clock = told(NOW - 130)["clock"]
    assert (clock.ok, clock.text) == (False, "this machine's clock is 2m 10s behind the coordinator's")
    version = told(NOW, version="9.9.9")["version"]
    assert (version.ok, version.remedy) == (False, "pip install dtq==9.9.9")
    assert not told(NOW, losses=("12 rows are missing",))["store"].ok
    assert not told(NOW, trouble="store-full", trouble_text="the disk is full.")["store"].ok
    assert told(NOW, workers=())["workers"].remedy == "dtq worker"
