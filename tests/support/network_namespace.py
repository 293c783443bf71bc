"""A network of its own for a program: it reaches one address outside, until the link is cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

from tests.support.processes import die_with_parent


@cache
def permitted() -> bool:
    """Whether this machine lets us make network namespaces and links between them."""
    if os.getuid() != 0 or not all(shutil.which(name) for name in ("unshare", "nsenter", "ip")):
        return False
    try:
        with NetworkNamespace():
            return True
    except subprocess.CalledProcessError:
        return False


class NetworkNamespace:
    """A namespace and a link into it; `launcher` is the start of a command line that runs a program inside."""

    def __init__(self) -> None:
        number = os.getpid() % 16384  # link-local addresses, one pair for each process that tests
        self._network = f"169.254.{number // 64}.{number % 64 * 4}"
        self._link = f"ms{os.getpid()}"
        self.outside = f"169.254.{number // 64}.{number % 64 * 4 + 1}"
        self.inside = f"169.254.{number // 64}.{number % 64 * 4 + 2}"

    def __enter__(self) -> NetworkNamespace:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "3600"], preexec_fn=die_with_parent)
        try:
            self._connect()
        except subprocess.CalledProcessError:
            self.__exit__()
            raise
        return self

    def _connect(self) -> None:
        while os.readlink(f"/proc/{self._holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            os.sched_yield()
        target = str(self._holder.pid)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", target)
        _ip("address", "add", f"{self.outside}/30", "dev", self._link)
        _ip("link", "set", self._link, "up")
        _ip("address", "add", f"{self.inside}/30", "dev", "eth0", before=self.launcher)
        _ip("link", "set", "lo", "up", before=self.launcher)
        _ip("link", "set", "eth0", "up", before=self.launcher)

    def __exit__(self, *_exc: object) -> None:
        self._holder.kill()
        self._holder.wait(10)
        subprocess.run(["ip", "link", "del", self._link], capture_output=True)

    @property
    def launcher(self) -> tuple[str, ...]:
        """Runs what follows in the namespace, as the same process."""
        return ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net")

    def cut(self) -> None:
        """Packets vanish in both directions; nobody is told."""
        _ip("link", "set", "eth0", "down", before=self.launcher)

    def heal(self) -> None:
        """Packets pass again."""
        _ip("link", "set", "eth0", "up", before=self.launcher)


def _ip(*arguments: str, before: tuple[str, ...] = ()) -> None:
    subprocess.run([*before, "ip", *arguments], check=True, capture_output=True)
