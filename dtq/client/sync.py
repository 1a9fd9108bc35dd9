"""The client for threads: submit, map, wait, ask, operate.

Client, the face of most programs; `client_core` does the work. Every method may be called from any thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar, Unpack, get_args

from dtq.client import current
from dtq.client.batch_handle import BatchHandle, member
from dtq.client.batches import Batch
from dtq.client.client_core import FULL_TIMEOUT_S, ClientCore
from dtq.client.defaults import TIMEOUT_S
from dtq.client.handle import TaskHandle
from dtq.client.html_repr import card
from dtq.client.links import Connector, Wire
from dtq.client.paging import (
    added,
    all_batches,
    all_dead_letters,
    all_tasks,
    cancel_all,
    purge_all,
    rerun_all,
    retry_all,
    whole_stats,
)
from dtq.client.schedules import Schedules
from dtq.client.selecting import (
    BatchFilters,
    Filters,
    Named,
    batch_number,
    choose,
    parsed,
    select,
    select_batches,
)
from dtq.client.steering import Limits, Queues
from dtq.client.submitter import Submitter
from dtq.client.waiting import H, ReturnWhen, Waited, as_completed, wait
from dtq.client.workers import Workers
from dtq.config import Address, client_addresses, client_by_reference, configured_tls, load_authkey, tls_files
from dtq.errors import ClientClosed, InvalidId, InvalidValue, KeyMissing, KeyMissingInTask, UnknownId, Unreachable
from dtq.model.explanations import Explanation
from dtq.model.ids import TaskId
from dtq.model.options import Options
from dtq.model.snapshots import BatchView, CancelReport, DeadLetter, RerunReport, Stats, TaskView
from dtq.model.states import State
from dtq.wording import counted

log = logging.getLogger("dtq.client")

P = ParamSpec("P")
T = TypeVar("T")

#: Handling of submissions without room in the queue.
WhenFull = Literal["wait", "fail"]
#: Longest wait of `Client.close` for the submissions' acceptance, in seconds.
CLOSE_S: Final = 30.0


class Client(Submitter):
    """A queue, for programs with threads.

    It connects with its first call. From then on it waits for a coordinator that is away: submissions gather (up to a
    bound, then they wait), and requests for results are repeated when it is back.

    Args:
        address: ``"host:port"``, or several for one queue; None for ``DTQ_ADDRESS``, the configuration, or the
            coordinator of this machine.
        authkey_file: the file with the key; None for ``DTQ_AUTHKEY_FILE``, the configuration, or this user's key.
        authkey: the key itself, instead of a file.
        tls: the directory with this side's certificates, for coordinators on other machines; None for ``DTQ_TLS``, or
            the configuration.
        timeout: longest time of the first connection, and of any call except waits while the coordinator is away, in
            seconds.
        when_full: handling of submissions without room in the queue: ``"wait"`` sends them again, and makes `submit`
            wait if too many wait already; ``"fail"`` refuses them with `QueueFull` at once.
        full_timeout: how long a full queue may accept nothing before waiting submissions are refused, too, in seconds.
        connector: makes the connections, instead of all of the above; for tests.

    Raises:
        InvalidAddress: an address is malformed.
        KeyMissing, KeyUnusable, BadConfig: there is no key, or no usable one.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        authkey_file: str | Path | None = None,
        authkey: bytes | str | None = None,
        tls: str | Path | None = None,
        timeout: float = TIMEOUT_S,
        when_full: WhenFull = "wait",
        full_timeout: float = FULL_TIMEOUT_S,
        connector: Connector | None = None,
    ) -> None:
        wire = connector or _wire(address, authkey_file, authkey, tls, timeout)
        self._first = ClientCore(wire, timeout, patience(when_full, full_timeout))

    # -- waiting --------------------------------------------------------------------------------------------------

    @staticmethod
    def wait(
        handles: Iterable[H], timeout: float | None = None, return_when: ReturnWhen = "ALL_COMPLETED"
    ) -> Waited[H]:
        """See `waiting.wait`."""
        return wait(handles, timeout, return_when)

    @staticmethod
    def as_completed(handles: Iterable[H], timeout: float | None = None) -> Iterator[H]:
        """See `waiting.as_completed`."""
        return as_completed(handles, timeout)

    def get(self, id: Named) -> TaskHandle[Any]:
        """A handle of a known task, whoever submitted it.

        Args:
            id: the task; or its batch, if the batch has no other task.

        Raises:
            InvalidId: the id is malformed, or that of a batch of several tasks.
            UnknownId: the task does not exist, or is no longer kept.
        """
        number, index = parsed(id)
        batch, view = self._batch(number)
        single = view.size == 1 and view.complete
        if index is None and not single:
            raise InvalidId(f"{number} (a batch of {counted(view.size, 'task')})")
        if index is not None and index >= view.size:
            raise UnknownId(str(TaskId(number, index)))
        return member(self._core, view.spec, batch, index or 0, single=single)

    def get_batch(self, id: Named) -> BatchHandle[Any]:
        """A handle of a known batch, whoever submitted it.

        Raises:
            InvalidId: the id is malformed, or that of a single task of a batch.
            UnknownId: the batch does not exist, or is no longer kept.
        """
        batch, view = self._batch(batch_number(id))
        return BatchHandle(self._core, view.spec, batch)

    def _batch(self, number: int) -> tuple[Batch, BatchView]:
        view = self._core.batch(number)
        batch = Batch(number, view.size, complete=view.complete)
        batch.foreign = not view.complete
        return batch, view

    # -- asking ---------------------------------------------------------------------------------------------------

    def status(self, id: Named) -> TaskView:
        """A task's state, attempts with their history, progress, and the reason why it waits, if it does.

        Raises:
            InvalidId: the id is malformed, or that of a batch of several tasks.
            UnknownId: the task does not exist, or is no longer kept.
        """
        number, index = parsed(id)
        if index is None:
            view = self._core.batch(number)
            if view.size != 1:
                raise InvalidId(f"{number} (a batch of {counted(view.size, 'task')})")
        return self._core.task(number, index or 0)

    def batch_status(self, id: Named) -> BatchView:
        """A batch's state: the number of its tasks in each state.

        Raises:
            InvalidId: the id is malformed, or that of a single task of a batch.
            UnknownId: the batch does not exist, or is no longer kept.
        """
        return self._core.batch(batch_number(id))

    def stats(self) -> Stats:
        """An overview of the coordinator."""
        return self._core.call(whole_stats)

    def tasks(
        self, *ids: Named, state: State | str | None = None, limit: int = 100, **filters: Unpack[Filters]
    ) -> list[TaskView]:
        """Tasks that match every given argument, as runs of like tasks: first unfinished tasks, in the order in which
        they will run.

        Args:
            ids: tasks and batches.
            state: their state.
            limit: at most this many; 0 for all.
            filters: see `Filters`.
        """
        selection = select(ids, state, limit, **filters)
        return self._core.call(lambda service: all_tasks(service, selection))

    def batches(self, *, limit: int = 100, **filters: Unpack[BatchFilters]) -> list[BatchView]:
        """Batches that match every given argument, the newest first, with pace and time left.

        Args:
            limit: at most this many; 0 for all.
            filters: see `BatchFilters`.
        """
        selection = select_batches(limit, **filters)
        return self._core.call(lambda service: all_batches(service, selection))

    # -- operating ------------------------------------------------------------------------------------------------

    def cancel(self, *ids: Named, **filters: Unpack[Filters]) -> CancelReport:
        """Stop tasks: waiting tasks never start, running tasks are killed; earlier submissions of this client that are
        not accepted yet count, too.

        Args:
            ids: tasks and batches.
            filters: see `Filters`.

        Returns:
            The numbers of tasks that were cancelled, are being stopped, and had ended before.

        Raises:
            UnknownId: one of the ids was never accepted; nothing was cancelled.
            InvalidValue: no task was selected.
        """
        selection = choose(ids, **filters)
        reports = self._core.call_behind(lambda service: cancel_all(service, selection), more=_made_room)
        return added(reports)

    def reprioritize(self, *ids: Named, priority: int, **filters: Unpack[Filters]) -> int:
        """Change the priority of whole batches: of those with a matching task that waits.

        Args:
            ids: batches, or the only tasks of batches.
            priority: 1 to 10.
            filters: see `Filters`.

        Returns:
            The number of their waiting tasks.

        Raises:
            UnknownId: one of the ids was never accepted; nothing was changed.
            WholeBatchOnly: an id names a task beside which others of its batch wait; nothing was changed.
            InvalidValue: no task was selected, or the priority is invalid.
        """
        Options(priority=priority)
        selection = choose(ids, **filters)
        return self._core.call_behind(lambda service: service.reprioritize(selection, priority))[-1]

    def dead_letters(self, *ids: Named, limit: int = 100, **filters: Unpack[Filters]) -> list[DeadLetter]:
        """Dead letters that match every given argument, latest first.

        Args:
            ids: tasks and batches.
            limit: at most this many; 0 for all.
            filters: see `Filters`.
        """
        selection = select(ids, limit=limit, **filters)
        return self._core.call(lambda service: all_dead_letters(service, selection))

    def explain(self, id: Named) -> list[Explanation]:
        """Why a task is in its state, when it will run, and what helps.

        Args:
            id: the task; or a batch, of which one task of each state is explained.

        Raises:
            UnknownId: it was never accepted, or it was purged.
            InvalidId: the id is malformed.
        """
        number, index = parsed(id)
        whole = -1 if index is None else index
        return self._core.call(lambda service: service.explain(number, whole))

    def retry_dead(self, *ids: Named, all: bool = False, **filters: Unpack[Filters]) -> int:
        """Put dead letters back with fresh counters, their history kept.

        Args:
            ids: tasks and batches.
            all: whether to put all back, if no other argument is given.
            filters: see `Filters`.

        Returns:
            Their number.

        Raises:
            UnknownId: one of the ids is no dead letter; nothing was put back.
            InvalidValue: no task was selected.
            Unreachable: the coordinator was lost in the middle: `dead_letters` tells what was done.
        """
        selection = choose(ids, all, **filters)
        return self._core.call(lambda service: retry_all(service, selection), again=False)

    def purge_dead(self, *ids: Named, all: bool = False, **filters: Unpack[Filters]) -> int:
        """Remove dead letters for good; arguments as for `retry_dead`."""
        selection = choose(ids, all, **filters)
        return self._core.call(lambda service: purge_all(service, selection), again=False)

    def rerun(
        self, *ids: Named, all: bool = False, state: State | str | None = None, **filters: Unpack[Filters]
    ) -> RerunReport:
        """Submit tasks once more that have ended: the same functions, arguments and terms, as new tasks.

        The ended tasks of one batch make one new batch, without the key of the earlier one, its delay and its deadline.
        The earlier tasks stay as they are; `retry_dead` puts dead letters back instead.

        Args:
            ids: the tasks or batches; of a batch, the tasks that have ended.
            all: every ended task, if nothing else is given.
            state: only those in this state.
            filters: what they have in common (`selecting.Filters`).

        Returns:
            The new batches (`get` and `get_batch` return handles of them).

        Raises:
            NotEnded: one of the ids is not that of an ended task; nothing was submitted.
            NotRepeatable: the arguments of a task are no longer kept.
            ResultExpired: a task is no longer kept; nothing was submitted.
            InvalidValue: no task was selected.
            Unreachable: the coordinator was lost in the middle: `dtq batches` tells what was done.
        """
        selection = select(ids, state, **filters) if state is not None else choose(ids, all, **filters)
        return self._core.call(lambda service: rerun_all(service, selection), again=False)

    @property
    def limits(self) -> Limits:
        """The limits by name."""
        return Limits(self)

    @property
    def queues(self) -> Queues:
        """The queues: list and steer them."""
        return Queues(self)

    @property
    def workers(self) -> Workers:
        """The connected workers: list, drain and stop them."""
        return Workers(self)

    @property
    def schedules(self) -> Schedules:
        """The coordinator's schedules: functions that it submits at due times."""
        return Schedules(self)

    # -- the end --------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it accepts no more calls: it was closed, or can never work (a wrong key)."""
        return self._core.outbox.closed is not None

    def close(self, timeout: float | None = CLOSE_S) -> None:
        """Wait until all submissions are accepted, and disconnect. Tasks go on. Calling it twice does no harm.

        Args:
            timeout: how long to wait at most, in seconds; None for ever.

        Raises:
            Unreachable: the coordinator was away until then; the handles of submissions that were not accepted have the
                error.
        """
        self._core.close(timeout)

    def __enter__(self) -> Self:
        try:
            self._core.start()
        except RuntimeError as error:  # no thread can be started: no other code will close the open connections
            self._core.fail(ClientClosed(str(error)))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Unreachable as lost:
            if error is None:
                raise
            log.warning("%s", lost)  # the exception that ended the block is the more telling one

    def __repr__(self) -> str:
        return f"<Client {self._core.session.place}>"

    def _repr_html_(self) -> str:
        return card("Client", [("coordinator", self._core.session.place), *self._core.standing()])


