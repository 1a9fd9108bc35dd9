"""``dtq store``: inspect a store that no coordinator uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from dtq.cli import options
from dtq.cli.click_classes import Group
from dtq.cli.output import one_line, write, write_json
from dtq.config import coordinator_settings
from dtq.errors import StoreDamaged, StoreError
from dtq.records import asdict
from dtq.wording import counted

if TYPE_CHECKING:
    from dtq.engines.check import Checked

#: Most characters of a line about a damaged value.
_WIDEST: Final = 400


@click.group(
    cls=Group,
    examples=(
        ("dtq store check", "read all of the store in your state directory"),
        ("dtq store check /var/dtq/copy.db", "a copy, before you need it"),
    ),
)
def store() -> None:
    """Inspect a store while no coordinator uses it."""


@store.command(
    examples=(
        ("dtq store check /var/dtq/dtq.db", "ends with 74 if something is missing or damaged"),
        ("dtq store check /var/dtq/dtq.db --json", "the same as JSON"),
    ),
)
@click.argument("path", required=False, type=options.FILE)
@options.as_json
@options.quiet
def check(path: str | None, as_json: bool, quiet: bool) -> None:
    """Read every row and every large value of the store at PATH, and report its contents and its damage.

    Without PATH, the store that a coordinator here would use. Nothing is changed.
    """
    from dtq.engines.check import check as check_store

    settings = coordinator_settings({"db": path})
    if settings.db is None:
        raise StoreError("in memory", "there is no file to check")
    found = check_store(settings.db)
    if as_json:
        write_json({"sound": not found.damage, "store": asdict(found)})
    elif not quiet:
        _show(found)
    if found.damage:
        raise click.exceptions.Exit(StoreDamaged.exit_code)


def _show(found: Checked) -> None:
    write(f"store      {one_line(found.path, _WIDEST)}")
    if found.schema:
        write(f"batches    {found.batches:,}, {found.unfinished:,} unfinished")
        segments = counted(found.segments, "file")
        write(f"values     {found.values:,} with {found.value_bytes:,} bytes, in {segments}")
        write(f"unused     {found.unused_bytes:,} bytes, {counted(found.unused_segments, 'file')} as a whole")
    for sentence in found.damage:
        write(f"damaged    {one_line(sentence, _WIDEST)}")
    for value in found.damaged_values:
        write(f"           {one_line(f'{value.named_by}: {value.length:,} bytes, {value.why}', _WIDEST)}")
    if not found.damage:
        write("sound")
