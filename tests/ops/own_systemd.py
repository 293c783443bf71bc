"""A systemd that is process 1 of namespaces of its own: below its own root, in its own control group, with our unit.

Nothing of the machine's own services, mounts or settings is in its reach; what it has is gone with its first process.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import pytest

from tests.ops.namespaces import (
    HOST,
    INTERPRETER,
    PATH,
    FirstProcess,
    Root,
    first_process,
    need,
    not_permitted,
    unshare,
)
from tests.ops.tools import UNIT
from tests.support.acl import EVERYWHERE, credentials
from tests.support.servers import Server
from tests.support.supervised import ROOT
from tests.support.waiting import wait_until

SYSTEMD = Path("/lib/systemd/systemd")
SERVICE = UNIT.name
TARGETS = ("sysinit", "basic", "shutdown", "network-online", "multi-user", "default")
"""Empty ones: nothing is started but our service."""

ETC = {
    "machine-id": "",
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "group": "root:x:0:\n",
    "nsswitch.conf": "passwd: files systemd\ngroup: files systemd\n",
}

PROGRAM = f"""#!{INTERPRETER}/bin/python3
import sys
from millstream.supervisor.cli import main
sys.exit(main())
"""

VARIABLES = {
    "PYTHONPATH": "/code:/packages",
    "LD_LIBRARY_PATH": f"{INTERPRETER}/lib",
    "MILLSTREAM_APP": "shop:app",
    "MILLSTREAM_REDIS_URL": f"unix://{credentials('worker') if EVERYWHERE else ''}/redis/s",
}

KINDS = ("mount", "uts", "ipc", "net")

PROBE = 'mount -t cgroup2 cgroup2 /mnt; mkdir "/mnt/$0"; rmdir "/mnt/$0"'
REMOVE = 'mount -t cgroup2 cgroup2 /mnt; [ ! -d "/mnt/$0" ] || find "/mnt/$0" -depth -type d -exec rmdir {} +'

# A control group of version 2 is made for it where the machine has that hierarchy, whether or not it is mounted.
JOIN = """
mount -t cgroup2 cgroup2 "$0/sys"
mkdir "$0/sys/$GROUP"
echo 0 > "$0/sys/$GROUP/cgroup.procs"
umount "$0/sys"
exec unshare --cgroup /bin/sh -ec "$START" "$0"
"""

# Settings of the kernel are not to be written: not all of them belong to a namespace. PrivateDevices= needs ptmx.
START = """
mount --rbind "$0" "$0"
cd "$0"
for path in usr python code/millstream packages; do mount -o remount,bind,ro "$path"; done
ln -s pts/ptmx dev/ptmx
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
pivot_root . .
umount -l .
exec env -i container=millstream-test PATH="$PATH" SYSTEMD_UNIT_PATH=/etc/systemd/system \\
    SYSTEMD_GENERATOR_PATH=/nothing SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nothing \\
    setpriv --bounding-set=-sys_time,-sys_module,-sys_rawio,-syslog "$SYSTEMD" --system --unit=default.target \\
    --log-target=console --show-status=no
"""


class OwnSystemd:
    """One that runs. Its services' files lie below *root*; what they say is in *log*."""

    def __init__(self, first: FirstProcess, root: Root) -> None:
        self.first = first
        self.root = root

    def systemctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it inside; the caller looks at how it ended."""
        return self.first.run_inside(["systemctl", "--no-pager", *arguments], {"PATH": PATH})

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.show_all(name)[name]

    def show_all(self, *names: str) -> dict[str, str]:
        """Properties of the service, all of one moment."""
        lines = self.systemctl("show", f"--property={','.join(names)}", SERVICE).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def log(self) -> str:
        """What the service has written, and what systemd has said."""
        path = self.root.inside("/log/service")
        return (path.read_text(errors="replace") if path.exists() else "") + self.first.text()

    def wait(self, name: str, value: str, timeout: float = 10.0) -> None:
        """Wait until a property of the service has this value."""
        wait_until(lambda: self.show(name) == value, timeout, lambda: f"{name} is {self.show(name)!r}\n{self.log()}")

    def main(self) -> psutil.Process:
        """The service's main process, as it is called outside."""
        inside = int(self.show("MainPID"))
        family = psutil.Process(self.first.pid).children(recursive=True)
        return next(process for process in family if _inner_pid(process.pid) == inside)


