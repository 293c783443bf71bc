"""How many CPUs this process may use: its affinity mask, bounded by its control group's quota."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from millstream.supervisor.cgroups import OWN, ROOT, own_groups


def cpus(root: Path = ROOT, own: Path = OWN) -> int:
    """Usable CPUs, at least 1: min(affinity, quota rounded up)."""
    quota = cpu_quota(root, own)
    usable = _affinity()
    return max(1, usable if quota is None else min(usable, math.ceil(quota)))


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float | None:
    """CPUs that the control groups allow (1.5 is one and a half), or None without a limit."""
    limits = [limit for folder in _folders(root, own) for limit in (_limit(folder),) if limit is not None]
    return min(limits, default=None)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _folders(root: Path, own: Path) -> Iterator[Path]:
    # A limit on any level binds, so each group is followed up to the root.
    for controllers, path in own_groups("cpu", own):
        top = _mount(root, controllers)
        group = top / path
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _mount(root: Path, controllers: str) -> Path:
    """Where a hierarchy is mounted: version 2 at the root; version 1 below its controllers, in whichever order."""
    if not controllers:
        return root
    return next((root / name for name in (controllers, "cpu,cpuacct", "cpu") if (root / name).is_dir()), root)


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such file, or "max"
        return None
