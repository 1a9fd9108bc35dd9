"""``dtq keygen``: make an authkey, or certificates, once for a cluster."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

import click

from dtq.cli import options
from dtq.cli.click_classes import Command
from dtq.cli.output import say, write
from dtq.config import check_host, config_directory, default_authkey_file, make_authkey
from dtq.errors import BadConfig, KeyUnusable

#: Names of a coordinator on its own machine.
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


@click.command(
    cls=Command,
    examples=(
        ("dtq keygen --tls --host lab.example.org --host 10.0.0.7", "certificates for a coordinator on lab"),
        ("dtq keygen --out /etc/dtq/authkey", "an authkey, for a place of your choice"),
    ),
)
@click.option("--tls", is_flag=True, help="Make an authority and certificates instead of an authkey.")
@click.option(
    "--host",
    "hosts",
    metavar="HOST",
    multiple=True,
    help="With --tls: a name or address of the coordinator; repeatable.  [this machine's names]",
)
@click.option(
    "--out",
    metavar="PATH",
    type=options.FILE,
    help="File or directory to write.  [authkey, or tls, in your configuration directory]",
)
def keygen(tls: bool, hosts: tuple[str, ...], out: str | None) -> None:
    """Make an authkey; or, with --tls, all certificates of a small cluster.

    --tls makes three directories: the authority's (take it offline), the coordinator's, and one for workers and
    clients. Pass the latter two to --tls DIR (or DTQ_TLS) of the commands there. No existing file is overwritten.
    """
    if not tls:
        if hosts:
            raise click.UsageError("--host is for --tls.", click.get_current_context())
        path = Path(out) if out is not None else default_authkey_file()
        if path is None:
            raise BadConfig("there is no home directory to write to", "pass --out PATH")
        if path.exists():
            raise KeyUnusable(str(path), "it is there already; name another place with --out")
        make_authkey(path)
        write(str(path))
        return
    from dtq.config.certificates import make_certificates

    directory = config_directory() if out is None else None
    place = Path(out) if out is not None else directory / "tls" if directory is not None else None
    if place is None:
        raise BadConfig("there is no home directory to write to", "pass --out DIR")
    names = [*(check_host(host) for host in hosts), *_LOCAL, os.uname().nodename, socket.getfqdn()]
    authority, coordinator, peer = make_certificates(place, names)
    say(f"{authority}: the authority; keep it private, it is only needed to make more certificates")
    say(f"{coordinator}: for `dtq coordinator start --tls {coordinator}`")
    say(f"{peer}: copy it to each worker and client, for their --tls or DTQ_TLS")
    write(str(place))
