"""Are the files of a release what its manifest says? A worker with a handler of its own, and tasks that are JSON.

    python docs/examples/verify_files.py

Needs dtq alone. The files are real: modules of the standard library, of which the manifest here has one wrong. In
earnest coordinator, worker and submitter are three programs, on any machines; the submitter need not have the code.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dtq import Client, TaskError, Worker

FILES = 40


def verify(payload: dict[str, str]) -> bool:
    """The handler: False, like an exception, says that the task has failed."""
    return hashlib.sha256(Path(payload["path"]).read_bytes()).hexdigest() == payload["sha256"]


def manifest() -> dict[str, str]:
    """What the files are said to be; one of them is not."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:FILES]
    said = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    said[str(paths[FILES // 2])] = hashlib.sha256(b"something else").hexdigest()
    return said


@contextmanager
def coordinator(directory: str) -> Iterator[None]:
    """What `dtq coordinator start` in another shell would be; clients and workers of this program find it."""
    key = os.path.join(directory, "authkey")
    process = subprocess.Popen(
        [*(sys.executable, "-m", "dtq"), "coordinator", "start", "--memory", "--port", "0", "--authkey-file", key],
        env={**os.environ, "XDG_STATE_HOME": directory, "DTQ_LOG_LEVEL": "WARNING"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline().split()  # coordinator ready at 127.0.0.1:40123 ...
        os.environ.update(DTQ_ADDRESS=ready[3].rstrip(";,"), DTQ_AUTHKEY_FILE=key)
        yield
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, coordinator(directory):
        worker = Worker(worker_id="verifier-1", slots=2, only_registered=True)
        worker.register_handler("verify", verify)
        working = threading.Thread(target=worker.start)  # a program that is nothing but a worker calls start() itself
        working.start()
        try:
            with Client() as queue:
                payloads = [{"path": path, "sha256": sha256} for path, sha256 in manifest().items()]
                verified = queue.map("verify", payloads, max_retries=0, return_exceptions=True)
                for payload, answer in zip(payloads, verified, strict=True):
                    if isinstance(answer, TaskError):
                        print(f"{Path(payload['path']).name}: {answer}")
                counts = queue.stats().counts
                print(f"{counts.succeeded} files are as they should be, {counts.dead} is not")
        finally:
            worker.stop()
            working.join()


if __name__ == "__main__":
    main()
