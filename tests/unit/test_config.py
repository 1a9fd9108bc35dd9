"""Settings: flag, then variable, then file, then default; and nothing wrong goes unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dtq.config import (
    CoordinatorSettings,
    client_addresses,
    connection_file,
    coordinator_settings,
    read_connection,
    remove_connection,
    usable_cores,
    worker_settings,
    write_connection,
)
from dtq.errors import BadConfig, InvalidAddress, InvalidValue


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, a working directory of its own, and no DTQ_* variable."""
    for name in list(os.environ):
        if name.startswith("DTQ_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("dtq.config.files.SYSTEM_FILE", tmp_path / "etc.toml")
    (tmp_path / "config" / "dtq").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_coordinator_settings_default_to_a_private_durable_queue(home: Path) -> None:
    settings = coordinator_settings()
    assert settings == CoordinatorSettings(db=home / "state" / "dtq" / "dtq.db")
    assert (settings.host, settings.port, settings.durability) == ("127.0.0.1", 3870, "fsync")


def test_coordinator_settings_prefer_flag_then_variable_then_nearest_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a port in every place
    (home / "etc.toml").write_text("[coordinator]\nport = 1\nlease = '9s'\n")
    assert coordinator_settings().port == 1
    (home / "config" / "dtq" / "config.toml").write_text("[coordinator]\nport = 2\nmax-tasks = 7\n")
    assert coordinator_settings().port == 2
    Path("pyproject.toml").write_text("[tool.dtq.coordinator]\nport = 3\n")
    assert coordinator_settings().port == 3
    Path("dtq.toml").write_text("[coordinator]\nport = 4\n")
    assert coordinator_settings().port == 4
    monkeypatch.setenv("DTQ_PORT", "5")
    assert coordinator_settings().port == 5
    assert coordinator_settings({"port": 6}).port == 6
    # Then keys that only a farther file has still come from there
    assert coordinator_settings().lease_s == 9.0
    assert coordinator_settings().max_tasks == 7


def test_coordinator_settings_read_every_key() -> None:
    Path("dtq.toml").write_text(
        """
        [coordinator]
        host = "::"
        port = 0
        db = "data/queue.db"
        durability = "os"
        highest_first = true
        lease = 30
        keep_results = "7d"
        max_tasks = 10
        max_message = "1MiB"
        """
    )
    assert coordinator_settings() == CoordinatorSettings(
        host="::",
        port=0,
        db=Path.cwd() / "data" / "queue.db",
        durability="os",
        highest_first=True,
        lease_s=30.0,
        keep_results_s=7 * 86_400.0,
        max_tasks=10,
        max_message=2**20,
    )


def test_coordinator_settings_memory_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert coordinator_settings({"db": ":memory:"}).db is None
    monkeypatch.setenv("DTQ_DB", ":memory:")
    assert coordinator_settings().db is None


def test_coordinator_settings_skip_the_port_that_kubernetes_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTQ_PORT", "tcp://10.0.0.7:3870")
    assert coordinator_settings().port == 3870


def test_worker_settings_default_to_one_slot_a_core_and_the_current_directory() -> None:
    settings = worker_settings()
    assert settings.slots == usable_cores()
    assert settings.addresses == (("127.0.0.1", 3870),)
    assert settings.paths == (Path.cwd(),)
    assert settings.name.endswith(f"-{os.getpid()}")
    assert (settings.queues, settings.imports, settings.grace_s) == ((), (), None)
    assert settings.reload == "auto"


def test_worker_settings_read_variables(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in (Path("lib"), home / "tasks"):
        directory.mkdir()
    for name, value in {
        "DTQ_ADDRESS": "a:1, b:2",
        "DTQ_SLOTS": "3",
        "DTQ_QUEUES": "fast,slow",
        "DTQ_IMPORTS": "numpy",
        "DTQ_PATHS": f"lib{os.pathsep}{home / 'tasks'}",
        "DTQ_WORKER_NAME": "left",
        "DTQ_MAX_TASKS_PER_SLOT": "100",
        "DTQ_MAX_MEMORY_PER_SLOT": "512MiB",
        "DTQ_GRACE": "1m",
        "DTQ_RELOAD": "off",
    }.items():
        monkeypatch.setenv(name, value)
    settings = worker_settings()
    assert settings.addresses == (("a", 1), ("b", 2))
    assert (settings.slots, settings.queues, settings.imports) == (3, ("fast", "slow"), ("numpy",))
    assert settings.paths == (Path.cwd() / "lib", home / "tasks", Path.cwd())
    assert (settings.name, settings.max_tasks_per_slot) == ("left", 100)
    assert (settings.max_memory_per_slot, settings.grace_s, settings.reload) == (512 * 2**20, 60.0, "off")


def test_worker_settings_read_a_table_with_paths_from_its_directory(home: Path) -> None:
    (home / "config" / "dtq" / "tasks").mkdir()
    (home / "config" / "dtq" / "config.toml").write_text(
        'connect = "lab:3870"\n[worker]\nslots = 2\nqueues = ["a"]\npaths = ["tasks"]\ngrace = 5.5\n'
    )
    settings = worker_settings()
    assert settings.addresses == (("lab", 3870),)
    assert settings.paths == (home / "config" / "dtq" / "tasks", Path.cwd())
    assert (settings.slots, settings.queues, settings.grace_s) == (2, ("a",), 5.5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[coordinator]\nprot = 1\n", r"dtq\.toml: unknown key 'prot' in \[coordinator\]; did you mean 'port'\?"),
        ("[cordinator]\nport = 1\n", r"unknown key 'cordinator' in the top level; did you mean 'coordinator'\?"),
        ("[worker]\nzzz = 1\n", r"unknown key 'zzz' in \[worker\]; it knows by_reference, grace, imports, "),
        ("coordinator = 3\n", r"'coordinator' is a table: write \[coordinator\]"),
        ("[coordinator]\nport = 'x'\n", r"dtq\.toml: port cannot be 'x': it is a whole number from 0 to 65,535\."),
        ("[coordinator]\nport = true\n", "port cannot be 'True'"),
        ("[coordinator]\ndurability = 'full'\n", "it is one of fsync, os, none"),
        ("[coordinator]\nhighest_first = 3\n", "write true or false"),
        ("[coordinator]\nlease = 'soon'\n", "lease cannot be 'soon': write seconds"),
        ("connect = 'nonsense'\n", "'nonsense' is not an address"),
        ("port = = 1\n", r"dtq\.toml: is not TOML \("),
    ],
)
def test_configuration_mistakes_are_named_with_their_place(text: str, sentence: str) -> None:
    Path("dtq.toml").write_text(text)
    with pytest.raises(BadConfig, match=sentence) as caught:
        if "connect" in text:
            client_addresses()
        else:
            coordinator_settings()
    assert caught.value.exit_code == 78


def test_a_variable_with_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTQ_SLOTS", "many")
    with pytest.raises(BadConfig, match=r"^DTQ_SLOTS: slots cannot be 'many'"):
        worker_settings()


def test_a_bad_flag_is_wrong_use() -> None:
    with pytest.raises(InvalidValue, match=r"^max tasks cannot be '0'"):
        coordinator_settings({"max_tasks": 0})
    with pytest.raises(InvalidAddress, match=r"^'lab' is not an address"):
        worker_settings({"connect": ("lab",)})


def test_an_unrelated_broken_pyproject_is_left_alone() -> None:
    Path("pyproject.toml").write_text("[project\n")
    assert coordinator_settings().port == 3870


def test_settings_work_without_a_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a container whose user has no home directory
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    # Then a worker needs none, and a coordinator says what to do
    assert worker_settings().addresses == (("127.0.0.1", 3870),)
    assert coordinator_settings({"db": ":memory:"}).db is None
    with pytest.raises(BadConfig, match="pass --db PATH or --memory"):
        coordinator_settings()


@pytest.mark.parametrize("hidden", [True, False])
def test_a_home_that_cannot_be_entered_is_none_and_a_file_that_cannot_be_read_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    # Given a configuration file that may not be read, in a directory that may not be entered or in one that may
    path = home / "config" / "dtq" / "config.toml"
    path.write_text("[worker]\nslots = 2\n")

    def refuse(file: Path) -> Any:
        if file == path:
            raise PermissionError(13, "Permission denied", str(file))
        raise FileNotFoundError(2, "No such file or directory", str(file))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    if hidden:
        monkeypatch.setattr(Path, "lstat", refuse)
        assert client_addresses() == (("127.0.0.1", 3870),)
    else:
        with pytest.raises(BadConfig, match="cannot be read"):
            client_addresses()


# -- the connection file ------------------------------------------------------------------------------------------


def test_client_addresses_find_the_coordinator_on_this_machine(home: Path) -> None:
    # Given a coordinator that listens everywhere
    path = write_connection(("0.0.0.0", 4000), version="1.2", authkey_file=Path("key"))
    # Then a client on this machine finds it on the loopback
    assert client_addresses() == (("127.0.0.1", 4000),)
    assert path == connection_file() == home / "state" / "dtq" / "coordinator.json"
    assert path.stat().st_mode & 0o777 == 0o600
    connection = read_connection()
    assert connection is not None
    assert (connection.pid, connection.version, connection.authkey_file) == (os.getpid(), "1.2", Path("key").absolute())
    # And no longer when it has stopped
    remove_connection()
    assert client_addresses() == (("127.0.0.1", 3870),)


def test_client_addresses_prefer_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    write_connection(("127.0.0.1", 4000), version="1")
    Path("dtq.toml").write_text('connect = ["c:3", "d:4"]\n')
    assert client_addresses() == (("c", 3), ("d", 4))
    monkeypatch.setenv("DTQ_ADDRESS", "b:2")
    assert client_addresses() == (("b", 2),)
    assert client_addresses(["a:1", "[::1]:2"]) == (("a", 1), ("::1", 2))


def test_read_connection_of_a_dead_process_is_none() -> None:
    # Given a coordinator that was killed and left its file
    path = write_connection(("127.0.0.1", 4000), version="1")
    assert path is not None
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {int(gone.stdout)}'))
    # Then nobody is sent there
    assert read_connection() is None
    assert client_addresses() == (("127.0.0.1", 3870),)


def test_remove_connection_leaves_another_coordinators_file() -> None:
    path = write_connection(("127.0.0.1", 4000), version="1")
    assert path is not None
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {os.getppid()}'))
    remove_connection()
    assert read_connection() is not None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"address": 3, "pid": 1, "version": "", "authkey_file": null}'])
def test_read_connection_of_garbage_is_none(text: str) -> None:
    path = write_connection(("127.0.0.1", 4000), version="1")
    assert path is not None
    path.write_text(text)
    assert read_connection() is None


def test_slots_for_tasks_that_wait_are_so_many_a_slot_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_settings({"slots": 3}).max_waiting == 24
    assert worker_settings({"slots": 3, "max_waiting": 0}).max_waiting == 0
    assert not worker_settings().tasks_may_submit
    monkeypatch.setenv("DTQ_TASKS_MAY_SUBMIT", "1")
    monkeypatch.setenv("DTQ_MAX_WAITING", "7")
    assert (worker_settings().tasks_may_submit, worker_settings().max_waiting) == (True, 7)
