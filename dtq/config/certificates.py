"""Makes the certificates of a small cluster: an authority of its own, and certificates that it signs.

Needs the extra ``tls`` (the package cryptography); using certificates does not.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dtq.errors import BadConfig, KeyUnusable

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

#: Lifetime of certificates in days; the authority's is twice as long.
DAYS: Final = 825
#: The directories: the authority (to be kept away from the cluster), and one for each side.
AUTHORITY: Final = "authority"
COORDINATOR: Final = "coordinator"
PEER: Final = "peer"


def make_certificates(directory: Path, hosts: Sequence[str]) -> tuple[Path, Path, Path]:
    """Make an authority, a certificate for the coordinator, and one for workers and clients.

    Args:
        directory: parent of the three directories.
        hosts: names and addresses of the coordinator.

    Returns:
        The directories of the authority, the coordinator and its peers.

    Raises:
        BadConfig: the package cryptography is not installed.
        KeyUnusable: a file exists already, or cannot be written.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID
    except ImportError:
        raise BadConfig(
            "making certificates takes the package cryptography",
            "install dtq[tls], or put certificates of your own into a directory as ca.pem, cert.pem and key.pem",
        ) from None
    places = directory / AUTHORITY, directory / COORDINATOR, directory / PEER
    for place in places:
        if place.exists():
            raise KeyUnusable(str(place), "it is there already; name another place with --out, or remove it")
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("dtq cluster authority", ca_key, None, ca_key, 2 * DAYS)
    _write(places[0], {"ca.pem": _pem(ca), "key.pem": _secret_pem(ca_key)})
    sides = (
        (places[1], "dtq coordinator", ExtendedKeyUsageOID.SERVER_AUTH, hosts),
        (places[2], "dtq peer", ExtendedKeyUsageOID.CLIENT_AUTH, ()),
    )
    for place, name, purpose, names in sides:
        key = ec.generate_private_key(ec.SECP256R1())
        cert = _certificate(name, key, ca, ca_key, DAYS, purpose, names)
        _write(place, {"ca.pem": _pem(ca), "cert.pem": _pem(cert), "key.pem": _secret_pem(key)})
    return places


def _certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: EllipticCurvePrivateKey,
    days: int,
    purpose: x509.ObjectIdentifier | None = None,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    authority = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of a cluster differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(_usage(authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in dict.fromkeys(hosts)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _secret_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _write(directory: Path, files: dict[str, bytes]) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True)
        for name, content in files.items():
            mode = 0o600 if name == "key.pem" else 0o644
            with open(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise KeyUnusable(str(directory), f"it cannot be made ({error.strerror})") from error
