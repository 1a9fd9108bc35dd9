"""Values that a client has put or sends repeatedly: each travels once, and is stored once at the coordinator.

Client, below `client_core`. A value is known by the digest of its bytes, so a value that another client has put is not
sent again, and a value that changes between two calls is another value. It is kept as long as one of its references
lives here; the coordinator is told now and then of those whose last reference is gone.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, Final

from dtq.client.defaults import TTL_S
from dtq.client.functions import ANY_PYTHON, Callee
from dtq.client.large_payloads import written
from dtq.client.links import AWAY
from dtq.client.payloads import encode_value
from dtq.client.references import Reference
from dtq.client.terms import seconds
from dtq.errors import CannotPickle, DtqError, InvalidValue, ValueGone
from dtq.model.fields import MAX_SECONDS
from dtq.model.options import Function, Spec
from dtq.model.values import MIN_VALUE, Value, describe, is_description, named, rest
from dtq.records import replace
from dtq.values.base import Buffer, Draft, Values

#: Most functions by value that are kept at the coordinator although no task needs them.
_MOST_FUNCTIONS: Final = 16
#: Changes of an argument in place after which it is always sent as it is.
_MOST_CHANGES: Final = 3
#: Most arguments of a function whose last value is remembered.
_MOST_PLACES: Final = 64
#: The first argument in a place is put at once if it has this many bytes or more: otherwise a repeated one would lie at
#: the coordinator twice, as long as its first task is kept. Its digest takes about as long as writing it.
_AT_ONCE: Final = 1 << 20


class _Digest:
    """Digests a value's bytes; they are written to a draft, or nowhere.

    Args:
        draft: the draft.
    """

    def __init__(self, draft: Draft | None = None) -> None:
        self.sha = hashlib.sha256()
        self.length = 0
        self._draft = draft

    def write(self, data: Buffer, /) -> int:
        """See `Draft`."""
        size = memoryview(data).nbytes
        self.sha.update(data)
        self.length += size
        if self._draft is not None:
            self._draft.write(data)
        return size

    def finish(self, trailer: bytes = b"") -> Value:
        """See `Draft`."""
        self.sha.update(trailer)
        self.length += len(trailer)
        if self._draft is not None:
            return self._draft.finish(trailer)
        return Value(0, 0, self.length, 0, len(trailer))

    def abandon(self) -> None:
        """See `Draft`: the replacement is digested anew."""
        if self._draft is not None:
            self._draft.abandon()


class _Digests:
    """Digests the bytes that are, or would be, written to values; see `Values`.

    Args:
        values: writes them.
    """

    least = 0

    def __init__(self, values: Values | None = None) -> None:
        self._values = values
        self.latest = _Digest()

    def draft(self) -> Draft:
        """See `Values`."""
        self.latest = _Digest(None if self._values is None else self._values.draft())
        return self.latest

    def digest(self, description: bytes) -> bytes:
        """The digest of the value that was written last, and those of the values it references."""
        sha = self.latest.sha
        for other in named(description)[1:]:
            sha.update(repr(other).encode())
        return sha.digest()

    def settled(self, values: Iterable[Value]) -> None:
        """See `Values`."""

    def stream(self, value: Value) -> BinaryIO:
        """See `Values`: no bytes were written."""
        raise ValueGone(value.length)

    def fetch(self, value: Value) -> Buffer:
        """See `Values`: no bytes were written."""
        raise ValueGone(value.length)

    def close(self) -> None:
        """See `Values`."""


def digest_of(value: Any) -> tuple[bytes, int]:
    """The digest of an object's value, and the number of its bytes, without writing it.

    Raises:
        CannotPickle: the object cannot be pickled.
    """
    digests = _Digests()
    digest = digests.digest(encode_value(value, digests))
    return digest, digests.latest.length


def ttl_seconds(ttl: Any) -> float:
    """Seconds of a time to live.

    Raises:
        InvalidValue: it is invalid.
    """
    found = seconds(ttl, "ttl")
    if not 0 <= found <= MAX_SECONDS:
        raise InvalidValue("ttl", found, f"it is 0 to {MAX_SECONDS:,.0f} seconds")
    return found


#: Asks the coordinator to hold a value; see `Service`.
Hold = Callable[[bytes, bytes, float], bytes]
Release = Callable[[list[bytes]], None]


class _Held:
    """A held value.

    Args:
        ttl_s: how long to keep it after this client has left, in seconds.
    """

    __slots__ = ("count", "description", "generation", "ttl_s")

    def __init__(self, ttl_s: float) -> None:
        #: Empty if the coordinator does not have it (any more).
        self.description = b""
        #: Number of its live references.
        self.count = 0
        #: The session's generation when the coordinator last confirmed it.
        self.generation = 0
        self.ttl_s = ttl_s


class Shared:
    """The values that this client has put. Any thread.

    Args:
        hold: asks the coordinator.
        values: writes values; None without a place for them.
        wake: requests a call of `flush` soon; any thread, at any point.
        generation: that of the session; see `Session`.
    """

    def __init__(
        self,
        hold: Hold,
        values: Callable[[], Values | None],
        wake: Callable[[], None],
        generation: Callable[[], int] = lambda: 0,
    ) -> None:
        self._hold = hold
        self._values = values
        self._wake = wake
        self._generation = generation
        #: Held during calls to the coordinator: a release and a new put of a value must arrive in that order.
        self._asking = threading.Lock()
        self._held: dict[bytes, _Held] = {}
        #: Digests of released references. Nothing else happens at a release: it may come at any point.
        self._dropped: deque[bytes] = deque()
        #: Digests of which the coordinator must be told, an ordered set.
        self._gone: dict[bytes, None] = {}
        #: The functions by value that were sent last, and the repeated arguments of each function's calls.
        self._functions: OrderedDict[bytes, Reference] = OrderedDict()
        self._listing = threading.Lock()
        self._repeats: weakref.WeakKeyDictionary[Callee, Repeats] = weakref.WeakKeyDictionary()

    def put(
        self,
        value: Any,
        ttl_s: float = TTL_S,
        digest: bytes | None = None,
        write: Callable[[Any, Values], bytes] = encode_value,
    ) -> Reference:
        """Keep a value at the coordinator, unless it is there.

        Args:
            value: anything that can be pickled.
            ttl_s: how long to keep it after this client has left, in seconds.
            digest: the result of `digest_of`, if known.
            write: writes it.

        Raises:
            CannotPickle: the value cannot be pickled; or the coordinator keeps no values.
            TooLarge, StoreError, Unreachable: the value cannot be written.
        """
        if digest is None:
            digest, _ = digest_of(value)
        with self._asking:
            self._gather()
            held = self._held.get(digest)
            if held is not None:
                self._make_sure(digest, held, self._hold)
            description = held.description if held is not None else b""
            if not description:
                generation = self._generation()
                description = self._hold(digest, b"", ttl_s)
                if not description:
                    digest, description = self._written(value, digest, ttl_s, write)
                held = self._held.setdefault(digest, _Held(ttl_s))
                held.description, held.generation = description, generation
            assert held is not None
            self._gone.pop(digest, None)
            held.count += 1
        return Reference(description, digest, self._drop)

    def _written(
        self, value: Any, digest: bytes, ttl_s: float, write: Callable[[Any, Values], bytes]
    ) -> tuple[bytes, bytes]:
        """Its digest and description. It may have changed since a moment ago: then it has another digest."""
        values = self._values()
        if values is None:
            raise CannotPickle("the value", "the coordinator keeps no values")
        digests = _Digests(values)
        own = write(value, digests)
        try:
            digest = digests.digest(own)
            return digest, self._hold(digest, own, ttl_s)
        finally:
            values.settled(named(own)[:1])

    def keeps(self, reference: Reference) -> bool:
        """Whether the coordinator has the value of a reference of this client.

        Raises:
            Unreachable: the coordinator does not answer.
        """
        held = self._held.get(reference.digest)
        if held is None:
            return False
        if held.generation != self._generation():
            with self._asking:
                self._make_sure(reference.digest, held, self._hold)
        return held.description == reference.description

    def _make_sure(self, digest: bytes, held: _Held, hold: Hold) -> None:
        """Ask the coordinator whether it still has a value, if the session is new to it: it may have lost values. A
        lost value is written anew when it is put next.
        """
        generation = self._generation()
        if held.generation != generation and held.description:
            try:
                held.description = hold(digest, held.description, held.ttl_s)
            except AWAY:
                raise
            except DtqError:
                held.description = b""
        held.generation = generation

    def hold_again(self, hold: Hold) -> None:
        """Renew the holds after the session became new to the coordinator, of values that it still has.

        Args:
            hold: asks it.

        Raises:
            Unreachable: it is away again.
        """
        with self._asking:
            self._gather()
            for digest, held in self._held.items():
                self._make_sure(digest, held, hold)

    def _drop(self, digest: bytes) -> None:
        self._dropped.append(digest)
        self._wake()

    def flush(self, release: Release) -> None:
        """Tell the coordinator of values without references here; not during another call.

        Args:
            release: tells it.

        Raises:
            DtqError: the call failed; the next one tells it.
        """
        with self._listing:
            repeats = list(self._repeats.values())
        for one in repeats:
            one.forget_unused()
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
            held = self._held[digest]
            held.count -= 1
            if not held.count:
                del self._held[digest]
                self._gone[digest] = None

    def function(self, function: Any, spec: Spec) -> Spec:
        """A spec in the form that is sent: a large function that travels by value is put, once, and released after
        others were sent since.

        Args:
            function: the submitted one.
            spec: its spec.

        Raises:
            TooLarge, StoreError, Unreachable: the function cannot be written.
        """
        body = spec.function.body
        if len(body) < MIN_VALUE or self._values() is None:
            return spec
        digest = hashlib.sha256(body).digest()
        reference = self._functions.pop(digest, None)
        needed: tuple[Value, ...] = ()
        if is_description(body):  # it contains references
            needed, body = named(body), rest(body)
        if reference is None or not self.keeps(reference):
            if body.startswith(ANY_PYTHON) and not needed and not isinstance(function, Function):
                reference = self.put(function)
            else:
                reference = self.put(body, digest=hashlib.sha256(body).digest(), write=written)
        self._functions[digest] = reference
        while len(self._functions) > _MOST_FUNCTIONS:
            self._functions.popitem(last=False)
        description = reference.description if not needed else describe([*named(reference.description)[:1], *needed])
        return replace(spec, function=replace(spec.function, body=description))

    def replaced(
        self, target: Callee, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The next call of a function, with references in the place of repeated arguments; see `Repeats`."""
        repeats = self._repeats.get(target)
        if repeats is None:
            with self._listing:
                repeats = self._repeats.setdefault(target, Repeats(self))
        return repeats.replaced(args, kwargs)


