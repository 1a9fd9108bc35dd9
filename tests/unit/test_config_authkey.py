"""The authkey: looked for in one order, refused when others could know it, made once."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from dtq.config import coordinator_authkey, default_authkey_file, load_authkey, make_authkey, write_connection
from dtq.errors import KeyMissing, KeyUnusable


def _key(path: Path, text: str = "", mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((text or f"{path.parent.name}-{path.name}").ljust(20, "-"))
    path.chmod(mode)
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, no key anywhere, and nothing read yet."""
    for name in [*os.environ]:
        if name.startswith("DTQ_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("dtq.config.files.SYSTEM_FILE", tmp_path / "etc.toml")
    monkeypatch.setattr("dtq.config.authkey._SECRETS", tmp_path / "secrets")
    monkeypatch.setattr("dtq.config.authkey._taken", {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_load_authkey_looks_in_one_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given nothing, then one more place at a time, the least important first
    with pytest.raises(KeyMissing, match=r"authkey does not exist"):
        load_authkey()
    generated = _key(home / "config" / "dtq" / "authkey")
    assert load_authkey() == (generated.read_bytes(), str(generated))

    other = _key(home / "running.key")
    write_connection(("127.0.0.1", 4000), version="1", authkey_file=other)
    assert load_authkey()[1] == str(generated)
    assert load_authkey(addresses=[("elsewhere", 4000)])[1] == str(generated)
    assert load_authkey(addresses=[("127.0.0.1", 4000)])[1] == str(other)

    secret = _key(home / "secrets" / "dtq_authkey", mode=0o444)
    assert load_authkey(addresses=[("127.0.0.1", 4000)])[1] == str(secret)
    credential = _key(home / "credentials" / "dtq_authkey", mode=0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(home / "credentials"))
    assert load_authkey()[1] == str(credential)
    configured = _key(home / "configured.key")
    Path("dtq.toml").write_text('authkey_file = "configured.key"\n')
    assert load_authkey()[1] == str(configured)
    monkeypatch.setenv("DTQ_AUTHKEY", "from the variable")
    assert load_authkey() == (b"from the variable", "DTQ_AUTHKEY")
    named = _key(home / "named.key")
    monkeypatch.setenv("DTQ_AUTHKEY_FILE", str(named))
    assert load_authkey()[1] == str(named)
    flag = _key(home / "flag.key")
    assert load_authkey(str(flag))[1] == str(flag)
    assert load_authkey(flag)[0] == flag.read_bytes()


def test_load_authkey_takes_the_variable_out_of_the_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    # Given a variable, also where a file wins over it
    monkeypatch.setenv("DTQ_AUTHKEY", "from the variable")
    load_authkey(_key(home / "flag.key"))
    # Then tasks cannot see it, and dtq can still read it
    assert "DTQ_AUTHKEY" not in os.environ
    assert load_authkey()[0] == load_authkey()[0] == b"from the variable"


def test_load_authkey_reads_standard_input_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"  a key from a pipe \n")))
    assert load_authkey("-") == (b"a key from a pipe", "standard input")
    assert load_authkey("-") == (b"a key from a pipe", "standard input")


@pytest.mark.parametrize(
    ("mode", "text", "reason"),
    [
        (0o640, "a key that is long enough", "others can read it; run chmod 600 "),
        (0o604, "a key that is long enough", "others can read it"),
        (0o600, "short \n", "its key has 5 bytes, fewer than 16"),
        (0o600, "x" * 5000, "more than 4096 bytes"),
    ],
)
def test_load_authkey_refuses_a_file_that_is_not_safe(home: Path, mode: int, text: str, reason: str) -> None:
    path = home / "key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match=f"the authkey file .*/key cannot be used: .*{reason}") as caught:
        load_authkey(path)
    assert caught.value.exit_code == 77
    assert text.strip() not in str(caught.value)


def test_load_authkey_refuses_what_is_no_file(home: Path) -> None:
    os.mkfifo(home / "pipe", 0o600)
    for path in (home, home / "pipe"):
        with pytest.raises(KeyUnusable, match="it is not a regular file"):
            load_authkey(path)


def test_load_authkey_of_a_missing_file_says_what_to_do(home: Path) -> None:
    with pytest.raises(KeyMissing, match=r"nokey does not exist\. Start a coordinator as this user") as caught:
        load_authkey(home / "nokey")
    assert caught.value.exit_code == 78


def test_make_authkey_writes_a_private_random_key(home: Path) -> None:
    path = home / "new" / "authkey"
    key = make_authkey(path)
    assert len(key) == 64
    assert path.read_bytes().strip() == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["authkey"]
    assert make_authkey(home / "second") != key


def _make(path: Path, barrier: Barrier) -> None:
    barrier.wait(30)
    sys.exit(0 if make_authkey(path) == path.read_bytes().strip() else 1)


def test_make_authkey_at_once_ends_with_one_key(home: Path) -> None:
    # Given eight coordinators that start at the same moment
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(8)
    makers = [context.Process(target=_make, args=(home / "authkey", barrier)) for _ in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(30)
    # Then each of them has the key that is in the file
    assert [maker.exitcode for maker in makers] == [0] * 8
    assert [entry.name for entry in home.iterdir()] == ["authkey"]


def test_coordinator_authkey_makes_the_default_and_a_named_file(home: Path) -> None:
    key, origin, made = coordinator_authkey()
    assert (origin, made) == (str(default_authkey_file()), True)
    assert coordinator_authkey() == (key, origin, False)
    assert load_authkey() == (key, origin)

    key, origin, made = coordinator_authkey(home / "named")
    assert (origin, made) == (str(home / "named"), True)
    assert coordinator_authkey(home / "named") == (key, origin, False)


def test_coordinator_authkey_does_not_hide_a_missing_deployed_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTQ_AUTHKEY_FILE", str(home / "secret"))
    with pytest.raises(KeyMissing, match="secret does not exist"):
        coordinator_authkey()
    assert not (home / "secret").exists()


def test_make_authkey_where_nothing_can_be_written_says_so(home: Path) -> None:
    (home / "file").touch()
    with pytest.raises(KeyUnusable, match=r"it cannot be made \("):
        make_authkey(home / "file" / "authkey")
