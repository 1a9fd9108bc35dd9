"""What a supervisor asks of its fork server: descriptors arrive as what they were sent for."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from dtq.worker.requests import Request, receive, send


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def files() -> Iterator[list[int]]:
    descriptors = [os.memfd_create(str(number)) for number in range(5)]
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def same(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


@pytest.mark.parametrize("missing", [(), ("output",), ("tracker",), ("output", "tracker")])
def test_descriptors_arrive_as_what_they_were_sent_for(
    ends: tuple[socket.socket, socket.socket], files: list[int], missing: tuple[str, ...]
) -> None:
    sent = Request(*files)._replace(**dict.fromkeys(missing, -1))
    send(ends[0], sent)
    received = receive(ends[1])
    assert received is not None
    for name, before in sent._asdict().items():
        now = getattr(received, name)
        if name in missing:
            assert now == -1
        else:
            assert same(before, now)
            os.close(now)


def test_closed_socket_is_no_request(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].close()
    assert receive(ends[1]) is None


def test_supervisor_that_is_gone_asks_for_nothing_whether_it_has_read_everything_or_not(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    theirs.send(b"ready")
    ours.close()  # with what was sent to it unread: the other side is reset

    assert receive(theirs) is None
    assert receive(theirs) is None
