"""What goes wrong around honest peers: interrupted calls, forks, restarts, timeouts, machines without room."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import psutil
import pytest

from dtq.errors import DtqError, Unreachable
from dtq.model.messages import Welcome
from dtq.model.snapshots import Selection
from dtq.transport import Backoff, Proxy
from dtq.transport.pending_connections import PendingConnections
from tests.integration.transport_scene import Fake, proxy_to, serving, serving_apart


@pytest.fixture
def fake() -> Fake:
    return Fake()


class Interrupted(Exception):
    """What the signal handler of these tests raises."""


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    """Arms a signal whose handler raises in the middle of whatever the test does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield _arm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- interrupted calls ----------------------------------------------------------------------------------------------


def test_interrupted_call_does_not_answer_the_next_one(fake: Fake, alarm: Callable[[float], None]) -> None:
    # Given a call that is interrupted while it waits
    with serving(fake) as server, proxy_to(server) as proxy:
        proxy.connect()
        alarm(0.05)
        with pytest.raises(Interrupted):
            proxy.watch(41, 30)
        fake.release.set()

        # When another is made, Then it gets its own answer, on a fresh connection
        assert proxy.follow([2]) == [2]
        assert len(fake.opened) == 2


# Where the signal meets the library between making a socket and handing it out, the collector closes that socket, and
# says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_signal_at_random_moments_never_crosses_answers(alarm: Callable[..., None]) -> None:
    """Row 57: a time limit by signal during calls: no answer goes to another call."""
    # Given a server apart, and calls that go on until a signal interrupts one, also while it connects
    rng = random.Random(57)
    calls = rounds = 0
    with serving_apart() as apart, proxy_to(apart) as proxy:
        while rounds < 500 or calls <= 100:  # fewer would show nothing; on a busy machine it takes more of these
            rounds += 1
            with pytest.raises(Interrupted):
                # Again, where the first one meets the collector of garbage, which says so and goes on
                alarm(rng.uniform(0.00001, 0.003), 0.5)
                while True:
                    # Then whatever is answered is the answer to this very call
                    assert proxy.follow([calls]) == [calls]
                    calls += 1
            alarm(0)
        assert proxy.follow([10**9]) == [10**9]


def test_timeout_does_not_answer_the_next_call(fake: Fake) -> None:
    # Given a server that answers late
    with serving(fake) as server, proxy_to(server, call_timeout_s=0.1) as proxy:
        fake.late_s = 30.0
        with pytest.raises(Unreachable, match=r"no answer to watch within 100 ms"):
            proxy.watch(41, 0.0)
        fake.release.set()

        # Then the next call gets its own answer
        assert proxy.follow([2]) == [2]


def test_wait_at_the_server_counts_on_top_of_the_timeout(fake: Fake) -> None:
    # Given a call that waits longer than any other call may take
    with serving(fake) as server, proxy_to(server, call_timeout_s=0.1) as proxy:
        proxy.connect()
        # When it waits all its time, Then it is answered
        assert proxy.watch(41, 0.3).cursor == 41
        # Then the other calls have their own time again
        fake.late_s = 30.0
        with pytest.raises(Unreachable, match=r"within 100 ms"):
            proxy.watch(1, 0.0)


def test_call_that_goes_through_all_dead_letters_may_take_its_time(fake: Fake) -> None:
    with serving(fake) as server, proxy_to(server, call_timeout_s=0.1) as proxy:
        proxy.connect()
        fake.late_s = 0.4
        assert proxy.purge_dead(Selection()) == 41
        assert proxy.retry_dead(Selection()) == 42


def test_closing_from_another_thread_wakes_the_call(fake: Fake) -> None:
    # Given a thread in a long call
    with serving(fake) as server:
        proxy = proxy_to(server)
        outcome: list[DtqError] = []

        def watch() -> None:
            try:
                proxy.watch(0, 60)
            except Unreachable as error:
                outcome.append(error)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        assert fake.waiting.wait(10)

        # When another closes the proxy
        proxy.close()

        # Then the call ends, and none is made any more
        thread.join(10)
        assert not thread.is_alive()
        assert "this side has closed" in str(outcome[0])
        with pytest.raises(Unreachable, match="this side has closed"):
            proxy.follow([1])
        assert proxy.closed


