"""Makes foreign text safe to read: on a terminal, in a log, in a report.

A task's output, exceptions and names may hold invisible characters that change the text around them: control characters
drive a terminal, marks of direction turn a line around (U+202E), others take no room (U+200B) or break lines
unexpectedly (U+2028). One rule holds wherever people read: such characters are shown as their number.
"""

from __future__ import annotations

import re
from typing import Final

#: Control characters but for tab and newline; line and paragraph separators; every mark that only changes the look of
#: others (the category Cf: direction, joining, zero width, tags, soft hyphens); halves of characters (surrogates).
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
_BREAKS: Final = {"\n": "\\n", "\t": "\\t"}
_BREAK: Final = re.compile(r"[\n\t]")


def printable(text: str) -> str:
    """The text with every invisible character escaped, except tabs and newlines.

    An escape is ``\\u`` and four hexadecimal digits, two escapes beyond U+FFFF, as in JSON: escaped JSON stays JSON.
    """
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(_escaped, text)


def printable_line(text: str) -> str:
    """The text in one line: like `printable`, with tabs and newlines escaped too."""
    return text if text.isprintable() else _BREAK.sub(lambda match: _BREAKS[match[0]], printable(text))


def cells(text: str) -> int:
    """How many columns of a terminal the text takes: none for combining characters, two for wide ones."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if character.isascii():
        return 1
    from unicodedata import combining, east_asian_width

    return 0 if combining(character) else 2 if east_asian_width(character) in "WF" else 1


def cut_to(text: str, width: int) -> str:
    """The text in at most this many columns of a terminal; an ellipsis stands for what is missing."""
    if cells(text) <= width:
        return text
    left = width - 1  # one is the ellipsis'
    for place, character in enumerate(text):
        left -= _columns(character)
        if left < 0:
            return f"{text[:place]}…" if width > 0 else ""
    return text


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
