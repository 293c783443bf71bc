"""Runs programs in namespaces of their own, as a container engine does: as process 1, or below another root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import pytest

from tests.support import processes
from tests.support.waiting import wait_until

USER = "10001:10001"
HOST = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
DEVICES = ("null", "zero", "full", "random", "urandom")
INTERPRETER = "/python"
PATH = f"{INTERPRETER}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def unshare(*kinds: str) -> list[str]:
    """The start of a command line that runs what follows in new namespaces; root only in them, where we are not."""
    mapped = [] if os.getuid() == 0 else ["--map-root-user"]
    return ["unshare", *mapped, *(f"--{kind}" for kind in kinds)]


@cache
def _permitted(*kinds: str) -> bool:
    probe = ["mount", "-t", "tmpfs", "tmpfs", "/mnt"] if "mount" in kinds else ["true"]
    return subprocess.run([*unshare(*kinds), *probe], capture_output=True).returncode == 0


def need(*kinds: str) -> None:
    """Skip the test where the kernel or the container around us does not allow such namespaces."""
    if shutil.which("unshare") is None or not _permitted(*kinds):
        not_permitted(f"new namespaces ({', '.join(kinds)})")


def not_permitted(what: str) -> None:
    """Skip the test for what this machine does not allow: that is no failure."""
    # A skip is a failure in strict mode, an expected failure is not.
    strict = os.environ.get("MILLSTREAM_TEST_STRICT") == "1"
    pytest.xfail(f"{what}: not permitted here") if strict else pytest.skip(f"{what}: not permitted here")


class FirstProcess:
    """A program that is process 1 of a PID namespace; *pid* is what it is called outside."""

    def __init__(self, command: list[str], cwd: Path, log: Path, environ: dict[str, str], *kinds: str) -> None:
        self.log = log
        options = ("pid", "fork", "kill-child=SIGKILL", *kinds)
        with log.open("wb") as output:
            self._outer = subprocess.Popen(
                [*unshare(*options), *command],
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=processes.die_with_parent,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id outside of the namespace."""
        children = psutil.Process(self._outer.pid).children()
        assert len(children) == 1, self.text()
        return children[0].pid

    def wait_forked(self) -> None:
        """Wait until there is such a process."""
        wait_until(lambda: psutil.Process(self._outer.pid).children(), 10.0, self.text)

    def text(self) -> str:
        """What it has written."""
        return self.log.read_text(errors="replace")

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait for the ready line."""

        def ready() -> bool:
            assert self._outer.poll() is None, f"ended with {self._outer.returncode}:\n{self.text()}"
            return "is ready" in self.text()

        wait_until(ready, timeout, self.text)

    def run_inside(self, command: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker exec` does: in its namespaces, below its root, in its folder, as its user."""
        uid = Path(f"/proc/{self.pid}").stat().st_uid
        user = ["-S", str(uid), "-G", str(uid)] if os.getuid() == 0 else ["--user", "--preserve-credentials"]
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--root", "--wd", *user]
        return subprocess.run([*enter, *command], env=environ, capture_output=True, text=True, timeout=30)

    def drain(self, timeout: float = 40.0) -> int:
        """TERM; the exit code."""
        tree = processes.tree(self._outer.pid)
        os.kill(self.pid, signal.SIGTERM)
        code = self.wait(timeout)
        processes.assert_gone(tree)
        return code

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for its end; the exit code."""
        return self._outer.wait(timeout)

    def close(self) -> None:
        """End it by any means: the kernel kills the whole namespace with its first process."""
        if self._outer.poll() is None:
            left = processes.tree(self._outer.pid)
            processes.kill([*left, psutil.Process(self._outer.pid)])
            self._outer.wait(10)


@contextmanager
def first_process(
    command: list[str], cwd: Path, log: Path, environ: dict[str, str], *kinds: str
) -> Iterator[FirstProcess]:
    """Run a program as process 1 while the block lasts."""
    own = FirstProcess(command, cwd, log, environ, *kinds)
    try:
        yield own
    finally:
        own.close()


class Root:
    """A folder that serves as a root: its own files, the system's programs and this interpreter bound into it.

    What is bound is gone with the mount namespace of each command; only the folder's own files stay. *host*: which
    folders at the machine's root are bound.
    """

    def __init__(self, folder: Path, host: tuple[str, ...] = HOST) -> None:
        self.folder = folder
        self._bound: dict[str, Path] = {}
        for name in ("dev", "proc", "tmp"):
            self.inside(f"/{name}").mkdir(parents=True)
        self.inside("/tmp").chmod(0o1777)
        self.bind(Path(sys.base_prefix), INTERPRETER)
        for name in host:
            self._bind_host(Path("/", name))

    def bind(self, outside: Path, path: str) -> None:
        """Have a folder of the machine at a path of this root."""
        self.inside(path).mkdir(parents=True)
        self._bound[path] = outside

    def _bind_host(self, host: Path) -> None:
        if host.is_symlink():
            self.inside(str(host)).symlink_to(host.readlink())
        elif host.is_dir():
            self.bind(host, str(host))

    def inside(self, path: str) -> Path:
        """Where a path of this root lies outside of it."""
        return self.folder / path.lstrip("/")

    def command(self, arguments: list[str], workdir: str = "/", *, final: bool = False) -> list[str]:
        """For unshare: mount, change the root, run. *final*: read-only, and as a user without a name."""
        user = f"--userspec={USER} --groups= " if final and os.getuid() == 0 else ""
        script = [*self.mounts(), *(self._read_only() if final else ())]
        script.append(f"""exec chroot {user}"$0" /bin/sh -c 'cd "$0" && exec "$@"' "$@\"""")
        return ["/bin/sh", "-ec", "\n".join(script), str(self.folder), workdir, *arguments]

    def mounts(self) -> Iterator[str]:
        """Lines of a script that binds what this root has of the machine; $0 is the folder."""
        for path, outside in self._bound.items():
            yield f'mount --rbind {outside} "$0{path}"'
        yield 'mount -t tmpfs -o mode=755 tmpfs "$0/dev" && mkdir -m 1777 "$0/dev/shm"'
        for name in DEVICES:
            yield f'touch "$0/dev/{name}" && mount --bind /dev/{name} "$0/dev/{name}"'

    @staticmethod
    def _read_only() -> Iterator[str]:
        yield 'mount -t proc proc "$0/proc"'
        yield 'mount -t tmpfs -o mode=1777 tmpfs "$0/dev/shm" && mount -o remount,ro "$0/dev"'
        yield 'mount --rbind "$0" "$0" && mount -o remount,bind,ro "$0"'