def _made_room(report: CancelReport) -> bool:
    return report.cancelled > 0


def patience(when_full: str, full_timeout_s: float) -> float:
    """Longest wait of submissions for room in a full queue, in seconds."""
    if when_full not in get_args(WhenFull):
        raise InvalidValue("when_full", when_full, "it is 'wait' or 'fail'")
    return full_timeout_s if when_full == "wait" else 0.0


def _wire(
    address: str | Sequence[str] | None,
    authkey_file: str | Path | None,
    authkey: bytes | str | None,
    tls: str | Path | None,
    timeout_s: float,
) -> Wire:
    given = _addresses(address)
    access = current.access()
    if not given and authkey is None and authkey_file is None and access is not None:
        given, authkey = access.addresses, access.authkey
    addresses = client_addresses(given)
    if authkey is None:
        key, source = _load(authkey_file, addresses)
    else:
        key, source = (authkey.encode() if isinstance(authkey, str) else authkey), "the one given to Client"
    certificates = configured_tls() if tls is None else tls_files(tls)
    return Wire(addresses, key, source, timeout_s, certificates, client_by_reference())


def _addresses(given: object) -> tuple[str, ...]:
    """Addresses as they are given, whose types at run time may differ from the annotation."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (str(given),)


def _load(authkey_file: str | Path | None, addresses: Sequence[Address]) -> tuple[bytes, str]:
    """See `load_authkey`.

    Raises:
        KeyMissingInTask: there is no key, and this is a slot, whose tasks get one only if the operator allows it.
    """
    try:
        return load_authkey(authkey_file, addresses=addresses)
    except KeyMissing as missing:
        if not current.is_slot() or authkey_file is not None:
            raise
        raise KeyMissingInTask(*missing.args) from None
