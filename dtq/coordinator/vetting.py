"""Checks that the values exist that submissions and reports name.

The check is done outside of the coordinator's lock, and keeps the values until the rows that name them are on disk.
Large blobs of peers that cannot write values are written as values here. A page's first byte says whether it names any,
so pages without values cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dtq.coordinator.service import Coordinator
from dtq.coordinator.sessions import SessionState
from dtq.coordinator.values import Hold
from dtq.errors import BadMessage, DtqError
from dtq.model import pages, values
from dtq.model.messages import Exchange, Failed, Failure, Submission, Succeeded
from dtq.model.options import Spec
from dtq.model.states import Outcome
from dtq.model.values import MIN_VALUE, Value
from dtq.records import replace


class Vetting:
    """The values that one call names.

    Args:
        c: the coordinator.
        state: the caller.
    """

    def __init__(self, c: Coordinator, state: SessionState) -> None:
        self._peers = c.values
        self._c = c
        self._state = state
        self._session = state.hello.session
        self._hold: Hold | None = None
        self._made: list[Value] = []
        #: The values that were found.
        self._found: list[Value] = []

    def check(self, named: Iterable[Value]) -> None:
        """Make sure that values exist, and keep them until this is closed.

        Raises:
            DtqError: one does not, or cannot.
        """
        if self._peers is None:
            raise BadMessage("it names values, and this coordinator keeps none")
        if self._hold is None:
            self._hold = self._peers.hold()
        named = list(named)
        self._peers.check(self._session, named, self._hold)
        self._found += named

    def take_out(self, page: bytes) -> bytes:
        """A page with its large blobs written as values."""
        assert self._peers is not None
        page, made = self._peers.take_out(page)
        self._made += made
        return page

    def sync(self, succeeded: Sequence[Succeeded] = ()) -> None:
        """Make the values that were found and made as durable as the row will be, before the commit with it.

        That may take longer than a task: the slots that have finished theirs are given the next ones meanwhile.

        Args:
            succeeded: a worker's results.
        """
        c, state = self._c, self._state
        slow = self._peers is not None and self._peers.place.sync_from > 0
        with c.lock:
            state.syncing += 1
        try:
            if slow and succeeded:
                with c.lock:
                    if c.machine.begin_recording(self._session, succeeded):
                        c.dispatch(c.clock.now(), self._session)
                        c.committer.soon()
            c.engine.sync([*self._found, *self._made])
        finally:
            with c.lock:
                state.syncing -= 1
                if slow and succeeded:
                    c.machine.end_recording(self._session)

    def close(self) -> None:
        """Release: the rows are on disk, or were refused."""
        if self._hold is not None:
            self._hold.close()
        if self._made and self._peers is not None:
            self._peers.settled(self._made)


def is_large(c: Coordinator, state: SessionState, page: bytes) -> bool:
    """Whether a page has blobs to be written as values, from a peer that cannot write them."""
    if len(page) < MIN_VALUE or not state.hello.inline or c.values is None:
        return False
    try:
        return pages.check(page) > 0 and pages.largest(page) >= MIN_VALUE
    except BadMessage:
        return False  # the caller refuses the page, with the reason


def submissions(
    c: Coordinator, state: SessionState, specs: Sequence[Spec], given: list[Submission]
) -> tuple[dict[int, DtqError], Vetting | None]:
    """Find the submissions that name missing values.

    Args:
        c: the coordinator.
        state: the caller.
        specs: the call's.
        given: the submissions; those with large blobs are replaced.

    Returns:
        The errors of these submissions, by their place in the call; and an object that keeps the others' values until
        it is closed.
    """
    functions = {place for place, spec in enumerate(specs) if values.is_description(spec.function.body)}
    named = [
        place
        for place, submission in enumerate(given)
        if pages.has_descriptions(submission.arguments) or submission.spec in functions
    ]
    large = [place for place, submission in enumerate(given) if is_large(c, state, submission.arguments)]
    if not named and not large:
        return _NONE, None
    refused: dict[int, DtqError] = {}
    vetting = Vetting(c, state)
    for place in named:
        try:
            vetting.check(pages.named(given[place].arguments))
            if given[place].spec in functions:
                vetting.check(values.named(specs[given[place].spec].function.body))
        except DtqError as error:
            refused[place] = error.with_traceback(None)  # it would keep this frame alive, and with it the error
    for place in large:
        if place not in refused:
            given[place] = replace(given[place], arguments=vetting.take_out(given[place].arguments))
    return refused, vetting


_NONE: Final[dict[int, DtqError]] = {}


def report(c: Coordinator, state: SessionState, exchange: Exchange) -> tuple[Exchange, Vetting | None]:
    """Turn results that name missing values into failures.

    Returns:
        The report; and an object that keeps the values of its results until it is closed.
    """
    if not any(
        [pages.has_descriptions(done.results) or is_large(c, state, done.results) for done in exchange.succeeded]
    ):
        return exchange, None
    vetting = Vetting(c, state)
    succeeded: list[Succeeded] = []
    failed = list(exchange.failed)
    for done in exchange.succeeded:
        try:
            vetting.check(pages.named(done.results))
            succeeded.append(done)
        except DtqError:
            for outcome in _taken_apart(vetting, done):
                if isinstance(outcome, Failed):
                    failed.append(outcome)
                else:
                    succeeded.append(outcome)
    for place, done in enumerate(succeeded):
        if is_large(c, state, done.results):
            succeeded[place] = replace(done, results=vetting.take_out(done.results))
    return replace(exchange, succeeded=tuple(succeeded), failed=tuple(failed)), vetting


def _taken_apart(vetting: Vetting, done: Succeeded) -> Iterator[Succeeded | Failed]:
    """The outcomes of a page of which some name missing values, in their order."""
    blobs = pages.unpack(done.results)
    first = 0
    for at, blob in enumerate(blobs):
        try:
            if values.is_description(blob):
                vetting.check(values.named(blob))
        except DtqError as error:
            yield from _part(done, first, at, len(blobs))
            first = at + 1
            failure = Failure(
                exception=f"{type(error).__module__}.{type(error).__qualname__}",
                message=f"the result that the worker has reported is not there: {error}",
            )
            yield Failed(
                token=done.token,
                index=done.lo + at,
                outcome=Outcome.FAILED,
                failure=failure,
                seconds=done.seconds / len(blobs),
            )
    yield from _part(done, first, len(blobs), len(blobs))


def _part(done: Succeeded, lo: int, hi: int, of: int) -> Iterator[Succeeded]:
    if lo < hi:
        page = pages.cut(done.results, lo, hi)
        yield replace(done, lo=done.lo + lo, results=page, seconds=done.seconds * (hi - lo) / of)