#: Types of objects that are surely small, or references already.
_SMALL: Final = (int, float, complex, bool, type(None), Reference)


class _Seen:
    """A sent argument, as far as it is known whether it will be repeated."""

    __slots__ = ("changed", "digest", "object", "reference", "strong", "worth")

    def __init__(self, argument: Any) -> None:
        #: Returns it, while it lives; None if it has no weak references.
        self.object: Callable[[], Any] | None = None
        #: The argument itself then, until all other references are gone.
        self.strong: Any = None
        try:
            self.object = weakref.ref(argument)
        except TypeError:
            self.strong = argument
        #: Whether it is large enough to be sent by itself, and unchanging.
        self.worth = True
        #: Number of times it was found changed in place.
        self.changed = 0
        self.digest = b""
        self.reference: Reference | None = None

    def is_of(self, argument: Any) -> bool:
        """Whether this very argument was sent."""
        return (self.strong if self.object is None else self.object()) is argument

    def forget_unused(self) -> None:
        """Drop a last reference to it: it cannot be repeated."""
        if self.object is None and sys.getrefcount(self.strong) <= _OURS:
            self.strong = None
        if (self.strong if self.object is None else self.object()) is None:
            self.reference = None


def _references_of_ours() -> int:
    seen = _Seen([])
    return sys.getrefcount(seen.strong)


