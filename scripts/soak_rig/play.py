"""One run: the cluster is started, suffers, is healed and drained, restarted once more, asked, and ended."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from pathlib import Path
from typing import Final

import psutil

from dtq.errors import DtqError
from dtq.model.snapshots import Selection
from dtq.model.states import FINAL
from dtq.transport import Proxy
from soak_rig.bounds import check_bounds, set_bounds
from soak_rig.director import Director, MemoryWatch
from soak_rig.ends import check_ends, check_known, check_seen, check_stats
from soak_rig.explain import Faults
from soak_rig.ledgers import Ledger
from soak_rig.lineage import Lineage, check_lineage
from soak_rig.logs import check_logs
from soak_rig.onlookers import Follower, Operator
from soak_rig.plan import COORDINATOR, PRODUCERS, WORKERS, schedule
from soak_rig.precedence import check_precedence
from soak_rig.records import Records
from soak_rig.report import Report
from soak_rig.runs import check_blame, check_repeats, check_times
from soak_rig.scene import Scene, Stuck
from soak_rig.timetable import Timetable, check_due_times
from soak_rig.verdict import Violation

log = logging.getLogger("soak")

#: How long the healed cluster may take to finish what there is, in seconds: at least, and for each second of faults.
DRAIN_S: Final = (60.0, 0.5)
#: How often in a row nothing must be unfinished, a tenth of a second apart.
QUIET_LOOKS: Final = 15
#: How long producers may take to learn of it, in seconds.
TOLD_S: Final = 30.0
#: How much memory a process may have at any time, and when all is done, in MiB: several times what it needs.
MOST_MIB: Final = {"coordinator": (250.0, 150.0), "worker": (100.0, 100.0)}


def play(directory: Path, seed: int, seconds: float) -> Report:
    """Run the soak.

    Args:
        directory: where everything is put; must not have been used before.
        seed: of the schedule and the orders.
        seconds: how long faults happen.
    """
    scene = Scene(directory, seed)
    try:
        return Run(scene, seed, seconds).play()
    finally:
        scene.close()


class Run:
    """A run of the soak.

    Args:
        scene: the cluster, not started.
        seed, seconds: as for `play`.
    """

    def __init__(self, scene: Scene, seed: int, seconds: float) -> None:
        self.scene = scene
        self.seed = seed
        self.seconds = seconds
        self.ledger = Ledger(scene.directory / "director")
        self.director = Director(scene, self.ledger)
        self.violations: list[Violation] = []

    def play(self) -> Report:
        """From the first process to the last figure."""
        self.scene.open()
        memory = MemoryWatch(self.scene)
        follower = Follower(self.scene)
        operator = Operator(self.scene, self.ledger, self.seed)
        self.timetable = Timetable(self.scene)
        set_bounds(self.scene.service("bounds"))
        begun = time.monotonic()
        self.director.play(schedule(self.seed, self.seconds))
        suffered_s = time.monotonic() - begun
        log.info("healed; draining")
        operator.stop()
        self._pause()
        for name in PRODUCERS:
            self.scene.nodes[name].signal(signal.SIGTERM)
        drained_s = self._drain()
        self._await_producers()
        memory.look()
        memory.stop()
        follower.stop()
        records = self._ask(follower, operator)
        self._end()
        log.info("checking")
        report = Report(seed=self.seed, seconds=suffered_s, drained_s=drained_s, records=records, memory=memory)
        self._check(records, report)
        return report

    # -- healing --------------------------------------------------------------------------------------------------

    def _wrong(self, kind: str, what: str) -> None:
        self.violations.append(Violation(kind, time.monotonic(), what))

    def _pause(self) -> None:
        try:
            self.timetable.stop()
        except Stuck as stuck:
            self._wrong("stuck", str(stuck))

    def _drain(self) -> float:
        """Wait until nothing has been unfinished for a while; how long it took."""
        begun = time.monotonic()
        deadline = begun + DRAIN_S[0] + DRAIN_S[1] * self.seconds
        service = self.scene.service("drain")
        left, looks = -1, 0
        while time.monotonic() < deadline:
            with contextlib.suppress(DtqError):
                left = service.stats().counts.unfinished
                looks = looks + 1 if left == 0 else 0  # a producer may be about to send what it drew last
            if looks == QUIET_LOOKS:
                return time.monotonic() - begun
            time.sleep(0.1)
        self._say_stuck(service, left)
        return time.monotonic() - begun

    def _say_stuck(self, service: Proxy, left: int) -> None:
        self._wrong("stuck", f"{left} tasks are unfinished after {DRAIN_S[0] + DRAIN_S[1] * self.seconds:g} s of peace")
        try:
            views = service.tasks(Selection(limit=20))
        except DtqError as error:
            self._wrong("stuck", f"the coordinator does not say which: {error}")
            return
        for view in [view for view in views if view.state not in FINAL]:
            detail = service.task(view.batch, view.index)
            self._wrong(
                "stuck", f"{view.id} and {view.count - 1} more: {detail.state.value}, {detail.reason}: {detail}"
            )

    def _await_producers(self) -> None:
        """Producers end when they know the end of all that they submitted."""
        for name in PRODUCERS:
            node = self.scene.nodes[name]
            try:
                if node.ended(TOLD_S) != 0:
                    self._wrong(
                        "error", f"{node.name} ended with {node.popen.returncode}: {node.log.read_text()[-1500:]}"
                    )
            except Stuck as stuck:
                self._wrong("stuck", f"{stuck}: it waits for the end of something that has ended")

    # -- asking ---------------------------------------------------------------------------------------------------

    def _ask(self, follower: Follower, operator: Operator) -> Records:
        """Kill the coordinator a last time, and ask the next one: what it says is what is on disk."""
        before = self.scene.service("asker").stats().counts
        self.scene.nodes[COORDINATOR].kill()
        self.scene.start(COORDINATOR)
        service = self.scene.service("asker", timeout_s=60.0)
        stats = service.stats()
        if stats.counts != before:
            self._wrong("stats", f"{before} before the last restart, {stats.counts} after it")
        if stats.losses:
            self._wrong("lost", f"the store says: {stats.losses}")
        records = Records(self.director.chronicle, follower, operator, stats)
        records.read_ledgers(self.scene.ledgers)
        records.read_executions(self.scene.executions)
        records.read_queue(service)
        records.look_closely(service)
        self.timetable.ask(service)
        return records

    def _end(self) -> None:
        """Ask all to end; nothing may be left."""
        for name in (*WORKERS, COORDINATOR):
            node = self.scene.nodes[name]
            node.signal(signal.SIGTERM)
            try:
                code = node.ended()
            except Stuck as stuck:
                self._wrong("stuck process", str(stuck))
                continue
            if code != 0:
                self._wrong("exit code", f"{node.name} was asked to end and ended with {code}")
        deadline = time.monotonic() + 5.0
        while (left := self.scene.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            with contextlib.suppress(psutil.Error):
                self._wrong("orphan", f"process {process.pid} is left: {' '.join(process.cmdline())[:300]}")

    # -- checking -------------------------------------------------------------------------------------------------

    def _check(self, records: Records, report: Report) -> None:
        faults = Faults(records)
        report.faults = faults
        found = report.violations
        found += self.violations
        found += [Violation(kind, at, what) for kind, at, what in records.chronicle.wrongs]
        found += [Violation("error", at, what) for at, what in records.wrongs]
        found += [Violation("error", 0.0, what) for what in records.operator.wrongs]
        lineage = Lineage(records)
        found += check_ends(records, faults, lineage)
        found += check_known(records, faults)
        found += check_seen(records, lineage)
        found += check_lineage(records, lineage)
        found += check_bounds(records, faults)
        found += check_stats(records)
        found += check_repeats(records, faults, report.repeats)
        found += check_times(records, faults)
        found += check_blame(records, faults, report.blame)
        found += check_precedence(records, faults)
        found += check_due_times(records, self.timetable)
        found += check_logs(self.scene.logs)
        if not any(submitted.letters for submitted in records.submitted.values()) or not records.follower.sights:
            found.append(Violation("error", 0.0, "nothing was submitted and seen to end: this run says nothing"))
        for name in (COORDINATOR, *WORKERS):
            most, last = MOST_MIB["worker" if name in WORKERS else name]
            if report.memory.most(name) > most or report.memory.last(name) > last:
                had = f"{report.memory.most(name):.0f} MiB at most, {report.memory.last(name):.0f} at the end"
                found.append(Violation("memory", 0.0, f"{name} had {had}"))
