"""TLS: who is believed, who is not, and what somebody on the way sees. Loopback counts as another machine here."""

from __future__ import annotations

import logging
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from dtq.config import certificates, make_authkey, tls_files
from dtq.config.certificates import COORDINATOR, PEER, make_certificates
from dtq.config.tls import TlsFiles
from dtq.errors import BadConfig, DtqError, KeyUnusable, TlsFailed, Unreachable, WrongKey
from dtq.model.messages import Exchange, Succeeded
from dtq.model.pages import pack
from dtq.transport import Server, endpoints, pending_connections
from dtq.transport import server as server_module
from dtq.transport.proxy import Proxy
from dtq.transport.tls import client_context, secure_client, server_context
from tests.cluster import DEADLINE_S, Cluster, until
from tests.faults.house import resident_mib
from tests.integration.transport_scene import HELLO, KEY, WRONG_KEY, Fake, serving

HOSTS = ("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tls") / "ours"
    make_certificates(place, HOSTS)
    return place


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of another authority."""
    place = tmp_path_factory.mktemp("tls") / "others"
    make_certificates(place, HOSTS)
    return place


@pytest.fixture(autouse=True)
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no peer were on this machine."""
    monkeypatch.setattr(endpoints, "is_loopback", lambda host: False)
    monkeypatch.setattr(server_module, "is_loopback", lambda host: False)


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def server(fake: Fake, places: Path) -> Iterator[Server]:
    with serving(fake, tls=tls_files(places / COORDINATOR)) as server:
        yield server


def proxy_to(port: int, tls: TlsFiles | None, key: bytes = KEY, host: str = "127.0.0.1") -> Proxy:
    return Proxy([(host, port)], key, HELLO, tls=tls, call_timeout_s=10.0)


# -- making certificates --------------------------------------------------------------------------------------------


def test_certificates_are_made_once_and_private(places: Path) -> None:
    assert sorted(str(file.relative_to(places)) for file in places.rglob("*.pem")) == [
        "authority/ca.pem",
        "authority/key.pem",
        "coordinator/ca.pem",
        "coordinator/cert.pem",
        "coordinator/key.pem",
        "peer/ca.pem",
        "peer/cert.pem",
        "peer/key.pem",
    ]
    assert {file.stat().st_mode & 0o777 for file in places.rglob("key.pem")} == {0o600}
    with pytest.raises(KeyUnusable, match="there already"):
        make_certificates(places, HOSTS)


def test_making_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.x509.oid", None)
    with pytest.raises(BadConfig, match=r"install dtq\[tls\], or put certificates of your own"):
        certificates.make_certificates(tmp_path / "tls", HOSTS)
    assert not (tmp_path / "tls").exists()


