"""Every setting, with its value and origin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dtq.cli.app import run
from dtq.config.origins import Setting, all_settings, places, shown

KEY = "a key that is long enough"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a configuration directory, in which nothing is set."""
    for name in ("DTQ_ADDRESS", "DTQ_AUTHKEY_FILE", "DTQ_AUTHKEY", "DTQ_LEASE", "DTQ_TLS", "DTQ_PORT", "DTQ_SLOTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def found(**flags: object) -> dict[str, Setting]:
    return {each.name: each for each in all_settings(flags)}


def test_nothing_set_is_defaults(machine: Path) -> None:
    settings = found()
    assert (settings["connect"].value, settings["connect"].origin) == ((("127.0.0.1", 3870),), "default")
    assert settings["coordinator.lease"].origin == "default"
    assert settings["authkey_file"].value == f"{machine / 'config' / 'dtq' / 'authkey'} (not there yet)"
    assert not any(each.trouble for each in settings.values())
    assert [used for _, used in places()] == [False, False, places()[-1][1]]


def test_each_value_names_flag_variable_or_file(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a file, a variable that overrides it, and a flag that overrides that
    here = machine / "work" / "dtq.toml"
    here.write_text('connect = "a:1"\n[coordinator]\nlease = "30s"\nport = 4000\n[worker]\nslots = 3\n')
    monkeypatch.setenv("DTQ_PORT", "4001")
    key = machine / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    monkeypatch.setenv("DTQ_AUTHKEY_FILE", str(key))

    # When, Then
    settings = found(connect=("b:2",))
    assert (settings["connect"].value, settings["connect"].origin) == ((("b", 2),), "--connect")
    assert (settings["coordinator.lease"].value, settings["coordinator.lease"].origin) == (30.0, str(here))
    assert (settings["coordinator.port"].value, settings["coordinator.port"].origin) == (4001, "DTQ_PORT")
    assert settings["worker.slots"].origin == str(here)
    assert (settings["authkey_file"].value, settings["authkey_file"].origin) == (str(key), "DTQ_AUTHKEY_FILE")
    assert found()["connect"].origin == str(here)
    assert places()[0] == (here, True)


def test_key_is_never_shown(machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DTQ_AUTHKEY", KEY)
    for words in (["config", "--all"], ["config", "--json"]):
        assert run(words) == 0
        shown_text = capsys.readouterr().out
        assert KEY not in shown_text
        assert "DTQ_AUTHKEY" in shown_text


def test_value_that_cannot_be_used_is_told_at_its_place(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DTQ_LEASE", "soon")
    key = machine / "key"
    key.write_text(KEY)
    key.chmod(0o644)
    assert run(["config", "--authkey-file", str(key), "--json"]) == 78
    settings = {each["name"]: each for each in json.loads(capsys.readouterr().out)["settings"]}
    assert "DTQ_LEASE" in settings["coordinator.lease"]["trouble"]
    assert "chmod 600" in settings["authkey_file"]["trouble"]
    assert settings["authkey_file"]["from"] == "--authkey-file"
    assert run(["config"]) == 78
    assert "cannot be used: " in capsys.readouterr().out
    (machine / "work" / "dtq.toml").write_text("colour = 1\n")
    assert run(["config"]) == 78
    assert "unknown key 'colour'" in capsys.readouterr().err


def test_values_are_written_for_people() -> None:
    assert [shown(30.0, "lease"), shown(1 << 24, "max_message"), shown(10_000, "max_tasks"), shown(True)] == [
        "30 s",
        "16 MiB",
        "10,000",
        "true",
    ]
    assert shown((("a", 1), ("b", 2))) == "a:1, b:2"
    assert shown(None) == ""
