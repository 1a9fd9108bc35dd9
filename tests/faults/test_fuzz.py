"""Every byte that a stranger, and that a peer with the key, can send: drawn by hypothesis, against a real server.

Row 3 of the catalogue: 0 crashes, strangers see nothing but a nonce, nobody a traceback or a path. Afterwards the
coordinator lives, has grown by nothing, and has run nothing of what it was sent.
"""

from __future__ import annotations

import logging
import pickle
import socket
import threading
import types
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dtq.engines.base import Engine
from dtq.engines.sqlite import SqliteEngine
from dtq.model.messages import Role
from dtq.model.pages import pack
from dtq.model.service import Service
from dtq.transport.calls import METHODS
from dtq.transport.connection import Connection
from dtq.transport.handshake import KEY_ID, MAGIC, NAME, key_id
from tests.faults.house import KEY, House, client, house

HERE = str(Path(__file__).parents[2]).encode()
#: What a server may answer a stranger at most: magic, nonce, refusal.
MOST = 4 + 32 + 32
FUZZ = settings(
    deadline=None, max_examples=100, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate]
)


@pytest.fixture(scope="module")
def home() -> Iterator[House]:
    """One coordinator for all that is thrown at it."""
    with unharmed(None) as home:
        yield home


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One with a store on the disk."""
    with unharmed(SqliteEngine(tmp_path_factory.mktemp("fuzz") / "dtq.db", durability="none")) as home:
        yield home


@contextmanager
def unharmed(engine: Engine | None) -> Iterator[House]:
    """A coordinator that is at the end as at the beginning."""
    with house(engine=engine) as home:
        before = psutil.Process().memory_info().rss
        yield home
        with home.proxy() as honest:
            assert honest.stats().counts.running >= 0
        grown_mib = (psutil.Process().memory_info().rss - before) / 2**20
        assert grown_mib < 100, f"grown by {grown_mib:.0f} MiB"


@pytest.fixture(autouse=True)
def nothing_failed_there(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What the coordinator meets is refused by rule: nothing gets as far as an error of its own."""
    caplog.set_level(logging.ERROR)
    yield
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


OPENINGS = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda rest: NAME + rest, st.binary(max_size=100)),
    st.builds(lambda rest: MAGIC + rest, st.binary(max_size=200)),
    st.builds(lambda nonce, rest: MAGIC + key_id(KEY) + nonce + rest, st.binary(min_size=32, max_size=32), st.binary()),
    st.builds(lambda rest: b"\x16\x03\x01" + rest, st.binary(max_size=100)),
)


@FUZZ
@given(opening=OPENINGS, cut=st.booleans())
def test_stranger_gets_a_nonce_at_most_whatever_it_says(home: House, opening: bytes, cut: bool) -> None:
    opened = len(home.coordinator.sessions.by_id)
    with socket.create_connection(home.server.address, 10) as sock:
        with suppress(OSError):  # reset already
            sock.sendall(opening)
            if cut:
                sock.shutdown(socket.SHUT_WR)
        sock.settimeout(10 if cut else 0.05)
        answer = everything(sock)
    if opening.startswith(NAME) and len(opening) >= 4 + 32:
        assert answer[: len(NAME)] in (b"", NAME)
        assert len(answer) <= MOST
    else:
        assert answer == b""
    assert len(home.coordinator.sessions.by_id) <= opened


@FUZZ
@given(
    body=st.one_of(st.binary(max_size=200), st.integers(0, 5).flatmap(lambda p: st.builds(dumped, junk(), st.just(p))))
)
def test_message_of_any_bytes_ends_its_connection_at_worst(home: House, body: bytes) -> None:
    line = home.line()
    line.sock.sendall(len(body).to_bytes(4, "big") + body)
    answer = ended(line)
    assert b"Traceback" not in answer
    assert HERE not in answer


def junk() -> st.SearchStrategy[Any]:
    """Values that are not calls, and calls that are not right."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=50)
    values = st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=12,
    )
    name = st.sampled_from([*METHODS, "disconnected", "__reduce__", "#GETVALUE", "shutdown"])
    return values | st.tuples(name, values) | st.tuples(name, st.lists(values, max_size=3).map(tuple))


def dumped(value: Any, protocol: int) -> bytes:
    return pickle.dumps(value, protocol)


def plain(hint: Any, name: str = "") -> st.SearchStrategy[Any]:
    """Values of a type as they cross the wire, whatever is in them; what is waited for is not waited for long."""
    if name == "wait_s":
        return st.sampled_from([0.0, -1.0, 0.001])
    origin, inner = get_origin(hint), get_args(hint)
    if origin is list:
        return st.lists(plain(inner[0]), max_size=3)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return st.lists(plain(inner[0]), max_size=3).map(tuple)
        return st.tuples(*map(plain, inner))
    if origin in (Union, types.UnionType):
        return st.one_of(*map(plain, inner))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from([member.value for member in hint])
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.tuples(*(plain(hints[one.name], one.name) for one in fields(hint)))
    return SCALARS[hint]


#: Numbers that name something, that are out of every range, and that are no numbers.
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-2, 6) | st.integers(),
    float: st.floats(),
    str: st.sampled_from(["", "default", "math:sqrt"]) | st.text(max_size=10),
    bytes: st.sampled_from([pack([]), pack([b"x"]), pack([b"x", b"y"])]) | st.binary(max_size=12),
    bool: st.booleans(),
    type(None): st.none(),
}


def given_arguments(name: str) -> st.SearchStrategy[tuple[Any, ...]]:
    """Arguments of the right types for a method."""
    hints = get_type_hints(getattr(Service, name))
    hints.pop("return")
    return st.tuples(*(plain(hint, parameter) for parameter, hint in hints.items()))


CALLS = st.sampled_from(sorted(METHODS)).flatmap(lambda name: st.tuples(st.just(name), given_arguments(name)))


@FUZZ
@given(calls=st.lists(CALLS, max_size=6), worker=st.booleans())
def test_calls_of_the_right_types_are_answered_whatever_is_in_them(
    home: House, durable: House, calls: list[tuple[str, tuple[Any, ...]]], worker: bool
) -> None:
    hello = client()
    if worker:
        hello = replace(hello, role=Role.WORKER, slots=1, primary=True)
    for one in (home, durable):
        with closing(one.line(hello)) as line:
            for name, arguments in calls:
                try:
                    line.send((name, arguments))
                    kind, answer = line.recv()
                except (EOFError, OSError):
                    break  # it had enough of this one
                assert kind in ("#RETURN", "#ERROR")
                if kind == "#ERROR":
                    assert answer[0] != "internal", (name, arguments, answer)
                    assert HERE.decode() not in str(answer)


def test_others_are_served_during_all_of_it(home: House) -> None:
    # Given an honest client, and somebody who sends garbage with the key as fast as it goes
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            line = home.line()
            with suppress(OSError):
                line.sock.sendall(b"\x00\x00\x00\x05\x80\x05cos")
            ended(line)

    threads = [threading.Thread(target=hammer, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        with home.proxy() as honest:
            for _ in range(200):
                honest.stats()
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def test_key_id_is_as_long_as_said() -> None:
    assert len(key_id(KEY)) == KEY_ID


def everything(sock: socket.socket) -> bytes:
    data = b""
    with suppress(OSError):
        while part := sock.recv(65_536):
            data += part
    return data


def ended(line: Connection) -> bytes:
    """All that comes until the connection ends."""
    with suppress(OSError):
        line.sock.shutdown(socket.SHUT_WR)
    answer = everything(line.sock)
    line.close()
    return answer
