"""Measures of slots: processor time and memory of each one's processes, children too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from dtq.model.dashboard import SlotUse
from dtq.worker.measuring import MOST_SLOTS, Measures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
SPIN = "print('on', flush=True)\nwhile True: pass"


@pytest.fixture
def spinning() -> Iterator[int]:
    """A process whose child takes a core."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    os.killpg(process.pid, 9)
    process.wait()
    process.stdout.close()


def test_slot_uses_what_its_processes_use(spinning: int) -> None:
    # Given a first measurement, which knows of no time before
    measures, use = Measures(), SlotUse(number=1, token=7)
    (first,) = measures.of([(spinning, use)])
    assert first.cpu is None
    assert first.memory is not None
    assert first.memory > 1 << 20
    # When its child has worked
    began = time.monotonic()
    while time.monotonic() - began < 0.3:
        pass
    # Then that is told, and its task still
    (second,) = measures.of([(spinning, use)])
    assert second.cpu is not None
    assert 0.05 < second.cpu < 1.5
    assert second.token == 7


def test_slot_without_a_process_is_told_without_measures() -> None:
    measures = Measures()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert measures.of([(0, SlotUse(number=1)), (gone.pid, SlotUse(number=2))]) == [
        SlotUse(number=1),
        SlotUse(number=2),
    ]


def test_account_is_bounded() -> None:
    slots = [(0, SlotUse(number=number)) for number in range(1, 4_000)]
    assert len(Measures().of(slots)) == MOST_SLOTS
