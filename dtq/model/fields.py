"""The rules of message fields: the one table of text lengths and characters, number ranges, and item counts.

Every text, number, blob and sequence of `model.messages`, `model.options`, `model.snapshots` and of the methods of
`model.service` is annotated with a kind of this table, which `model.wire` reads: a peer's field is checked on arrival,
and refused by its name. The coordinator's answers are for people and programs that trust it, and may come from an old
store; there a text that breaks its rule is cut and escaped. A test refuses a field without a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Final

from dtq.errors import BadMessage, Scalar
from dtq.model import pages
from dtq.model.globs import MAX_GLOB
from dtq.model.text import printable_line
from dtq.model.values import CHUNK
from dtq.records import dataclass

#: Lowest and highest priority; 1 is served first unless the coordinator runs with highest_first.
PRIORITIES: Final = (1, 10)
#: Longest name of a function or exception, and longest key of a user, in characters.
MAX_NAME: Final = 512
#: Longest name of a worker, client or machine, in characters.
MAX_LABEL: Final = 200
#: Most bytes of a schedule's arguments, and of its function if that travels by value.
MAX_CALL: Final = 64 << 10
#: Longest time limit, delay or wait, in seconds: ten years. A larger number is a mistake.
MAX_SECONDS: Final = 10 * 366 * 86_400.0
#: Most bytes of either end of a task's kept output.
MAX_OUTPUT: Final = 1 << 20
#: Latest moment, in seconds of the Unix epoch: in the year 5138.
MAX_MOMENT: Final = 1e11
#: Most slots of a worker.
MAX_SLOTS: Final = 4096
#: Whole numbers end before this, either way: a store takes no larger ones.
INT_END: Final = 1 << 63
#: Numbers of batches and indexes of tasks end before this: an id has at most 15 digits on either side of its dot.
_ID_END: Final = 10**15
#: Largest finite number.
_FINITE: Final = 1.7976931348623157e308


class Characters(Enum):
    """Character sets for texts."""

    FREE = "any"  #: escaped for people
    PRINTABLE = "printable ones"  #: as `str.isprintable`: no invisible character, no line break
    TOKEN = "letters, digits and _ . -"
    QUEUE = "letters, digits and _ . : / -"
    ZONE = "letters, digits and _ / + -"
    GLOB = "letters, digits, _ . : / -, and * ? [abc] [!abc]"  #: a glob of texts that consist of `QUEUE`


_MATCH: Final[dict[Characters, Callable[[str], object]]] = {
    Characters.FREE: lambda text: True,
    Characters.PRINTABLE: str.isprintable,
    Characters.TOKEN: re.compile(r"[A-Za-z0-9_.-]*", re.ASCII).fullmatch,
    Characters.QUEUE: re.compile(r"[A-Za-z0-9_.:/-]*", re.ASCII).fullmatch,
    Characters.ZONE: re.compile(r"[A-Za-z0-9_/+-]*", re.ASCII).fullmatch,
    Characters.GLOB: re.compile(r"(?:[A-Za-z0-9_.:/*?-]|\[!?[A-Za-z0-9_.:/-]+\])*", re.ASCII).fullmatch,
}


@dataclass(frozen=True, slots=True)
class Text:
    """A str: at most, and at least, this many of these characters."""

    most: int
    characters: Characters = Characters.FREE
    least: int = 0

    @property
    def match(self) -> Callable[[str], object] | None:
        """Matches a text of allowed characters; None if all are allowed."""
        return None if self.characters is Characters.FREE else _MATCH[self.characters]

    def sound(self, text: str) -> bool:
        """Whether a text follows the rule."""
        return self.least <= len(text) <= self.most and bool(_MATCH[self.characters](text))

    def breach(self, text: str) -> str | None:
        """The fault of a text; None for none."""
        if not self.least <= len(text) <= self.most:
            return f"has {len(text):,} characters, not {self.least} to {self.most:,}"
        if not _MATCH[self.characters](text):
            return f"may hold {self.characters.value} only, not {printable_line(repr(text[:40]))}"
        return None

    def fitting(self, text: str) -> str:
        """The text made to follow the rule: cut, and forbidden characters escaped or left out."""
        text = text[: self.most + 1]
        if self.characters is not Characters.FREE:
            text = "".join(c if _MATCH[self.characters](c) else "?" for c in printable_line(text))
        return text if len(text) <= self.most else f"{text[: self.most - 1]}…" if self.most > 1 else text[: self.most]


@dataclass(frozen=True, slots=True)
class Number:
    """An int or a float from least to most; never NaN or infinite."""

    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes: at most this many; None for the bound of a message. A page's lengths must add up."""

    most: int | None = None
    page: bool = False

    def sound(self, blob: bytes) -> bool:
        """Whether a blob follows the rule."""
        return self.breach(blob) is None

    def breach(self, blob: bytes) -> str | None:
        """The fault of a blob; None for none."""
        if self.most is not None and len(blob) > self.most:
            return f"has {len(blob):,} bytes, not at most {self.most:,}"
        if self.page:
            try:
                pages.check(blob)
            except BadMessage as error:
                return f"is not one: {error.args[0]}"
        return None


