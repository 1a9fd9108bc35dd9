"""The service across the wire: clients and workers hold a proxy in place of a coordinator.

A thin equivalent of `managers.BaseProxy`, over the same table of listeners and clients. The library's own is not used,
because its connections belong to a pair of address and thread, whatever the key; because after an interrupted call it
hands the old answer to the next caller, and after an end of file never connects again; and because it begins with verbs
(accept_connection, incref) that dtq's server does not have.

A proxy has one connection. Any event that may have left an answer in it (a signal in the middle of a call, a timeout, a
fork) makes it unusable, and the next call opens a fresh one and says hello there. Calls are never repeated here: only
the caller knows which ones may be.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar, cast

from dtq.config.tls import TlsFiles
from dtq.config.values import Address, format_address
from dtq.errors import DtqError, InvalidValue, Unreachable, ValueDamaged
from dtq.model.messages import Hello, Welcome
from dtq.model.service import Service
from dtq.records import dataclass
from dtq.transport import safepickle
from dtq.transport.calls import HELLO, METHODS, RETURN, read_answer
from dtq.transport.connection import Connection, Room
from dtq.transport.endpoints import dial, reason
from dtq.transport.handshake import check_key
from dtq.values.base import Content, FileRange, size_of
from dtq.wording import duration

if TYPE_CHECKING:
    from ssl import SSLContext

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds for calls that go through all dead letters, of which there may be millions.
_MANY_S: Final = 600.0
#: Further seconds for calls that the server answers late, on purpose or for their amount of work.
_WAITS: Final[dict[str, Callable[[tuple[Any, ...]], float]]] = {
    "watch": lambda arguments: cast(float, arguments[1]),
    "exchange": lambda arguments: cast(float, arguments[0].wait_s),
    "output": lambda arguments: cast(float, arguments[4]),
    "retry_dead": lambda _: _MANY_S,
    "purge_dead": lambda _: _MANY_S,
}


_CLOSED: Final = "this side has closed the connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A call to be made.

    Attributes:
        arguments: its arguments.
        parts: a large content in the place of `safepickle.FILLER` in them; None for none.
        room: memory for a large content of the answer; None to leave it in the answer.
    """

    arguments: tuple[Any, ...]
    parts: Content | None = None
    room: Room | None = None


def _written(segment: int, offset: int, content: Content) -> _Asked:
    """The call that writes this piece.

    Raises:
        ValueDamaged: its file is too short.
    """
    if isinstance(content, FileRange) and not content.whole:
        raise ValueDamaged(content.size, "its segment is too short")
    if size_of(content) >= safepickle.APART:
        return _Asked(arguments=(segment, offset, safepickle.FILLER), parts=content)
    data = content.read() if isinstance(content, FileRange) else b"".join(content)
    return _Asked(arguments=(segment, offset, data))


def _room(place: memoryview, _: bytes, size: int) -> memoryview | None:
    return place if size == place.nbytes else None


def _refusal(name: str, answer: Any) -> DtqError | None:
    """The error of an answer that refuses the call."""
    try:
        read_answer(METHODS[name], answer)
    except DtqError as error:
        return error
    return None


def _placed(answer: Any, place: memoryview) -> DtqError | None:
    """Put an answered piece into its memory; returns the reason of a refusal, if it was refused."""
    match answer:
        case (str(word), memoryview()) if word == RETURN:
            return None  # it was received there
    try:
        found = read_answer(METHODS["read_value"], answer)
    except DtqError as error:
        return error
    if len(found) != place.nbytes:
        return ValueDamaged(place.nbytes, "its segment is too short")
    place[:] = found
    return None


def _remote(method: Callable[Concatenate[Service, P], R]) -> Callable[Concatenate[Proxy, P], R]:
    """The proxy's method for a method of the service: the same signature and docstring, answered across the wire."""
    name = method.__name__
    parameters = METHODS[name].parameters

    def call(self: Proxy, /, *args: P.args, **kwargs: P.kwargs) -> R:
        named = (
            [kwargs.pop(parameter) for parameter in parameters[len(args) :] if parameter in kwargs] if kwargs else ()
        )
        if kwargs or len(args) + len(named) != len(parameters):
            raise TypeError(f"{name}() takes {', '.join(parameters) or 'no arguments'}")
        return cast(R, self.call(name, *args, *named))

    update_wrapper(call, method)
    return call


