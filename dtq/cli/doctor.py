"""``dtq doctor``: check what a command needs, line by line, and say what to do."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from dtq import __version__
from dtq.cli import options
from dtq.cli.calling import service
from dtq.cli.click_classes import Command
from dtq.cli.output import one_line, write, write_json
from dtq.client.paging import whole_stats
from dtq.config import (
    client_addresses,
    configured_tls,
    format_address,
    format_size,
    is_loopback,
    load_authkey,
)
from dtq.config.origins import all_settings, places
from dtq.errors import DtqError, RoleMissing
from dtq.model.snapshots import Stats
from dtq.wording import PYTHON_VERSION, counted, duration

if TYPE_CHECKING:
    from dtq.transport import Proxy

#: Longest wait for the coordinator, in seconds.
_PATIENCE_S: Final = 5.0
#: Seconds that this machine's clock may differ from the coordinator's.
_SKEW_S: Final = 5.0
#: Free bytes of the store's disk below which that is a fault.
_FREE: Final = 1 << 30
#: Kinds of the coordinator's warnings that other checks cover, or that say nothing of the installation.
_PASSED_OVER: Final = frozenset({"store", "paused", "dead-letters"})


class Check(NamedTuple):
    """One line of the report.

    Attributes:
        name: what was checked.
        ok: whether it is in order.
        text: what was found.
        remedy: what to do; empty if it is in order.
    """

    name: str
    ok: bool
    text: str
    remedy: str = ""


@click.command(
    cls=Command,
    examples=(
        ("dtq doctor", "what is wrong here, and what to do"),
        ("dtq doctor --connect lab:3870 --json", "of another coordinator, as JSON"),
    ),
)
@options.connecting
@options.as_json
def doctor(addresses: tuple[str, ...], authkey_file: str | None, as_json: bool) -> None:
    """Check configuration, key, address, versions, clocks, disk and workers, and say what to do.

    Ends with 1 if a line is not ok.
    """
    found = list(_checks(addresses, authkey_file))
    if as_json:
        write_json({"checks": [each._asdict() for each in found]})
    else:
        for each in found:
            write(f"{'ok' if each.ok else 'not ok':<6}  {each.name:<13}  {one_line(each.text, 300)}")
            if not each.ok and each.remedy:
                write(f"{'':<23}do: {one_line(each.remedy, 300)}")
    if not all(each.ok for each in found):
        raise click.exceptions.Exit(1)


def _checks(addresses: tuple[str, ...], authkey_file: str | None) -> Iterator[Check]:
    """All checks, in the order in which one needs the other."""
    before = [_configuration(addresses, authkey_file), _key(addresses, authkey_file), _tls()]
    yield from before
    if not all(each.ok for each in before):
        return
    where = ", ".join(map(format_address, client_addresses(addresses)))
    began = time.monotonic()
    try:
        with service(addresses, authkey_file, patience_s=_PATIENCE_S) as queue:
            connected_s = time.monotonic() - began
            yield Check("address", True, f"the coordinator at {queue.address} answers, in {duration(connected_s)}")
            yield from _of_coordinator(queue)
    except DtqError as error:
        yield Check("address", False, f"{where}: {error.sentence}", error.hint)


def _failed(name: str, error: DtqError) -> Check:
    return Check(name, False, error.sentence, error.hint or "dtq config")


def _configuration(addresses: tuple[str, ...], authkey_file: str | None) -> Check:
    try:
        wrong = [each for each in all_settings({"connect": addresses}) if each.trouble and each.key != "authkey_file"]
        used = [str(path) for path, is_used in places() if is_used]
    except DtqError as error:
        return _failed("configuration", error)
    if wrong:
        return Check("configuration", False, wrong[0].trouble, "dtq config")
    return Check("configuration", True, ", ".join(used) or "no configuration file; variables and defaults")


def _key(addresses: tuple[str, ...], authkey_file: str | None) -> Check:
    """The key, with the mode of its file, which `load_authkey` checks."""
    try:
        _, origin = load_authkey(authkey_file, addresses=client_addresses(addresses))
    except DtqError as error:
        return _failed("key", error)
    return Check("key", True, f"{origin}{', for its owner only' if os.path.isfile(origin) else ''}")


def _tls() -> Check:
    try:
        files = configured_tls()
    except DtqError as error:
        return _failed("tls", error)
    return Check("tls", True, "not used" if files is None else f"certificates in {files.ca.parent}")


# -- at the coordinator -------------------------------------------------------------------------------------------


def _of_coordinator(queue: Proxy) -> Iterator[Check]:
    asked = time.time()
    stats = whole_stats(queue)
    yield from of_stats(stats, (asked + time.time()) / 2, here=_is_here(queue))
    with suppress(RoleMissing):  # a key with fewer rights sees no more
        for said in queue.dashboard(time.time()).attention:
            if said.kind not in _PASSED_OVER and not (said.kind == "no-worker" and not stats.workers):
                yield Check(said.kind, False, said.text, said.remedy)


def _is_here(queue: Proxy) -> bool:
    """Whether the coordinator is on this machine."""
    return is_loopback(queue.address.rpartition(":")[0].strip("[]"))


def of_stats(stats: Stats, now: float, *, here: bool) -> Iterator[Check]:
    """The checks of a coordinator's own account.

    Args:
        stats: the account.
        now: this machine's time when it was made.
        here: whether the coordinator is on this machine.
    """
    same = stats.version == __version__
    theirs = f"the coordinator runs dtq {stats.version} on Python {stats.python}"
    said = f"{theirs}, here are {__version__} and {PYTHON_VERSION}"
    yield Check("version", same, said, "" if same else f"pip install dtq=={stats.version}")
    ahead_s = now - stats.now
    if abs(ahead_s) <= _SKEW_S:
        yield Check("clock", True, "this machine's clock and the coordinator's agree")
    else:
        way = "ahead of" if ahead_s > 0 else "behind"
        differ = f"this machine's clock is {duration(abs(ahead_s))} {way} the coordinator's"
        yield Check("clock", False, differ, "timedatectl set-ntp true, on both")
    yield from _of_store(stats, here)
    if stats.workers:
        slots = sum(worker.slots for worker in stats.workers)
        yield Check("workers", True, f"{counted(len(stats.workers), 'worker')}, {counted(slots, 'slot')}")
    else:
        yield Check("workers", False, "no worker is connected, so no task runs", "dtq worker")


def _of_store(stats: Stats, here: bool) -> Iterator[Check]:
    if stats.trouble:
        yield Check("store", False, stats.trouble_text, "make room, or move the store (dtq coordinator start --db)")
    elif stats.losses:
        yield Check("store", False, f"it had losses: {stats.losses[0]}", "dtq coordinator status")
    else:
        yield Check("store", True, f"{stats.store}, durability {stats.durability}")
    if here and os.path.isfile(stats.store):
        disk = shutil.disk_usage(os.path.dirname(os.path.abspath(stats.store)))
        text = f"{format_size(disk.free)} of {format_size(disk.total)} are free where the store is"
        enough = disk.free >= _FREE
        yield Check("disk", enough, text, "" if enough else "make room: a full disk takes no new tasks")
    elif not here:
        yield Check("disk", True, "the store is on another machine, and its disk is not seen from here")
