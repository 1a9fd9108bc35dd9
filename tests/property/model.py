"""The queue, told naively: one object a task, lists and loops, nothing clever.

Written from the mission and the architecture, not from the code, so that the two can disagree. It is asked what state
each task is in, and which task must be handed out next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from dtq.model.messages import Conditions, Unique
from dtq.model.options import Options
from dtq.model.resources import Needs
from dtq.model.states import FINAL, Outcome, State

LEASE_S = 15.0


@dataclass(eq=False)
class Job:
    """A task. Its state is None once it was purged."""

    batch: int
    index: int
    options: Options
    state: State | None
    due_at: float | None = None
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    cancelling: bool = False
    #: What it waits for, or has, by itself; and whether that has cancelled it.
    after: tuple[tuple[int, int, int, bool], ...] = ()
    lost: bool = False
    #: Numbers of the attempts that did not succeed.
    history: list[int] = field(default_factory=list)

    @property
    def place(self) -> tuple[int, int, int]:
        """Lower comes first: more urgent, then earlier accepted, then by its place in the batch."""
        return (self.options.priority, self.batch, self.index)

    @property
    def over(self) -> bool:
        return self.state is None or self.state in FINAL


def moment_of(finished_at: float, keep_s: float) -> float:
    """Until when something is kept: the least multiple of a power of two that is an eighth of its time or less, but at
    least a second."""
    step = 1
    while step < 2048 and 2 * step <= keep_s / 8:
        step *= 2
    return math.ceil((finished_at + max(1.0, keep_s)) / step) * step


@dataclass
class Shipment:
    """A batch."""

    number: int
    options: Options
    session: str
    key: str | None
    due_at: float | None
    complete: bool = False
    finished_at: float | None = None
    #: What has not started by then is cancelled.
    start_by: float | None = None
    #: Whether it has expired once, but for its dead letters.
    expired: bool = False
    jobs: list[Job] = field(default_factory=list)
    #: What it waits for, or has: batch, lo, hi (0: all of it), whether its function is given the results.
    after: tuple[tuple[int, int, int, bool], ...] = ()
    run_anyway: bool = False
    #: The batches that it is over, each of whose tasks one of its own waits for.
    each: tuple[int, ...] = ()
    #: Whether it waits still; and, where it is doomed or was cancelled by the end of a parent, of which.
    blocked: bool = False
    lost_to: tuple[int, int] | None = None

    @property
    def expires_at(self) -> float | None:
        """When it expires by its own time, if it has one."""
        keep_s = self.options.keep_results_s
        return None if keep_s is None or self.finished_at is None else moment_of(self.finished_at, keep_s)


@dataclass
class Held:
    """A lease: tasks in their order, whether the first of them has started, and behind which other lease it is."""

    token: int
    jobs: list[Job]
    started: bool
    behind: int = 0


@dataclass
class Crew:
    """A worker."""

    session: str
    queues: tuple[str, ...]
    capacity: int
    expires_at: float
    #: How many slots it was told to have, and what it offers beside these.
    slots: int = 0
    resources: dict[str, int] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    leases: dict[int, Held] = field(default_factory=dict)

    def in_line(self) -> list[Held]:
        """Its leases that are not behind others of its."""
        return [held for held in self.leases.values() if held.behind not in self.leases]


class Model:
    """The queue."""

    def __init__(self) -> None:
        self.shipments: dict[int, Shipment] = {}
        self.crews: dict[str, Crew] = {}
        self.submitted = 0
        self.refused = 0
        self.paused: set[str] = set()
        #: How many may run at once, by a name or a glob that ends with an asterisk.
        self.limits: dict[str, int] = {}
        #: Seconds between two starts and how many may start together, of the names that have a rate; and until when
        #: the starts of each are paid for.
        self.rates: dict[str, tuple[float, int]] = {}
        self.paid: dict[str, float] = {}
        self.restarted_at: float | None = None
        #: Finished batches that would have expired by their own time, but are needed.
        self.overdue: set[int] = set()

    def jobs(self) -> Iterable[Job]:
        return (job for shipment in self.shipments.values() for job in shipment.jobs)

    def job(self, batch: int, index: int) -> Job:
        return self.shipments[batch].jobs[index]

    def live(self) -> list[Shipment]:
        return [shipment for shipment in self.shipments.values() if shipment.finished_at is None]

    def dead(self) -> list[Job]:
        return [job for job in self.jobs() if job.state is State.DEAD]

    # -- submitters -------------------------------------------------------------------------------------------------

    def submit(
        self,
        number: int,
        options: Options,
        session: str,
        key: str | None,
        delay_s: float,
        now: float,
        conditions: Conditions | None = None,
        after: tuple[tuple[int, int, int, bool], ...] = (),
        run_anyway: bool = False,
        each: tuple[int, ...] = (),
    ) -> Shipment:
        due_at = now + delay_s if delay_s else None
        shipment = Shipment(number=number, options=options, session=session, key=key, due_at=due_at)
        if conditions is not None and conditions.expires_s is not None:
            shipment.start_by = now + conditions.expires_s
        shipment.after, shipment.run_anyway, shipment.blocked = after, run_anyway, bool(after)
        shipment.each = each
        self.shipments[number] = shipment
        return shipment

    def holder(self, key: str) -> Shipment | None:
        """The latest batch that has a key and has not ended."""
        return max((s for s in self.live() if s.key == key), key=lambda s: s.number, default=None)

    def is_taken(self, holder: Shipment, unique: Unique) -> bool:
        """Whether its key is taken, for who asks that way."""
        begun = (State.RUNNING, State.SUCCEEDED, State.DEAD, None)
        started = any(job.state in begun or (job.attempt and not job.over) for job in holder.jobs)
        return unique is not Unique.PENDING or not started

    # -- waiting for others -----------------------------------------------------------------------------------------

    def of_parent(self, parent: tuple[int, int, int, bool]) -> list[Job]:
        number, lo, hi, _ = parent
        shipment = self.shipments.get(number)
        return [] if shipment is None else shipment.jobs[lo : hi or None]

    def waits(self, shipment: Shipment) -> bool:
        """Whether something that it waits for has not ended."""
        for parent in shipment.after:
            found = self.shipments.get(parent[0])
            if found is not None and (
                any(not job.over for job in self.of_parent(parent)) or (not parent[2] and not found.complete)
            ):
                return True
        return False

    def lost(self, shipment: Shipment) -> tuple[int, int] | None:
        """What it waits for that has ended without a result."""
        for parent in shipment.after:
            for job in self.of_parent(parent):
                if job.state in (State.DEAD, State.CANCELLED):
                    return job.batch, job.index
        return None

    def settle(self, now: float) -> None:
        """What waits is released, or cancelled, until nothing changes any more; and what is leased behind a task that
        has come back is so no more."""
        again = True
        while again:
            again = any([self.settled(shipment, now) for shipment in self.live() if shipment.blocked])
            again |= any([self.item_settled(job, now) for shipment in self.live() for job in shipment.jobs])
        for crew in self.crews.values():
            while orphans := [
                held for held in crew.leases.values() if self.is_early(held) and held.behind not in crew.leases
            ]:
                for held in orphans:
                    del crew.leases[held.token]
                    self.go_back(held.jobs[0], now)

    def is_early(self, held: Held) -> bool:
        """Whether the task of a lease waits for another one still."""
        return self.shipments[held.jobs[0].batch].blocked

    def own_parents(self, job: Job) -> list[Job]:
        """What a task waits for by itself, or has."""
        each = [(number, job.index, job.index + 1, True) for number in self.shipments[job.batch].each]
        return [parent for after in (*job.after, *each) for parent in self.of_parent(after)]

    def waits_by_itself(self, job: Job) -> bool:
        """Whether something that it waits for by itself has not ended."""
        whole = [self.shipments[number] for number, _, hi, _ in job.after if not hi and number in self.shipments]
        return any(not parent.over for parent in self.own_parents(job)) or any(not s.complete for s in whole)

    def is_lost(self, job: Job) -> bool:
        """Whether something that it waits for by itself has ended without a result, and so it never starts."""
        anyway = self.shipments[job.batch].run_anyway
        return not anyway and any(each.state in (State.DEAD, State.CANCELLED) for each in self.own_parents(job))

    def item_settled(self, job: Job, now: float) -> bool:
        """Whether a task that waited by itself does so no more."""
        shipment = self.shipments[job.batch]
        if job.state is not State.BLOCKED or not (job.after or shipment.each):
            return False
        if self.is_lost(job):
            self.end(job, State.CANCELLED, now)
            job.lost = True
            return True
        if shipment.blocked or self.waits_by_itself(job):
            return False
        self.free(job, now)
        return True

    def wait_again(self, revived: Job) -> None:
        """What was to run without the result of what is put back, and has not started, waits for that."""
        for job in self.jobs():
            if job.state in (State.PENDING, State.SCHEDULED) and not job.attempt and revived in self.own_parents(job):
                job.state, job.due_at = State.BLOCKED, None

    def settled(self, shipment: Shipment, now: float) -> bool:
        """Whether something that waits does so no more."""
        if shipment.lost_to is None and not shipment.run_anyway:
            shipment.lost_to = self.lost(shipment)
        if not shipment.complete if shipment.lost_to is not None else self.waits(shipment):
            return False
        for job in [job for job in shipment.jobs if not job.over]:
            if shipment.lost_to is not None:
                self.call_back(job)
                self.end(job, State.CANCELLED, now)
            elif job.state is State.BLOCKED:
                self.free(job, now)
        shipment.blocked = False
        self.look_whether_finished(shipment, now)
        return True

    def call_back(self, job: Job) -> None:
        """A task is about to be cancelled that may have been handed out before what it waits for has ended."""
        if job.state is State.RUNNING:
            job.attempt -= 1
            for crew in self.crews.values():
                crew.leases = {token: held for token, held in crew.leases.items() if job not in held.jobs}

    def may_follow(self, crew: Crew, job: Job, behind: int, now: float) -> bool:
        """Whether a task may be handed out behind a lease: it waits for the one task of that alone, and comes before
        all else that the worker may be given."""
        shipment, before = self.shipments[job.batch], crew.leases[behind].jobs
        waits_for = [each for parent in shipment.after for each in self.of_parent(parent) if not each.over]
        others = [other for other in self.next_for(crew, now) if other is not None]
        of_queue = [other for other in others if other.options.queue == job.options.queue]
        return (
            waits_for == before
            and len(before) == 1
            and job.state is State.BLOCKED
            and shipment.complete
            and len(shipment.jobs) == 1
            and not shipment.run_anyway
            and (not crew.queues or job.options.queue in crew.queues)
            and job.options.queue not in self.paused
            and all(job.place < other.place for other in of_queue)
            and (bool(of_queue) or all(job.options.priority < other.options.priority for other in others))
        )

    def free(self, job: Job, now: float) -> None:
        if self.waits_by_itself(job) or self.is_lost(job):
            return
        due_at = self.shipments[job.batch].due_at
        waits = due_at is not None and due_at > now
        job.state = State.SCHEDULED if waits else State.PENDING
        job.due_at = due_at if waits else None

    def bring_back(self, number: int, indexes: set[int], now: float) -> None:
        """Tasks of a batch were put back: so is what their end had cancelled."""
        for shipment in list(self.shipments.values()):
            found = {job.index for job in shipment.jobs if self.is_brought_back(job, number, indexes, now)}
            for index in found:
                self.wait_again(shipment.jobs[index])
                shipment.jobs[index].state, shipment.jobs[index].lost = State.BLOCKED, False
                shipment.finished_at = None
            if found:
                self.bring_back(shipment.number, found, now)
                continue
            cancelled = shipment.finished_at is not None and shipment.lost_to is not None and not shipment.blocked
            parents = [*[parent[0] for parent in shipment.after], *shipment.each]
            if not cancelled or not shipment.jobs or number not in parents:
                continue
            lost = self.lost(shipment)
            if lost is not None:
                shipment.lost_to = lost
                continue
            shipment.lost_to, shipment.finished_at, shipment.blocked = None, None, True
            for job in shipment.jobs:
                if job.state is State.CANCELLED:
                    self.wait_again(job)
                    job.state = State.BLOCKED
            self.bring_back(shipment.number, set(range(len(shipment.jobs))), now)

    def is_brought_back(self, job: Job, number: int, indexes: set[int], now: float) -> bool:
        """Whether a task that waited by itself waits again, as what it waited for was put back."""
        if job.state is not State.CANCELLED or not job.lost or self.is_lost(job):
            return False
        if self.is_over(self.shipments[job.batch], now):
            return False
        return any(parent.batch == number and parent.index in indexes for parent in self.own_parents(job))

    def needed(self) -> set[int]:
        """Batches whose results are given to something that has not ended."""
        given = {parent[0] for shipment in self.live() for parent in shipment.after if parent[3]}
        given |= {number for shipment in self.live() for number in shipment.each}
        jobs = [job for shipment in self.live() for job in shipment.jobs if not job.over]
        return given | {parent[0] for job in jobs for parent in job.after if parent[3]}

    def append(
        self,
        shipment: Shipment,
        count: int,
        complete: bool,
        now: float,
        items: dict[int, tuple[tuple[int, int, int, bool], ...]] | None = None,
    ) -> None:
        if shipment.complete:
            return
        if shipment.each:
            count = min(len(self.shipments[number].jobs) for number in shipment.each)
        waits = shipment.due_at is not None and shipment.due_at > now
        for _ in range(count):
            job = Job(
                batch=shipment.number,
                index=len(shipment.jobs),
                options=shipment.options,
                state=State.BLOCKED if shipment.blocked else State.SCHEDULED if waits else State.PENDING,
                due_at=shipment.due_at if waits and not shipment.blocked else None,
            )
            shipment.jobs.append(job)
            job.after = (items or {}).get(job.index, ())
            if job.after or shipment.each:
                job.state, job.due_at = State.BLOCKED, None
        self.submitted += count
        if complete:
            self.seal(shipment, now)

    def seal(self, shipment: Shipment, now: float) -> None:
        shipment.complete = True
        self.look_whether_finished(shipment, now)

    def abandon(self, session: str, now: float) -> None:
        for shipment in self.live():
            if shipment.session == session and not shipment.complete:
                self.seal(shipment, now)

    def withdraw(self, number: int) -> None:
        shipment = self.shipments.pop(number)
        self.submitted -= len(shipment.jobs)
        for crew in self.crews.values():
            crew.leases = {t: held for t, held in crew.leases.items() if held.jobs[0].batch != number}

    def look_whether_finished(self, shipment: Shipment, now: float) -> None:
        if shipment.finished_at is None and shipment.complete and all(job.over for job in shipment.jobs):
            shipment.finished_at = now

    # -- workers ----------------------------------------------------------------------------------------------------

    def attach(self, session: str, queues: tuple[str, ...], now: float) -> bool:
        known = session in self.crews
        crew = self.crews.setdefault(session, Crew(session, queues, 0, 0.0))
        crew.queues = queues
        crew.expires_at = now + LEASE_S
        return known

    def heard(self, session: str, now: float) -> Crew:
        crew = self.crews[session]
        crew.expires_at = now + LEASE_S
        return crew

    def next_for(
        self, crew: Crew, now: float, kept: Job | None = None, passed: tuple[Needs | None, ...] = ()
    ) -> list[Job | None]:
        """What the worker may be given next: the first that may start of each queue whose first is as urgent as any.
        Which of the queues has its turn is not for this model to say. None where it may well be nothing.

        Args:
            crew: the worker.
            now: the time.
            kept: what does not fit, and is kept for.
            passed: the needs that do not fit.
        """
        fitting = [
            job
            for job in self.jobs()
            if job.state is State.PENDING
            and (not crew.queues or job.options.queue in crew.queues)
            and job.options.queue not in self.paused
            and job.options.needs not in passed
            and self.could_run(crew, job)
            and self.may_start(job, now)
        ]
        firsts: dict[str, Job] = {}
        for job in sorted(fitting, key=lambda job: job.place):
            firsts.setdefault(job.options.queue, job)
        most_urgent = min((job.options.priority for job in firsts.values()), default=0)
        found: list[Job | None] = [] if firsts else [None]
        for job in firsts.values():
            if job.options.priority != most_urgent:
                continue
            if self.fits(crew, job, kept):
                found.append(job)
            else:
                found += self.next_for(crew, now, kept or job, (*passed, job.options.needs))
        return found

    @staticmethod
    def could_run(crew: Crew, job: Job) -> bool:
        """Whether the worker could run the task if it had nothing else to do."""
        needs = job.options.needs
        if needs is None:
            return True
        enough = all(crew.resources.get(q.name, 0) >= q.amount for q in needs.resources)
        return enough and needs.slots <= crew.slots and set(needs.tags) <= set(crew.tags)

    def fits(self, crew: Crew, job: Job, kept: Job | None) -> bool:
        """Whether there is room for the task beside what is kept for another one."""
        if kept is not None and self.has_resources(crew, kept, None):
            return False  # what is kept is slots
        if job.options.needs is None:
            return True
        return self.taken(crew) + job.options.needs.slots <= crew.capacity and self.has_resources(crew, job, kept)

    @staticmethod
    def has_resources(crew: Crew, job: Job, kept: Job | None) -> bool:
        left = dict(crew.resources)
        holders = [job for held in crew.leases.values() for job in held.jobs]
        for holder in holders if kept is None else [*holders, kept]:
            for quantity in () if holder.options.needs is None else holder.options.needs.resources:
                left[quantity.name] -= quantity.amount
        assert job.options.needs is not None
        return all(left.get(quantity.name, 0) >= quantity.amount for quantity in job.options.needs.resources)

    @staticmethod
    def taken(crew: Crew) -> int:
        """How many slots of the worker something was handed out for."""
        needs = [held.jobs[0].options.needs for held in crew.in_line()]
        return sum(1 if need is None else need.slots for need in needs)

    def may_start(self, job: Job, now: float) -> bool:
        """Whether the limits that a task counts against have room for it."""
        for name in job.options.limits:
            most = self.most(name)
            if most is not None and self.running(name) >= most:
                return False
            rate = self.rate_of(name)
            if rate is not None:
                interval_s, burst = rate
                if self.paid_until(name, rate) - now > (burst - 1) * interval_s:
                    return False
        return True

    def governing(self, name: str) -> str:
        """Which limit a name has: its own, else the longest glob."""
        known = {*self.limits, *self.rates}
        globs = [each for each in known if each.endswith("*") and name.startswith(each[:-1])]
        return name if name in known else max(globs, key=len, default="")

    def most(self, name: str) -> int | None:
        """How many may run at once that count against a name."""
        return self.limits.get(self.governing(name))

    def paid_until(self, name: str, rate: tuple[float, int]) -> float:
        """Until when the starts of a name are paid for."""
        before = 0.0 if self.restarted_at is None else self.restarted_at + rate[0] * rate[1]
        return self.paid.get(name, before)

    def rate_of(self, name: str) -> tuple[float, int] | None:
        """The seconds between two starts of a name, and how many may start together."""
        return self.rates.get(self.governing(name))

    def running(self, name: str) -> int:
        return sum(job.state is State.RUNNING and name in job.options.limits for job in self.jobs())

    def start(self, job: Job, now: float) -> None:
        """A task is leased."""
        assert job.state in (State.PENDING, State.BLOCKED)
        job.state = State.RUNNING
        for name in job.options.limits:
            rate = self.rate_of(name)
            if rate is not None:
                self.paid[name] = max(self.paid_until(name, rate), now) + rate[0]

    def restart(self, now: float) -> None:
        """Nobody knows what was started last."""
        self.paid = {}
        self.restarted_at = now

    def lease(self, crew: Crew, token: int, jobs: list[Job], behind: int = 0) -> None:
        for job in jobs:
            job.attempt += 1
        # Whatever is within the slots is started at once; what is beyond them waits in the worker.
        crew.leases[token] = Held(token, jobs, not behind and self.taken(crew) < crew.capacity, behind)

    def succeed(self, held: Held, count: int, now: float) -> None:
        done, held.jobs = held.jobs[:count], held.jobs[count:]
        held.started = True
        for job in done:
            self.end(job, State.SUCCEEDED, now)
        self.sweep()

    def fail(self, held: Held, offset: int, outcome: Outcome, now: float) -> None:
        lost, failed, held.jobs = held.jobs[:offset], held.jobs[offset], held.jobs[offset + 1 :]
        held.started = outcome is Outcome.FAILED  # the slot goes on after an exception, and after nothing else
        for job in lost:  # what the slot had done but not reported
            self.go_back(job, now, started=True)
        self.judge(failed, outcome, now)
        self.sweep()

    def judge(self, job: Job, outcome: Outcome, now: float) -> None:
        job.history.append(job.attempt)
        job.crashes += outcome is Outcome.CRASHED
        job.failures += outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
        if job.cancelling or outcome is Outcome.CANCELLED:
            self.end(job, State.CANCELLED, now)
        elif outcome is Outcome.CRASHED:
            if job.crashes >= job.options.max_crashes:
                self.end(job, State.DEAD, now)
            else:
                job.state = State.PENDING
        elif job.failures > job.options.max_retries:
            self.end(job, State.DEAD, now)
        else:
            job.state = State.SCHEDULED
            job.due_at = now + min(300.0, 2.0**job.failures)

    def go_back(self, job: Job, now: float, *, started: bool = False) -> None:
        """Unblamed; an attempt is a start. What waits for another task still has not started, as far as is known."""
        if self.shipments[job.batch].blocked:
            job.attempt -= 1
            job.state = State.BLOCKED
            return
        if started:
            job.history.append(job.attempt)
        else:
            job.attempt -= 1
        if job.cancelling or (job.attempt == 0 and self.is_over(self.shipments[job.batch], now)):
            self.end(job, State.CANCELLED, now)
        else:
            job.state = State.PENDING

    @staticmethod
    def is_over(shipment: Shipment, now: float) -> bool:
        """Whether what has not started of it never will."""
        return shipment.start_by is not None and now >= shipment.start_by

    def release(self, held: Held, count: int, now: float) -> None:
        """The last so many tasks."""
        keep = len(held.jobs) - count
        back, held.jobs = held.jobs[keep:], held.jobs[:keep]
        for job in back:
            self.go_back(job, now)
        self.sweep()

    def give_back_all_but(self, crew: Crew, tokens: set[int], now: float) -> None:
        for token in set(crew.leases) - tokens:
            for job in crew.leases.pop(token).jobs:
                self.go_back(job, now)

    def lose(self, session: str, now: float) -> bool:
        crew = self.crews.pop(session, None)
        if crew is None:
            return False
        for held in crew.leases.values():
            for place, job in enumerate(held.jobs):
                if place == 0 and held.started and not self.shipments[job.batch].blocked:
                    self.judge(job, Outcome.CRASHED, now)
                else:
                    self.go_back(job, now)
        return True

    def sweep(self) -> None:
        """Leases that have nothing left are over."""
        for crew in self.crews.values():
            crew.leases = {token: held for token, held in crew.leases.items() if held.jobs}

    def end(self, job: Job, state: State, now: float) -> None:
        job.state = state
        job.due_at = None
        job.cancelling = False
        self.look_whether_finished(self.shipments[job.batch], now)

    # -- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        for job in self.jobs():
            if job.state is State.SCHEDULED and job.due_at is not None and job.due_at <= now:
                job.state = State.PENDING
                job.due_at = None
        for shipment in self.live():
            if self.is_over(shipment, now):
                for job in shipment.jobs:
                    if job.attempt == 0 and job.state in (State.BLOCKED, State.PENDING, State.SCHEDULED):
                        self.end(job, State.CANCELLED, now)
                shipment.lost_to, shipment.blocked = None, False
                self.seal(shipment, now)
        for session in [session for session, crew in self.crews.items() if crew.expires_at <= now]:
            self.lose(session, now)
        self.settle(now)

    def expire(self, before: float, spared: Iterable[int]) -> None:
        """What finished before a moment is no longer kept, unless it has a time of its own; dead letters are."""
        for shipment in list(self.shipments.values()):
            if shipment.number in spared:
                continue
            if shipment.finished_at is not None and shipment.expires_at is None and shipment.finished_at < before:
                self.forget(shipment)

    def expire_by_own_time(self, now: float, spared: Iterable[int]) -> None:
        for shipment in list(self.shipments.values()):
            if shipment.expires_at is not None and shipment.expires_at <= now:
                if shipment.number in spared:
                    self.overdue.add(shipment.number)
                else:
                    self.forget(shipment)

    def forget(self, shipment: Shipment) -> None:
        """All but dead letters."""
        if not any(job.state is State.DEAD for job in shipment.jobs):
            del self.shipments[shipment.number]
            return
        shipment.expired = True
        for job in shipment.jobs:
            if job.state is not State.DEAD:
                job.state = None

    # -- operators --------------------------------------------------------------------------------------------------

    def cancel(self, job: Job, now: float) -> State | None:
        """CANCELLED, RUNNING where it is being stopped, None where it had ended."""
        if job.over:
            return None
        if self.shipments[job.batch].blocked:
            self.call_back(job)
        elif job.state is State.RUNNING:
            job.cancelling = True
            return State.RUNNING
        self.end(job, State.CANCELLED, now)
        return State.CANCELLED

    def cancel_all(self, shipment: Shipment, now: float) -> tuple[int, int]:
        cancelled = stopping = 0
        for job in shipment.jobs:
            stopping += job.state is State.RUNNING and not job.cancelling and not shipment.blocked
            cancelled += self.cancel(job, now) is State.CANCELLED
        self.seal(shipment, now)
        return cancelled, stopping

    def reprioritize(self, numbers: Iterable[int], priority: int) -> int:
        """How many tasks wait in these batches."""
        count = 0
        for shipment in [self.shipments[number] for number in numbers]:
            shipment.options = replace(shipment.options, priority=priority)
            for job in shipment.jobs:
                job.options = shipment.options
                count += not job.over and job.state is not State.RUNNING
        return count

    def revive(self, job: Job) -> None:
        self.wait_again(job)
        job.state = State.PENDING
        job.failures = job.crashes = 0
        self.shipments[job.batch].finished_at = None

    def purge(self, job: Job) -> None:
        job.state = None
        job.history = []
