"""Random calls of the right types, made from the annotations of the service: what peers of every role may send.

Values follow their rules most of the time and name what there is, so that calls get far; some stand at the edges of
their rules, some break them, some are of other types. `Peer` says them to a real `ConnectionHandler` without a socket,
plain and pickled as on the wire. Run as a program it throws as many calls as it is told at a coordinator in this
process.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import time
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from dtq.config.keys import Key, KeyRole
from dtq.coordinator.connection import Connection as Session
from dtq.coordinator.service import Coordinator, Setup
from dtq.core import invariants
from dtq.engines.memory import MemoryEngine
from dtq.errors import TooLarge
from dtq.model import fields as rules
from dtq.model.fields import Blob, Number, Text
from dtq.model.messages import PROTOCOL, Exchange, Hello, Role, Submission, Succeeded
from dtq.model.options import Function, FunctionKind, Options, Spec
from dtq.model.pages import pack
from dtq.model.service import Service
from dtq.model.states import State
from dtq.model.wire import codec
from dtq.transport import safepickle
from dtq.transport.calls import METHODS, read_answer
from dtq.transport.connection import MAX_MESSAGE
from dtq.transport.connection_handler import ConnectionHandler
from dtq.values.base import FileRange

#: The roles of the keys that calls come with.
ROLES = {
    "submit": frozenset({KeyRole.SUBMIT}),
    "work": frozenset({KeyRole.WORK}),
    "admin": frozenset({KeyRole.ADMIN}),
    "all": frozenset(KeyRole),
}
#: The queue in which nobody but the honest works, and the others.
HONEST = "honest"
QUEUES = ("default", "a", "b:c/d.e-f")
_TEXTS = ("", "x", "math:sqrt", "m:*", "default", "ValueError", "*", "[!a]*?", "\u202e", "a\nb", "\ud800")
_PAGES = (pack([]), pack([b"x"]), pack([b"x", b"y"]), pack([b""] * 7))
_OPTIONS = tuple(
    codec(Options).plain(options)
    for queue in QUEUES
    for options in (
        Options(queue=queue),
        Options(queue=queue, priority=1, max_retries=0, never_retry=("ValueError",)),
        Options(queue=queue, priority=10, max_crashes=1, timeout_s=1.0, retry_delay_s=0.0),
        Options(queue=queue, jitter=True, retry_delay_s=0.05),
    )
)
_FUNCTIONS = tuple(
    codec(Function).plain(function)
    for function in (
        Function(name="m:a"),
        Function(name="m:b"),
        Function(kind=FunctionKind.VALUE, name="c", body=b"body"),
        Function(kind=FunctionKind.REGISTERED, name="d"),
    )
)
_WRONG: tuple[Any, ...] = (None, True, -1, 1 << 62, 1 << 200, math.nan, math.inf, "x", b"x", (), [], ((),), ("a", 1))


@dataclass
class Known:
    """What there is to be named, as far as it was told to anybody."""

    batches: list[int] = field(default_factory=lambda: [1])
    leases: list[tuple[int, int]] = field(default_factory=lambda: [(1, 0)])
    specs: list[int] = field(default_factory=lambda: [1])
    sessions: list[str] = field(default_factory=lambda: ["s" * 32])


class Calls:
    """Makes calls.

    Args:
        chance: where everything random comes from.
        known: what can be named.
    """

    def __init__(self, chance: random.Random, known: Known) -> None:
        self._chance = chance
        self.known = known
        self._mischief = 0.0
        self._large = False
        self._lease = (1, 0)
        self._named: dict[Any, Callable[[], Any]] = {
            rules.BatchNumber: lambda: chance.choice(self.known.batches[-50:]),
            rules.Index: lambda: self._lease[1] + chance.choice((0, 0, 0, 1, 2)),
            rules.IndexOrNone: lambda: chance.choice((-1, -1, 0, 1, 2)),
            rules.Token: lambda: self._lease[0],
            rules.Session: lambda: chance.choice((f"{chance.getrandbits(128):032x}", *self.known.sessions[-3:])),
            rules.Queue: lambda: chance.choice(QUEUES),
            rules.ScheduleName: lambda: chance.choice(("daily", "hourly")),
            rules.LimitPattern: lambda: chance.choice(("api", "tenant-*")),
            rules.Count: lambda: chance.choice((0, 0, 1, 1, 2, 3, 10, 100, *self.known.specs[-5:])),
            rules.Slots: lambda: chance.choice((0, 1, 1, 2, 4)),
            rules.Seconds: lambda: chance.choice((0.0, 0.0, 1e-6, 0.001, 0.5, 3.0, 1e4)),
            rules.Results: lambda: chance.choice(_PAGES),
            rules.Page: lambda: chance.choice(_PAGES),
            rules.FunctionName: lambda: f"m:{chance.choice('abcdefgh')}",
            rules.Protocol: lambda: PROTOCOL,
            Options: lambda: chance.choice(_OPTIONS),
            Function: lambda: chance.choice(_FUNCTIONS),
        }

    def call(self, name: str) -> tuple[str, Any]:
        """A call of a method, plain."""
        chance = self._chance
        self._mischief = chance.choice((0.0, 0.0, 0.0, 0.002, 0.02))
        self._large = True
        self._lease = chance.choice(self.known.leases[-20:])
        arguments = [self._plain(hint, parameter) for parameter, hint in parameters(name)]
        if chance.random() < self._mischief:
            arguments.append(chance.choice(_WRONG))
        return name, tuple(arguments)

    def _plain(self, hint: Any, name: str) -> Any:
        chance = self._chance
        if self._mischief and chance.random() < self._mischief / 4:
            return chance.choice(_WRONG)
        if name == "wait_s":
            return chance.choice((0.0, 0.0, 0.0005))
        if hint in self._named and chance.random() > self._mischief * 3:
            self._lease = chance.choice(self.known.leases[-20:]) if hint is rules.Token else self._lease
            return self._named[hint]()
        rule: Any = None
        if get_origin(hint) is Annotated:
            hint, rule = get_args(hint)[:2]
        return self._of(hint, rule)

    def _of(self, hint: Any, rule: Any) -> Any:
        chance = self._chance
        origin, inner = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            return None if chance.random() < 0.5 else self._plain(inner[0], "")
        if origin is list or (origin is tuple and inner[-1] is Ellipsis):
            count = chance.choice((0, 1, 1, 2, 3))
            if self._large and chance.random() < self._mischief:
                self._large, count = False, 300  # one of a call
            return (origin)(self._plain(inner[0], "") for _ in range(count))
        if origin is tuple:
            return tuple(self._plain(one, "") for one in inner)
        if isinstance(hint, type) and issubclass(hint, Enum):
            return chance.choice(list(hint)).value
        if is_dataclass(hint):
            return tuple(self._plain(one, name) for name, one in members(hint))
        return self._scalar(hint, rule)

    def _scalar(self, kind: Any, rule: Any) -> Any:
        chance = self._chance
        edge = chance.random() < self._mischief * 5
        if kind is bool:
            return chance.random() < 0.5
        if isinstance(rule, Text):
            if edge:
                return "x" * chance.choice((rule.most, rule.most + 1, rule.least))
            text = chance.choice(_TEXTS)
            return text if self._mischief or rule.breach(text) is None else "x"
        if isinstance(rule, Blob):
            return (
                b"x" * chance.choice((0, 1, 100)) if not edge else bytes(chance.choice((1 << 12, rule.most or 1 << 16)))
            )
        assert isinstance(rule, Number), (kind, rule)
        ends = (rule.least, rule.most, rule.least - 1, rule.most + 1)
        number = chance.choice(ends) if edge else max(rule.least, min(rule.most, chance.choice((0, 1, 2, 5, 1000))))
        return int(number) if kind is int else number


@cache
def parameters(name: str) -> list[tuple[str, Any]]:
    """Names and annotations of what a method takes."""
    hints = get_type_hints(getattr(Service, name), include_extras=True)
    hints.pop("return")
    return list(hints.items())


@cache
def members(kind: Any) -> list[tuple[str, Any]]:
    """Names and annotations of a dataclass's fields."""
    hints = get_type_hints(kind, include_extras=True)
    return [(one.name, hints[one.name]) for one in fields(kind)]


