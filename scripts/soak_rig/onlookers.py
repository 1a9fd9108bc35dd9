"""Who looks at the cluster and works on it from outside while faults happen: a client that follows every batch there
is, and an operator who puts dead letters back and throws others away."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from dataclasses import dataclass
from typing import Final

from dtq.errors import DtqError, ResultExpired, UnknownId
from dtq.model import pages
from dtq.model.messages import Ended, Welcome
from dtq.model.snapshots import Selection
from dtq.model.states import State
from soak_rig.ledgers import Ledger
from soak_rig.scene import Scene

#: How many batches beyond the last known one are asked for.
_AHEAD: Final = 20
#: How often the operator looks at the dead letters, in seconds.
_OPERATE_S: Final = 1.5

_LETTERS: Final = {State.SUCCEEDED: "s", State.DEAD: "d", State.CANCELLED: "c"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A task was seen in a final state.

    Attributes:
        at: when.
        letter: the state's first letter.
        result: hash of its result, 0 without one.
    """

    at: float
    letter: str
    result: int


class Follower:
    """Follows all batches; keeps the first sight of each task, and every later one that says something else.

    Attributes:
        seen: by batch and index.
        flips: the tasks seen in a second way: ``(batch, index, first, second)``.
        sights: how many ends it was told of.
    """

    def __init__(self, scene: Scene) -> None:
        self.seen: dict[tuple[int, int], Seen] = {}
        self.flips: list[tuple[int, int, Seen, Seen]] = []
        self.sights = 0
        #: Set when the coordinator does not know what this session follows.
        self._begun_anew = threading.Event()
        self._service = scene.service("follower", on_welcome=self._welcomed)
        self._followed = 0
        self._missing: set[int] = set()
        self._cursor = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Follow no more."""
        self._stopping.set()
        self._thread.join(30.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except DtqError:
                self._stopping.wait(0.1)

    def _welcomed(self, welcome: Welcome) -> None:
        if not welcome.resumed:
            self._begun_anew.set()

    def _look(self) -> None:
        self._service.connect()
        if self._begun_anew.is_set():
            self._begun_anew.clear()
            self._cursor = 0
            # Everything is told anew, also what ended long ago: it must not have changed.
            self._follow(range(max(1, self._followed - 200), self._followed + 1))
        self._follow([*sorted(self._missing)[-50:], *range(self._followed + 1, self._followed + _AHEAD)])
        watched = self._service.watch(self._cursor, 0.2)
        self._cursor = watched.cursor
        for ended in watched.ended:
            self._take(ended)

    def _follow(self, batches: range | list[int]) -> None:
        asked = list(batches)
        if not asked:
            return
        unknown = set(self._service.follow(asked))
        known = [number for number in asked if number not in unknown]
        self._missing -= set(known)
        if known and known[-1] > self._followed:
            self._missing |= {number for number in unknown if self._followed < number < known[-1]}
            self._followed = known[-1]

    def _take(self, ended: Ended) -> None:
        at = time.monotonic()
        letter = _LETTERS[ended.state]
        blobs = pages.unpack(ended.results) if ended.results else ()
        for place, index in enumerate(range(ended.lo, ended.hi)):
            self.sights += 1
            seen = Seen(at, letter, hash(blobs[place]) if blobs else 0)
            first = self.seen.setdefault((ended.batch, index), seen)
            if (first.letter, first.result) != (seen.letter, seen.result):
                self.flips.append((ended.batch, index, first, seen))
                self.seen[ended.batch, index] = seen


class Operator:
    """Puts dead letters back, and throws some away. What it is about to do stands in its ledger before it does it.

    Attributes:
        revived: when a task was (perhaps) put back, by batch and index.
        purged: when a task was thrown away, and whether that is certain.
    """

    def __init__(self, scene: Scene, ledger: Ledger, seed: int) -> None:
        self.revived: dict[tuple[int, int], list[float]] = {}
        self.purged: dict[tuple[int, int], bool] = {}
        self.wrongs: list[str] = []
        self._service = scene.service("operator")
        self._ledger = ledger
        self._draw = random.Random(f"operator {seed}")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave."""
        self._stopping.set()
        self._thread.join(30.0)

    def _run(self) -> None:
        while not self._stopping.wait(_OPERATE_S):
            with contextlib.suppress(DtqError):
                self._operate()

    def _operate(self) -> None:
        letters = self._service.dead_letters(Selection(limit=40))
        letters = [letter for letter in letters if (letter.batch, letter.index) not in self.purged]
        for verb in (self._revive, self._purge):
            chosen = [(letter.batch, letter.index) for letter in letters if self._draw.random() < 0.2]
            letters = [letter for letter in letters if (letter.batch, letter.index) not in chosen]
            if chosen:
                verb(chosen)

    def _revive(self, chosen: list[tuple[int, int]]) -> None:
        self._ledger.write("revive", t=time.monotonic(), ids=chosen)
        for id in chosen:
            self.revived.setdefault(id, []).append(time.monotonic())
        self._carry_out("revive", chosen)

    def _purge(self, chosen: list[tuple[int, int]]) -> None:
        self._ledger.write("purge", t=time.monotonic(), ids=chosen)
        self.purged.update(dict.fromkeys(chosen, False))
        if self._carry_out("purge", chosen):
            self.purged.update(dict.fromkeys(chosen, True))

    def _carry_out(self, verb: str, chosen: list[tuple[int, int]]) -> bool:
        """Make the call; whether it is certain that it was carried out."""
        call = self._service.retry_dead if verb == "revive" else self._service.purge_dead
        try:
            count = call(Selection(ids=tuple(chosen), limit=0))
        except (UnknownId, ResultExpired) as error:
            # Allowed where an earlier call of this operator, whose answer was lost, has been carried out after all.
            self._ledger.write("unknown", t=time.monotonic(), why=str(error))
            return False
        self._ledger.write(verb + "d", t=time.monotonic(), count=count)
        if count != len(chosen):
            self.wrongs.append(f"{verb} of {len(chosen)} dead letters ({chosen}) did {count}")
        return count == len(chosen)
