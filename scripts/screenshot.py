"""Makes docs/top.svg: the terminal dashboard of a real cluster at work, as the README shows it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from dtq import Client
from dtq.cli.calling import service
from dtq.dashboard.app import Top

PICTURE: Final = Path(__file__).resolve().parents[1] / "docs" / "top.svg"
#: Columns and lines of the terminal.
SIZE: Final = (118, 36)
#: How long the cluster works before the picture, in seconds: its plots show as much.
WORK_S: Final = 75.0
DEADLINE_S: Final = 60.0

#: What the cluster runs.
SHOP: Final = """
import random
import time

from dtq import current_task


def thumbnail(number):
    time.sleep(random.uniform(0.02, 0.2))
    return number


def fetch(number):
    time.sleep(random.uniform(0.05, 0.3))
    if random.random() < 0.15:
        raise ConnectionError(f"no line to shop-{number % 7}.example")
    return number


def encode(number):
    for step in range(40):
        current_task().progress(step, 40)
        time.sleep(0.5)
    return number
"""


class Command:
    """A dtq command, its output in a file.

    Args:
        home: its directory.
        words: the command's.
    """

    def __init__(self, home: Path, *words: str) -> None:
        self._said = home / f"{'-'.join(words[:3])}.log".replace("--", "")
        with self._said.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dtq", *words], cwd=home, stdout=out, stderr=subprocess.STDOUT
            )

    def says(self, text: str) -> None:
        """Wait until it has said something."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self._said.read_text():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"it never says {text!r}:\n{self._said.read_text()}")
            time.sleep(0.1)

    def end(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


def feed(queue: Client, over: threading.Event) -> None:
    """Give the cluster something to do."""
    queue.submit("shop:encode", 2, queue="gpu", resources={"gpu": 1})
    queue.submit_map("shop:thumbnail", range(120), delay=3600)
    number = second = 0
    while not over.wait(1.0):
        if second % 9 == 0:
            queue.submit("shop:encode", second, queue="video", priority=2)
        second += 1
        for _ in range(random.randint(30, 50)):
            number += 1
            queue.submit("shop:thumbnail", number, queue="photos", priority=4)
            if number % 9 == 0:
                queue.submit("shop:fetch", number, max_retries=3, retry_delay=1.0)


async def until(condition: Callable[[], Any], pause: Callable[[float], Any]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the dashboard shows nothing")
        await pause(0.1)


async def picture(top: Top) -> str:
    """The dashboard's screen as SVG."""
    async with top.run_test(size=SIZE) as pilot:
        await until(lambda: top.board.seen is not None, pilot.pause)
        await pilot.pause(2.0)
        return top.export_screenshot(title="dtq top", simplify=True)


def alone(svg: str) -> str:
    """The picture without fonts from elsewhere: with the reader's own."""
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono")
    assert "http" not in svg.replace("http://www.w3.org", "").replace("https://www.textualize.io", "")
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"


def main() -> None:
    """Start a cluster, let it work, and take its picture."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        home = Path(place)
        os.environ.update({name: place for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")})
        (home / "shop.py").write_text(SHOP)
        coordinator = Command(home, "coordinator", "start", "--port", "0", "--memory")
        stack.callback(coordinator.end)
        coordinator.says("coordinator ready")
        for name in ("build-1", "build-2"):
            worker = Command(home, "worker", "--name", name, "--slots", "4")
            stack.callback(worker.end)
            worker.says(" ready: ")
        over = threading.Event()
        feeder = threading.Thread(target=feed, args=(stack.enter_context(Client()), over))
        feeder.start()
        stack.callback(feeder.join)
        stack.callback(over.set)
        time.sleep(WORK_S)
        with service((), None) as asked:
            PICTURE.write_text(alone(asyncio.run(picture(Top(asked, lambda: asked.address)))))


if __name__ == "__main__":
    main()