class Line:
    """What a conversation takes for its connection: one message in, one out."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.said = self.heard = b""

    def recv(self, room: object = None) -> Any:
        return safepickle.loads(self.said)

    def send(self, answer: Any) -> None:
        self.heard = safepickle.dumps(answer)

    def send_around(self, answer: Any, content: FileRange) -> None:
        before, after = safepickle.around(answer, content.size)
        self.heard = before + os.pread(content.descriptor, content.size, content.offset) + after


class Peer:
    """One that holds a key, and is heard by a coordinator in this process.

    Args:
        coordinator: the coordinator.
        key: the key.
    """

    def __init__(self, coordinator: Coordinator, key: Key) -> None:
        self._coordinator = coordinator
        self._key = key
        self._session: Session | None = None
        #: How long the last answer took, in seconds.
        self.took = 0.0
        #: Whether its hello was accepted.
        self.greeted = False

    def say(self, message: Any) -> Any:
        """Say a message; the answer, plain. The connection is made, and made again after its end, as needed."""
        if self._session is None:
            self._line = Line(f"127.0.0.1:{self._key.name}")
            self._session = Session(self._coordinator, self._line.peer)
            self._conversation = ConnectionHandler(self._line, self._session, self._key)  # type: ignore[arg-type]  # enough
        said = safepickle.dumps(message)
        if len(said) > MAX_MESSAGE:
            return "#ERROR", (TooLarge.code, ())  # as the connection has it
        self._line.said = said
        began = time.thread_time()
        lives = self._conversation.turn()
        self.took = time.thread_time() - began
        answer = safepickle.loads(self._line.heard)
        self.greeted |= message[0] == "hello" and answer[0] == "#RETURN"
        if not lives:
            self.hang_up()
        return answer

    def hang_up(self) -> None:
        """End the connection."""
        if self._session is not None:
            self._session.disconnected()
            self._session = None
            self.greeted = False

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method, as a proxy does."""
        method = METHODS[name]
        return read_answer(method, self.say((name, method.encode_arguments(arguments))))


