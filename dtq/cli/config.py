"""``dtq config``: every setting of this machine, with its value and origin."""

from __future__ import annotations

import click

from dtq.cli import options
from dtq.cli.click_classes import Command
from dtq.cli.output import one_line, write, write_json, write_table
from dtq.config.origins import DEFAULT, Setting, all_settings, places, shown

#: Exit code for a value that cannot be used (`BadConfig`).
_BAD: int = 78


@click.command(
    "config",
    cls=Command,
    examples=(
        ("dtq config", "what is set, and where"),
        ("dtq config --all", "the defaults of everything else, too"),
        ("dtq config --json", "all of it, as JSON"),
    ),
)
@click.option("--all", "everything", is_flag=True, help="Settings at their defaults, too.")
@options.connecting
@options.as_json
def config(everything: bool, addresses: tuple[str, ...], authkey_file: str | None, as_json: bool) -> None:
    """Show the configuration files that were found, and each setting with its value and origin.

    A key is never shown: only its place. Ends with 78 if a value cannot be used.
    """
    found = all_settings({"connect": addresses, "authkey_file": authkey_file})
    files = places()
    if as_json:
        write_json(
            {
                "files": [{"path": str(path), "used": used} for path, used in files],
                "settings": [_setting_json(each) for each in found],
            }
        )
    else:
        for path, used in files:
            write(f"{one_line(str(path))}{'' if used else '  (not there)'}")
        write()
        told = [each for each in found if everything or each.trouble or each.origin != DEFAULT or not each.table]
        rows = [
            (each.name, f"cannot be used: {each.trouble}" if each.trouble else shown(each.value, each.key), each.origin)
            for each in told
        ]
        write_table(("SETTING", "VALUE", "FROM"), rows)
    if any(each.trouble for each in found):
        raise click.exceptions.Exit(_BAD)


def _setting_json(setting: Setting) -> dict[str, object]:
    value = setting.value
    plain = value if value is None or isinstance(value, bool | int | float) else shown(value)
    return {"name": setting.name, "value": plain, "from": setting.origin, "trouble": setting.trouble}
