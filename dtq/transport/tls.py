"""TLS for both ends: trusted certificates, and the channel binding.

Each side shows a certificate that the cluster's authority has signed for its role: a worker's or client's does not pass
for the coordinator's. The handshake that follows proves the key too, bound to the coordinator's certificate, so key or
certificate alone give no access.
"""

from __future__ import annotations

import hashlib
import selectors
import socket
import ssl
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from dtq.config.tls import TlsFiles
from dtq.errors import BadConfig, TlsFailed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

#: First byte of a TLS record.
RECORD: Final = b"\x16"


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """The coordinator's TLS context.

    Raises:
        BadConfig: the certificates cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # no session is resumed, and a client does not take unasked bytes for an answer
    context.sslsocket_class = _Secured
    return context


class _Secured(ssl.SSLSocket):
    """A server's socket that reports a blocking operation as plain sockets do: its users need not know of TLS."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """See `socket.socket.recv`."""
        try:
            return super().recv(buflen, flags)
        except ssl.SSLWantReadError as error:
            raise BlockingIOError from error

    def send(self, data: Buffer, flags: int = 0) -> int:
        """See `socket.socket.send`."""
        try:
            return super().send(data, flags)
        except ssl.SSLWantWriteError as error:
            raise BlockingIOError from error


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """The TLS context of workers and clients.

    Raises:
        BadConfig: the certificates cannot be used.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)  # checks certificate and name


def _context(side: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.cert, files.key, password="")  # a key with a password is an error, no prompt
    except (OSError, ValueError) as error:
        raise BadConfig(str(files.cert.parent), f"its certificates cannot be used ({_why(error)})") from None
    return context


def binding_of(certificate: bytes) -> bytes:
    """The channel binding for a server with this certificate (DER)."""
    return hashlib.sha256(certificate).digest()


def server_binding(files: TlsFiles) -> bytes:
    """The channel binding of a server with these files."""
    return binding_of(ssl.PEM_cert_to_DER_cert(_first_certificate(files.cert.read_text("ascii", "replace"))))


def _first_certificate(pem: str) -> str:
    end = "-----END CERTIFICATE-----"
    start = pem.find("-----BEGIN CERTIFICATE-----")
    return pem[start : pem.find(end, start) + len(end)]


def secure_client(
    sock: socket.socket, context: ssl.SSLContext, *, host: str, peer: str, deadline: float
) -> tuple[ssl.SSLSocket, bytes]:
    """The client's part of the TLS handshake.

    Args:
        sock: a new connection; belongs to the returned socket.
        context: of `client_context`.
        host: the name that the certificate must have.
        peer: the server's address, for sentences.
        deadline: its end, as `time.monotonic` counts.

    Returns:
        The socket, and the channel's binding.

    Raises:
        TlsFailed: the two sides do not agree, or one does not trust the other's certificate.
    """
    secured = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        secured.settimeout(max(0.001, deadline - time.monotonic()))
        secured.do_handshake()
        certificate = secured.getpeercert(binary_form=True)
        assert certificate is not None  # verified already
        return secured, binding_of(certificate)
    except TimeoutError:
        secured.close()
        raise
    except OSError as error:
        secured.close()
        raise TlsFailed(peer, _why(error)) from error


def server_side(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The socket that replaces a new connection's own; `shake_hands` comes next."""
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def shake_hands(secured: ssl.SSLSocket) -> Generator[int, None, None]:
    """The server's part, for a socket that does not block; yields the events that it waits for.

    Raises:
        OSError: the two sides do not agree, or the peer's certificate is not trusted.
    """
    while True:
        try:
            return secured.do_handshake()
        except ssl.SSLWantReadError:
            yield selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            yield selectors.EVENT_WRITE


def _why(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the coordinator's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return "it closed the connection; does it speak TLS?"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no reason is known").lower().replace("_", " ")
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
