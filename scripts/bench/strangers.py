"""What do ten thousand hostile connections do to those who have the key?

Wrong keys, garbage, silence and half handshakes, five hundred at a time, from a process of their own; meanwhile an
honest client calls. Its 99th percentile, with and without strangers; what a new client waits behind five hundred silent
ones; and the coordinator's memory before and after.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

from rig.options import command_line
from rig.report import Bar, Report
from rig.rounds import quantile
from rig.scene import Scene

from dtq.transport.handshake import KEY_ID, MAGIC

AT_ONCE = 500


def attack(port: int, rounds: int) -> None:
    """Come, say something wrong or nothing, stay for a moment, go."""
    openings = (
        b"",
        MAGIC + os.urandom(KEY_ID + 32 + 32),  # the protocol, without a key
        os.urandom(100),
        (MAGIC + os.urandom(50))[:20],  # half a handshake
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    for _ in range(rounds):
        with ExitStack() as stack:
            for number in range(AT_ONCE):
                with contextlib.suppress(OSError):
                    sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
                    sock.sendall(openings[number % len(openings)])
            time.sleep(0.05)


def calls(scene: Scene, until: subprocess.Popen[bytes] | None, least: int) -> list[float]:
    """Milliseconds of each call, until somebody ends."""
    took: list[float] = []
    with scene.client() as client:
        client.stats()
        while len(took) < least or (until is not None and until.poll() is None):
            start = time.perf_counter()
            client.stats()
            took.append((time.perf_counter() - start) * 1000)
    return took


def newcomer_ms(scene: Scene) -> float:
    """What a new client waits behind five hundred that connect and say nothing."""
    with ExitStack() as stack:
        for _ in range(AT_ONCE):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(("127.0.0.1", scene.port))
        start = time.perf_counter()
        with scene.client() as client:
            client.stats()
            return (time.perf_counter() - start) * 1000


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "attack":
        port, rounds = map(int, sys.argv[2].split(","))
        return attack(port, rounds)
    options = command_line(__doc__)
    report = Report("strangers", "What do ten thousand hostile connections do to those who have the key?", options)
    rounds, least = options.pick(20, 1), options.pick(5_000, 200)
    with Scene("memory", slots=0) as scene:
        calls(scene, None, least)
        waits = [newcomer_ms(scene) for _ in range(options.pick(9, 2))]
        quiet = calls(scene, None, least)
        before = scene.coordinator.rss_mb
        words = [sys.executable, __file__, "attack", f"{scene.port},{rounds}"]
        with subprocess.Popen(words, env=scene.environment) as hostile:
            busy = calls(scene, hostile, least)
        time.sleep(options.pick(6, 0))  # what says nothing is gone after five seconds
        after = scene.coordinator.rss_mb
        report.add("new client behind 500 silent", waits, "ms", Bar(most=50))
        report.add("call, 99th percentile, quiet", quantile(quiet, 0.99), "ms")
        report.add(f"call, 99th percentile, {rounds * AT_ONCE:,} hostile", quantile(busy, 0.99), "ms")
        report.add("  against quiet", quantile(busy, 0.99) / quantile(quiet, 0.99), "times", Bar(most=3))
        report.add("memory afterwards against before", after / before, "times", Bar(most=1.1))
    report.note("The attackers share the machine's cores with the coordinator and the honest client.")
    report.print()
    return None


if __name__ == "__main__":
    main()
