"""Calls on values that clients put: held while such a client is connected, and for their time to live after that."""

from __future__ import annotations

from dtq.coordinator.service import Coordinator
from dtq.coordinator.sessions import SessionState
from dtq.coordinator.vetting import Vetting
from dtq.model.values import named


def hold(c: Coordinator, state: SessionState, digest: bytes, description: bytes, ttl_s: float) -> bytes:
    """See `Service.hold`."""
    session = state.hello.session
    vetting = Vetting(c, state)
    try:
        if description:
            vetting.check(named(description))
            vetting.sync()
        with c.lock:
            c.refuse_if_stopping()
            held = c.machine.queue_state.holds.hold(session, digest, description, ttl_s)
            ticket = c.committer.ticket()
        c.committer.settle(ticket)
    finally:
        vetting.close()
    return held


def release(c: Coordinator, state: SessionState, digests: list[bytes]) -> None:
    """See `Service.release`. Does not wait for the disk: after a lost release, the value is kept for its time."""
    with c.lock:
        c.machine.queue_state.holds.release(state.hello.session, digests)
        c.committer.soon()
