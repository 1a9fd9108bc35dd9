"""The pipe between a supervisor and a slot: messages of any size, both ways, in step."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from dtq.worker.channel import Channel, Pipe

Ends = tuple[Pipe, Channel, socket.socket]

#: Seconds that anything may take.
PATIENCE_S = 20.0


@pytest.fixture
def ends() -> Iterator[Ends]:
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    pipe = Pipe(near, 16 << 20)
    pipe.put("hello")
    channel = Channel(far)
    assert channel.receive(lambda: None) == ("hello",)
    yield pipe, channel, near
    pipe.close()
    channel.close()


SIZES = [0, 1, 60_000, 70_000, 131_000, 132_000, 1_000_000, 5_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_message_to_a_slot_arrives_as_it_was(ends: Ends, size: int) -> None:
    # Given a slot that waits, whose pipe takes a little at a time
    pipe, channel, near = ends
    messages = [("lease", 7, os.urandom(size), "between", os.urandom(size)), ("next",)]
    heard: list[object] = []
    slot = threading.Thread(target=lambda: heard.extend(channel.receive(lambda: None) for _ in messages), daemon=True)
    slot.start()

    # When it is sent large messages, whenever there is room for more
    for message in messages:
        pipe.put(*message)
    near.setblocking(True)
    near.settimeout(PATIENCE_S)
    while pipe.unsent:
        pipe.pump()
    slot.join(PATIENCE_S)

    # Then it has them as they were
    assert heard == messages


@pytest.mark.parametrize("size", SIZES)
def test_message_of_a_slot_arrives_as_it_was(ends: Ends, size: int) -> None:
    # Given a slot that reports something large, and then something small, as the pipe takes a little at a time
    pipe, channel, near = ends
    channel._sock.settimeout(PATIENCE_S)  # like a signal, it has the kernel return with a part of it sent
    messages = [("returned", 7, os.urandom(size), "between", os.urandom(size)), ("next",)]
    slot = threading.Thread(target=lambda: [channel.send(*message) for message in messages], daemon=True)
    slot.start()

    # When the supervisor gathers, Then it has both
    near.settimeout(PATIENCE_S)
    heard: list[object] = []
    while len(heard) < len(messages):
        gathered = pipe.gather(1)
        assert not gathered.breach
        heard += gathered.messages
    slot.join(PATIENCE_S)
    assert heard == messages