@dataclass(frozen=True, slots=True)
class Items:
    """A list or tuple: at most this many items.

    If an item that breaks a rule must not harm the others, the items are checked ``apart``: the item is left out, and
    ``instead`` makes a substitute (from the item's first two fields, which are whole numbers, and the fault), which is
    put into the message's field ``into``, or into the item's own place without such a field.
    """

    most: int
    apart: bool = False
    instead: Callable[[int, int, str], Any] | None = None
    into: str = ""


Rule = Text | Number | Blob | Items

# -- texts --------------------------------------------------------------------------------------------------------

#: The random name of a session.
Session = Annotated[str, Text(64, Characters.TOKEN, least=1)]
#: The name of a worker, a client or a machine.
Label = Annotated[str, Text(MAX_LABEL, Characters.PRINTABLE)]
#: A version, of dtq or Python.
Version = Annotated[str, Text(64, Characters.PRINTABLE)]
#: The name of a queue.
Queue = Annotated[str, Text(64, Characters.QUEUE, least=1)]
#: The name of a resource, of one of its units, and a tag.
ResourceName = Annotated[str, Text(64, Characters.QUEUE, least=1)]
UnitName = Annotated[str, Text(64, Characters.QUEUE, least=1)]
Tag = Annotated[str, Text(64, Characters.QUEUE, least=1)]
LIMIT_NAME: Final = Text(128, Characters.QUEUE, least=1)
#: The name of a limit that a task counts against.
LimitName = Annotated[str, LIMIT_NAME]
LIMIT_PATTERN: Final = Text(128, Characters.GLOB, least=1)
#: The name of a limit, or a glob of such names.
LimitPattern = Annotated[str, LIMIT_PATTERN]
#: The name of a function or task type.
FunctionName = Annotated[str, Text(MAX_NAME, Characters.PRINTABLE, least=1)]
#: The name of an exception class; empty if none was raised.
ExceptionName = Annotated[str, Text(MAX_NAME, Characters.PRINTABLE)]
#: A user's own key of a batch.
Key = Annotated[str, Text(MAX_NAME, Characters.PRINTABLE, least=1)]
#: A glob.
Pattern = Annotated[str, Text(MAX_GLOB, Characters.PRINTABLE)]
#: The name of a schedule.
ScheduleName = Annotated[str, Text(100, Characters.QUEUE, least=1)]
#: A cron expression; empty if a schedule has none.
Expression = Annotated[str, Text(200, Characters.PRINTABLE)]
#: The name of a time zone.
Zone = Annotated[str, Text(64, Characters.ZONE, least=1)]
#: An exception's message.
Message = Annotated[str, Text(8 << 10)]
#: A traceback, or the last lines that a task printed.
Report = Annotated[str, Text(64 << 10)]
#: A sentence of the coordinator's.
Sentence = Annotated[str, Text(8 << 10)]
#: The stable code of an error, or another word of a fixed few.
Word = Annotated[str, Text(64, Characters.TOKEN)]
#: The path of a directory, or the name of a file.
FilePath = Annotated[str, Text(4096)]
#: An argument of an error.
Detail = Annotated[Scalar, Text(8 << 10)]

# -- numbers ------------------------------------------------------------------------------------------------------

