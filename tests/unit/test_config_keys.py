"""The keyring: what is kept of keys, who can read it, and what is refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from dtq.config.keys import Key, KeyRole, add_key, keyring_file, read_keyring, remove_key, write_secret
from dtq.errors import InvalidValue, KeyUnusable


def test_added_keys_are_read_again_with_their_roles(tmp_path: Path) -> None:
    # Given a keyring that does not exist yet
    path = tmp_path / "deep" / "authkey.keys"
    assert read_keyring(path) == ()

    # When keys are added
    ci = add_key(path, "ci", [KeyRole.SUBMIT])
    lab = add_key(path, "lab", [KeyRole.WORK, KeyRole.SUBMIT])

    # Then both are read as they were made, nobody else can read them, and no draft is left
    assert read_keyring(path) == (ci, lab)
    assert lab.role_names == "submit, work"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert len(ci.secret) >= 32
    assert ci.secret != lab.secret


def test_removed_key_is_gone_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, "ci", [KeyRole.SUBMIT])
    lab = add_key(path, "lab", [KeyRole.WORK])
    assert remove_key(path, "ci").name == "ci"
    assert read_keyring(path) == (lab,)
    with pytest.raises(InvalidValue, match="has lab"):
        remove_key(path, "ci")


@pytest.mark.parametrize("name", ["", "authkey", "a b", "-a", "a\nb", "a" * 65, "é"])
def test_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidValue, match="name of a key"):
        add_key(tmp_path / "keys", name, [KeyRole.SUBMIT])


def test_name_that_is_taken_and_no_role_are_refused(tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "ci", [KeyRole.SUBMIT])
    with pytest.raises(InvalidValue, match="revoke it first"):
        add_key(tmp_path / "keys", "ci", [KeyRole.WORK])
    with pytest.raises(InvalidValue, match="submit, work, admin"):
        add_key(tmp_path / "keys", "other", [])


@pytest.mark.parametrize(
    "content",
    [
        "secret-that-is-not-json",
        "[]",
        '{"keys": [{"name": "ci"}]}',
        json.dumps({"keys": [{"name": "ci", "secret": "secret", "roles": ["submit"], "made_at": 0}]}),
        json.dumps({"keys": [{"name": "ci", "secret": "secret" * 9, "roles": ["root"], "made_at": 0}]}),
        json.dumps({"keys": [{"name": "ci", "secret": "secret" * 9, "roles": ["work"], "made_at": 0}] * 2}),
    ],
)
def test_damaged_keyring_is_refused_without_being_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeyUnusable) as caught:
        read_keyring(path)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_keyring_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, "ci", [KeyRole.SUBMIT])
    path.chmod(0o640)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        read_keyring(path)


def test_secret_is_written_once_for_its_owner_only(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "ci", [KeyRole.SUBMIT])
    write_secret(tmp_path / "ci.key", key)
    assert (tmp_path / "ci.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "ci.key").read_bytes().strip() == key.secret
    with pytest.raises(KeyUnusable, match="already"):
        write_secret(tmp_path / "ci.key", key)


def test_key_shows_no_secret() -> None:
    assert "hush" not in repr(Key(name="ci", secret=b"hush" * 8))


def test_keys_added_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    threads = [
        threading.Thread(target=add_key, args=(path, f"key{number}", [KeyRole.SUBMIT]), daemon=True)
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {key.name for key in read_keyring(path)} == {f"key{number}" for number in range(8)}


def test_keyring_lies_beside_the_authkey(tmp_path: Path) -> None:
    (tmp_path / "authkey").write_text("k" * 32)
    assert keyring_file(str(tmp_path / "authkey")) == tmp_path / "authkey.keys"
    assert keyring_file("standard input") is None
