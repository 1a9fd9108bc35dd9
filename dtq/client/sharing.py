"""What a client has put, and what it sends more than once: it travels once, and lies once at the coordinator.

Client, below `hub`. A value is known by the digest of what is written of it, so what somebody else has put need not be
sent, and what changes between two calls is another value. It is kept as long as one of its references lives here; the
coordinator is told now and then of those that do not.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO, Final

from dtq.client.functions import ANY_PYTHON, Callee
from dtq.client.large_payloads import written
from dtq.client.payloads import encode_value
from dtq.client.references import Reference
from dtq.client.terms import seconds
from dtq.errors import CannotPickle, DtqError, InvalidValue
from dtq.model.fields import MAX_SECONDS
from dtq.model.options import Function, Spec
from dtq.model.values import MIN_VALUE, Value, named
from dtq.values.base import Buffer, Draft, Values

#: How long a value is kept when this client has left, in seconds, where nothing else is said.
TTL_S: Final = 3600.0
#: How many functions by value are kept at the coordinator although no task needs them.
_MOST_FUNCTIONS: Final = 16
#: Of how many arguments of a function it is remembered what came last.
_MOST_PLACES: Final = 64


class _Digest:
    """A value that is not written: only what it would be is told."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.length = 0

    def write(self, data: Buffer, /) -> int:
        """See `Draft`."""
        size = memoryview(data).nbytes
        self.sha.update(data)
        self.length += size
        return size

    def finish(self, trailer: bytes = b"") -> Value:
        """See `Draft`."""
        self.write(trailer)
        return Value(0, 0, self.length, 0, len(trailer))

    def abandon(self) -> None:
        """See `Draft`: what comes instead is told anew."""


class _Digests:
    """Where values are not written; see `Values`."""

    least = 0

    def __init__(self) -> None:
        self.latest = _Digest()

    def draft(self) -> Draft:
        """See `Values`."""
        self.latest = _Digest()
        return self.latest

    def settled(self, values: Iterable[Value]) -> None:
        """See `Values`."""

    def stream(self, value: Value) -> BinaryIO:
        """See `Values`; never called."""
        raise NotImplementedError

    def fetch(self, value: Value) -> Buffer:
        """See `Values`; never called."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Values`."""


def digest_of(value: Any) -> tuple[bytes, int]:
    """The digest of what would be written of something, and how many bytes that would be.

    Raises:
        CannotPickle: it cannot be pickled.
    """
    digests = _Digests()
    description = encode_value(value, digests)
    sha = digests.latest.sha
    for other in named(description)[1:]:  # the values that it has references to
        sha.update(repr(other).encode())
    return sha.digest(), digests.latest.length


def ttl_seconds(ttl: Any) -> float:
    """Seconds of a time to live.

    Raises:
        InvalidValue: it is not one.
    """
    found = seconds(ttl, "ttl")
    if not 0 <= found <= MAX_SECONDS:
        raise InvalidValue("ttl", found, f"it is 0 to {MAX_SECONDS:,.0f} seconds")
    return found


#: How the coordinator is asked to hold something, and to hold it no longer; see `Service`.
Hold = Callable[[bytes, bytes, float], bytes]
Release = Callable[[list[bytes]], None]


