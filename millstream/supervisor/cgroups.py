"""Our control groups: where the kernel says that this process belongs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def own_groups(controller: str, own: Path = OWN) -> Iterator[tuple[str, str]]:
    """Of each hierarchy that has this controller: its controllers ("" for version 2), and our group's path in it.

    Inside a container the path may be the host's and not exist: then the root of the mount is the container's group.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            yield controllers, path.lstrip("/")