def _inner_pid(pid: int) -> int:
    """What a process is called in its innermost PID namespace."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


def prepare(folder: Path, application: str, settings: str, server: Server, prefix: str) -> Root:
    """A root with the shipped unit, an application, and a drop-in with *settings* of the service."""
    folder.mkdir(mode=0o755, parents=True)
    root = Root(folder, tuple(name for name in HOST if name != "etc"))
    for name in ("log", "sys", "run", "var/lib", "var/tmp", "root"):
        root.inside(name).mkdir(parents=True)
    root.bind(ROOT / "millstream", "/code/millstream")
    root.bind(Path(sysconfig.get_path("purelib")), "/packages")
    root.bind(server.folder, "/redis")
    server.folder.chmod(0o755)
    server.socket.chmod(0o777)  # the service's user has no name before it runs
    shutil.copy("/etc/ld.so.cache", _written(root, "/etc/ld.so.cache", ""))
    for name, text in ETC.items():
        _written(root, f"/etc/{name}", text)
    units = "/etc/systemd/system"
    for name in TARGETS:
        _written(root, f"{units}/{name}.target", "[Unit]\nDefaultDependencies=no\n")
    _written(root, f"{units}/{SERVICE}", UNIT.read_text())
    _written(root, f"{units}/{SERVICE}.d/test.conf", f"[Service]\nStandardError=append:/log/service\n{settings}")
    _written(root, "/etc/millstream/environment", _lines({**VARIABLES, "MILLSTREAM_PREFIX": prefix}))
    _written(root, "/srv/millstream/shop.py", application)
    _written(root, "/opt/millstream/bin/millstream", PROGRAM).chmod(0o755)
    return root


def _lines(variables: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def _written(root: Root, path: str, text: str) -> Path:
    file = root.inside(path)
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    file.write_text(text)
    return file


def need_own_systemd() -> None:
    """Skip the test where no systemd is installed, or where one of our own cannot be run."""
    if not SYSTEMD.exists():
        pytest.skip("no systemd on this machine; it is in Debian's package systemd")
    if os.getuid() != 0:
        not_permitted("a systemd of our own, without root")
    need("pid", "fork", *KINDS, "cgroup")
    if not _groups_permitted():
        not_permitted("control groups of our own")


@cache
def _groups_permitted() -> bool:
    group = _name()
    done = subprocess.run([*unshare("mount"), "/bin/sh", "-ec", PROBE, group], capture_output=True)
    return done.returncode == 0


def _name() -> str:
    return f"millstream-test-{secrets.token_hex(6)}"


def _remove_group(group: str) -> None:
    subprocess.run([*unshare("mount"), "/bin/sh", "-ec", REMOVE, group], check=True)


@contextmanager
def own_systemd(root: Root, log: Path) -> Iterator[OwnSystemd]:
    """Run one below this root while the block lasts."""
    group = _name()
    environ = {"PATH": PATH, "GROUP": group, "START": START, "SYSTEMD": str(SYSTEMD)}
    command = ["/bin/sh", "-ec", "\n".join([*root.mounts(), JOIN]), str(root.folder)]
    try:
        with first_process(command, root.folder, log, environ, *KINDS) as first:
            own = OwnSystemd(first, root)
            first.wait_forked()
            wait_until(lambda: own.systemctl("is-active", "default.target").returncode == 0, 20, own.log)
            yield own
    finally:
        _remove_group(group)
