"""Who this supervisor is: its instance, the lock that tells whether its process tree still lives, its boot."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from millstream.protocol.connection import without_user
from millstream.protocol.errors import NameTaken

LOCK_PATIENCE = 3.0
"""Seconds to wait for the lock: the children of a killed supervisor are gone within two."""


@dataclass(frozen=True)
class Identity:
    """``instance`` is the name and a random id: it is never used again. ``lock`` is an open descriptor."""

    name: str
    instance: str
    boot: str
    namespace: str
    lock: int

    def tree_is_gone(self, heartbeat: dict[str, object]) -> bool:
        """Whether the supervisor that wrote this heartbeat, and all its children, are known to be dead.

        They held the lock that we hold now, if they ran in this boot and in this PID namespace of this machine, and
        if it was the same file: the folder of locks depends on the environment.
        """
        same_machine = heartbeat.get("boot") == self.boot and heartbeat.get("pidns") == self.namespace
        return same_machine and bool(self.boot) and heartbeat.get("lock") == self.lock_file

    @property
    def lock_file(self) -> str:
        """Device and inode of the lock: the file itself, whatever its path is called here."""
        status = os.fstat(self.lock)
        return f"{status.st_dev}:{status.st_ino}"


def identify(name: str, url: str, prefix: str) -> Identity:
    """Take the lock of this name and make a new instance. Raises :class:`NameTaken` while its tree lives.

    The lock is inherited by all children, so that it is free only when the whole tree is gone.
    """
    instance = f"{name}-{secrets.token_hex(3)}"
    return Identity(name, instance, _boot_id(), _pid_namespace(), _take_lock(name, url, prefix))


def _take_lock(name: str, url: str, prefix: str) -> int:
    path = runtime_path(name, url, prefix, "lock")
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
            os.close(descriptor)  # somebody has cleaned the folder: lock the file that is there now
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise NameTaken(
                    f"a supervisor named {name!r} runs on this machine already; "
                    "give this one another name: supervisor.name or MILLSTREAM_SUPERVISOR__NAME"
                ) from None
            time.sleep(0.05)


def runtime_folder() -> Path:
    """Where the supervisors of this user keep small files while they run."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"millstream-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def runtime_path(name: str, url: str, prefix: str, kind: str) -> Path:
    """A file of the one supervisor that may have this name on this server and prefix, whoever asks for it."""
    digest = hashlib.sha256(f"{without_user(url)}\0{prefix}\0{name}".encode()).hexdigest()[:24]
    return runtime_folder() / f"{digest}.{kind}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
