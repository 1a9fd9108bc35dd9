"""What does TLS cost?

The same queue over TLS and in plain, both by an address of this machine that is not the loopback's, in turns: a map of
no-op tasks, one of 100 kB arguments and results, and calls there and back. Needs the extra ``tls``.
"""

from __future__ import annotations

import socket
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from rig.options import command_line
from rig.report import Bar, Report
from rig.rounds import rate
from rig.scene import Process, Scene
from rig.work import noop

from dtq import Client
from dtq.config.certificates import COORDINATOR, PEER, make_certificates

SIZE = 100_000


class FarScene(Scene):
    """A cluster whose peers come from what looks like another machine.

    Args:
        here: this machine's address.
        certificates: where they are; None for no TLS.
    """

    def __init__(self, here: str, certificates: Path | None, directory: Path | None) -> None:
        super().__init__("fsync", slots=2, directory=directory)
        self.address = f"{here}:{self.port}"
        self._certificates = certificates

    def _tls(self, side: str) -> list[str]:
        return [] if self._certificates is None else ["--tls", str(self._certificates / side)]

    def start_coordinator(self) -> Process:
        where = ["--host", "0.0.0.0", "--port", str(self.port), "--authkey-file", str(self.key_file)]
        words = ["start", *where, *self._store, *self._tls(COORDINATOR)]
        self.coordinator = self._run("coordinator", words, "coordinator ready")
        return self.coordinator

    def start_worker(self, slots: int = 2, *words: str) -> Process:
        return super().start_worker(slots, *words, *self._tls(PEER))

    def client(self) -> Client:
        tls = None if self._certificates is None else self._certificates / PEER
        return Client(self.address, authkey_file=self.key_file, tls=tls)


def own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address


def main() -> None:
    options = command_line(__doc__)
    report = Report("tls", "What does TLS cost?", options)
    here = own_address()
    if here is None:
        sys.stdout.write("This machine has no address but the loopback's, where TLS is off: nothing to measure.\n")
        return
    count, large, calls = options.pick(200_000, 2_000), options.pick(2_000, 50), options.pick(3_000, 100)
    blob = bytes(SIZE)
    with ExitStack() as stack:
        certificates = Path(stack.enter_context(TemporaryDirectory(prefix="dtq-bench-"))) / "tls"
        make_certificates(certificates, [here])
        clients = {
            name: stack.enter_context(stack.enter_context(FarScene(here, where, options.directory)).client())
            for name, where in (("plain", None), ("TLS", certificates))
        }
        for client in clients.values():
            assert sum(1 for _ in client.map(noop, range(1000))) == 1000

        def compare(what: str, turn: Callable[[Client], int], unit: str, bar: Bar | None) -> None:
            work = {name: rate(lambda client=client: turn(client)) for name, client in clients.items()}  # type: ignore[misc]
            found = report.rounds.alternate(work)
            for name, values in found.items():
                report.add(f"{name}, {what}", values, unit)
            ratios = [one / other for one, other in zip(found["TLS"], found["plain"], strict=True)]
            report.add("  TLS against plain", statistics.median(ratios), "times", bar)

        bar = Bar(least=0.6)
        compare(f"map of {count:,} no-op", lambda c: sum(1 for _ in c.map(noop, range(count))), "/s", bar)
        compare(
            f"map of {large:,} with {SIZE:,} bytes", lambda c: sum(1 for _ in c.map(noop, [blob] * large)), "/s", bar
        )
        compare(
            f"{calls:,} calls there and back", lambda c: sum(c.stats().submitted >= 0 for _ in range(calls)), "/s", bar
        )
    report.note("Both by an address of this machine that is not the loopback's. Durability fsync, 2 slots.")
    report.print()


if __name__ == "__main__":
    main()