def test_two_threads_share_a_proxy_one_after_the_other(fake: Fake) -> None:
    # Given two threads that call at the same time
    with serving(fake) as server, proxy_to(server) as proxy:
        wrong: list[object] = []

        def call(base: int) -> None:
            for number in range(base, base + 300):
                if (answer := proxy.follow([number])) != [number]:
                    wrong.append((number, answer))

        threads = [threading.Thread(target=call, args=(base,), daemon=True) for base in (0, 1_000_000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

        # Then each gets its own answers, over one connection
        assert wrong == []
        assert len(fake.opened) == 1


# -- forks ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_raw_fork_gives_each_process_its_own_connection() -> None:
    """Row 58: ``os.fork()``: both go on, each with its own connection."""
    # Given a connected proxy in a process that forks
    with serving_apart() as apart, proxy_to(apart) as proxy:
        proxy.connect()
        child = os.fork()
        if child == 0:
            os._exit(_wrong_answers(proxy, 1000))

        # When both call, Then no answer crosses, and the parent kept its connection
        wrong = _wrong_answers(proxy, 2000)
        _, status = os.waitpid(child, 0)
        assert (wrong, os.waitstatus_to_exitcode(status)) == (0, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_in_the_middle_of_a_call_of_another_thread_does_not_block_the_child(fake: Fake) -> None:
    # Given a thread that holds the proxy in a long call
    with serving(fake) as server:
        proxy = proxy_to(server)
        thread = threading.Thread(target=lambda: proxy.watch(0, 60), daemon=True)
        thread.start()
        assert fake.waiting.wait(10)

        # When the process forks, Then the child can call, and close its copy
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            right = proxy.follow([5]) == [5]
            proxy.close()
            os._exit(0 if right else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0

        # Then the parent's call goes on
        fake.release.set()
        thread.join(10)
        assert not thread.is_alive()
        assert proxy.follow([1]) == [1]
        assert len(fake.opened) == 2
        proxy.close()


# -- restarts -------------------------------------------------------------------------------------------------------


def test_restart_on_the_same_port_is_not_noticed_by_the_next_call(fake: Fake) -> None:
    # Given a client of a server that has stopped
    epochs: list[int] = []

    def remember(welcome: Welcome) -> None:
        epochs.append(welcome.epoch)

    with serving(fake) as server:
        port = server.address[1]
        proxy = proxy_to(port, on_welcome=remember)
        assert proxy.follow([1]) == [1]
    with pytest.raises(Unreachable):
        proxy.follow([2])

    # When another starts in its place, Then calls go on, and the client was told that it is another
    with serving(Fake(epoch=2), port=port):
        assert proxy.follow([3]) == [3]
        assert epochs == [1, 2]
        proxy.close()


def test_connection_that_died_unused_is_replaced_silently(fake: Fake) -> None:
    # Given an idle client whose server was replaced meanwhile
    with serving(fake) as server:
        port = server.address[1]
        proxy = proxy_to(port)
        proxy.connect()
    with serving(Fake(), port=port):
        # When it calls, Then it does not see an error
        assert proxy.follow([1]) == [1]
        proxy.close()


def test_call_lost_in_the_middle_is_not_repeated(fake: Fake) -> None:
    # Given a server that goes while a call is under way
    with serving(fake) as server, proxy_to(server) as proxy:
        closer = threading.Thread(target=lambda: fake.waiting.wait(10) and server.close(0.1), daemon=True)
        closer.start()

        # Then the caller is told: only it knows whether the call may be made again
        with pytest.raises(Unreachable, match="it closed the connection"):
            proxy.watch(0, 60)
        fake.release.set()
        closer.join(10)


def test_a_hundred_clients_come_back_after_a_restart(fake: Fake) -> None:
    # Given a hundred connected clients, and a server that restarts
    with serving(fake) as server:
        port = server.address[1]
        proxies = [proxy_to(port) for _ in range(100)]
        for proxy in proxies:
            proxy.connect()
    answers: list[object] = []
    started = threading.Event()

    def come_back(number: int, proxy: Proxy) -> None:
        backoff = Backoff()
        for _ in range(100):
            try:
                answers.append(proxy.follow([number]) == [number])
                return
            except Unreachable:
                started.wait(backoff.next_s())
        answers.append("never came back")

    threads = [threading.Thread(target=come_back, args=pair, daemon=True) for pair in enumerate(proxies)]
    for thread in threads:
        thread.start()

    # When it is there again, Then all of them come back by themselves
    with serving(Fake(epoch=2), port=port):
        for thread in threads:
            thread.join(20)
        assert answers == [True] * 100
        for proxy in proxies:
            proxy.close()


# -- machines without room ------------------------------------------------------------------------------------------


def test_server_without_descriptors_serves_old_clients_and_recovers() -> None:
    """Row 12: fd exhaustion."""
    # Given a server that may open 40 files, an old client, and a hundred silent connections
    with serving_apart("--files", "40") as apart, proxy_to(apart) as old:
        old.connect()
        silent = [socket.create_connection(("127.0.0.1", apart.port), 10) for _ in range(100)]

        # When it has no descriptor left, Then it serves the old client, and rests rather than spin
        assert old.follow([1]) == [1]
        before = psutil.Process(apart.pid).cpu_times()
        threading.Event().wait(0.5)  # the time over which the processor is measured
        after = psutil.Process(apart.pid).cpu_times()
        assert after.user + after.system - before.user - before.system < 0.15

        # When there are descriptors again, Then a new client is served at once
        for sock in silent:
            sock.close()
        with proxy_to(apart, connect_timeout_s=2) as new:
            assert new.follow([2]) == [2]


def test_server_without_threads_serves_old_clients_and_recovers(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 13: no more threads."""
    # Given a server on a machine that gives no more threads
    with serving(fake) as server, proxy_to(server) as old:
        old.connect()
        real = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("dtq-connection"):
                raise RuntimeError("can't start new thread")
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        for _ in range(5):
            with proxy_to(server) as new, pytest.raises(Unreachable):
                new.connect()
        assert "can't start new thread" in caplog.text
        assert old.follow([1]) == [1]

        # When there are threads again, Then new clients are served
        monkeypatch.undo()
        with proxy_to(server) as new:
            assert new.follow([2]) == [2]


def test_reception_goes_on_whatever_it_stumbles_over(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 13: no more memory, in the middle of the accept loop itself."""
    with serving(fake) as server:
        # Given a loop that meets an error that nobody thought of, three times
        real, left = PendingConnections._patience_s, [3]

        def fail(reception: PendingConnections) -> float | None:
            if left[0]:
                left[0] -= 1
                raise MemoryError
            return real(reception)

        monkeypatch.setattr(PendingConnections, "_patience_s", fail)
        # When clients come, Then they are served
        for number in range(3):
            with proxy_to(server) as proxy:
                assert proxy.follow([number]) == [number]
        assert left == [0]
        assert "the reception failed" in caplog.text


def test_server_out_of_address_space_serves_old_clients_and_recovers() -> None:
    """Row 13: no more memory for threads."""
    # Given a server with room for a few threads, an old client, and a crowd with the key
    with serving_apart("--room-mib", "24") as apart, proxy_to(apart) as old:
        old.connect()
        crowd = [proxy_to(apart) for _ in range(60)]
        turned_away = 0
        for proxy in crowd:
            try:
                proxy.connect()
            except Unreachable:
                turned_away += 1

        # Then some are turned away, and the old client is served
        assert turned_away
        assert old.follow([1]) == [1]

        # When the crowd goes, Then a new client is served at once
        for proxy in crowd:
            proxy.close()
        with proxy_to(apart, connect_timeout_s=2) as new:
            assert new.follow([2]) == [2]


# -- tools ----------------------------------------------------------------------------------------------------------


def _arm(seconds: float, again: float = 0.0) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds, again)


def _wrong_answers(proxy: Proxy, base: int) -> int:
    return sum(proxy.follow([number]) != [number] for number in range(base, base + 300))
