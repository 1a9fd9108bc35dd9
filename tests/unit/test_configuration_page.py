"""docs/configuration.md has every key of the configuration, with its variable, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from dtq.config import settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
#: `load_authkey` reads it.
ELSEWHERE = {("", "authkey_file"): "DTQ_AUTHKEY_FILE"}


def test_page_has_every_key_and_its_variable() -> None:
    documented: dict[tuple[str, str], str] = {}
    table = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if named := re.match(r"Table `\[(\w+)\]`", line):
            table = named[1]
        elif row := re.match(r"\| `(\w+)` \| `(\w+)` \|", line):
            documented[table, row[1]] = row[2]

    known = {
        (table, key): setting.variable or ELSEWHERE[table, key]
        for table, keys in settings.ALL_KEYS.items()
        for key, setting in keys.items()
    }
    assert documented == known