class Honest:
    """A client and a worker that do what they should, in a queue of their own, and see whether that works.

    Args:
        coordinator: the coordinator.
    """

    SPEC = Spec(function=Function(kind=FunctionKind.REGISTERED, name="honest"), options=Options(queue=HONEST))

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._number = 0
        self._client = Peer(coordinator, Key(name="honest", secret=bytes(32)))
        self._worker = Peer(coordinator, Key(name="honest-worker", secret=bytes(32)))
        self._client.call("hello", Hello(session=os.urandom(16).hex(), role=Role.CLIENT, name="honest"))
        self._start_worker()
        #: How long its calls took, in seconds.
        self.took: list[float] = []

    def _start_worker(self) -> None:
        """Start a worker, or another one where an operator has ordered the last one to end."""
        self._worker.hang_up()
        hello = Hello(
            session=os.urandom(16).hex(), role=Role.WORKER, name="honest", slots=1, queues=(HONEST,), primary=True
        )
        self._worker.call("hello", hello)

    def work(self) -> None:
        """Submit two tasks, run them, read the results. An operator may have cancelled them; nothing else can go
        wrong."""
        self._number += 1
        arguments = pack([b"one", b"two"])
        submission = Submission(spec=0, number=self._number, arguments=arguments)
        (receipt,) = self._timed(self._client, "submit", [self.SPEC], [submission], False)
        assert (receipt.code, receipt.size) == ("", 2), receipt
        while True:
            orders = self._timed(self._worker, "exchange", Exchange(capacity=1, fetch=True))
            if orders.order is not None:
                self._start_worker()
                continue
            if not orders.grants:
                break
            for grant in orders.grants:
                results = pack([b"done"] * (grant.hi - grant.lo))
                done = Succeeded(token=grant.token, lo=grant.lo, results=results, seconds=0.001)
                self._timed(self._worker, "exchange", Exchange(succeeded=(done,), capacity=1))
        view = self._timed(self._client, "batch", receipt.batch)
        assert view.size == 2, "somebody else has put tasks into the batch"
        assert view.counts.succeeded + view.counts.cancelled == 2, view
        if view.counts.succeeded == 2:
            found = self._timed(self._client, "results", receipt.batch, 0, 2)
            assert [(one.state, one.results) for one in found] in (
                [(State.SUCCEEDED, pack([b"done", b"done"]))],
                [(State.SUCCEEDED, pack([b"done"]))] * 2,
            )

    def _timed(self, peer: Peer, name: str, *arguments: Any) -> Any:
        result = peer.call(name, *arguments)
        self.took.append(peer.took)
        return result

    def p99(self) -> float:
        """The time that one in a hundred of its calls took or more, in seconds; starts over."""
        took, self.took = sorted(self.took), []
        return took[len(took) * 99 // 100]


class Onslaught:
    """Peers of every role that say whatever has the right type, and some that do their work between them.

    Args:
        coordinator: the coordinator.
        seed: of everything random.
    """

    def __init__(self, coordinator: Coordinator, seed: int) -> None:
        self._coordinator = coordinator
        self._chance = random.Random(seed)
        self._calls = Calls(self._chance, Known())
        self._peers = [
            Peer(coordinator, Key(name=name, secret=bytes(32), roles=roles))
            for name, roles in ROLES.items()
            for _ in "123"
        ]
        #: Answers by method and code of the error, "" where there was none.
        self.answers: Counter[tuple[str, str]] = Counter()
        #: The longest calls, in seconds, by method.
        self.longest: dict[str, tuple[float, str]] = {}

    def one(self) -> None:
        """Say one thing, and see that the answer is one."""
        chance = self._chance
        peer = chance.choice(self._peers)
        if chance.random() < 0.002:
            peer.hang_up()
        if not peer.greeted and chance.random() < 0.95:
            name = "hello"
        else:
            name = chance.choice(("exchange", "exchange", "submit", *METHODS))
        message = self._calls.call(name)
        kind, answer = peer.say(message)
        took = peer.took
        if took > self.longest.get(name, (0.0, ""))[0]:
            self.longest[name] = took, f"{answer!r:.60}"
        code = answer[0] if kind == "#ERROR" else ""
        assert code != "internal", (message, answer)
        self.answers[name, code] += 1
        self._note(name, code, message[1], answer)

    def _note(self, name: str, code: str, arguments: Any, answer: Any) -> None:
        known = self._calls.known
        if code:
            return
        if name == "hello":
            known.sessions.append(arguments[0][0])
        elif name == "submit":
            known.batches += [receipt[0] for receipt in answer if receipt[0]]
        elif name == "exchange":
            known.leases += [(grant[0], grant[2]) for grant in answer[0]]
            known.specs += [grant[6] for grant in answer[0]]
        for each in (known.batches, known.leases, known.specs, known.sessions):
            del each[:-100]

    def check(self) -> None:
        """See that the machine's state is consistent."""
        with self._coordinator.lock:
            invariants.check(self._coordinator.machine)


def main() -> None:
    """``python -m tests.typed_calls --calls 200000``: throw calls, and say what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check-every", type=int, default=2_000)
    parser.add_argument("--db")
    options = parser.parse_args()
    if options.db:
        from dtq.engines.sqlite import SqliteEngine

        engine: Any = SqliteEngine(options.db, durability="none")
    else:
        engine = MemoryEngine()
    coordinator = Coordinator(engine, Setup(rules=coordinator_rules()))
    coordinator.start()
    honest = Honest(coordinator)
    for _ in range(300):
        honest.work()
    quiet = honest.p99()
    onslaught = Onslaught(coordinator, options.seed)
    began = time.monotonic()
    done = 0
    while done < options.calls and time.monotonic() - began < options.seconds:
        onslaught.one()
        done += 1
        if done % 50 == 0:
            honest.work()
        if done % options.check_every == 0:
            onslaught.check()
    onslaught.check()
    busy = honest.p99()
    for (name, code), count in sorted(onslaught.answers.items()):
        print(f"{count:8} {name:14} {code}")
    for name, (seconds, answer) in sorted(onslaught.longest.items(), key=lambda one: -one[1][0]):
        print(f"{seconds * 1000:8.1f} ms longest {name}: {answer}")
    tally = coordinator.machine.queue_state.tally
    print(f"{done} calls in {time.monotonic() - began:.0f} s; {tally.counts()}")
    print(f"honest p99 quiet {quiet * 1e6:.0f} us, busy {busy * 1e6:.0f} us, {busy / quiet:.2f} times")
    coordinator.quiesce()
    sys.exit(not coordinator.stop())


def coordinator_rules() -> Any:
    """Settings under which much happens: leases that expire, a queue that can be full."""
    from dtq.core.queue_state import Rules

    return Rules(lease_s=60.0, keep_results_s=60.0, max_tasks=20_000, max_batch=5_000)


if __name__ == "__main__":
    main()
