"""Certificates: the directory with this process's own, and its checks.

A directory of three PEM files: ``ca.pem`` (the trusted authorities), ``cert.pem`` (this side's certificate) and
``key.pem`` (its private key, mode 0600). ``dtq keygen --tls`` makes such directories; certificates of your own go under
the same names.
"""

from __future__ import annotations

import stat
from pathlib import Path

from dtq.config.settings import configured_tls_directory
from dtq.errors import BadConfig, KeyUnusable
from dtq.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The files of one side of a TLS connection.

    Attributes:
        ca: certificates of the trusted authorities.
        cert: this side's certificate.
        key: its private key.
    """

    ca: Path
    cert: Path
    key: Path


def tls_files(directory: str | Path) -> TlsFiles:
    """The files of a directory.

    Raises:
        BadConfig: one is missing.
        KeyUnusable: other users can read the private key.
    """
    place = Path(directory).expanduser().absolute()
    files = TlsFiles(ca=place / "ca.pem", cert=place / "cert.pem", key=place / "key.pem")
    for file in (files.ca, files.cert, files.key):
        if not file.is_file():
            raise BadConfig(str(place), f"there is no {file.name} in it; `dtq keygen --tls` makes such directories")
    if stat.S_IMODE(files.key.stat().st_mode) & 0o077:
        raise KeyUnusable(str(files.key), f"others can read it; run chmod 600 {files.key}")
    return files


def configured_tls() -> TlsFiles | None:
    """The files named by ``DTQ_TLS`` or the configuration; None for neither, and connections are not encrypted.

    Raises:
        BadConfig: a configuration file cannot be used, or the directory lacks a file.
        KeyUnusable: other users can read the private key.
    """
    directory = configured_tls_directory()
    return None if directory is None else tls_files(directory)