def _bytes_of(argument: Any) -> int:
    """Bytes of an argument whose type says so without running code of the program's."""
    if type(argument) is str:
        return len(argument)
    try:
        return memoryview(argument).nbytes
    except (TypeError, ValueError, BufferError):  # numpy's for types that other programs do not have
        return 0


class Repeats:
    """Repeated large arguments of a function's calls: they are put, and sent as references.

    Args:
        shared: puts them.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._seen: dict[int | str, _Seen] = {}

    def replaced(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call with references in the place of repeated arguments."""
        done: dict[int, Any] = {}  # one object here must be one there

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
        if seen is None or not seen.is_of(argument):
            first = seen is None
            if first and len(self._seen) >= _MOST_PLACES:
                return argument
            seen = self._seen[place] = _Seen(argument)
            if not first or _bytes_of(argument) < _AT_ONCE:
                return argument
        if not seen.worth:
            return argument
        try:
            return self._reference(seen, argument)
        except DtqError:  # it is sent as it is; the encoding of the call reports the fault
            return argument

    def _reference(self, seen: _Seen, argument: Any) -> Any:
        reference = seen.reference
        if reference is not None and not self._shared.keeps(reference):
            reference = None
        if reference is not None and isinstance(argument, bytes | str):
            return reference
        digest, size = digest_of(argument)
        if size < MIN_VALUE:
            seen.worth = False
            return argument
        if reference is None or seen.digest != digest:  # the first time, or it has changed in place
            seen.changed += reference is not None
            if seen.changed >= _MOST_CHANGES:
                seen.worth, seen.reference = False, None
                return argument
            reference = seen.reference = self._shared.put(argument, digest=digest)
            seen.digest = reference.digest
        return reference

    def forget_unused(self) -> None:
        """Drop the last references to arguments that the program no longer has. Any thread."""
        for seen in list(self._seen.values()):
            seen.forget_unused()


#: Number of references to an object that only a `_Seen` has, as `sys.getrefcount` counts them.
_OURS: Final = _references_of_ours()
