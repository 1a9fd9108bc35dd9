"""``dtq key``: keys with fewer rights than the authkey. Run on the machine with the coordinator's key files."""

from __future__ import annotations

import time
from pathlib import Path

import click

from dtq.cli import options
from dtq.cli.calling import service, target
from dtq.cli.click_classes import Group
from dtq.cli.output import local_time, moment, say, write, write_json, write_table
from dtq.config import (
    Key,
    KeyRole,
    add_key,
    coordinator_settings,
    keyring_file,
    read_keyring,
    remove_key,
    write_secret,
)
from dtq.errors import KeyMissing, KeyUnusable, Unreachable

#: Value of `--out` for standard output.
_STDOUT = "-"


@click.group(
    cls=Group,
    examples=(
        ("dtq key new ci --role submit", "a key that only submits, in ci.key; give it to --authkey-file there"),
        ("dtq key revoke ci", "its connections end at once"),
    ),
)
def key() -> None:
    """Keys with fewer rights than the authkey.

    The coordinator's own key has every role. Other keys have some of: submit (submit tasks, and follow, read and cancel
    them by id), work (lease tasks and report them), admin (see everything; cancel by filter, dead letters, stop, keys).
    """


_where = options.stacked(options.keys_file, options.connecting)


def _keyring(keys_file: str | None, addresses: tuple[str, ...], authkey_file: str | None) -> Path:
    """The keyring of the coordinator on this machine."""
    named = coordinator_settings({"keys_file": keys_file}).keys_file
    if named is not None:
        return named
    origin = target(addresses, authkey_file).origin
    found = keyring_file(origin)
    if found is None:
        raise KeyUnusable(origin, "it is no file, so no keyring lies beside it; name one with --keys-file")
    return found


def _tell(addresses: tuple[str, ...], authkey_file: str | None, changed: str, there: bool, path: Path) -> None:
    """Make the coordinator read its keys, and check that it has the same ones."""
    try:
        with service(addresses, authkey_file) as queue:
            names = queue.reload_keys()
            address = queue.address
    except (Unreachable, KeyMissing):
        say("no coordinator answers; the next one that starts here reads the keys")
        return
    if (changed in names) is not there:
        raise KeyUnusable(str(path), f"the coordinator at {address} reads another keyring; run this on its machine")
    say(f"the coordinator at {address} knows")


@key.command(
    examples=(
        ("dtq key new ci --role submit", "writes ci.key"),
        ("dtq key new lab --role work --role submit --out -", "print it, for a secret store"),
    ),
)
@click.argument("name")
@click.option(
    "--role",
    "roles",
    type=click.Choice([role.value for role in KeyRole]),
    multiple=True,
    required=True,
    help="A role of the key; repeatable.",
)
@click.option(
    "--out",
    metavar="FILE",
    type=options.FILE,
    help="File for the key, mode 0600 (- for standard output).  [NAME.key]",
)
@_where
def new(
    name: str,
    roles: tuple[str, ...],
    out: str | None,
    keys_file: str | None,
    addresses: tuple[str, ...],
    authkey_file: str | None,
) -> None:
    """Make a key."""
    path = _keyring(keys_file, addresses, authkey_file)
    place = None if out == _STDOUT else Path(out or f"{name}.key")
    if place is not None and place.exists():
        raise KeyUnusable(str(place), "there is such a file already; name another one with --out")
    made = add_key(path, name, [KeyRole(role) for role in roles])
    if place is None:
        write(made.secret.decode("ascii"))
    else:
        try:
            write_secret(place, made)
        except KeyUnusable:
            remove_key(path, name)  # no user has it
            raise
        say(f"wrote {place} (role {made.role_names}); pass it to --authkey-file or DTQ_AUTHKEY_FILE, to use the key")
    _tell(addresses, authkey_file, name, True, path)


@key.command(
    name="list", examples=(("dtq key list", "names and roles, no secrets"), ("dtq key list --json", "as JSON"))
)
@_where
@options.as_json
def list_(keys_file: str | None, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool) -> None:
    """List the keys beside the coordinator's own."""
    keys = read_keyring(_keyring(keys_file, addresses, authkey_file))
    if as_json:
        write_json({"keys": [_key_json(one) for one in keys]})
    elif keys:
        now = time.time()
        write_table(
            ("NAME", "ROLES", "MADE"), [(one.name, one.role_names, local_time(one.made_at, now)) for one in keys]
        )
    else:
        say("no keys but the coordinator's own, which has every role; `dtq key new` makes one")


def _key_json(one: Key) -> dict[str, object]:
    return {"name": one.name, "roles": one.role_names.split(", "), "made_at": moment(one.made_at)}


@key.command(
    examples=(
        ("dtq key revoke ci", "whoever uses it is cut off at once"),
        ("dtq key revoke ci --keys-file /etc/dtq/keys", "of a keyring of your choice"),
    ),
)
@click.argument("name")
@_where
def revoke(name: str, keys_file: str | None, addresses: tuple[str, ...], authkey_file: str | None) -> None:
    """Revoke a key: it gives no access any more, and its connections end."""
    path = _keyring(keys_file, addresses, authkey_file)
    remove_key(path, name)
    say(f"revoked {name}")
    _tell(addresses, authkey_file, name, False, path)
