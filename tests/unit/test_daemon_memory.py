"""One arena for all threads: what clients that come and go leave behind is used again."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

# Sixteen threads that have memory of the C library's at once, and then how many heaps it says that it has.
PROGRAM = """
import ctypes, sys, threading
from dtq.daemon.memory import share_one_arena

if sys.argv[1] == "shared":
    share_one_arena()
barrier = threading.Barrier(16)

def work():
    held = [bytes(100_000) for _ in range(10)]
    barrier.wait()

threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stream)
libc.fflush(stream)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_threads_share_one_arena() -> None:
    heaps = {
        how: len(re.findall(r"<heap nr=", _run(how)))  # as glibc reports them
        for how in ("shared", "as usual")
    }
    assert heaps["shared"] == 1
    assert heaps["as usual"] > 1, "this C library has one arena anyway: the test shows nothing"


def _run(how: str) -> str:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout
