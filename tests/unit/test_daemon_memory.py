"""One arena for all threads, and collections of garbage that do not look through all that waits."""

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

# Half a million objects that come to live, and the most that one full collection has looked through.
GROWING = """
import gc, sys
from dtq.daemon.memory import keep_collections_short, set_aside_what_lives

before = [[] for _ in range(200_000)]
looked_through = [0]

def note(phase, about):
    if phase == "start" and about["generation"] == 2:
        looked_through.append(sum(len(gc.get_objects(generation)) for generation in (0, 1, 2)))

gc.callbacks.append(note)
if sys.argv[1] == "short":
    keep_collections_short()
    set_aside_what_lives()
after = [[] for _ in range(300_000)]
print(max(looked_through))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_threads_share_one_arena() -> None:
    heaps = {
        how: len(re.findall(r"<heap nr=", _run(PROGRAM, how)))  # as glibc reports them
        for how in ("shared", "as usual")
    }
    assert heaps["shared"] == 1
    assert heaps["as usual"] > 1, "this C library has one arena anyway: the test shows nothing"


def test_full_collections_do_not_look_through_what_has_lived_through_one() -> None:
    looked_through = {how: int(_run(GROWING, how)) for how in ("short", "as usual")}

    assert looked_through["short"] < 150_000
    assert looked_through["as usual"] > 200_000, "this interpreter looks through few anyway: the test shows nothing"


def _run(program: str, how: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout
