"""The thread that submits: one call at a time, repeated until the coordinator answers.

Client, between the outbox and the coordinator. Each submission is either accepted durably or refused, and its handle
says which; the thread waits for a coordinator that is away.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from dtq.client.batch_uploads import BatchUpload
from dtq.client.batches import Batch
from dtq.client.client_values import HubValues
from dtq.client.following import Following, Wake
from dtq.client.handle import Group
from dtq.client.links import AWAY, FATAL, Session
from dtq.client.outbox import NOWHERE, Call, Outbox, Receiver
from dtq.errors import ClientClosed, DtqError, QueueFull, UnknownId, from_wire
from dtq.model import pages
from dtq.model.messages import Receipt, Submission
from dtq.model.service import Service
from dtq.model.snapshots import BatchView, Selection
from dtq.records import replace
from dtq.transport import Backoff
from dtq.wording import counted

log = logging.getLogger("dtq.client")

#: Most batches in one call of `Service.follow`.
FOLLOWED: Final = 10_000


class Sender:
    """Sends the outbox's submissions.

    Args:
        session: the client's session.
        outbox: the client's outbox.
        following: registers the handles of accepted submissions.
        fatal: called with an error that makes the client unusable.
        values: told of values that the queue has.
        full_timeout_s: how long a full queue may accept nothing before submissions are refused, in seconds.
    """

    def __init__(
        self,
        session: Session,
        outbox: Outbox,
        following: Following,
        fatal: Callable[[DtqError], None],
        values: HubValues,
        *,
        full_timeout_s: float,
    ) -> None:
        self._values = values
        self.link = session.link()
        self._session = session
        self._outbox = outbox
        self._following = following
        self._fatal = fatal
        self._full_timeout_s = full_timeout_s
        #: Batches to be cancelled and let go because their reader has stopped.
        self._abandoned: deque[Batch] = deque()
        #: Batches sealed by the coordinator before all was sent.
        self._doubtful: list[Batch] = []
        #: The receivers of the receipts of the call under way.
        self.underway: list[Receiver] = []
        self._ending = threading.Event()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs. Not for two threads at once."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="dtq-sender", daemon=True)
            thread.start()  # if no thread can be started, there is none to wait for
            self._thread = thread

    @property
    def settled(self) -> bool:
        """Whether all earlier submissions are accepted or refused, and given-up batches are cancelled."""
        return (not self._abandoned and self._outbox.settled) or self._done.is_set()

    def abandon(self, batch: Batch) -> None:
        """Cancel the rest of a batch, and let go of its results, some time; from anywhere, also in the middle of
        garbage collection.
        """
        self._abandoned.append(batch)
        self._outbox.hurry()

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until everything is accepted or refused; the outbox must be closed. Then the thread ends.

        Args:
            timeout_s: how long at most, in seconds; None for ever.

        Returns:
            Whether it is.
        """
        self._outbox.hurry()
        return self._thread is None or self._done.wait(timeout_s)

    def end(self) -> None:
        """Give up on unsent submissions."""
        self._ending.set()
        self._outbox.hurry()
        self.link.close()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._over():
                self._outbox.wait(lambda: bool(self._abandoned) or self._outbox.is_marked or self._over())
                call = self._outbox.gather(self._session.max_message, self._session.max_piece)
                for feed in call.empty:
                    self._accept_nothing(feed)
                self._values.settle_blobs(call.dropped)
                if call.submissions:
                    self._submit(call)
                self._outbox.call_over()
                while self._doubtful:
                    self._settle_size(self._doubtful.pop())
                self._cancel_abandoned()
        except FATAL as error:
            self._fatal(error)
        except Exception as error:
            log.exception("the client's sender failed")
            self._fatal(DtqError(f"the client failed at something of its own ({error!r}); its log has the traceback"))
        finally:
            self._outbox.end()
            self.link.close()  # for good: `end` only interrupts the present call
            self._done.set()

    def _over(self) -> bool:
        outbox = self._outbox
        return self._ending.is_set() or (outbox.closed is not None and outbox.is_empty and not self._abandoned)

    def _submit(self, call: Call) -> None:
        """Make one call, up to its receipts; submissions without room in the queue are sent again until their time is
        over.
        """
        self.underway = call.receivers
        full_since = time.monotonic()
        while call.submissions:
            self._following.expect()
            answer = self._ask(call)
            if answer is None:
                for submission in call.submissions:
                    self._values.settle(submission.arguments)
                return
            receipts, repeated = answer
            now = time.monotonic()
            if not all(receipt.code == QueueFull.code for receipt in receipts):
                full_since = now
            waiting = now - full_since < self._full_timeout_s and not self._ending.is_set()
            again = self._accept(call, receipts, repeated, waiting)
            if call.submissions:
                self._outbox.call_over(full=True)
            if again:
                self._follow(again)
            if not call.submissions:
                self._release(call)
            self._cancel_abandoned()  # cancelled tasks make room

    @staticmethod
    def _release(call: Call) -> None:
        """Release the parents that were kept until their dependents were accepted or refused."""
        while call.kept:
            handle = call.kept.pop()
            if handle._kept:
                handle.release()
            del handle

    def _ask(self, call: Call) -> tuple[list[Receipt], bool] | None:
        """Make one call, until it is answered.

        Returns:
            The receipts, and whether the call was made more than once; None if it was refused as a whole, or given up.
        """
        backoff = Backoff()
        repeated = False
        while True:
            try:
                return self.link.service.submit(call.specs, call.submissions, repeated), repeated
            except AWAY as error:
                repeated = True
                if not self._pause(error, backoff):
                    # If the client has become unusable, that error is the one to report, not its effect on the line.
                    closed = self._outbox.closed
                    self._refuse(
                        call.receivers, error if closed is None or isinstance(closed, ClientClosed) else closed
                    )
                    return None
            except DtqError as error:
                self._refuse(call.receivers, error)
                if isinstance(error, FATAL):
                    raise
                return None

    def _pause(self, error: DtqError, backoff: Backoff) -> bool:
        """Wait before the next attempt; whether there is one."""
        if self._ending.is_set():
            return False
        self._session.lost(error)
        return not self._ending.wait(backoff.next_s())

    def _accept(self, call: Call, receipts: list[Receipt], repeated: bool, waiting: bool) -> list[int]:
        """Hand out receipts. Submissions to be sent again stay in the call.

        Args:
            call: the call.
            receipts: its answer.
            repeated: whether it was sent more than once.
            waiting: whether submissions without room may be sent again.

        Returns:
            The batches that must be followed explicitly: those that may have been submitted before, and so may have
            ended before.
        """
        wakes: list[Wake] = []
        again: list[int] = []
        refused: list[tuple[Receiver, DtqError]] = []
        left: list[tuple[Submission, Receiver]] = []
        following = self._following
        with following.lock:
            for submission, receiver, receipt in zip(call.submissions, call.receivers, receipts, strict=True):
                given_up = isinstance(receiver, BatchUpload) and receiver.stopped
                if receipt.code == QueueFull.code and submission.wait_s > 0 and waiting and not given_up:
                    left.append((submission, receiver))
                elif receipt.code:
                    refused.append((receiver, from_wire(receipt.code, receipt.details)))
                elif isinstance(receiver, BatchUpload):
                    self._accept_piece(receiver, receipt, submission.complete, wakes)
                elif isinstance(receiver, Group):
                    receiver._on_accepted(receipt.batch, wakes)
                    following.add(receipt.batch, receiver, wakes, receiver.itself)
                else:
                    receiver._on_accepted(receipt.batch, -1, wakes)
                    following.add(receipt.batch, receiver, wakes)
                new = submission.batch is None and receipt.batch
                if new and submission.follow and (repeated or receipt.earlier):
                    again.append(receipt.batch)
            following.expected()
        del receiver  # the loop must not keep a dropped handle alive
        call.receivers.clear()
        self._settle(call.submissions, left)
        if any([submission.conditions is not None and submission.conditions.after for submission, _ in left]):
            left = _repointed(call.submissions, receipts, left)
        call.submissions[:] = [submission for submission, _ in left]
        call.receivers.extend(receiver for _, receiver in left)
        left.clear()
        for wake in wakes:
            wake()
        refused.reverse()  # the first error is the one to report: it may be the cause of those after it
        while refused:
            lone, error = refused.pop()
            receivers = [lone]
            del lone
            self._refuse(receivers, error)
        return again

    def _settle(self, sent: list[Submission], left: list[tuple[Submission, Receiver]]) -> None:
        """Note that the sent submissions are accepted or refused, except those that are left."""
        waiting = {id(submission) for submission, _ in left}
        for submission in sent:
            if pages.has_descriptions(submission.arguments) and id(submission) not in waiting:
                self._values.settle(submission.arguments)

    def _accept_piece(self, feed: BatchUpload, receipt: Receipt, last: bool, wakes: list[Wake]) -> None:
        batch = feed.batch
        new = not batch.number
        batch.on_accepted(receipt.batch, receipt.size, last, wakes)
        if new and feed.follow:
            batch.followed = True
            self._following.add(receipt.batch, batch, wakes)

    def _accept_nothing(self, feed: BatchUpload) -> None:
        wakes: list[Wake] = []
        with self._following.lock:
            feed.batch.on_accepted(0, 0, True, wakes)
        for wake in wakes:
            wake()

    def _refuse(self, receivers: list[Receiver], error: DtqError) -> None:
        """Refuse submissions, and wake their waiters; empties the list."""
        wakes: list[Wake] = []
        told: list[weakref.ref[Any]] = []
        with self._following.lock:
            self._following.expected()
            while receivers:
                receiver = receivers.pop()
                if isinstance(receiver, BatchUpload):
                    if not receiver.stopped:  # else it was given up on purpose
                        told.append(weakref.ref(receiver.batch))
                    self._refuse_piece(receiver, error, wakes)
                else:
                    handles = receiver.give_up() if isinstance(receiver, Group) else [receiver]
                    while handles:
                        told.append(weakref.ref(handles[-1]))
                        handles.pop()._on_failed(error, wakes)
                del receiver
        for wake in wakes:
            wake()
        unheard = sum(ref() is None for ref in told)
        if unheard:
            log.warning(
                "%s refused that nobody has a handle of: %s",
                counted(unheard, "submission was", "submissions were"),
                error,
            )

    def _refuse_piece(self, feed: BatchUpload, error: DtqError, wakes: list[Wake]) -> None:
        feed.stopped = True
        feed.room.ring()
        if isinstance(error, UnknownId) and feed.batch.number:
            # It accepts no more pieces: it was cancelled; or it got this very piece before, and has ended.
            self._doubtful.append(feed.batch)
        else:
            feed.batch._on_failed(error, wakes)

    def _settle_size(self, batch: Batch) -> None:
        """Fetch the final size of a batch the coordinator sealed early."""
        found: list[BatchView] = []
        unknown = self._insist(lambda service: found.append(service.batch(batch.number)))
        wakes: list[Wake] = []
        with self._following.lock:
            if found:
                batch.on_accepted(batch.number, found[0].size, True, wakes)
            else:
                batch._on_failed(unknown or ClientClosed(f"it was connected to {self._session.place}"), wakes)
        for wake in wakes:
            wake()

    def _follow(self, batches: list[int]) -> None:
        """Subscribe to news of batches that may have ended already."""
        for start in range(0, len(batches), FOLLOWED):
            part = batches[start : start + FOLLOWED]
            self._insist(partial(_ask_to_follow, part))

    def _cancel_abandoned(self) -> None:
        while self._abandoned:
            self._cancel(self._abandoned.popleft())

    def _cancel(self, batch: Batch) -> None:
        if batch.number and not batch.finished:
            self._insist(lambda service: service.cancel(Selection(ids=((batch.number, -1),), limit=0)))
        if batch.followed:
            self._following.disown(batch)

    def _insist(self, ask: Callable[[Service], object]) -> DtqError | None:
        """Repeat a call until it is answered.

        Returns:
            The error in the answer; None for none, and if this thread must end.
        """
        backoff = Backoff()
        while True:
            try:
                ask(self.link.service)
                return None
            except AWAY as error:
                if not self._pause(error, backoff):
                    return None
            except FATAL:
                raise
            except DtqError as error:
                if not isinstance(error, UnknownId):
                    log.error("the coordinator refuses a call: %s", error)
                return error


def _ask_to_follow(batches: list[int], service: Service) -> None:
    service.follow(batches)


def _repointed(
    sent: list[Submission], receipts: list[Receipt], left: list[tuple[Submission, Receiver]]
) -> list[tuple[Submission, Receiver]]:
    """Submissions to be sent again, with their parents renamed: the places in the call have changed, and some parents
    have numbers now.
    """
    before = {id(submission): place for place, submission in enumerate(sent)}
    now = {before[id(submission)]: place for place, (submission, _) in enumerate(left)}
    found: list[tuple[Submission, Receiver]] = []
    for place, (submission, receiver) in enumerate(left):
        conditions = submission.conditions
        if conditions is not None and any([parent[0] < 0 for parent in conditions.after]):
            after = []
            for number, lo, hi, is_value in conditions.after:
                at = before[id(submission)] + number
                if number < 0 and at in now:
                    number = now[at] - place
                elif number < 0:
                    number = (receipts[at].batch if at >= 0 else 0) or NOWHERE
                after.append((number, lo, hi, is_value))
            submission = replace(submission, conditions=replace(conditions, after=tuple(after)))
        found.append((submission, receiver))
    return found
