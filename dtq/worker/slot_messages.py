"""Handles the messages of slots: those about a slot itself here, those about its tasks in `settling`.

Worker, below the supervisor; everything here under its lock. A slot's message is a stranger's word (`reports`). A slot
that breaks the protocol is killed, and no further message of it is read; its running task is blamed when it has ended.
"""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable
from typing import Any

from dtq.errors import BadMessage, CannotImport, InitializerFailed
from dtq.worker import reports
from dtq.worker.child import DYING_S, LEAVING_S, Child
from dtq.worker.dispatch import Dispatch
from dtq.worker.fork_restarts import ForkRestarts
from dtq.worker.latelog import LateLog
from dtq.worker.lifecycle import Lifecycle
from dtq.worker.preparing import Preparing
from dtq.worker.reports import Leaving, Misplaced, Prepared, Ready, Stale, Uninitialized, Unusable, Waiting
from dtq.worker.respawns import Respawns
from dtq.worker.settling import Settling


class SlotMessages:
    """Handles what slots say.

    Args:
        settling: handles reports on tasks.
        dispatch: is told of leases of several kinds of code.
        preparing: is told of functions that cannot be imported in advance.
        respawns: is told of slots that are ready.
        forks: is told of changed code.
        lifecycle: has the errors that end the worker.
        init: the function that slots call at their start, ``module:function``; empty for none.
        selector: the loop's.
        late: takes lines to be logged once the lock is free.
        announce: called when the worker's state has changed.
    """

    def __init__(
        self,
        settling: Settling,
        dispatch: Dispatch,
        preparing: Preparing,
        respawns: Respawns,
        forks: ForkRestarts,
        lifecycle: Lifecycle,
        *,
        init: str,
        selector: selectors.BaseSelector,
        late: LateLog,
        announce: Callable[[], None],
    ) -> None:
        self._settling = settling
        self._dispatch = dispatch
        self._preparing = preparing
        self._respawns = respawns
        self._forks = forks
        self._lifecycle = lifecycle
        self._init = init
        self._selector = selector
        self._late = late
        self._announce = announce

    def take(self, child: Child, messages: list[Any], breach: str, now: float) -> bool:
        """Handle a slot's messages, until one breaks the protocol.

        Args:
            child: the slot.
            messages: what it has said.
            breach: how the bytes after those break the protocol; empty if they do not.
            now: ``time.monotonic()``.

        Returns:
            Whether one was about the slot itself.
        """
        noticed = False
        for message in messages:
            if child.breach:
                return True
            try:
                report = reports.read(message)
                if child.ready is isinstance(report, Ready | Unusable | Uninitialized):
                    raise BadMessage("it is not the time for that")
                if self._notice(child, report):
                    noticed = True
                else:
                    self._settling.take(child, report, now)
            except BadMessage as error:
                breach = str(error)
                break
        if breach:
            self.on_breach(child, breach)
        return noticed or bool(breach)

    def on_breach(self, child: Child, why: str) -> None:
        """Handle a breach of the protocol: the slot is killed, and no further message of it is read."""
        if child.breach:
            return
        self._late(logging.ERROR, "slot %d does not keep to the protocol (%s); it is killed", child.number, why)
        child.breach = why
        if not child.retired:
            self._selector.unregister(child.channel)
            child.retired = child.broken = True
        child.kill()

    def on_closed(self, child: Child) -> None:
        """Handle the end of a slot's pipe: it has died, or is about to."""
        if not child.retired:
            self._selector.unregister(child.channel)
            child.retired = child.broken = True
            child.leave_within(DYING_S)

    def on_unusable(self, who: str, report: Unusable) -> None:
        """Handle an import that every slot needs and that fails: the worker ends."""
        self._late(logging.ERROR, "%s cannot import %s:\n%s", who, report.why[0], report.trace)
        self._lifecycle.fatal = CannotImport(*report.why)

    def _notice(self, child: Child, report: reports.Report) -> bool:
        """Handle a slot's message about itself; whether this was such."""
        if isinstance(report, Ready):
            child.began(report.pid)
            self._respawns.began(child.number)
            self._lifecycle.trouble = ""
            self._announce()
        elif isinstance(report, Prepared):
            self._on_prepared(child, report.sound)
        elif isinstance(report, Leaving):
            chunk = child.known(report.token)
            name = chunk.spec.function.name if chunk is not None else "some function"
            text = "slot %d: a task of %s %s; the slot is replaced"
            self._late(logging.WARNING, text, child.number, name, report.why)
            child.leaving = True
            child.leave_within(LEAVING_S)
        elif isinstance(report, Stale | Misplaced):
            self._on_other_code(child, report)
        elif isinstance(report, Waiting):
            child.waits(report.token, report.index, report.seconds, report.blocked)
            self._announce()
        elif isinstance(report, Unusable):
            self.on_unusable(f"slot {child.number}", report)
        elif isinstance(report, Uninitialized):
            self._on_uninitialized(child, report)
        else:
            return False
        return True

    def _on_uninitialized(self, child: Child, report: Uninitialized) -> None:
        """Handle the failure of a slot's initial call."""
        if self._init:
            # Its requirement (a device, a server) may exist later: the slot is started again.
            child.uninitialized = self._lifecycle.trouble = f"its --init {self._init} fails: {report.why}"
            self._announce()
        else:
            text = "slot %d cannot start: its initializer failed:\n%s"
            self._late(logging.ERROR, text, child.number, report.trace)
            self._lifecycle.fatal = InitializerFailed(report.why)

    def _on_other_code(self, child: Child, report: Stale | Misplaced) -> None:
        """Handle the end of a slot that has imported other code than its next lease needs."""
        if isinstance(report, Stale):
            text = "slot %d: %s has changed since it was imported; the slot is replaced"
            self._late(logging.WARNING, text, child.number, report.path)
            self._forks.note_changed_code(child)
        else:
            text = "slot %d has imported other code than that of %s; the slot is replaced"
            self._late(logging.DEBUG, text, child.number, report.function)
            self._dispatch.note_several_codes()
        for chunk in child.chunks:
            chunk.stoppable = True
        child.leaving = True
        child.leave_within(LEAVING_S)

    def _on_prepared(self, child: Child, sound: bool) -> None:
        """Handle the end of an advance import.

        Raises:
            BadMessage: the slot was not told to import one.
        """
        name = child.has_prepared()
        if not name:
            raise BadMessage("it was to import nothing")
        if not sound:
            self._preparing.give_up(name)
            child.leaving = True
            child.leave_within(LEAVING_S)
