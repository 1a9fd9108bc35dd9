"""Bars of text: parts of a whole, and shares of the largest. Pure, and of ASCII, so that any terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dtq.model.snapshots import QueueView

#: Width of a bar, in characters.
WIDTH: Final = 20
#: The states in a queue's bar, each with its character.
_STATES: Final = (("running", "="), ("pending", "#"), ("scheduled", "~"), ("blocked", "."))
#: What the characters of a queue's bar mean.
LEGEND: Final = ", ".join(f"{character} {state}" for state, character in _STATES)


def stacked(parts: Sequence[tuple[int, str]], most: int, width: int = WIDTH) -> str:
    """A bar of several parts.

    Args:
        parts: the number and the character of each.
        most: the number that fills the width.
        width: of the longest bar, in characters.

    Returns:
        The bar, of at most that width. A part that is not 0 has at least one character, if there is room.
    """
    total = sum(number for number, _ in parts)
    room = min(width, max(-(-width * total // most), sum(number > 0 for number, _ in parts))) if most > 0 else 0
    lengths = [max(int(number > 0), room * number // total) if total else 0 for number, _ in parts]
    while sum(lengths) < room and any(lengths):
        # Rounding left room: the largest part takes it.
        lengths[max(range(len(parts)), key=lambda place: parts[place][0])] += 1
    while sum(lengths) > room:
        lengths[max(range(len(parts)), key=lengths.__getitem__)] -= 1
    return "".join(character * length for length, (_, character) in zip(lengths, parts, strict=True))


def share(part: int, whole: int, width: int = WIDTH) -> str:
    """A bar of a part of a whole, over its whole width: full only for all of it, and empty only for none."""
    full = min(width, max(int(part > 0), width * part // whole)) if whole > 0 else 0
    return "#" * full + "." * (width - full)


def queue_bar(queue: QueueView, most: int) -> str:
    """The unfinished tasks of a queue by state.

    Args:
        queue: the queue.
        most: the unfinished tasks of the queue that has most of them.
    """
    return stacked([(getattr(queue, state), character) for state, character in _STATES], most)


def unfinished(queue: QueueView) -> int:
    """Number of a queue's tasks that have not ended."""
    return queue.running + queue.pending + queue.scheduled + queue.blocked
