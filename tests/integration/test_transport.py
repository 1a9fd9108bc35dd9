"""Calls across a real socket: answers, errors, limits, and the life of a connection."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from dtq.errors import (
    BadMessage,
    ConnectionsFull,
    InternalError,
    InvalidValue,
    NotPermitted,
    PortInUse,
    ProtocolMismatch,
    TooLarge,
    UnknownId,
    Unreachable,
    WrongKey,
)
from dtq.model.messages import Exchange, Hello, Role, Succeeded, Welcome
from dtq.model.pages import pack
from dtq.model.service import Service
from dtq.transport import Proxy, Server
from dtq.transport.calls import METHODS
from dtq.transport.connection import Connection
from dtq.transport.endpoints import dial
from tests.integration.transport_scene import HELLO, KEY, WRONG_KEY, Fake, proxy_to, serving, wait_until


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def server(fake: Fake) -> Iterator[Server]:
    with serving(fake) as server:
        yield server


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxy_to(server) as proxy:
        yield proxy


def test_call_is_answered_and_hello_was_said_first(proxy: Proxy, fake: Fake) -> None:
    # When something is called, Then it is answered
    assert proxy.follow([1, 2, 3]) == [1, 2, 3]
    # Then the hello was said once
    proxy.follow([])
    assert fake.hellos == [HELLO]


def test_dataclasses_and_blobs_cross_both_ways(proxy: Proxy) -> None:
    results = (pack([b""]), pack([b"x" * 100]), pack([bytes(range(256)) * 1000, b"y"]))

    orders = proxy.exchange(
        Exchange(succeeded=tuple(Succeeded(token=n, lo=0, results=r, seconds=0.5) for n, r in enumerate(results)))
    )

    assert tuple(grant.arguments for grant in orders.grants) == results


def test_every_method_of_the_service_is_there(proxy: Proxy) -> None:
    service: Service = proxy
    for name in METHODS:
        assert getattr(service, name).__doc__


def test_arguments_may_be_named(proxy: Proxy) -> None:
    assert proxy.watch(cursor=7, wait_s=0).cursor == 7
    assert proxy.watch(7, wait_s=0).cursor == 7
    with pytest.raises(TypeError, match=r"watch\(\) takes cursor, wait_s"):
        proxy.watch(7)  # type: ignore[call-arg]  # the point of the test
    with pytest.raises(TypeError, match=r"watch\(\) takes cursor, wait_s"):
        proxy.watch(7, 0.0, whatever=1)  # type: ignore[call-arg]  # the point of the test


def test_error_of_the_service_is_raised_with_its_arguments(proxy: Proxy) -> None:
    with pytest.raises(UnknownId, match="no task spec 5 is known") as caught:
        proxy.spec(5)
    assert caught.value.args == ("spec 5",)
    # Then the connection is in step
    assert proxy.follow([1]) == [1]


def test_other_exception_is_logged_there_and_told_without_details(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a session that fails with something that names a path
    with pytest.raises(InternalError) as caught:
        proxy.stats()

    # Then the caller learns its class, the log has the rest
    assert caught.value.args == ("RuntimeError",)
    assert "/a/path/of/the/server" not in str(caught.value)
    assert "/a/path/of/the/server" in caplog.text
    assert "Traceback" in caplog.text
    assert proxy.follow([1]) == [1]


def test_wrong_argument_is_refused_in_step(proxy: Proxy) -> None:
    with pytest.raises(BadMessage, match=r"follow\.batches is of the type str, not int"):
        proxy.follow(["one"])  # type: ignore[list-item]  # the point of the test
    assert proxy.follow([1]) == [1]


def test_argument_that_is_no_plain_data_is_refused_before_sending(proxy: Proxy, fake: Fake) -> None:
    with pytest.raises(BadMessage, match="object is not plain data"):
        proxy.follow([object()])  # type: ignore[list-item]  # the point of the test
    assert proxy.follow([1]) == [1]
    assert len(fake.opened) == 1


def test_too_large_arguments_are_refused_before_sending_and_in_step(fake: Fake) -> None:
    """Row 7: oversized message, submitted."""
    # Given a server that takes a MiB
    fake.max_message = 1 << 20
    with serving(fake) as server, proxy_to(server) as proxy:
        proxy.follow([1])

        # When more is to be sent, Then it is refused with the limit in the sentence, and the connection goes on
        with pytest.raises(TooLarge, match="more than the limit of 1,048,576"):
            proxy.exchange(Exchange(succeeded=(Succeeded(token=1, lo=0, results=bytes(2 << 20), seconds=1.0),)))
        assert proxy.follow([2]) == [2]
        assert len(fake.opened) == 1


def test_too_large_answer_is_an_error_and_in_step(fake: Fake) -> None:
    fake.max_message = 1 << 20
    with serving(fake) as server, proxy_to(server) as proxy:
        with pytest.raises(TooLarge, match="more than the limit of 1,048,576"):
            proxy.results(1, 0, 2 << 20)

        assert len(proxy.results(1, 0, 1 << 19)[0].results) == 1 << 19
        assert len(fake.opened) == 1


def test_welcome_is_passed_on_at_each_connection(server: Server) -> None:
    welcomes: list[Welcome] = []
    with proxy_to(server, on_welcome=welcomes.append) as proxy:
        assert proxy.connect().epoch == 1
        proxy.follow([1])
        assert len(welcomes) == 1


def test_hello_may_be_made_anew_at_each_connection(server: Server, fake: Fake) -> None:
    names = iter(["first", "second"])
    proxy = Proxy([server.address], KEY, lambda: Hello(session="s" * 32, role=Role.CLIENT, name=next(names)))
    with proxy:
        proxy.connect()
        proxy.hello(Hello(session="t" * 32, role=Role.WORKER, name="third"))
        proxy.follow([])

    assert [hello.name for hello in fake.hellos] == ["first", "third"]


def test_refused_hello_is_raised_and_said_again_next_time(proxy: Proxy, fake: Fake) -> None:
    fake.refuse_hello = ProtocolMismatch(1, 2)
    with pytest.raises(ProtocolMismatch, match="speaks protocol 1, the other side 2"):
        proxy.follow([1])

    fake.refuse_hello = None
    assert proxy.follow([1]) == [1]


def test_call_before_hello_is_refused_and_the_connection_closed(server: Server, fake: Fake) -> None:
    # Given an authenticated peer that skips the hello
    connection = dial(server.address, KEY)
    try:
        connection.send(("follow", ([1],)))

        # Then it is told so, nothing was called, and that was it
        assert connection.recv() == ("#ERROR", ("not-permitted", ("a call before hello (follow)",)))
        with pytest.raises(EOFError):
            connection.recv()
        assert fake.calls == []
    finally:
        connection.close()


def test_unknown_method_is_refused(server: Server) -> None:
    connection = dial(server.address, KEY)
    try:
        connection.send(("hello", METHODS["hello"].encode_arguments((HELLO,))))
        connection.recv()
        for name in ("disconnected", "__class__", "_fake", "open"):
            connection.send((name, ()))
            kind, (code, _) = connection.recv()
            assert (kind, code) == ("#ERROR", NotPermitted.code)
    finally:
        connection.close()


# -- how a connection ends ------------------------------------------------------------------------------------------


def _reset(connection: Connection) -> None:
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _announce_too_much(connection: Connection) -> None:
    connection.sock.sendall(b"\xff\xff\xff\xff")


def _send_garbage(connection: Connection) -> None:
    connection.sock.sendall((5).to_bytes(4, "big") + b"cos\nx")


def _stop_in_the_middle(connection: Connection) -> None:
    connection.sock.sendall((500).to_bytes(4, "big") + b"\x80\x05")
    connection.close()


def _say_something_else(connection: Connection) -> None:
    connection.send(["not", "a", "call"])


@pytest.mark.parametrize(
    "end", [Connection.close, _reset, _announce_too_much, _send_garbage, _stop_in_the_middle, _say_something_else]
)
@pytest.mark.parametrize("greeted", [True, False])
def test_session_hears_of_the_end_exactly_once(
    server: Server, fake: Fake, end: Callable[[Connection], None], greeted: bool
) -> None:
    # Given a connection, with hello said or not
    connection = dial(server.address, KEY)
    if greeted:
        connection.send(("hello", METHODS["hello"].encode_arguments((HELLO,))))
        connection.recv()
    wait_until("sessions", lambda: len(fake.opened), 1)

    # When it ends in some way
    end(connection)

    # Then its session hears of it, once
    wait_until("ends heard", lambda: len(fake.gone), 1)
    connection.close()
    server.close()
    assert fake.gone == fake.opened


def test_session_of_a_waiting_call_hears_of_the_end_once_the_wait_is_over(server: Server, fake: Fake) -> None:
    # Given a client that goes while its call waits
    proxy = proxy_to(server)
    thread = threading.Thread(target=_ignore_loss(lambda: proxy.watch(0, 60)), daemon=True)
    thread.start()
    assert fake.waiting.wait(10)
    proxy.close()
    thread.join(10)

    # When the wait ends
    fake.release.set()

    # Then the session hears of it
    wait_until("ends heard", lambda: len(fake.gone), 1)


def test_closing_server_lets_calls_under_way_be_answered_and_ends_every_session(fake: Fake) -> None:
    # Given idle clients and one whose call is under way
    with serving(fake) as server:
        idle = [proxy_to(server) for _ in range(5)]
        for proxy in idle:
            proxy.connect()
        answers: list[int] = []
        busy = proxy_to(server)
        thread = threading.Thread(target=lambda: answers.append(busy.watch(41, 30).cursor), daemon=True)
        thread.start()
        assert fake.waiting.wait(10)

        # When the server closes while the call is answered
        closing = threading.Thread(target=server.close, daemon=True)
        closing.start()
        wait_until("idle sessions ended", lambda: len(fake.gone), 5)
        fake.release.set()
        closing.join(10)
        thread.join(10)

        # Then the answer arrived, and each session heard of its end
        assert answers == [41]
        assert sorted(fake.gone) == sorted(fake.opened)
        server.close()
        for proxy in [*idle, busy]:
            proxy.close()


def test_closing_server_cuts_calls_that_do_not_end(fake: Fake) -> None:
    # Given a call that waits longer than anybody wants
    with serving(fake) as server, proxy_to(server) as proxy:
        lost: list[BaseException] = []

        def watch() -> None:
            try:
                proxy.watch(0, 60)
            except Unreachable as error:
                lost.append(error)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        assert fake.waiting.wait(10)

        # When the server closes with little patience
        server.close(timeout_s=0.1)

        # Then the caller is told
        thread.join(10)
        assert len(lost) == 1
        fake.release.set()


def test_no_thread_and_no_descriptor_is_left_of_closed_connections(server: Server, fake: Fake) -> None:
    with proxy_to(server) as proxy:
        proxy.connect()
        before = threading.active_count()

        # Given fifty connections
        others = [proxy_to(server) for _ in range(50)]
        for other in others:
            other.follow([1])
        assert threading.active_count() == before + 50

        # When they close, Then so do their threads
        for other in others:
            other.close()
        wait_until("threads", threading.active_count, before)
        assert len(fake.gone) == 50


def test_threads_are_named_after_their_peers(proxy: Proxy, fake: Fake) -> None:
    proxy.connect()
    assert f"dtq-connection-{fake.opened[0]}" in {thread.name for thread in threading.enumerate()}


# -- connecting -----------------------------------------------------------------------------------------------------


def test_wrong_key_names_the_address_and_the_source(server: Server) -> None:
    host, port = server.address
    with (
        proxy_to(server, WRONG_KEY, key_source="/home/u/authkey") as proxy,
        pytest.raises(WrongKey, match=f"{host}:{port} refused.*than /home/u/authkey"),
    ):
        proxy.connect()


def test_nobody_there_is_unreachable() -> None:
    # Given a port on which nobody listens
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with proxy_to(taken.getsockname()[1]) as proxy, pytest.raises(Unreachable, match="connection refused"):
            proxy.connect()


def test_silent_server_is_unreachable_in_time() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        proxy_to(listener.getsockname()[1], connect_timeout_s=0.1) as proxy,
        pytest.raises(Unreachable, match="no answer in time"),
    ):
        proxy.connect()


def test_another_coordinator_address_is_tried_and_then_kept(server: Server, fake: Fake) -> None:
    # Given two addresses, of which the first is dead
    with socket.create_server(("127.0.0.1", 0)) as dead:
        address = dead.getsockname()
    with Proxy([address, server.address], KEY, HELLO) as proxy:
        # When it is called, Then the second answers
        assert proxy.follow([1]) == [1]
        assert proxy.address.endswith(str(server.address[1]))


def test_dead_addresses_are_all_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        addresses = [one.getsockname(), two.getsockname()]
    with Proxy(addresses, KEY, HELLO) as proxy, pytest.raises(Unreachable) as caught:
        proxy.connect()
    for _, port in addresses:
        assert str(port) in str(caught.value)


def test_refusal_is_raised_rather_than_an_absence(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dead:
        address = dead.getsockname()
    with Proxy([server.address, address], WRONG_KEY, HELLO) as proxy, pytest.raises(WrongKey):
        proxy.connect()


def test_key_in_replacement_is_accepted_beside_the_new_one(fake: Fake) -> None:
    with serving(fake, authkeys=[KEY, WRONG_KEY]) as server:
        for key in (KEY, WRONG_KEY):
            with proxy_to(server, key) as proxy:
                assert proxy.follow([1]) == [1]


def test_ipv6_is_served(fake: Fake) -> None:
    server = Server(fake.open, host="::1", port=0, authkeys=[KEY])
    try:
        server.start()
    except PortInUse as error:
        pytest.skip(f"no IPv6 here: {error}")
    with server, proxy_to(server) as proxy:
        assert proxy.follow([1]) == [1]
        assert fake.opened[0].startswith("[::1]:")


def test_port_in_use_is_said_in_a_sentence(server: Server, fake: Fake) -> None:
    host, port = server.address
    with pytest.raises(PortInUse, match=f"cannot listen on {host}:{port}: address already in use"):
        Server(fake.open, host=host, port=port, authkeys=[KEY]).start()


@pytest.mark.parametrize("keys", [[], [b""], [b"short"], [KEY, b"short"]])
def test_server_without_a_good_key_is_refused(fake: Fake, keys: list[bytes]) -> None:
    with pytest.raises(InvalidValue):
        Server(fake.open, authkeys=keys)


def test_connections_over_the_limit_are_turned_away(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    # Given a server that is full
    caplog.set_level(logging.WARNING)
    with serving(fake, max_connections=2) as server, proxy_to(server) as one, proxy_to(server) as two:
        one.connect()
        two.connect()

        # When a third comes, Then it is turned away, and the others go on
        with proxy_to(server) as third:
            with pytest.raises(ConnectionsFull, match="has 2 connections already, the limit of its --max-connections"):
                third.connect()
            assert one.follow([1]) == [1]
            assert "2 connections already" in caplog.text

            # When one leaves, Then there is room
            one.close()
            wait_until("ends heard", lambda: len(fake.gone), 1)
            wait_until("room", _answers(third))
        two.close()


def _answers(proxy: Proxy) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return proxy.follow([1]) == [1]
        except Unreachable:
            return False

    return ask


def _ignore_loss(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        try:
            call()
        except Unreachable:
            return

    return run
