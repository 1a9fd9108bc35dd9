"""Globs of peers, matched in bounded time: ``*``, ``?``, ``[abc]``, ``[a-z]`` and ``[!abc]``, case-sensitive.

A peer's pattern must not cost others anything. A glob is cut at its asterisks into pieces of fixed length; the first
and the last have fixed places, and each of the others is taken at its first match. Matching never goes back, so the
time is at most the length of the pattern times that of the name, and both have limits.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

#: Longest pattern in characters.
MAX_GLOB: Final = 200


class Glob:
    """A pattern, taken apart.

    Args:
        pattern: the glob. A bracket that is not closed stands for itself.
    """

    __slots__ = ("_first", "_last", "_middle", "_shortest")

    def __init__(self, pattern: str) -> None:
        pieces = _pieces(pattern)
        self._shortest = sum(map(len, pieces))
        self._first = _compiled(pieces[0])
        self._last = (_compiled(pieces[-1]), len(pieces[-1])) if len(pieces) > 1 else None
        self._middle = [_compiled(piece) for piece in pieces[1:-1] if piece]

    def matches(self, name: str) -> bool:
        """Whether the glob matches a whole name."""
        if self._last is None:
            return self._first.fullmatch(name) is not None
        found = self._first.match(name) if len(name) >= self._shortest else None
        last, length = self._last
        end = len(name) - length
        if found is None or last.match(name, end) is None:
            return False
        for piece in self._middle:
            found = piece.search(name, found.end(), end)
            if found is None:
                return False
        return True


@lru_cache(maxsize=64)
def glob(pattern: str) -> Glob:
    """The glob of a pattern."""
    return Glob(pattern)


def _pieces(pattern: str) -> list[list[str]]:
    """The pieces between the asterisks, each a list of expressions for one character."""
    pieces: list[list[str]] = [[]]
    last_bracket = pattern.rfind("]")
    at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            pieces.append([])
        elif character == "?":
            pieces[-1].append(".")
        elif character == "[" and (end := _end_of_set(pattern, at, last_bracket)) > 0:
            pieces[-1].append(_set(pattern[at:end]))
            at = end + 1
        else:
            pieces[-1].append(re.escape(character))
    return pieces


def _end_of_set(pattern: str, at: int, last_bracket: int) -> int:
    """The end of the set that begins at a place; -1 if it has none."""
    first = at + (pattern[at : at + 1] == "!")
    return pattern.find("]", first + 1) if first < last_bracket else -1


def _set(inside: str) -> str:
    """The expression for one character of a set."""
    negated = inside.startswith("!")
    inside = inside[negated:]
    ranges: list[str] = []
    at = 0
    while at < len(inside):
        low = high = inside[at]
        at += 1
        if inside[at : at + 1] == "-" and at + 1 < len(inside):
            high = inside[at + 1]
            at += 2
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    if not ranges:  # only backward ranges: the set is empty
        return "." if negated else "(?!)."
    return f"[{'^' if negated else ''}{''.join(ranges)}]"


def _compiled(piece: list[str]) -> re.Pattern[str]:
    return re.compile("".join(piece), re.DOTALL)
