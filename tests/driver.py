"""Drives the machine in tests: short commands, a clock that stands still, every invariant checked after each of them.

What has ended leaves the machine's memory, so the driver keeps a memory engine beside it and asks that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from dtq.coordinator.cron import CronCalendar
from dtq.core import invariants, operators, queues, reviving, uniqueness, views
from dtq.core.batches import Batch
from dtq.core.changes import Change, Parent, Stored, TaskRow, Totals
from dtq.core.elements import cause
from dtq.core.held import held_in
from dtq.core.leases import Lease
from dtq.core.ledger import EndedRange
from dtq.core.machine import Machine
from dtq.core.parents import After
from dtq.core.queue_state import Rules
from dtq.core.reporting import Answer
from dtq.core.restoring import restore
from dtq.core.schedules import Entry
from dtq.core.scheduling import run_due
from dtq.engines.base import EndedRun, StoredBatch
from dtq.engines.memory import MemoryEngine
from dtq.model import pages
from dtq.model.limits import Limit
from dtq.model.messages import Conditions, Exchange, Failed, Failure, Holding, Released, Submission, Succeeded
from dtq.model.options import Function, Options, Spec
from dtq.model.printed import Printed
from dtq.model.queues import Steering
from dtq.model.resources import Offers
from dtq.model.schedules import CatchUp, Overlap, Rule, Schedule
from dtq.model.snapshots import BatchView, Selection, TaskView
from dtq.model.states import Outcome, State
from dtq.testing import ManualClock

#: A task: batch and index.
Place = tuple[int, int]


def spec(function: str | Function = "work:shop", **options: Any) -> Spec:
    """A function with options."""
    travelled = Function(name=function) if isinstance(function, str) else function
    return Spec(function=travelled, options=Options(**options))


def places(leases: Iterable[Lease]) -> list[Place]:
    """The tasks of leases, in the order in which they were handed out."""
    return [(lease.batch.number, index) for lease in leases for index in range(lease.lo, lease.hi)]


class Driver:
    """A machine, its clock, and the store that its changes go to.

    Args:
        rules: settings of the machine; the keywords are those of `Rules`.
    """

    def __init__(self, **rules: Any) -> None:
        self.rules = Rules(**rules)
        self.clock = ManualClock()
        self.store = MemoryEngine()
        opened = self.store.open()
        self.calendar = CronCalendar()
        self.machine = Machine(opened.epoch, self.rules, opened.totals, self.calendar)
        #: What followers were told, in order.
        self.told: list[EndedRange] = []
        self._totals = opened.totals
        self.machine.tick(self.now)
        self.drain()
        self._submissions = self._calls = 0

    @property
    def now(self) -> float:
        return self.clock.now()

    def check(self) -> None:
        """Every invariant."""
        invariants.check(self.machine)

    # -- submitters -----------------------------------------------------------------------------------------------

    def submit(
        self,
        count: int = 1,
        *,
        function: str | Function = "work:shop",
        session: str = "client",
        batch: int | None = None,
        offset: int = 0,
        complete: bool = True,
        delay_s: float = 0.0,
        key: str | None = None,
        follow: bool = True,
        size: int = 0,
        conditions: Conditions | None = None,
        after: Iterable[Parent] = (),
        each: Iterable[int] = (),
        items: Mapping[int, tuple[Parent, ...]] = MappingProxyType({}),
        run_anyway: bool = False,
        at_once: bool = True,
        **options: Any,
    ) -> int:
        """Submit so many tasks, with arguments of at least so many bytes, that wait for others; the batch's number.

        Where they wait for others one by one, they are as many as those are.
        """
        self._submissions += 1
        submission = Submission(
            spec=0,
            number=self._submissions,
            arguments=pages.pack([(b"%d" % index).ljust(size) for index in range(offset, offset + count)]),
            batch=batch,
            offset=offset,
            complete=complete,
            delay_s=delay_s,
            key=key,
            follow=follow,
            conditions=conditions,
            items=tuple([(index - offset, own) for index, own in sorted(items.items())]),
        )
        waits = self.after(tuple(after), tuple(each), dict(items), run_anyway=run_anyway)
        if key is None or conditions is None or batch is not None:
            made, _ = self.machine.submit(spec(function, **options), submission, session, self.now, after=waits)
        else:
            made = self._submit_unique(spec(function, **options), submission, session, key, at_once=at_once)
        self.check()
        return made.number

    def after(
        self,
        parents: tuple[Parent, ...],
        each: tuple[int, ...],
        items: dict[int, tuple[Parent, ...]],
        *,
        run_anyway: bool,
    ) -> Callable[[], After] | None:
        """What is to be waited for, as the coordinator finds it out."""
        if not parents and not each and not items:
            return None
        self.drain()
        gone = [] if run_anyway else self.gone(each)
        sizes = {stored.row.batch: stored.row.size for stored in self.store.batches(each)}
        lost_items = {index: why for index, own in items.items() if (why := self.lost(own))}
        return partial(
            After,
            parents=parents,
            run_anyway=run_anyway,
            lost="" if run_anyway else self.lost(parents),
            each=tuple([(number, sizes[number], False) for number in each]),
            gone=tuple(gone),
            items=tuple(sorted(items.items())),
            lost_items=() if run_anyway else tuple(lost_items.items()),
        )

    def gone(self, each: Iterable[int]) -> list[tuple[int, int, str]]:
        """The tasks of batches that have ended without a result, and why what waits for each of them never starts."""
        found = []
        for number in each:
            parent = self.machine.queue_state.batches.get(number)
            for run in self.store.ended(Selection(ids=((number, -1),), limit=0), self.now):
                if run.state is not State.SUCCEEDED and (parent is None or not self._put_back(parent, run)):
                    whole = run.task is None and run.hi - run.lo > 1
                    single = run.batch.row.size == 1
                    why = cause(number, -1 if whole else run.lo, run.state.value, single=single)
                    found.append((run.lo, run.hi, why))
        return sorted(found)

    def lost(self, parents: Iterable[Parent]) -> str:
        """Why what waits for some tasks never starts; "" where none of them has ended without a result."""
        for number, lo, hi, _ in parents:
            for run in self.store.ended(Selection(ids=((number, -1),), limit=0), self.now):
                parent = self.machine.queue_state.batches.get(number)
                if parent is not None and self._put_back(parent, run):
                    continue
                if run.state is not State.SUCCEEDED and (not hi or (run.lo < hi and lo < run.hi)):
                    whole = not hi and run.hi - run.lo == run.batch.row.size > 1
                    at = -1 if whole else max(lo, run.lo)
                    return cause(number, at, run.state.value, single=run.batch.row.size == 1)
        return ""

    @staticmethod
    def _put_back(parent: Batch, run: EndedRun) -> bool:
        """Whether what has ended in the store has just been put back."""
        task = parent.task(run.lo)
        return parent.cut is None if run.task is None else task is not None and not task.state.final

    def _submit_unique(self, asked: Spec, submission: Submission, session: str, key: str, *, at_once: bool) -> Batch:
        """As the coordinator does, but that it looks for finished batches that have the key, too."""
        live = self.machine.queue_state.keys.get(key)
        earlier = None if live is None else self.machine.queue_state.batches[live]
        holder = None if earlier is None else uniqueness.holder_of(earlier)
        accepted = uniqueness.submit(self.machine, asked, submission, session, holder, self.now, at_once=at_once)
        if accepted is not None:
            return accepted[0]
        assert earlier is not None
        return earlier

    def seal(self, batch: int) -> None:
        self.machine.seal(self.live(batch), self.now)
        self.check()

    def abandon(self, session: str) -> None:
        self.machine.abandon(session, self.now)
        self.check()

    def withdraw(self, batch: Batch) -> None:
        self.machine.withdraw(batch, self.now)
        self.check()

    # -- workers --------------------------------------------------------------------------------------------------

    def attach(
        self,
        session: str = "w1",
        capacity: int = 1,
        queues: tuple[str, ...] = (),
        *,
        slots: int | None = None,
        offers: Offers | None = None,
        chains: bool = False,
    ) -> bool:
        """A worker says hello, and how many slots it has (all that it was told to, unless these are given); whether it
        was known."""
        known = self.machine.attach(
            session,
            f"name of {session}",
            queues,
            self.now,
            slots=capacity if slots is None else slots,
            offers=offers,
            chains=chains,
        )
        self.exchange(session, capacity=capacity)
        return known

    def exchange(self, session: str = "w1", **parts: Any) -> Answer:
        """A worker's exchange; the keywords are those of `Exchange`. Its capacity stays what it was unless given, it
        holds what it was given, and has seen all that was said."""
        worker = self.machine.queue_state.workers.get(session)
        parts.setdefault("capacity", worker.capacity if worker is not None else 0)
        parts.setdefault("holding", tuple(Holding(token=token) for token in worker.leases) if worker else ())
        parts.setdefault("call", self.next_call())
        answer = self.machine.reporting.exchange(session, Exchange(**parts), self.now)
        self.check()
        return answer

    def fetch(self, session: str = "w1", *holding: Lease | Holding, **parts: Any) -> Answer:
        """A fetching exchange that says it holds these leases and no others."""
        held = tuple(h if isinstance(h, Holding) else Holding(token=h.token) for h in holding)
        return self.exchange(session, holding=held, fetch=True, **parts)

    def next_call(self) -> int:
        """The number of the next call that a worker makes up."""
        self._calls += 1
        return self._calls

    def lease(self, session: str = "w1", call: int | None = None) -> list[Lease]:
        """Hand out what the worker has room for, in the answer to the call of that number, or to one of its own."""
        leases = self.machine.granting.lease(session, self.now, self.next_call() if call is None else call)
        self.check()
        return leases

    def lease_one(self, session: str = "w1") -> Lease:
        """Hand out one lease, and make sure that it is one."""
        (lease,) = self.lease(session)
        return lease

    def take(self, session: str = "w1") -> list[Place]:
        """Hand out what the worker has room for; the tasks in their order."""
        return places(self.lease(session))

    def succeed(self, lease: Lease, count: int | None = None, seconds: float = 60.0, *, printed: bytes = b"") -> Answer:
        """The worker reports results of the first so many tasks of a lease; of all by default. The first has printed
        this.
        """
        lo = lease.lo
        hi = lease.hi if count is None else lo + count
        results = pages.pack([b"result of %d" % index for index in range(lo, hi)])
        said = (Printed(index=lo, head=printed),) if printed else ()
        succeeded = Succeeded(token=lease.token, lo=lo, results=results, seconds=seconds, printed=said)
        return self.exchange(lease.worker.session, succeeded=(succeeded,))

    def fail(
        self,
        lease: Lease,
        index: int | None = None,
        outcome: Outcome = Outcome.FAILED,
        *,
        seconds: float = 60.0,
        exception: str = "ValueError",
        bases: tuple[str, ...] = (),
        message: str = "",
        unable: bool = False,
        printed: bytes = b"",
    ) -> Answer:
        """The worker reports that a task of a lease ended without a result, having printed this; the first by
        default.
        """
        index = lease.lo if index is None else index
        failed = Failed(
            token=lease.token,
            index=index,
            outcome=outcome,
            failure=Failure(exception=exception, bases=bases, message=message, unable=unable),
            seconds=seconds,
            printed=(Printed(index=index, head=printed),) if printed else (),
        )
        return self.exchange(lease.worker.session, failed=(failed,))

    def crash(self, lease: Lease) -> Answer:
        """The worker reports that the slot died in the first task of a lease."""
        return self.fail(lease, outcome=Outcome.CRASHED, exception="")

    def crash_at(self, lease: Lease, index: int) -> Answer:
        """The worker reports that the slot died in a task of a lease; those before it were not reported."""
        return self.fail(lease, index, outcome=Outcome.CRASHED, exception="")

    def release(self, lease: Lease, lo: int | None = None, hi: int | None = None) -> Answer:
        """The worker gives tasks back; all of the lease by default."""
        released = Released(token=lease.token, lo=lease.lo if lo is None else lo, hi=lease.hi if hi is None else hi)
        return self.exchange(lease.worker.session, released=(released,))

    def lose(self, session: str = "w1") -> bool:
        known = self.machine.lose(session, self.now)
        self.check()
        return known

    def kill(self, batch: int, index: int = 0, session: str = "w1") -> None:
        """Make a task that is next a dead letter, whatever its retries: by an exception that is never retried."""
        lease = self.lease_one(session)
        assert places([lease])[0] == (batch, index)
        self.fail(lease, exception="Hopeless")

    # -- time -----------------------------------------------------------------------------------------------------

    def tick(self, advance: float = 0.0) -> float:
        """Let time pass, and do what is due."""
        self.clock.advance(advance)
        self.machine.queue_state.wall_ahead_s = self.clock.wall() - self.now
        deadline = self.machine.tick(self.now)
        while run_due(self.machine, self.now, self.clock.wall()).more:
            self.check()
        self.check()
        return deadline

    # -- operators ------------------------------------------------------------------------------------------------

    def cancel(self, batch: int, index: int | None = None) -> tuple[int, int]:
        """Cancel a task or a whole batch; how many never start, and how many are being stopped."""
        if index is None:
            counts = operators.cancel_batch(self.machine, self.live(batch), self.now)
        else:
            state = operators.cancel_task(self.machine, self.live(batch), index, self.now)
            counts = int(state is State.CANCELLED), int(state is State.RUNNING)
        self.check()
        return counts

    def reprioritize(self, *batches: int, priority: int) -> int:
        """Give batches another priority; how many tasks wait in them."""
        count = operators.reprioritize(self.machine, [self.live(batch) for batch in batches], priority)
        self.check()
        return count

    def limit(self, name: str, **bounds: Any) -> None:
        """Set a limit; the keywords are those of `Limit`."""
        operators.set_limit(self.machine, Limit(name=name, **bounds), self.now)
        self.check()

    def unlimit(self, name: str) -> bool:
        """Forget a limit; whether there was one."""
        known = operators.remove_limit(self.machine, name, self.now)
        self.check()
        return known

    def steer(self, queue: str, **how: Any) -> Steering:
        """Say something of a queue; the keywords are those of `queues.steer`."""
        after = queues.steer(self.machine.queue_state, queue, **how)
        self.check()
        return after

    def revive(self, batch: int, *indexes: int) -> int:
        """Put dead letters back, as the coordinator does it; all of the batch by default."""
        stored, tasks = self.dead(batch, *indexes)
        children = self.store.children([batch])
        count = operators.revive(self.machine, stored.row, stored.spec, tasks, self.now, children=children)
        self.bring_back(batch, set(indexes) or {task.index for task in tasks})
        self.check()
        return count

    def bring_back(self, parent: int, indexes: set[int]) -> None:
        """What the end of tasks had cancelled waits again, and what waits for that; as the coordinator does it."""
        for number in self.store.children([parent]):
            for stored in self.store.batches([number]):
                self._bring_back(stored, parent, indexes)

    def _bring_back(self, stored: StoredBatch, parent: int, indexes: set[int]) -> None:
        number, flow = stored.row.batch, stored.row.flow
        if flow is None:
            return
        queue_state, children = self.machine.queue_state, self.store.children([number])
        each = [element[0] for element in flow.each]
        gone = [] if flow.run_anyway else self.gone(each)
        if reviving.bring_back(queue_state, stored.row, stored.spec, self.lost(flow.after), self.now, gone, children):
            self.bring_back(number, set(range(stored.row.size)))
            return
        runs = self.store.ended(Selection(ids=((number, -1),), state=State.CANCELLED, limit=0), self.now)
        rows = [run.task for run in runs if run.task is not None]
        back = [
            row
            for row in rows
            if (parent in each and row.index in indexes)
            or any(at == parent and any(lo <= i and (not hi or i < hi) for i in indexes) for at, lo, hi, _ in row.after)
        ]
        with_batch = flow.after if flow.blocked else ()
        lost = {row.index: why for row in back if (why := self.lost((*row.after, *with_batch)))}
        lost |= {index: why for lo, hi, why in gone for index in range(lo, hi)}
        found = reviving.bring_back_items(queue_state, stored.row, stored.spec, back, lost, self.now, children)
        if found:
            self.bring_back(number, set(found))

    def purge(self, batch: int, *indexes: int) -> int:
        """Throw dead letters away, as the coordinator does it; all of the batch by default."""
        stored, tasks = self.dead(batch, *indexes)
        count = operators.purge(self.machine, stored.row, tasks)
        self.check()
        return count

    def dead(self, batch: int, *indexes: int) -> tuple[StoredBatch, list[TaskRow]]:
        """The rows of a batch and its dead letters, as an operator's verb is given them; all of them by default."""
        self.drain()
        ids = tuple((batch, index) for index in indexes) or ((batch, -1),)
        runs = self.store.ended(Selection(ids=ids, state=State.DEAD, limit=0), self.now)
        (stored,) = self.store.batches([batch])
        return stored, [run.task for run in sorted(runs, key=lambda run: run.lo) if run.task is not None]

    # -- schedules ------------------------------------------------------------------------------------------------

    def schedule(
        self,
        name: str = "often",
        *,
        overlap: Overlap = Overlap.QUEUE,
        catch_up: CatchUp = CatchUp.LAST,
        function: str = "work:shop",
        arguments: bytes = b"call",
        options: dict[str, Any] | None = None,
        **rule: Any,
    ) -> Entry:
        """Define a schedule; the keywords left are those of `Rule`."""
        schedule = Schedule(
            name=name,
            rule=Rule(**rule),
            spec=spec(function, **(options or {})),
            arguments=arguments,
            overlap=overlap,
            catch_up=catch_up,
        )
        entry = self.machine.schedules.define(schedule, self.clock.wall())
        self.check()
        return entry

    def user_keys(self) -> list[str]:
        """The keys of all batches with one, finished or not, in the order of their acceptance."""
        self.drain()
        found = self.store.batches(range(1, self.machine.queue_state.last_batch + 1))
        return [stored.row.key for stored in found if stored.row.user_key]

    # -- looking --------------------------------------------------------------------------------------------------

    def live(self, batch: int) -> Batch:
        return self.machine.queue_state.batches[batch]

    def is_live(self, batch: int) -> bool:
        """Whether the batch is in memory."""
        return batch in self.machine.queue_state.batches

    def drain(self) -> list[Change]:
        """Commit what has changed since the last time."""
        changes, ended = self.machine.drain(self.now)
        self.store.commit(changes)
        self.told += ended
        self._totals = next(
            (c.row for c in changes if isinstance(c, Stored) and isinstance(c.row, Totals)), self._totals
        )
        return changes

    def view(self, batch: int, index: int = 0) -> TaskView:
        """A task that has not ended."""
        view = views.task_view(self.machine, self.live(batch), index)
        assert view is not None, f"{batch}.{index} has ended"
        return view

    def batch(self, batch: int) -> BatchView:
        """A batch, live or not."""
        self.drain()
        if self.is_live(batch):
            return views.batch_view(self.live(batch), self.now, held_in(self.machine.queue_state, self.live(batch)))
        (stored,) = self.store.batches([batch])
        return views.finished_batch_view(stored.row, stored.spec)

    def state(self, batch: int, index: int = 0) -> State:
        """Where a task stands."""
        self.drain()
        found = self.store.ended(Selection(ids=((batch, index),), limit=0), self.now)
        states = {run.state for run in found}
        live = views.task_view(self.machine, self.live(batch), index) if self.is_live(batch) else None
        if live is not None:
            # For the machine, what a worker holds is running, whether it has started or not.
            states.add(State.RUNNING if live.held else live.state)
        assert len(states) == 1, f"{batch}.{index} is in {states or 'no state'}"
        return states.pop()

    def states(self, batch: int, count: int) -> list[State]:
        """Where the first so many tasks of a batch stand."""
        return [self.state(batch, index) for index in range(count)]

    def count(self, state: State) -> int:
        """How many tasks are in a state, in all."""
        return self.machine.queue_state.tally[state]

    # -- restarts -------------------------------------------------------------------------------------------------

    def restored(self) -> Machine:
        """The machine that the next run of the coordinator would begin with."""
        self.drain()
        again = restore(self.machine.epoch + 1, self.rules, self._totals, self.store.restore(), self.now, self.calendar)
        invariants.check(again)
        return again

    def set_wall(self, moment: float) -> None:
        """Set the wall clock, which is noticed."""
        self.clock.set_wall(moment)
        self.machine.queue_state.wall_ahead_s = moment - self.now

    def restart(self) -> None:
        """Kill the coordinator, and start it on the same store; what was not drained is lost."""
        self.store.close()
        opened = self.store.open()
        self.machine = restore(opened.epoch, self.rules, opened.totals, self.store.restore(), self.now, self.calendar)
        self.machine.queue_state.wall_ahead_s = self.clock.wall() - self.now
        self.check()
