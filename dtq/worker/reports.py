"""Messages of a slot to its supervisor: one class a kind, with the rule of every field.

Worker, used at both ends of a slot's pipe. A slot runs foreign code, which may write into the pipe itself, so its
messages are a stranger's word: types, lengths and ranges are checked here; `worker.settling` checks them against the
supervisor's knowledge of its leases.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from dtq.errors import BadMessage
from dtq.model import pages
from dtq.model.messages import Failure
from dtq.model.wire import codec
from dtq.records import dataclass
from dtq.worker.failures import MAX_MEMORY, bounded, check

#: Longest text of a notice, in bytes; the traceback of an import, and the name of a module that is missing, may be
#: longer.
MAX_TEXT: Final = 2_000
MAX_TRACE: Final = 40_000
#: The latest results that a slot keeps for leases behind theirs: how many, and how long in bytes each of them is at
#: most, and all together.
KEPT_RESULTS: Final = 256
MAX_KEPT: Final = 1 << 16
KEPT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Ready:
    """The slot can run tasks; its process."""

    pid: int

    def check(self) -> None:
        """Raise BadMessage if a field is out of its range."""
        _in_range(0 < self.pid < 1 << 31)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The slot has tried to import a function in advance; whether it can go on, else the process ends."""

    sound: bool

    def check(self) -> None:
        """As above: any value is valid."""


@dataclass(frozen=True, slots=True)
class Returned:
    """Tasks of a lease returned: the index of the first, a page of results, how long they took together, and the
    highest resident memory of the process so far.
    """

    token: int
    lo: int
    results: bytes
    seconds: float
    peak_memory: int

    @property
    def count(self) -> int:
        """Number of the tasks."""
        return pages.count(self.results)

    def check(self) -> None:
        """As above."""
        _in_range(0 < pages.check(self.results) <= pages.PAGE_BLOBS)
        _in_range(0 <= self.peak_memory <= MAX_MEMORY)


@dataclass(frozen=True, slots=True)
class Raised:
    """A task of a lease raised an exception after this many seconds."""

    token: int
    index: int
    seconds: float
    failure: Failure

    def check(self) -> None:
        """As above."""
        check(self.failure)


@dataclass(frozen=True, slots=True)
class Stopped:
    """From this task of a lease on, none of its tasks run: they were taken back, or the function cannot be had."""

    token: int
    index: int

    def check(self) -> None:
        """As above: any number is valid, as the supervisor must know it."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """Progress of a running task."""

    token: int
    index: int
    done: float
    total: float

    def check(self) -> None:
        """As above."""
        _in_range(math.isfinite(self.done) and math.isfinite(self.total))


@dataclass(frozen=True, slots=True)
class Changed:
    """A task of a lease changed the process's state, which was restored."""

    token: int
    what: str

    def check(self) -> None:
        """As above."""
        _is_text(self.what, MAX_TEXT)


@dataclass(frozen=True, slots=True)
class Leaving:
    """The process ends, because of state that a task of a lease left behind."""

    token: int
    why: str

    def check(self) -> None:
        """As above."""
        _is_text(self.why, MAX_TEXT)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A module of the start cannot be imported: a traceback, and the arguments of `CannotImport`."""

    trace: str
    why: tuple[str, ...]

    def check(self) -> None:
        """As above."""
        _in_range(len(self.why) == 5)
        for text in (self.trace, *self.why):
            _is_text(text, MAX_TRACE)


@dataclass(frozen=True, slots=True)
class Uninitialized:
    """The initializer failed: a traceback, and the sentence."""

    trace: str
    why: str

    def check(self) -> None:
        """As above."""
        _is_text(self.trace, MAX_TRACE)
        _is_text(self.why, MAX_TRACE)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A running task waits for other tasks, for this many seconds unless it reports again, and whether it is blocked
    meanwhile; 0 seconds end the wait.
    """

    token: int
    index: int
    seconds: float
    blocked: bool

    def check(self) -> None:
        """As above."""
        _in_range(math.isfinite(self.seconds) and self.seconds >= 0)


@dataclass(frozen=True, slots=True)
class Stale:
    """The process ends, because a file that it has imported has changed."""

    path: str

    def check(self) -> None:
        """As above."""
        _is_text(self.path, MAX_TEXT)


@dataclass(frozen=True, slots=True)
class Misplaced:
    """The process ends, because it has imported other code than the modules of a function; the function's name."""

    function: str

    def check(self) -> None:
        """As above."""
        _is_text(self.function, MAX_TEXT)


@dataclass(frozen=True, slots=True)
class NoRoom:
    """The result of a running task of a lease waits for room on the disk; the reason."""

    token: int
    why: str

    def check(self) -> None:
        """As above."""
        _is_text(self.why, MAX_TEXT)


Report = (
    Ready
    | Prepared
    | Returned
    | Raised
    | Stopped
    | Advanced
    | Changed
    | Leaving
    | Unusable
    | Uninitialized
    | Waiting
    | Stale
    | Misplaced
    | NoRoom
)

_KINDS: Final[tuple[Any, ...]] = (
    Ready, Prepared, Returned, Raised, Stopped, Advanced, Changed, Leaving, Unusable, Uninitialized, Waiting, Stale,
    Misplaced, NoRoom,
)  # fmt: skip
_NAMES: Final[dict[type, str]] = {kind: kind.__name__.lower() for kind in _KINDS}
_NAMED: Final[dict[str, type]] = {name: kind for kind, name in _NAMES.items()}


class _Plain(dict[type, Callable[[Any], Any]]):
    """The encoder of a kind of report, made when the first one is sent: most slots send few kinds."""

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        made = self[kind] = codec(kind).plain
        return made


class _Decode(dict[str, Callable[[Any], Any]]):
    """The decoder of a kind of report, by its name, likewise.

    Raises:
        KeyError: no report has that name.
    """

    def __missing__(self, name: str) -> Callable[[Any], Any]:
        made = self[name] = codec(_NAMED[name]).decode
        return made


_PLAIN: Final = _Plain()
_DECODE: Final = _Decode()


def plain(report: Report) -> tuple[Any, ...]:
    """A report in its form for the pipe."""
    kind = type(report)
    return (_NAMES[kind], *_PLAIN[kind](report))


def notice(text: str) -> str:
    """A text cut for a report."""
    return bounded(text, MAX_TEXT)


def read(message: Any) -> Report:
    """The report in a slot's message.

    Args:
        message: a plain value, as it came out of the pipe.

    Raises:
        BadMessage: the message is no report.
    """
    if type(message) is not tuple or not message or type(message[0]) is not str or message[0] not in _NAMED:
        raise BadMessage("it is nothing that a slot says")
    report: Report = _DECODE[message[0]](message[1:])
    report.check()
    return report


def _in_range(right: bool) -> None:
    if not right:
        raise BadMessage("a number is out of its range")


def _is_text(text: str, most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadMessage("a text is not UTF-8") from None
    if size > 2 * most:
        raise BadMessage("a text is too long")