#: A duration.
Seconds = Annotated[float, Number(0, MAX_SECONDS)]
#: A moment, in seconds of the Unix epoch.
Moment = Annotated[float, Number(0, MAX_MOMENT)]
#: A number with a meaning to the user only.
Measure = Annotated[float, Number(-_FINITE, _FINITE)]
#: Cores in use.
Cores = Annotated[float, Number(0, 1e6)]
#: The number of a batch.
BatchNumber = Annotated[int, Number(0, _ID_END - 1)]
#: An awaited batch; negative, how many places before it in the same call that batch was submitted.
Awaited = Annotated[int, Number(-100_000, _ID_END - 1)]
#: The index of a task in its batch, or the one after the last.
Index = Annotated[int, Number(0, _ID_END - 1)]
#: An index, or -1 for all or none.
IndexOrNone = Annotated[int, Number(-1, _ID_END - 1)]
#: A lease.
Token = Annotated[int, Number(0, INT_END - 1)]
#: A count, or a number that rises by one.
Count = Annotated[int, Number(0, INT_END - 1)]
#: The number of a segment of values.
Segment = Annotated[int, Number(0, INT_END - 1)]
#: An offset in a segment, in bytes.
Offset = Annotated[int, Number(0, INT_END - 1)]
#: Bytes of a value that are asked for.
ChunkLength = Annotated[int, Number(0, CHUNK)]
#: A number of slots.
Slots = Annotated[int, Number(0, MAX_SLOTS)]
#: Slots of a worker for one task.
TaskSlots = Annotated[int, Number(1, MAX_SLOTS)]
#: An amount of a resource.
Amount = Annotated[int, Number(1, (1 << 62) - 1)]
#: A process id.
Pid = Annotated[int, Number(0, (1 << 32) - 1)]
#: A process's exit code, or the signal that ended it.
ExitCode = Annotated[int, Number(-(1 << 31), (1 << 32) - 1)]
#: The version of the protocol.
Protocol = Annotated[int, Number(0, 255)]
#: Fewest and most starts of a rate, or of a burst; and the time that a rate is for, in seconds.
STARTS: Final = (1, 1_000_000)
INTERVALS: Final = (0.001, MAX_SECONDS)
Starts = Annotated[int, Number(*STARTS)]
Interval = Annotated[float, Number(*INTERVALS)]
#: Largest weight of a queue.
MAX_WEIGHT: Final = 1_000
#: A queue's share of grants.
Weight = Annotated[int, Number(1, MAX_WEIGHT)]
#: A priority.
Priority = Annotated[int, Number(*PRIORITIES)]
#: Counts of retries. And the greatest depth of tasks that submit tasks: deeper ones count as equal.
MAX_DEPTH: Final = 63
Depth = Annotated[int, Number(0, MAX_DEPTH)]
Tries = Annotated[int, Number(0, 1_000_000)]

# -- blobs --------------------------------------------------------------------------------------------------------

#: A page of arguments or results; the coordinator bounds the size of each.
Page = Annotated[bytes, Blob()]
#: The page of results in a worker's report.
Results = Annotated[bytes, Blob(page=True)]
#: A function that travels by value.
Body = Annotated[bytes, Blob()]
#: Bytes of a value.
Chunk = Annotated[bytes, Blob(CHUNK)]
#: Output of a task.
Output = Annotated[bytes, Blob(MAX_OUTPUT)]
#: A SHA-256 digest; empty for none.
Digest = Annotated[bytes, Blob(32)]
#: A description of values.
Description = Annotated[bytes, Blob(4 << 20)]
#: The arguments of a schedule's calls.
CallBlob = Annotated[bytes, Blob(MAX_CALL)]
#: A pickled exception.
Pickle = Annotated[bytes, Blob(4 << 20)]

# -- counts -------------------------------------------------------------------------------------------------------

#: Queues of a worker.
FEW: Final = Items(256)
#: Slots of a worker in one account.
SLOTS: Final = Items(256)
#: Names of exceptions: base classes of one, or those that are never tried again.
NAMES: Final = Items(64)
#: Names of limits that a task counts against.
LIMITS: Final = Items(16)
#: Resources that a task needs or a worker offers, the named units of one, and tags.
RESOURCES: Final = Items(32)
UNITS: Final = Items(256)
TAGS: Final = Items(64)
#: Most submissions in one call.
MAX_SUBMISSIONS: Final = 100_000
#: Parents of one submission.
AWAITED: Final = Items(10_000)
#: Over what a map of maps is.
EACH: Final = Items(64)
#: Tasks of one page that wait by themselves.
ITEMS: Final = Items(1_024)
#: Tasks of one page that printed anything: output that breaks a rule is dropped alone.
PRINTED: Final = Items(1_024, apart=True)
#: Tasks of one call of which much is asked.
FEW_TASKS: Final = Items(5_000)
#: Items of one call: tasks, batches, functions.
MANY: Final = Items(300_000)
#: Items of an answer, which is bounded in bytes by its maker.
ANSWERED: Final = Items(1 << 20)


def limits(rule: Rule | None, whole: bool) -> tuple[float, float]:
    """Least and most of a number, by its rule and whether it is whole."""
    if isinstance(rule, Number):
        return rule.least, rule.most
    return (-INT_END, INT_END - 1) if whole else (-_FINITE, _FINITE)


def fitting(kind: Any, text: str) -> str:
    """A foreign text (of a system, a task) made to follow the rule of a kind of this table: cut and escaped."""
    rule: Text = kind.__metadata__[0]
    return text if rule.breach(text) is None else rule.fitting(text)
