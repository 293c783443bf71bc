"""The folder of what a supervisor's processes count: made at its start, removed at its end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from millstream.supervisor.identity import runtime_folder, runtime_path
from millstream.supervisor.reload.handover import Folder
from millstream.worker.tally import PREPARED

ADDRESS = "address"
"""The file in which the web child says where it listens."""


def served_at(name: str, url: str, prefix: str) -> str:
    """Where the supervisor of this name on this host serves, as it says itself. Raises :class:`OSError`."""
    return (runtime_path(name, url, prefix, "web") / ADDRESS).read_text()


def serves_another(address: str, name: str, url: str, prefix: str) -> bool:
    """Whether a live supervisor of this user serves there that is not the one of this name, server and prefix."""
    own = runtime_path(name, url, prefix, "web")
    if _serves(own, address):
        return False
    return any(_serves(link, address) for link in runtime_folder().glob("*.web"))


def _serves(link: Path, address: str) -> bool:
    """Whether the folder behind a link names this address, and its supervisor lives: then the folder is locked."""
    try:
        if (link / ADDRESS).read_text() != address:
            return False
        folder = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(folder)


class MetricsFolder:
    """A fresh folder (mode 0700), and the link by which others find it once the supervisor has its name."""

    def __init__(self, path: Path, lock: int, link: Path | None = None) -> None:
        self.path = path
        self.lock = lock
        self.link = link

    @classmethod
    def make(cls) -> MetricsFolder:
        """A new one."""
        path = Path(tempfile.mkdtemp(prefix="metrics-", dir=runtime_folder()))
        # Stores into mapped files change no times: a locked folder is spared by what deletes old temporary files.
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return cls(path, lock)

    @classmethod
    def adopt(cls, found: Folder) -> MetricsFolder:
        """The one that this process has had before a reload."""
        folder = cls(Path(found.path), found.lock, Path(found.link) if found.link else None)
        for mark in folder.path.glob(f"{PREPARED}*"):
            mark.unlink(missing_ok=True)  # the new code may have more jobs
        return folder

    @property
    def state(self) -> Folder:
        """What a successor of this process needs to go on with it."""
        return Folder(str(self.path), self.lock, None if self.link is None else str(self.link))

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
        self.link = link

    def remove(self) -> None:
        """Remove the folder and the link."""
        if self.link is not None:
            self.link.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)
