"""Puts what the benchmarks printed into docs/performance.md.

Given a directory with ``NAME.txt`` for some of the benchmarks, replaces what stands between ``<!-- NAME -->`` and the
next ``<!-- end -->`` in the page.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "performance.md"


def main() -> None:
    directory = Path(sys.argv[1])
    text = PAGE.read_text()
    for file in sorted(directory.glob("*.txt")):
        _, _, printed = file.read_text().partition("\n")  # the first line is the question, which the page asks itself
        block = f"<!-- {file.stem} -->\n```text\n{printed.rstrip()}\n```\n<!-- end -->"
        text, found = re.subn(rf"<!-- {file.stem} -->\n.*?<!-- end -->", lambda _, block=block: block, text, flags=re.S)
        print(f"{file.stem}: {'replaced' if found else 'has no place in the page'}")
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
