"""A memory control group of a test's own: what is started in it may use so much, then the kernel kills."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import wait_until

ROOT = Path("/sys/fs/cgroup")
JOIN = 'echo 0 > "$0/cgroup.procs"; exec "$@"'


class MemoryGroup:
    """The folder of a group; `launcher` is the start of a command line that runs a program in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def launcher(self) -> tuple[str, ...]:
        """Runs what follows in the group, as the same process."""
        return ("/bin/sh", "-ec", JOIN, str(self.folder))

    def remove(self) -> None:
        """Kill who is left in it, and remove it."""
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        wait_until(self._removed, 10, f"{self.folder} has processes")

    def _removed(self) -> bool:
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        return not self.folder.exists()


@contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup | None]:
    """Make a group for so many bytes, of control groups version 1 or 2; None where that is not permitted."""
    name = f"millstream-test-{secrets.token_hex(6)}"
    settings = {"memory.limit_in_bytes": limit, "memory.memsw.limit_in_bytes": limit}
    folder = ROOT / "memory" / name
    if not folder.parent.is_dir():
        settings = {"memory.max": limit, "memory.swap.max": 0}
        folder = ROOT / name
    try:
        folder.mkdir()
    except OSError:
        yield None
        return
    group = MemoryGroup(folder)
    try:
        yield group if all(_set(folder / setting, value) for setting, value in settings.items()) else None
    finally:
        group.remove()


def _set(file: Path, value: int) -> bool:
    """Write a setting; without swap there is none of that, which does not matter."""
    try:
        if file.exists() or "sw" not in file.name:
            file.write_text(str(value))
        return True
    except OSError:
        return False
