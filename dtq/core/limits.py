"""Limits by name: how many tasks of a name run at once, and how many of them start per time.

Rules:

1. A name is bounded by the limit of exactly that name; else by the longest glob that matches it (of two as long, the
   first in the alphabet); else not at all. Each name has a bucket of its own, made when a task needs it and forgotten
   when a new one would be the same, so any number of names needs no registration.
2. Concurrency counts leased tasks: they are added when leased, and subtracted when they settle, go back or are lost.
   After a restart the count is made anew from the leases.
3. A rate counts leases. A task with a rate is leased alone, and never ahead of a free slot: its lease is its start. The
   bucket keeps the moment up to which its starts are paid for (GCRA): a start moves it on by one interval, and is
   allowed if it lies no more than ``burst - 1`` intervals ahead. Starts before a restart are not known, so after a
   restart a bucket counts as just used up.
4. `core.lines` keeps the groups of tasks that wait at a bucket, and lets one go when the bucket has room.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from dtq.core.changes import DefinitionRow
from dtq.core.ledger import Ledger
from dtq.errors import LimitsFull
from dtq.model.globs import Glob
from dtq.model.limits import Limit
from dtq.records import asdict

if TYPE_CHECKING:
    from dtq.core.leases import Lease
    from dtq.core.lines import Standing

#: The kind of their definitions.
KIND: Final = "limit"
#: Most limits.
MOST: Final = 10_000


class Rule:
    """A limit as it is applied."""

    __slots__ = ("burst_s", "concurrency", "empty_at", "glob", "interval_s", "limit")

    def __init__(self, limit: Limit, empty_at: float | None) -> None:
        self.limit = limit
        self.concurrency = limit.concurrency
        self.interval_s = limit.interval_s
        #: How far ahead starts may be paid for.
        self.burst_s = (limit.burst - 1) * (limit.interval_s or 0.0)
        #: Until when new buckets count as used up: the restart, before which no starts are known.
        self.empty_at = empty_at
        self.glob = Glob(limit.name) if limit.is_glob else None


class Bucket:
    """The use of one name."""

    __slots__ = ("groups", "name", "paid_until", "rule", "standings", "timer_at", "used")

    def __init__(self, name: str, rule: Rule) -> None:
        self.name = name
        #: None if no limit bounds it any more.
        self.rule: Rule | None = rule
        #: Number of leased tasks.
        self.used = 0
        #: The moment up to which starts are paid for.
        self.paid_until = 0.0
        if rule.empty_at is not None and rule.interval_s is not None:
            self.paid_until = rule.empty_at + rule.interval_s + rule.burst_s
        #: Number of waiting groups that refer to it.
        self.groups = 0
        #: By line, its groups of tasks that count against this.
        self.standings: dict[str, Standing] = {}
        #: When its next look is planned; None if none is.
        self.timer_at: float | None = None

    @property
    def full(self) -> bool:
        """Whether as many tasks run as may."""
        return self.rule is not None and self.rule.concurrency is not None and self.used >= self.rule.concurrency

    @property
    def has_plenty(self) -> bool:
        """Whether as many more may run as do; or any, where none does."""
        if self.rule is None or self.rule.concurrency is None or self.used == 0:
            return True
        return 2 * self.used <= self.rule.concurrency

    def opens_at(self) -> float | None:
        """From when on its rate permits a start; None without a rate."""
        if self.rule is None or self.rule.interval_s is None:
            return None
        return self.paid_until - self.rule.burst_s

    def shut(self, now: float) -> bool:
        """Whether no task may start now."""
        rule = self.rule
        if rule is None:
            return False
        if rule.concurrency is not None and self.used >= rule.concurrency:
            return True
        return rule.interval_s is not None and now < self.paid_until - rule.burst_s

    def follow(self, rule: Rule | None, now: float) -> None:
        """Apply another rule, or the same. Starts paid for at the old rate count as no more than used up now: after a
        far too low rate was mended, nobody waits for its debts.
        """
        if rule is not None and rule is not self.rule and rule.interval_s is not None:
            self.paid_until = min(self.paid_until, now + rule.interval_s + rule.burst_s)
        self.rule = rule

    def take(self, count: int, now: float) -> None:
        """Count this many tasks as leased."""
        self.used += count
        if self.rule is not None and self.rule.interval_s is not None:
            self.paid_until = max(self.paid_until, now) + count * self.rule.interval_s

    def idle(self, now: float) -> bool:
        """Whether it can be forgotten: a new one would be the same."""
        if self.groups or self.standings:
            return False
        if self.rule is None:
            return True
        return self.used == 0 and (self.rule.interval_s is None or self.paid_until <= now)


class Limits:
    """All limits and their buckets.

    Args:
        ledger: told of changes.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._exact: dict[str, Rule] = {}
        #: The globs in the order in which they are tried.
        self._globs: list[Rule] = []
        self.buckets: dict[str, Bucket] = {}
        #: Number of changes of the rules: holders of buckets from an older version look them up again.
        self.version = 0
        #: When buckets with groups that wait for their rate are due for a look.
        self._timers: list[tuple[float, str]] = []
        #: When buckets that are kept for their rate alone may become idle.
        self._cooling: list[tuple[float, str]] = []

    def __iter__(self) -> Iterator[Limit]:
        rules = [*self._exact.values(), *self._globs]
        return iter(sorted((rule.limit for rule in rules), key=lambda limit: limit.name))

    def governing(self, name: str) -> Rule | None:
        """The rule that bounds a name; None for none."""
        rule = self._exact.get(name)
        if rule is not None:
            return rule
        return next((each for each in self._globs if each.glob is not None and each.glob.matches(name)), None)

    # -- rules ----------------------------------------------------------------------------------------------------

    def define(self, limit: Limit, leases: Iterable[Lease], now: float) -> None:
        """Set a limit, or change it. The caller then looks at the groups that wait at its buckets.

        Args:
            limit: the limit.
            leases: all leases.
            now: the time.

        Raises:
            LimitsFull: the number of limits has reached its bound.
        """
        known = {each.name for each in self}
        if limit.name not in known and len(known) >= MOST:
            raise LimitsFull(len(known))
        self._set(limit)
        self._ledger.definition(DefinitionRow(kind=KIND, name=limit.name, body=json.dumps(asdict(limit))))
        self.recount(leases, now)

    def restore(self, row: DefinitionRow, now: float) -> None:
        """Restore a limit of an earlier run of the coordinator."""
        self._set(Limit(**json.loads(row.body)), now)

    def remove(self, name: str, leases: Iterable[Lease], now: float) -> bool:
        """Remove a limit; whether it existed. The caller then looks at the groups that wait at its buckets."""
        if not self._drop(name):
            return False
        self._ledger.definition_ended(KIND, name)
        self.recount(leases, now)
        return True

    def _set(self, limit: Limit, empty_at: float | None = None) -> None:
        known = self._exact.get(limit.name) or next((r for r in self._globs if r.limit.name == limit.name), None)
        if known is not None and empty_at is None:
            empty_at = known.empty_at
        self._drop(limit.name)
        rule = Rule(limit, empty_at)
        if rule.glob is None:
            self._exact[limit.name] = rule
        else:
            self._globs.append(rule)
            self._globs.sort(key=lambda each: (-len(each.limit.name), each.limit.name))
        self.version += 1

    def _drop(self, name: str) -> bool:
        left = [rule for rule in self._globs if rule.limit.name != name]
        found = self._exact.pop(name, None) is not None or len(left) < len(self._globs)
        self._globs = left
        self.version += found
        return found

    def recount(self, leases: Iterable[Lease], now: float) -> None:
        """Apply the current rules to every bucket, and count its leased tasks anew."""
        for bucket in list(self.buckets.values()):
            bucket.follow(self.governing(bucket.name), now)
            bucket.used = 0
            self.forget_if_idle(bucket, 0.0)
        for lease in leases:
            for name in lease.batch.limits:
                counted = self.bucket(name)
                if counted is not None:
                    counted.used += lease.hi - lease.lo

    # -- buckets --------------------------------------------------------------------------------------------------

    def bucket(self, name: str) -> Bucket | None:
        """The bucket of a name; None if nothing bounds it."""
        bucket = self.buckets.get(name)
        if bucket is None:
            rule = self.governing(name)
            if rule is not None:
                bucket = self.buckets[name] = Bucket(name, rule)
        return bucket

    def forget_if_idle(self, bucket: Bucket, now: float) -> None:
        """Forget an idle bucket; one that is kept for its rate alone, later."""
        if bucket.idle(now):
            if self.buckets.get(bucket.name) is bucket:
                del self.buckets[bucket.name]
        elif bucket.groups == 0 and bucket.used == 0 and not bucket.standings:
            heappush(self._cooling, (bucket.paid_until, bucket.name))

    # -- time -----------------------------------------------------------------------------------------------------

    def look_again(self, bucket: Bucket, now: float) -> None:
        """Plan the next look at a shut bucket with waiting groups, if its time is known."""
        at = bucket.opens_at()
        if at is not None and at > now and (bucket.timer_at is None or at < bucket.timer_at):
            bucket.timer_at = at
            heappush(self._timers, (at, bucket.name))

    def timers(self) -> list[tuple[float, str]]:
        """The planned looks at buckets, outdated ones too."""
        return self._timers

    def next_at(self) -> float | None:
        """When the next bucket is due for a look; None for none."""
        return self._timers[0][0] if self._timers else None

    def due(self, now: float) -> Iterator[Bucket]:
        """The buckets that are due for a look."""
        while self._timers and self._timers[0][0] <= now:
            at, name = heappop(self._timers)
            bucket = self.buckets.get(name)
            if bucket is not None and bucket.timer_at == at:
                bucket.timer_at = None
                yield bucket
        while self._cooling and self._cooling[0][0] <= now:
            cooled = self.buckets.get(heappop(self._cooling)[1])
            if cooled is not None and cooled.idle(now):
                del self.buckets[cooled.name]
