"""The folder of what a supervisor's processes count: made at its start, removed at its end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from millstream.supervisor.identity import runtime_folder

ADDRESS = "address"
"""The file in which the web child says where it listens."""


class MetricsFolder:
    """A fresh folder (mode 0700), and the link by which others find it once the supervisor has its name."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="metrics-", dir=runtime_folder()))
        # Stores into mapped files change no times: a locked folder is spared by what deletes old temporary files.
        self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._link: Path | None = None

    def __str__(self) -> str:
        return str(self.path)

    def succeed(self, link: Path) -> None:
        """Let *link* lead here; remove what the one that had our name before has left, if it was killed."""
        with contextlib.suppress(OSError):
            left = Path(os.readlink(link))
            if left.parent == self.path.parent and left.name.startswith("metrics-"):
                shutil.rmtree(left, ignore_errors=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self.path)
        self._link = link

    def remove(self) -> None:
        """Remove the folder and the link."""
        if self._link is not None:
            self._link.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@contextlib.contextmanager
def metrics_folder() -> Iterator[MetricsFolder]:
    """A folder that is removed at the end."""
    folder = MetricsFolder()
    try:
        yield folder
    finally:
        folder.remove()