def test_directory_that_lacks_a_file_or_is_open_to_others_is_refused(places: Path, tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        with pytest.raises(BadConfig, match=f"there is no {name} in it"):
            tls_files(tmp_path)
        (tmp_path / name).write_bytes((places / PEER / name).read_bytes())
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        tls_files(tmp_path)
    (tmp_path / "key.pem").chmod(0o600)
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(BadConfig, match="certificates cannot be used"):
        server_context(tls_files(tmp_path))


# -- talking --------------------------------------------------------------------------------------------------------


def test_blobs_of_all_sizes_cross_and_nobody_on_the_way_reads_them(server: Server, places: Path) -> None:
    # Given somebody on the way who keeps all that passes
    with relay(server.address[1]) as (port, passed), proxy_to(port, tls_files(places / PEER)) as proxy:
        # When blobs cross both ways
        for size in (10, 40_000, 300_000, 5 << 20):
            blob = pack([(b"a secret of ours " * (size // 17 + 1))[:size]])
            ended = Succeeded(token=1, lo=0, results=blob, seconds=0.1)
            (grant,) = proxy.exchange(Exchange(succeeded=(ended,))).grants
            assert grant.arguments == blob
    # Then nothing of them is seen
    assert len(passed) > 10 << 20
    assert b"a secret" not in passed
    assert b"DTQ" not in passed[:1000]


def test_calls_go_on_after_a_lost_connection_and_a_closed_server(fake: Fake, server: Server, places: Path) -> None:
    with proxy_to(server.address[1], tls_files(places / PEER)) as proxy:
        # Given a call that waits at the server
        answers: list[object] = []
        waiting = threading.Thread(target=lambda: answers.append(proxy.watch(1, 20.0)), daemon=True)
        waiting.start()
        assert fake.waiting.wait(10)

        # When the server closes meanwhile, Then the call is answered all the same
        closing = threading.Thread(target=server.close, daemon=True)
        closing.start()
        fake.release.set()
        waiting.join(10)
        closing.join(10)
        assert len(answers) == 1

        # And the next one says that nobody is there
        with pytest.raises(Unreachable):
            proxy.follow([1])


# -- who is not believed --------------------------------------------------------------------------------------------


def test_peer_without_tls_is_told_what_it_lacks(server: Server, fake: Fake) -> None:
    with proxy_to(server.address[1], None) as proxy, pytest.raises(TlsFailed, match="this side has no certificates"):
        proxy.connect()
    assert fake.opened == []


def test_coordinator_without_tls_is_not_talked_to(fake: Fake, places: Path) -> None:
    with (
        serving(fake) as plain,
        proxy_to(plain.address[1], tls_files(places / PEER)) as proxy,
        pytest.raises(TlsFailed, match="does it speak TLS"),
    ):
        proxy.connect()
    assert fake.opened == []


def test_peer_of_another_authority_is_refused(server: Server, fake: Fake, places: Path, others: Path) -> None:
    # Given a peer that believes the coordinator, but has a certificate that somebody else signed
    mixed = TlsFiles(ca=places / PEER / "ca.pem", cert=others / PEER / "cert.pem", key=others / PEER / "key.pem")
    with proxy_to(server.address[1], mixed) as proxy, pytest.raises(Unreachable):
        proxy.connect()
    assert fake.opened == []


def test_coordinator_of_another_authority_is_refused(server: Server, fake: Fake, others: Path) -> None:
    with (
        proxy_to(server.address[1], tls_files(others / PEER)) as proxy,
        pytest.raises(TlsFailed, match="the coordinator's certificate is refused"),
    ):
        proxy.connect()
    assert fake.opened == []


def test_peers_certificate_does_not_pass_for_the_coordinators(fake: Fake, places: Path) -> None:
    # Given a worker's certificate and the key, on the coordinator's port
    with (
        serving(fake, tls=tls_files(places / PEER)) as false,
        proxy_to(false.address[1], tls_files(places / PEER)) as proxy,
        pytest.raises(TlsFailed, match="certificate is refused"),
    ):
        proxy.connect()
    assert fake.opened == []


def test_coordinator_under_another_name_is_refused(fake: Fake, tmp_path: Path) -> None:
    make_certificates(tmp_path / "tls", ["elsewhere.example"])
    with (
        serving(fake, tls=tls_files(tmp_path / "tls" / COORDINATOR)) as elsewhere,
        proxy_to(elsewhere.address[1], tls_files(tmp_path / "tls" / PEER)) as proxy,
        pytest.raises(TlsFailed, match="certificate is refused"),
    ):
        proxy.connect()


def test_certificate_without_the_key_opens_nothing(server: Server, fake: Fake, places: Path) -> None:
    with proxy_to(server.address[1], tls_files(places / PEER), WRONG_KEY) as proxy, pytest.raises(WrongKey):
        proxy.connect()
    assert fake.opened == []


def test_session_relayed_through_another_certificate_is_refused(
    server: Server, fake: Fake, places: Path, tmp_path: Path
) -> None:
    # Given somebody on the way with a certificate of the same authority, good for a coordinator, but without the key
    make_second(places, tmp_path / "second")
    middle = tls_files(tmp_path / "second")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=terminate, args=(listener, middle, server, places), daemon=True)
        thread.start()
        # When a client comes along, and all that it says is passed on, Then neither side is fooled
        with proxy_to(listener.getsockname()[1], tls_files(places / PEER)) as proxy, pytest.raises(WrongKey):
            proxy.connect()
        thread.join(10)
    assert fake.opened == []


def test_silence_in_the_middle_of_tls_is_cut_at_the_deadline(
    fake: Fake, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_connections, "HANDSHAKE_S", 0.5)
    with serving(fake, tls=tls_files(places / COORDINATOR)) as server:
        # Given peers that stop after the first bytes of TLS, or say nothing, or drip
        with socket.create_connection(server.address, 10) as half, socket.create_connection(server.address, 10) as mute:
            half.sendall(b"\x16\x03\x01\x02\x00\x01")
            started = time.monotonic()
            closed: set[socket.socket] = set()
            while len(closed) < 2:
                with suppress(OSError):
                    half.send(b"\x00")
                left = [sock for sock in (half, mute) if sock not in closed]
                closed |= {sock for sock in select.select(left, [], [], 0.05)[0] if not received(sock)}
                # Then both are closed when the time is over
                assert time.monotonic() - started < 10
        # And others are served
        monkeypatch.setattr(pending_connections, "HANDSHAKE_S", 5.0)
        with proxy_to(server.address[1], tls_files(places / PEER)) as proxy:
            assert proxy.follow([1]) == [1]


def test_garbage_in_tls_ends_connections_and_nothing_else(
    server: Server, places: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "dtq.transport")
    for opening in (b"\x16" * 200, b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x03\xff\xff" + bytes(100), b"\x16"):
        with socket.create_connection(server.address, 10) as sock:
            with suppress(OSError):  # reset already
                sock.sendall(opening)
                sock.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in received(sock)
    with proxy_to(server.address[1], tls_files(places / PEER)) as proxy:
        assert proxy.follow([1]) == [1]
    assert not caplog.records


# -- whole ----------------------------------------------------------------------------------------------------------


def own_address() -> str | None:
    """An address of this machine that is not of the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address


def test_cluster_beyond_loopback_is_encrypted_and_this_machine_may_speak_plainly(tmp_path: Path) -> None:
    here = own_address()
    if here is None:
        pytest.skip("this machine has no address but the loopback's")
    # Given a coordinator on every interface, with certificates
    with Cluster(tmp_path) as cluster:
        made = cluster.command("keygen", "--tls", "--host", here, "--out", "tls")
        assert made.returncode == 0, made.stderr
        coordinator = cluster.coordinator("--host", "0.0.0.0", "--tls", "tls/coordinator")
        assert "nothing is encrypted" not in coordinator.output()
        there = f"{here}:{cluster.port}"
        words = ["worker", "--connect", there, "--authkey-file", str(cluster.key_file), "--slots", "1"]
        cluster.run("worker", [*words, "--tls", "tls/peer"]).await_line("ready")

        # When commands come from another machine's address with certificates, Then all is done
        far = ("--connect", there, "--tls", "tls/peer")
        done = cluster.command("submit", "math:factorial", "20", "--wait", *far)
        assert (done.returncode, done.stdout.strip()) == (0, "2432902008176640000"), done.stderr

        # Without certificates, Then the sentence says what is missing
        bare = cluster.command("stats", "--connect", there)
        assert bare.returncode == 77
        assert "it speaks nothing else with other machines" in bare.stderr

        # On this machine, Then it goes plainly too
        assert cluster.command("stats").returncode == 0


def test_up_on_every_interface_runs_its_own_worker(tmp_path: Path) -> None:
    # Given coordinator and worker in one command, with the coordinator's certificates
    with Cluster(tmp_path) as cluster:
        assert cluster.command("keygen", "--tls", "--out", "tls").returncode == 0
        where = ["--host", "0.0.0.0", "--port", str(cluster.port), "--authkey-file", str(cluster.key_file), "--memory"]
        up = cluster.run("up", ["up", *where, "--tls", "tls/coordinator", "--slots", "1"])
        # Then it prints an address that others can use
        assert "0.0.0.0" not in up.await_line("dtq is up")
        # And the worker works
        assert cluster.command("submit", "math:factorial", "5", "--wait").stdout == "120\n"


def test_handshakes_left_half_done_cost_nothing_for_long(tmp_path: Path, many_files: None) -> None:
    # Given a coordinator with certificates
    with Cluster(tmp_path, memory=True) as cluster:
        assert cluster.command("keygen", "--tls", "--out", "tls").returncode == 0
        coordinator = cluster.coordinator("--tls", "tls/coordinator")
        before = resident_mib(coordinator.pid)

        # When crowds come that say a TLS hello and nothing else, and go
        for _ in range(2):
            assert left_half_done(cluster.port, 500, coordinator.pid) > before + 7

            # Then what each took is given back, but for what OpenSSL sets up once
            until(lambda: resident_mib(coordinator.pid) < before + 6, "memory is as before")
        assert cluster.command("stats").returncode == 0


def left_half_done(port: int, count: int, pid: int) -> float:
    """Leave so many handshakes half done; the memory that a process took meanwhile, in MiB."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(there, here, server_hostname="localhost").do_handshake()
    hello = here.read()
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(count)]
        for sock in socks:
            with suppress(OSError):  # it made room for others
                sock.sendall(hello)
        for sock in socks:
            received(sock)  # it has been attended to
        return resident_mib(pid)


def test_binding_beyond_loopback_without_tls_says_what_that_means(tmp_path: Path) -> None:
    with Cluster(tmp_path, memory=True) as cluster:
        line = cluster.coordinator("--host", "0.0.0.0").await_line("nothing is encrypted")
    assert "whoever is on the way reads every task and result" in line
    assert "`dtq keygen --tls`" in line


def test_keygen_makes_an_authkey_once(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        made = cluster.command("keygen", "--out", "key")
        assert made.stdout.strip() == "key"
        assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
        assert make_authkey(tmp_path / "key").decode() not in made.stdout + made.stderr
        again = cluster.command("keygen", "--out", "key")
        assert again.returncode == 77
        assert "there already" in again.stderr


# -- tools ----------------------------------------------------------------------------------------------------------


def received(sock: socket.socket) -> bytes:
    sock.settimeout(10)
    try:
        return sock.recv(65_536)
    except ConnectionError:
        return b""


@contextmanager
def relay(to: int) -> Iterator[tuple[int, bytearray]]:
    """Pass one connection on, and keep what passes."""
    passed = bytearray()

    def run() -> None:
        with listener.accept()[0] as near, socket.create_connection(("127.0.0.1", to)) as far:
            while True:
                for sock in select.select([near, far], [], [], 10)[0]:
                    data = sock.recv(1 << 18)
                    if not data:
                        return
                    passed.extend(data)
                    (far if sock is near else near).sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1], passed
        thread.join(DEADLINE_S)


def make_second(places: Path, second: Path) -> None:
    """A second coordinator's certificate of the same authority, in a directory of its own."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificate
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca_key = load_pem_private_key((places / "authority" / "key.pem").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    ca = load_pem_x509_certificate((places / "authority" / "ca.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    cert = certificates._certificate("second", key, ca, ca_key, 1, ExtendedKeyUsageOID.SERVER_AUTH, HOSTS)
    files = {
        "ca.pem": certificates._pem(ca),
        "cert.pem": certificates._pem(cert),
        "key.pem": certificates._secret_pem(key),
    }
    certificates._write(second, files)


def terminate(listener: socket.socket, middle: TlsFiles, server: Server, places: Path) -> None:
    """End TLS on both sides, and pass on what is said inside."""
    near = server_context(middle).wrap_socket(listener.accept()[0], server_side=True)
    far, _ = secure_client(
        socket.create_connection(server.address),
        client_context(tls_files(places / PEER)),
        host="127.0.0.1",
        peer="server",
        deadline=time.monotonic() + 10,
    )
    with near, far, suppress(OSError, DtqError):
        far.sendall(near.recv(1000))
        near.sendall(far.recv(1000))
        far.sendall(near.recv(1000))
        near.sendall(far.recv(1000))
