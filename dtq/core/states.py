"""States of a task, and the table of its allowed moves.

Rules:

1. `TRANSITIONS` alone decides whether a task may go from one state to another. The machine moves tasks by naming a
   move; the table names the state they come to, and a move that it does not list is an `IllegalMove`: a bug, never a
   message from a peer.
2. A task enters by ACCEPTED, DELAYED or BLOCKED and is counted in exactly one state from then on, until it is WITHDRAWN
   (its submission could not be made durable) or PURGED (a dead letter was thrown away).
3. Only LEASED leads to RUNNING: no task runs without a grant. It leads there from BLOCKED if a worker has the one task
   that is waited for; a grant that comes back before that has ended is BLOCKED again (`core.chains`).
4. An acknowledged task leaves SUCCEEDED by no move at all, DEAD only on request (REVIVED, PURGED), and CANCELLED only
   if another task's end had cancelled it, and that task is put back on request (BROUGHT_BACK).
5. The counts per queue and in all are kept by the same call that moves, so they cannot disagree with it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from dtq.model.snapshots import Counts
from dtq.model.states import State


class Move(Enum):
    """The moves of a task."""

    ACCEPTED = auto()  #: a new task that is due
    DELAYED = auto()  #: a new task that is not due yet, or one that waited for others, and is not due yet
    BLOCKED = auto()  #: a new task that waits for others to end, or one whose parents were put back
    RELEASED = auto()  #: all of its parents have ended
    BROUGHT_BACK = auto()  #: a parent had ended without a result, and was put back
    DUE = auto()  #: its time has come
    LEASED = auto()  #: handed to a worker
    WAITS_AGAIN = auto()  #: back from a worker that got it behind its only parent, before that has ended
    RETURNED = auto()  #: back to its place in the heap: not started, or its worker or slot died
    RETRIED = auto()  #: failed, to be tried again after its backoff
    SUCCEEDED = auto()  #: returned a result
    DIED = auto()  #: used up its retries or crashes
    CANCELLED = auto()  #: stopped on request
    REVIVED = auto()  #: a dead letter put back
    PURGED = auto()  #: a dead letter thrown away
    WITHDRAWN = auto()  #: removed: its submission could not be made durable


#: From each state (None: not there yet, or gone) to the next.
TRANSITIONS: Final[dict[State | None, dict[Move, State | None]]] = {
    None: {Move.ACCEPTED: State.PENDING, Move.DELAYED: State.SCHEDULED, Move.BLOCKED: State.BLOCKED},
    State.BLOCKED: {
        Move.RELEASED: State.PENDING,
        Move.DELAYED: State.SCHEDULED,
        Move.LEASED: State.RUNNING,
        Move.CANCELLED: State.CANCELLED,
        Move.WITHDRAWN: None,
    },
    State.SCHEDULED: {
        Move.DUE: State.PENDING,
        Move.BLOCKED: State.BLOCKED,
        Move.CANCELLED: State.CANCELLED,
        Move.WITHDRAWN: None,
    },
    State.PENDING: {
        Move.LEASED: State.RUNNING,
        Move.BLOCKED: State.BLOCKED,
        Move.CANCELLED: State.CANCELLED,
        Move.WITHDRAWN: None,
    },
    State.RUNNING: {
        Move.RETURNED: State.PENDING,
        Move.WAITS_AGAIN: State.BLOCKED,
        Move.RETRIED: State.SCHEDULED,
        Move.SUCCEEDED: State.SUCCEEDED,
        Move.DIED: State.DEAD,
        Move.CANCELLED: State.CANCELLED,
        Move.WITHDRAWN: None,
    },
    State.SUCCEEDED: {Move.WITHDRAWN: None},
    State.DEAD: {Move.REVIVED: State.PENDING, Move.PURGED: None, Move.WITHDRAWN: None},
    State.CANCELLED: {Move.BROUGHT_BACK: State.BLOCKED, Move.WITHDRAWN: None},
}


class IllegalMove(Exception):
    """The core made a move that the task's state does not allow: a bug in the core."""

    def __init__(self, state: State | None, move: Move) -> None:
        super().__init__(state, move)

    def __str__(self) -> str:
        state, move = self.args
        return f"{move.name} is no move from {state.name if state else 'nowhere'}"


#: The states in which a queue holds tasks.
_QUEUED: Final = (State.BLOCKED, State.SCHEDULED, State.PENDING, State.RUNNING)


#: Looked up once: it is asked for in every move.
_SUCCEEDED: Final = State.SUCCEEDED
#: Most queues of which the succeeded tasks are counted.
_MOST_DONE: Final = 20_000


class Tally:
    """Counts tasks by state, in all and for each queue, while it moves them."""

    def __init__(self) -> None:
        self._all: dict[State, int] = dict.fromkeys(State, 0)
        self._queues: dict[str, dict[State, int]] = {}
        #: Succeeded tasks by queue, since this start or since there were too many names.
        self.done: dict[str, int] = {}

    def move(self, queue: str, state: State | None, move: Move, count: int = 1) -> State | None:
        """Move tasks of a queue that are in one state.

        Returns:
            The state they are in now; None if they are gone.

        Raises:
            IllegalMove: the state does not allow it.
        """
        try:
            to = TRANSITIONS[state][move]
        except KeyError:
            raise IllegalMove(state, move) from None
        self._add(queue, state, -count)
        self._add(queue, to, count)
        return to

    def recall(self, queue: str, state: State, count: int) -> None:
        """Count restored tasks."""
        self._add(queue, state, count)

    def _add(self, queue: str, state: State | None, count: int) -> None:
        if state is None:
            return
        self._all[state] += count
        if state in _QUEUED:
            counts = self._queues.get(queue)
            if counts is None:
                counts = self._queues[queue] = dict.fromkeys(_QUEUED, 0)
            counts[state] += count
            if counts[state] == 0 and not any(counts.values()):
                del self._queues[queue]
        elif state is _SUCCEEDED:
            done = self.done.get(queue)
            if done is None and len(self.done) >= _MOST_DONE:
                self.done.clear()
            self.done[queue] = (done or 0) + count

    def __getitem__(self, state: State) -> int:
        return self._all[state]

    @property
    def unfinished(self) -> int:
        """Number of tasks that are not in a final state."""
        every = self._all  # summed by hand: needed for every submission
        return every[State.SCHEDULED] + every[State.PENDING] + every[State.RUNNING] + every[State.BLOCKED]

    def counts(self) -> Counts:
        """The counts of all tasks."""
        return Counts(**{state.value: count for state, count in self._all.items()})

    def queues(self) -> dict[str, dict[State, int]]:
        """The queues with unfinished tasks, with the blocked, scheduled, pending and running tasks of each."""
        return self._queues
