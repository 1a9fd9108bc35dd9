"""Number of cores that this process may use: by the affinity mask and the control group's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path


def _quota(directory: Path) -> float:
    """Cores that the quota of one control group allows; infinite without a quota."""
    try:
        if (file := directory / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota = (directory / "cpu.cfs_quota_us").read_text().strip()
            period = (directory / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def control_groups(proc: Path, root: Path, controller: str = "cpu") -> list[Path]:
    """The directories of the control groups this process is in, its own first and all above it, of both versions.

    Args:
        proc: mount point of the process information.
        root: mount point of the control groups.
        controller: the controller, for groups of version 1.
    """
    groups: list[Path] = []
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return groups
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = root
        elif controller in controllers.split(","):
            base = root / controller
        else:
            continue
        here = base / path.lstrip("/")
        groups += [group for group in (here, *here.parents) if group.is_relative_to(base)]
    return groups


def usable_cores(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Number of cores that this process may use, at least one; a quota of one and a half counts as two.

    Args:
        proc: mount point of the process information.
        cgroups: mount point of the control groups.
    """
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min((_quota(group) for group in control_groups(proc, cgroups)), default=math.inf)
    return max(1, min(mask, math.ceil(quota) if math.isfinite(quota) else mask))