class Shared:
    """What this client has put. Any thread.

    Args:
        hold: asks the coordinator.
        values: where values are written; None where there are none.
        wake: has `flush` called soon; any thread, in the middle of anything.
    """

    def __init__(self, hold: Hold, values: Callable[[], Values | None], wake: Callable[[], None]) -> None:
        self._hold = hold
        self._values = values
        self._wake = wake
        #: Held while the coordinator is asked: what is let go of and put again must arrive in that order.
        self._asking = threading.Lock()
        #: The description of each value that is held, and how many references to it live.
        self._held: dict[bytes, tuple[bytes, int]] = {}
        #: Those that have been let go of. Nothing else happens when that is: it may be in the middle of anything.
        self._dropped: deque[bytes] = deque()
        #: What the coordinator is to be told of, a set in order.
        self._gone: dict[bytes, None] = {}
        #: The functions by value that were sent last, and what comes again with each function's calls.
        self._functions: OrderedDict[bytes, Reference] = OrderedDict()
        self._repeats: weakref.WeakKeyDictionary[Callee, Repeats] = weakref.WeakKeyDictionary()

    def put(
        self,
        value: Any,
        ttl_s: float = TTL_S,
        digest: bytes | None = None,
        write: Callable[[Any, Values], bytes] = encode_value,
    ) -> Reference:
        """Have a value kept at the coordinator, unless it is there.

        Args:
            value: anything that can be pickled.
            ttl_s: how long to keep it after this client has left, in seconds.
            digest: what `digest_of` says of it, where that is known.
            write: writes it.

        Raises:
            CannotPickle: it cannot be pickled; or the coordinator keeps no values.
            TooLarge, StoreError, Unreachable: it cannot be written.
        """
        if digest is None:
            digest, _ = digest_of(value)
        with self._asking:
            self._gather()
            self._gone.pop(digest, None)
            description, count = self._held.get(digest, (b"", 0))
            if not count:
                description = self._hold(digest, b"", ttl_s) or self._written(value, digest, ttl_s, write)
            self._held[digest] = description, count + 1
        return Reference(description, digest, self._drop)

    def _written(self, value: Any, digest: bytes, ttl_s: float, write: Callable[[Any, Values], bytes]) -> bytes:
        values = self._values()
        if values is None:
            raise CannotPickle("the value", "the coordinator keeps no values")
        own = write(value, values)
        try:
            return self._hold(digest, own, ttl_s)
        finally:
            values.settled(named(own)[:1])

    def _drop(self, digest: bytes) -> None:
        self._dropped.append(digest)
        self._wake()

    def flush(self, release: Release) -> None:
        """Tell the coordinator of values that nothing here refers to any more; not while it is asked something.

        Args:
            release: tells it.

        Raises:
            DtqError: it could not be told; it is next time.
        """
        if (self._dropped or self._gone) and self._asking.acquire(blocking=False):
            try:
                self._gather()
                if self._gone:
                    release(list(self._gone))
                    self._gone.clear()
            finally:
                self._asking.release()

    def _gather(self) -> None:
        while self._dropped:
            digest = self._dropped.popleft()
            description, count = self._held.pop(digest)
            if count > 1:
                self._held[digest] = description, count - 1
            else:
                self._gone[digest] = None

    def function(self, function: Any, spec: Spec) -> Spec:
        """A spec as it is sent: a large function that travels by value is put, once, and forgotten when others were
        sent since.

        Args:
            function: what was submitted.
            spec: its spec.

        Raises:
            TooLarge, StoreError, Unreachable: it cannot be written.
        """
        body = spec.function.body
        if len(body) < MIN_VALUE or self._values() is None:
            return spec
        digest = hashlib.sha256(body).digest()
        reference = self._functions.pop(digest, None)
        if reference is None:
            plain = body.startswith(ANY_PYTHON) and not isinstance(function, Function)
            reference = self.put(function if plain else body, digest=digest, write=encode_value if plain else written)
        self._functions[digest] = reference
        while len(self._functions) > _MOST_FUNCTIONS:
            self._functions.popitem(last=False)
        return replace(spec, function=replace(spec.function, body=reference.description))

    def replaced(
        self, target: Callee, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The next call of a function, with references in the place of what has come before; see `Repeats`."""
        repeats = self._repeats.get(target)
        if repeats is None:
            repeats = self._repeats[target] = Repeats(self)
        return repeats.replaced(args, kwargs)


#: What is surely small, or stands for something already.
_SMALL: Final = (int, float, complex, bool, type(None), Reference)


class _Seen:
    """An argument that was sent, as far as it is known whether it comes again."""

    __slots__ = ("digest", "object", "reference", "worth")

    def __init__(self, argument: Any) -> None:
        #: Gives it, while it lives.
        self.object: Callable[[], Any] = _hold(argument)
        #: Whether it is large enough to be sent by itself.
        self.worth = True
        self.digest = b""
        self.reference: Reference | None = None


def _hold(argument: Any) -> Callable[[], Any]:
    """A weak reference; to what has none, a strong one: one object for each argument of a function."""
    try:
        return weakref.ref(argument)
    except TypeError:
        return lambda: argument


class Repeats:
    """Large arguments of a function that come again with the next call: they are put, and sent as references.

    Args:
        shared: where they are put.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._seen: dict[int | str, _Seen] = {}

    def replaced(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call with references in the place of what has come before."""
        done: dict[int, Any] = {}  # what is one object here is to be one there

        def replace(place: int | str, argument: Any) -> Any:
            if isinstance(argument, _SMALL):
                return argument
            if id(argument) not in done:
                done[id(argument)] = self._argument(place, argument)
            return done[id(argument)]

        new = tuple([replace(place, argument) for place, argument in enumerate(args)])
        return new, {name: replace(name, argument) for name, argument in (kwargs or {}).items()}

    def _argument(self, place: int | str, argument: Any) -> Any:
        seen = self._seen.get(place)
        if seen is None or seen.object() is not argument:
            if len(self._seen) < _MOST_PLACES or place in self._seen:
                self._seen[place] = _Seen(argument)
            return argument
        if not seen.worth:
            return argument
        try:
            return self._reference(seen, argument)
        except DtqError:  # it is sent as it is; what keeps it from that is said of the call
            return argument

    def _reference(self, seen: _Seen, argument: Any) -> Any:
        if seen.reference is not None and isinstance(argument, bytes | str):
            return seen.reference
        digest, size = digest_of(argument)
        if size < MIN_VALUE:
            seen.worth = False
            return argument
        if seen.reference is None or seen.digest != digest:  # the first time, or it has changed in place
            seen.reference = self._shared.put(argument, digest=digest)
            seen.digest = digest
        return seen.reference
