"""What a listener is called by other machines."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from dtq.config import host_here
from dtq.config.hosts import host_for_others


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "lab", "192.0.2.7"])
def test_a_host_that_is_one_stays(host: str) -> None:
    assert (host_here(host), host_for_others(host)) == (host, host)


@pytest.mark.parametrize(("host", "here"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_every_interface_is_an_address_that_can_be_connected_to(host: str, here: str) -> None:
    assert host_here(host) == here
    assert host_for_others(host) not in ("0.0.0.0", "::", "")


class _Probe:
    """A socket on a machine with a way to others, or without."""

    def __init__(self, address: str | None) -> None:
        self.address = address

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, address: Any) -> None:
        if self.address is None:
            raise OSError(101, "Network is unreachable")

    def getsockname(self) -> tuple[str | None, int]:
        return self.address, 1


@pytest.mark.parametrize(("address", "expected"), [("10.0.0.5", "10.0.0.5"), (None, "lab-3")])
def test_it_is_the_address_with_which_this_machine_goes_to_others_or_its_name(
    monkeypatch: pytest.MonkeyPatch, address: str | None, expected: str
) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_: _Probe(address))
    monkeypatch.setattr(socket, "gethostname", lambda: "lab-3")
    assert host_for_others("0.0.0.0") == expected
