"""Does to the cluster what the plan says, and writes down what was done, to whom, from when until when.

Each fault has a thread of its own; one target suffers one fault at a time. Everything that was taken away comes back.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import psutil

from soak_rig.ledgers import Ledger
from soak_rig.plan import COORDINATOR, MACHINE, MODES, WORKERS, Fault
from soak_rig.scene import Scene, Stuck
from soak_rig.wire import Mode

log = logging.getLogger("soak")

#: How long slots may outlive their killed worker, in seconds.
ORPHAN_S: Final = 5.0
#: How long a worker that drains may take beyond what it waits for, in seconds: the longest task takes 0.5 s.
DRAIN_S: Final = 45.0


@dataclass(slots=True, kw_only=True)
class Done:
    """A fault as it happened.

    Attributes:
        kind: what.
        target: to whom: a name of the plan.
        who: the start of it that was hit (``w2-3``); for a wire its owner's name alone.
        pid: the process that was hit; 0 for a wire.
        begin: when, ``time.monotonic()``.
        end: when all was as before, as far as the director sees: a wire is open, a process runs, or is ready again.
        back: for what was killed, when its successor was ready.
    """

    kind: str
    target: str
    who: str
    pid: int = 0
    begin: float = 0.0
    end: float = 0.0
    back: float = 0.0


@dataclass(slots=True)
class Chronicle:
    """What the director saw.

    Attributes:
        faults: what was done.
        wrongs: what must not be, in sentences, with the time.
    """

    faults: list[Done] = field(default_factory=list)
    wrongs: list[tuple[str, float, str]] = field(default_factory=list)


class Director:
    """Carries out a plan.

    Args:
        scene: the cluster.
        ledger: where it is written down.
    """

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        self.scene = scene
        self.chronicle = Chronicle()
        self._ledger = ledger
        self._threads: list[threading.Thread] = []
        self._deeds: dict[str, Callable[[Fault, Done], None]] = {
            "kill slot": self._kill_slot,
            "stop slot": self._stop_slot,
            "kill worker": self._kill_worker,
            "stop worker": self._stop,
            "drain worker": self._drain_worker,
            "end worker": self._end_worker,
            "kill coordinator": self._kill,
            "stop coordinator": self._stop,
            "restart coordinator": self._restart_coordinator,
            "kill producer": self._kill,
        }

    def play(self, plan: list[Fault]) -> None:
        """Carry out the plan, and heal everything."""
        begin = time.monotonic()
        for fault in plan:
            time.sleep(max(0.0, begin + fault.at_s - time.monotonic()))
            thread = threading.Thread(target=self._do, args=(fault,), name=fault.kind, daemon=True)
            self._threads.append(thread)
            thread.start()
        for thread in self._threads:
            thread.join()

    def wrong(self, kind: str, what: str) -> None:
        """Something must not be."""
        self.chronicle.wrongs.append((kind, time.monotonic(), what))
        self._ledger.write("wrong", t=time.monotonic(), kind=kind, why=what)
        log.error("%s: %s", kind, what)

    def _do(self, fault: Fault) -> None:
        done = Done(kind=fault.kind, target=fault.target, who=fault.target)
        try:
            if fault.kind in MODES:
                self._spoil_wire(fault, done)
            elif fault.target == MACHINE:
                self._make_busy(fault, done)
            else:
                with self.scene.locks[fault.target]:
                    self._see_alive(fault.target)
                    node = self.scene.nodes[fault.target]
                    done.who, done.pid = node.name, node.pid
                    self._deeds[fault.kind](fault, done)
        except Stuck as stuck:
            self.wrong("stuck process", str(stuck))
        if done.begin:
            self.chronicle.faults.append(done)
            self._ledger.write("fault", **asdict(done))
            log.info("%s %s for %.1f s", done.kind, done.who, max(done.end, done.back) - done.begin)

    # -- deeds ----------------------------------------------------------------------------------------------------

    def _spoil_wire(self, fault: Fault, done: Done) -> None:
        wire = self.scene.wires[fault.target]
        done.begin = time.monotonic()
        wire.be(MODES[fault.kind], 0.005 + 0.1 * fault.pick)
        time.sleep(fault.seconds)
        wire.be(Mode.PASS)
        done.end = time.monotonic()

    def _make_busy(self, fault: Fault, done: Done) -> None:
        done.begin = time.monotonic()
        self.scene.hog(fault.kind.split()[1].rstrip("s"), fault.seconds)
        done.end = time.monotonic()

    def _see_alive(self, name: str) -> None:
        node = self.scene.nodes[name]
        if not node.alive:
            self.wrong("exit code", f"{node.name} had ended by itself, with {node.popen.returncode}")

    def _slot(self, fault: Fault, done: Done) -> psutil.Process | None:
        slots = self.scene.nodes[fault.target].slots()
        if not slots:
            return None
        slot = sorted(slots, key=lambda process: process.pid)[int(fault.pick * len(slots))]
        done.pid = slot.pid
        return slot

    def _kill_slot(self, fault: Fault, done: Done) -> None:
        slot = self._slot(fault, done)
        if slot is not None:
            done.begin = time.monotonic()
            with contextlib.suppress(psutil.Error):
                slot.kill()
            done.end = time.monotonic()

    def _stop_slot(self, fault: Fault, done: Done) -> None:
        slot = self._slot(fault, done)
        if slot is None:
            return
        done.begin = time.monotonic()
        with contextlib.suppress(psutil.Error):
            slot.suspend()
        time.sleep(fault.seconds)
        with contextlib.suppress(psutil.Error):
            slot.resume()
        done.end = time.monotonic()

    def _stop(self, fault: Fault, done: Done) -> None:
        done.begin = time.monotonic()
        node = self.scene.nodes[fault.target]
        node.signal(signal.SIGSTOP)
        time.sleep(fault.seconds)
        node.signal(signal.SIGCONT)
        done.end = time.monotonic()

    def _kill(self, fault: Fault, done: Done) -> None:
        done.begin = time.monotonic()
        self.scene.nodes[fault.target].kill()
        done.end = time.monotonic()
        self._bring_back(fault, done)

    def _bring_back(self, fault: Fault, done: Done) -> None:
        time.sleep(fault.seconds)
        self.scene.start(fault.target)
        done.back = time.monotonic()

    def _kill_worker(self, fault: Fault, done: Done) -> None:
        slots = self.scene.nodes[fault.target].children()
        done.begin = time.monotonic()
        self.scene.nodes[fault.target].kill()
        done.end = time.monotonic()
        _, orphans = psutil.wait_procs(slots, timeout=ORPHAN_S)
        for orphan in orphans:
            self.wrong("orphan", f"slot {orphan.pid} of {done.who} lives {ORPHAN_S:g} s after its worker was killed")
        self._bring_back(fault, done)

    def _drain_worker(self, fault: Fault, done: Done) -> None:
        done.begin = time.monotonic()
        self._leaves(done, signals=1)
        self._bring_back(fault, done)

    def _end_worker(self, fault: Fault, done: Done) -> None:
        done.begin = time.monotonic()
        self._leaves(done, signals=2)
        self._bring_back(fault, done)

    def _leaves(self, done: Done, signals: int) -> None:
        """Ask a worker to end, and see that it does, with the right exit code and nothing left behind."""
        node = self.scene.nodes[done.target]
        ready = " ready: " in node.log.read_text()
        slots = node.children()
        for _ in range(signals):
            node.signal(signal.SIGTERM)
            time.sleep(0.05)
        code = node.ended(DRAIN_S)
        done.end = time.monotonic()
        if code != 0 and ready:
            self.wrong("exit code", f"{done.who} was asked to end and ended with {code}")
        _, orphans = psutil.wait_procs(slots, timeout=ORPHAN_S)
        for orphan in orphans:
            self.wrong("orphan", f"slot {orphan.pid} of {done.who} lives {ORPHAN_S:g} s after its worker ended")

    def _restart_coordinator(self, fault: Fault, done: Done) -> None:
        done.begin = time.monotonic()
        node = self.scene.nodes[COORDINATOR]
        node.signal(signal.SIGTERM)
        code = node.ended(DRAIN_S)
        done.end = time.monotonic()
        if code != 0:
            self.wrong("exit code", f"{done.who} was asked to end and ended with {code}")
        self._bring_back(fault, done)


class MemoryWatch:
    """Looks at the resident memory of coordinator and workers once a second.

    Attributes:
        seen: ``(when, start, MiB)``.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.seen: list[tuple[float, str, float]] = []
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name="memory", daemon=True).start()

    def _run(self) -> None:
        while not self._stopping.wait(1.0):
            self.look()

    def look(self) -> None:
        """Look now."""
        for name in (COORDINATOR, *WORKERS):
            node: Any = self._scene.nodes.get(name)
            with contextlib.suppress(psutil.Error, OSError):
                self.seen.append((time.monotonic(), node.name, psutil.Process(node.pid).memory_info().rss / 2**20))

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def most(self, name: str) -> float:
        """The most that any start of a node had, in MiB."""
        return max([mib for _, start, mib in self.seen if start.startswith(f"{name}-")], default=0.0)

    def last(self, name: str) -> float:
        """What it had last, in MiB."""
        return next((mib for _, start, mib in reversed(self.seen) if start.startswith(f"{name}-")), 0.0)
