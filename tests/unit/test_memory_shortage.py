"""What speaks for a lack of memory as the reason why a process was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtq.worker.memory_shortage import MemoryShortage

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The files of a machine with 8 GiB, on which the worker is in a group with 2 GiB."""
    proc, group = tmp_path / "proc", tmp_path / "cgroup" / "worker"
    (proc / "self").mkdir(parents=True)
    group.mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    (proc / "vmstat").write_text("pgfault 7\noom_kill 3\n")
    (proc / "self" / "cgroup").write_text("0::/worker\n")
    (group / "memory.max").write_text(f"{2 * GIB}\n")
    (group / "memory.events").write_text("oom 0\noom_kill 1\n")
    return tmp_path


def looked(machine: Path) -> MemoryShortage:
    return MemoryShortage(machine / "proc", machine / "cgroup")


def test_process_that_had_little_was_not_killed_for_lack_of_memory(machine: Path) -> None:
    shortage = looked(machine)
    assert shortage.sentence(GIB) == ""
    assert shortage.sentence(None) == ""


def test_process_that_had_nearly_all_was_probably_killed_for_that(machine: Path) -> None:
    assert looked(machine).sentence(2 * GIB) == "probably out of memory: it had 2 GiB of 2 GiB"
    # without a limit of its group, all memory is that of the machine
    (machine / "cgroup" / "worker" / "memory.max").write_text("max\n")
    assert looked(machine).sentence(2 * GIB) == ""
    assert looked(machine).sentence(7 * GIB) == "probably out of memory: it had 7 GiB of 8 GiB"


@pytest.mark.parametrize("place", ["proc/vmstat", "cgroup/worker/memory.events", "cgroup/worker/memory.oom_control"])
def test_kill_that_the_kernel_counts_is_news_for_two_heartbeats(machine: Path, place: str) -> None:
    shortage = looked(machine)
    shortage.look()
    (machine / place).write_text("under_oom 0\noom_kill 9\n")
    killed = "out of memory: the kernel has just killed a process for lack of it"
    assert shortage.sentence(None) == killed
    shortage.look()
    assert shortage.sentence(GIB) == f"{killed}, and it had 1 GiB of 2 GiB"
    shortage.look()
    assert shortage.sentence(GIB) == ""


def test_machine_that_says_nothing_is_no_hindrance(tmp_path: Path) -> None:
    shortage = looked(tmp_path)
    shortage.look()
    assert shortage.sentence(GIB) == ""
