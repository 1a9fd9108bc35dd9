"""Lines of text with looks: all that a screen of the dashboard consists of. Pure.

Text of tasks and workers is a stranger's: it comes in through `foreign`, which escapes what would change the text
around it. A look is a meaning, not a colour; the last step gives it one.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from dtq.model.text import cells, cut_to, printable_line


class Look(Enum):
    """The meaning of a piece of text. Only states of tasks have colours."""

    PLAIN = "plain"
    DIM = "dim"  #: of no weight: a zero, an explanation
    STRONG = "strong"  #: a title, a number that counts
    BAR = "bar"  #: header and footer
    BLOCKED = "blocked"
    SCHEDULED = "scheduled"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Span(NamedTuple):
    """A piece of text with one look, perhaps in the line of the cursor."""

    text: str
    look: Look = Look.PLAIN
    cursor: bool = False


#: A line of the screen.
Line = tuple[Span, ...]
#: A line without text.
EMPTY: Final[Line] = ()
#: Our signs, and what stands for them in ASCII.
_SIGNS: Final = dict(zip("●·…→←↑↓▏▲", "*.~><^v_!", strict=True))
#: Longest foreign text of one line, in characters: more than a terminal is wide.
_LONGEST: Final = 1_000


def foreign(text: str) -> str:
    """A stranger's text in one line, escaped and cut."""
    return printable_line(text[:_LONGEST].replace("\n", " ").replace("\t", " "))[:_LONGEST]


def line(*parts: str | Span) -> Line:
    """A line of plain texts and spans."""
    return tuple(part if isinstance(part, Span) else Span(part) for part in parts)


def width(spans: Iterable[Span]) -> int:
    """How many columns of a terminal spans take."""
    return sum(cells(span.text) for span in spans)


def fitted(spans: Iterable[Span], columns: int) -> Line:
    """The spans cut to a number of columns; an ellipsis stands for what is missing."""
    found: list[Span] = []
    left = columns
    for span in spans:
        size = cells(span.text)
        if size > left:
            found.append(Span(cut_to(span.text, left), span.look))
            return tuple(found)
        found.append(span)
        left -= size
    return tuple(found)


def filled(spans: Iterable[Span], columns: int, look: Look = Look.PLAIN) -> Line:
    """The spans cut to a number of columns, or filled up with blanks."""
    cut = fitted(spans, columns)
    missing = columns - width(cut)
    return (*cut, Span(" " * missing, look)) if missing > 0 else cut


def ends(left: Line, right: Line, columns: int) -> Line:
    """Two lines in one: at its left and its right end; the left one is cut for the right one."""
    room = columns - width(right)
    if room <= 0:
        return fitted(right, columns)
    return (*filled(left, room), *right)


def beside(left: list[Line], right: list[Line], columns: int, gap: int = 3) -> list[Line]:
    """Two columns of lines, each of half the width."""
    half = (columns - gap) // 2
    rows = max(len(left), len(right))
    pairs = zip(left + [EMPTY] * (rows - len(left)), right + [EMPTY] * (rows - len(right)), strict=True)
    return [(*filled(one, half), Span(" " * gap), *fitted(other, half)) for one, other in pairs]


def at_cursor(spans: Line, columns: int) -> Line:
    """The line of the cursor; states keep their colours in it."""
    return tuple(Span(span.text, span.look, cursor=True) for span in filled(spans, columns))


def in_ascii(spans: Line) -> Line:
    """The line for a terminal that shows nothing else: our signs by others as wide, foreign characters as ``?``."""
    return tuple(
        span if span.text.isascii() else span._replace(text="".join(map(_in_ascii, span.text))) for span in spans
    )


def _in_ascii(character: str) -> str:
    return character if character.isascii() else _SIGNS.get(character, "?" * cells(character))


def plain(spans: Line) -> str:
    """The text without looks."""
    return "".join(span.text for span in spans).rstrip()