class Proxy:
    """A connection to a coordinator that satisfies `model.service.Service`.

    One thread at a time calls; another that calls meanwhile waits. `close` may be called from anywhere.

    Args:
        addresses: of the coordinator; tried in turn, beginning with the one that worked last.
        authkey: the key.
        hello: the caller's identity, or a function that returns it for each connection. A child made by `os.fork` needs
            an identity of its own: give a function that makes up a new session there.
        on_welcome: called with each answer to hello, in the calling thread, before the call goes on. Must not call the
            proxy.
        connect_timeout_s: seconds to connect to one address, handshake included.
        call_timeout_s: seconds without a byte before a call is given up, on top of the time that it may wait at the
            server.
        key_source: the key's origin, for the sentence of `WrongKey`.
        tls: certificates, for TLS with coordinators on other machines; None for no TLS.

    Every call raises, besides the exceptions of `Service`:
        Unreachable: nobody answers at any address, the connection was lost or timed out in mid-call, or the proxy is
            closed. After a loss in mid-call it is not known whether the call was carried out.
        WrongKey: no address is reachable, and one of them has another key.
        ProtocolMismatch: likewise, with another version.
        TooLarge: the arguments are over the server's limit; nothing was sent.
        BadMessage: the arguments are not plain data, or the answer is not one.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        authkey: bytes,
        hello: Hello | Callable[[], Hello],
        *,
        on_welcome: Callable[[Welcome], None] | None = None,
        connect_timeout_s: float = 5.0,
        call_timeout_s: float = 30.0,
        key_source: str = "this side",
        tls: TlsFiles | None = None,
    ) -> None:
        if not addresses:
            raise InvalidValue("addresses", [], "there is at least one")
        self._addresses = tuple(addresses)
        self._authkey = check_key(authkey)
        self._hello = hello
        self._on_welcome = on_welcome
        self._connect_timeout_s = connect_timeout_s
        self._call_timeout_s = call_timeout_s
        self._key_source = key_source
        self._tls = None if tls is None else _client_context(tls)
        self._first = 0  # the address that worked last
        self._connection: Connection | None = None
        self._greeted = False  # whether hello, and all that precedes a call, has happened on it
        self._welcome: Welcome
        self._closed = False
        self._lock = threading.RLock()  # re-entered by a signal handler that calls
        self._owner = os.getpid()

    def hello(self, hello: Hello) -> Welcome:
        """Become this caller, on a new connection; see `Service.hello`. Without this call, each connection begins with
        the hello that the proxy was made with.
        """
        self._leave_parent()
        with self._lock:
            self._hello = hello
            self._drop()
            self._ready()
            return self._welcome

    submit = _remote(Service.submit)
    follow = _remote(Service.follow)
    watch = _remote(Service.watch)
    let_go = _remote(Service.let_go)
    write_value = _remote(Service.write_value)
    read_value = _remote(Service.read_value)
    hold = _remote(Service.hold)
    release = _remote(Service.release)
    exchange = _remote(Service.exchange)
    spec = _remote(Service.spec)
    batch = _remote(Service.batch)
    batches = _remote(Service.batches)
    task = _remote(Service.task)
    attempts = _remote(Service.attempts)
    explain = _remote(Service.explain)
    output = _remote(Service.output)
    arguments = _remote(Service.arguments)
    results = _remote(Service.results)
    tasks = _remote(Service.tasks)
    cancel = _remote(Service.cancel)
    rerun = _remote(Service.rerun)
    reprioritize = _remote(Service.reprioritize)
    steer_queue = _remote(Service.steer_queue)
    order_workers = _remote(Service.order_workers)
    set_limit = _remote(Service.set_limit)
    limits = _remote(Service.limits)
    remove_limit = _remote(Service.remove_limit)
    graph = _remote(Service.graph)
    dead_letters = _remote(Service.dead_letters)
    dead_summary = _remote(Service.dead_summary)
    retry_dead = _remote(Service.retry_dead)
    purge_dead = _remote(Service.purge_dead)
    set_schedule = _remote(Service.set_schedule)
    schedules = _remote(Service.schedules)
    schedule = _remote(Service.schedule)
    pause_schedule = _remote(Service.pause_schedule)
    run_schedule = _remote(Service.run_schedule)
    remove_schedule = _remote(Service.remove_schedule)
    stats = _remote(Service.stats)
    dashboard = _remote(Service.dashboard)
    note_slots = _remote(Service.note_slots)
    queues = _remote(Service.queues)
    workers = _remote(Service.workers)
    stop = _remote(Service.stop)

    def write_values(self, pieces: Sequence[tuple[int, int, Content]]) -> list[DtqError | None]:
        """As `write_value`, of several pieces without waits for the answers between them.

        Args:
            pieces: segment, offset and bytes of each, possibly in parts.

        Returns:
            For each piece the reason of its refusal; None if it was accepted. A piece whose file is too short is not
            sent.
        """
        refusals: dict[int, DtqError | None] = {}
        asked: dict[int, _Asked] = {}
        for place, piece in enumerate(pieces):
            try:
                asked[place] = _written(*piece)
            except ValueDamaged as error:
                refusals[place] = error
        places = list(asked)

        def take(nth: int, answer: Any) -> None:
            refusals[places[nth]] = _refusal("write_value", answer)

        self._converse("write_value", list(asked.values()), take)
        return [refusals[place] for place in range(len(pieces))]

    def read_values(
        self, pieces: Sequence[tuple[int, int, memoryview]], arrived: Callable[[int, DtqError | None], None]
    ) -> None:
        """As `read_value`, of several pieces as in `write_values`, each of the size of its memory.

        Args:
            pieces: segment and offset of each, and its memory, which several may share.
            arrived: called for each piece after its arrival and before the next one's: its index, and the reason of its
                refusal. An exception from it ends the call.
        """
        asked = [
            _Asked(arguments=(segment, offset, place.nbytes), room=functools.partial(_room, place))
            for segment, offset, place in pieces
        ]
        self._converse("read_value", asked, lambda nth, answer: arrived(nth, _placed(answer, pieces[nth][2])))

    reload_keys = _remote(Service.reload_keys)

    @property
    def address(self) -> str:
        """The address that answered last, or else the first to be tried."""
        return format_address(self._addresses[self._first])

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    def connect(self) -> Welcome:
        """Connect and say hello now, unless there is a usable connection; every call does this by itself.

        Returns:
            The answer to the last hello.
        """
        self._leave_parent()
        with self._lock:
            self._ready()
            return self._welcome

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the service by its name."""
        wait_s = _WAITS[name](arguments) if name in _WAITS else 0.0
        method = METHODS[name]
        plain, timeout_s = method.encode_arguments(arguments), self._call_timeout_s + wait_s
        self._leave_parent()
        with self._lock:
            connection = self._ready()
            self._ask(connection, name, plain, timeout_s)
            answer = self._answer(connection, name, timeout_s)
        return read_answer(method, answer)

    def _converse(self, name: str, asked: Sequence[_Asked], take: Callable[[int, Any], None]) -> None:
        """Calls of one method, all of them made without waits for the answers in between.

        The server answers them in order. It must never wait for this side to take an answer while this side waits for
        it to take a call: either the calls or the answers must be short.

        Args:
            name: the method's.
            asked: the calls.
            take: called with each answer on its arrival, and its index. An exception from it ends this.
        """
        encode = METHODS[name].encode_arguments
        plain = [encode(one.arguments) for one in asked]
        timeout_s = self._call_timeout_s
        self._leave_parent()
        with self._lock:
            connection = self._ready()
            for arguments, one in zip(plain, asked, strict=True):
                self._ask(connection, name, arguments, timeout_s, one.parts)
            for nth, one in enumerate(asked):
                take(nth, self._answer(connection, name, timeout_s, one.room))

    def close(self) -> None:
        """Close the connection for good. A call under way in another thread ends at once with `Unreachable` (while
        connecting, at its connect timeout at the latest); so does every later one.
        """
        self._leave_parent()
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.interrupt()
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def reconnect(self) -> None:
        """Begin the next call with a new connection and hello: the coordinator has forgotten this session."""
        self._leave_parent()
        with self._lock:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _leave_parent(self) -> None:
        """In a child made by `os.fork`: forget the parent's connection, and its lock, which a thread that does not
        exist here may hold.
        """
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._lock = threading.RLock()
            self._drop()

    def _drop(self) -> None:
        connection, self._connection, self._greeted = self._connection, None, False
        if connection is not None:
            connection.close()

    def _ready(self) -> Connection:
        """A connection after its hello."""
        connection = self._connection
        if connection is not None and self._greeted and connection.usable():
            return connection
        self._drop()
        refusals: list[DtqError] = []
        for step in range(len(self._addresses)):
            place = (self._first + step) % len(self._addresses)
            try:
                connection, self._welcome = self._meet(self._addresses[place])
            except DtqError as refusal:
                self._drop()
                refusals.append(refusal)
                continue
            self._first = place
            if self._on_welcome is not None:
                self._on_welcome(self._welcome)
            self._greeted = True
            return connection
        raise self._gravest(refusals)

    def _meet(self, address: Address) -> tuple[Connection, Welcome]:
        """Connect to one address and say hello there."""
        if self._closed:
            raise Unreachable(format_address(address), _CLOSED)
        connection = dial(
            address,
            self._authkey,
            timeout_s=self._connect_timeout_s,
            key_source=self._key_source,
            tls=self._tls,
        )
        self._connection = connection  # from here on `close` finds it
        method, timeout_s = METHODS[HELLO], self._call_timeout_s
        hello = self._hello if isinstance(self._hello, Hello) else self._hello()
        self._ask(connection, HELLO, method.encode_arguments((hello,)), timeout_s)
        welcome: Welcome = read_answer(method, self._answer(connection, HELLO, timeout_s))
        connection.limit = welcome.max_message
        return connection, welcome

    def _ask(
        self,
        connection: Connection,
        name: str,
        plain: Any,
        timeout_s: float,
        parts: Content | None = None,
    ) -> None:
        """Make a call. Until its answer has come the connection is unusable for others, whatever the reason: an
        exception from elsewhere (a signal's), for one.
        """
        try:
            if self._closed:
                raise EOFError
            connection.set_timeout(timeout_s)
            if parts is None:
                connection.send((name, plain))
            else:
                connection.send_around((name, plain), parts)
        except (OSError, EOFError) as error:
            raise self._lost(connection, name, timeout_s, error) from error

    def _answer(self, connection: Connection, name: str, timeout_s: float, room: Room | None = None) -> Any:
        """The next answer, undecoded."""
        try:
            return connection.recv(room)
        except (OSError, EOFError) as error:
            raise self._lost(connection, name, timeout_s, error) from error

    def _lost(self, connection: Connection, name: str, timeout_s: float, error: OSError | EOFError) -> Unreachable:
        """The error for an unusable connection."""
        connection.close()
        if isinstance(error, TimeoutError):
            return Unreachable(connection.peer, f"no answer to {name} within {duration(timeout_s)}")
        return Unreachable(connection.peer, _CLOSED if self._closed else reason(error))

    @staticmethod
    def _gravest(refusals: list[DtqError]) -> DtqError:
        """The most telling of several addresses' errors: a refusal is more telling than an absence."""
        for refusal in refusals:
            if type(refusal) is not Unreachable:
                return refusal
        if len(refusals) == 1:
            return refusals[0]
        places, reasons = zip(*(refusal.args for refusal in refusals), strict=True)
        return Unreachable(", ".join(places), "; ".join(dict.fromkeys(reasons)))


def _client_context(tls: TlsFiles) -> SSLContext:
    from dtq.transport.tls import client_context  # ssl is expensive, and many processes do without

    return client_context(tls)


if TYPE_CHECKING:

    def _satisfies(proxy: Proxy) -> Service:
        return proxy
