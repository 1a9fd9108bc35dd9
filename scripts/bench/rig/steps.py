"""The tasks of the programs in `rig.apps`, but for those that need numpy. Importable without dtq."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

_WORD: Final = re.compile(r"\w+")


def following(number: int) -> int:
    """The next link of a chain."""
    return number + 1


def turned(value: bytes) -> bytes:
    """One side of a diamond."""
    return value[::-1]


def halved(value: bytes) -> bytes:
    """Its other side: the second half first."""
    middle = len(value) // 2
    return value[middle:] + value[:middle]


def joined(one: bytes, other: bytes) -> bytes:
    """As large as either: half of each."""
    middle = len(one) // 2
    return one[:middle] + other[middle:]


def counted(text: str) -> Counter[str]:
    """How often each word is in a text."""
    return Counter(_WORD.findall(text.lower()))
