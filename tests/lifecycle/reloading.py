"""A supervisor whose application, configuration and package change on disk while it runs."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from millstream import Millstream
from millstream.protocol.handle import Handle
from tests.lifecycle.conftest import Mill
from tests.support.processes import titled
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

CODE = """
import ctypes, os, signal, time
from pathlib import Path
from millstream import Millstream

VERSION = "{version}"
app = Millstream()
{extra}

def note(*words):
    descriptor = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, (" ".join(map(str, words)) + "\\n").encode())
    finally:
        os.close(descriptor)

@app.on_worker_start
def ready():
    note("ready", VERSION, os.getpid())

@app.job(timeout=30, retry=1)
def work(name: str, file: str = "", limit: float = 30.0) -> str:
    note("start", name, VERSION, os.getpid(), time.monotonic())
    end = time.monotonic() + limit
    while file and not Path(file).exists() and time.monotonic() < end:
        time.sleep(0.01)
    note("end", name, VERSION)
    return VERSION

@app.job(timeout=12, retry=1)
def hang() -> None:
    note("start", "hang", VERSION, os.getpid(), time.monotonic())
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2])
    while True:
        ctypes.PyDLL(None).usleep(100_000)  # holds the GIL, and hears nothing
"""


def code(version: str, extra: str = "") -> str:
    """The application's module."""
    return CODE.format(version=version, extra=extra)


def toml(supervisor: str = "", **groups: str) -> str:
    """A millstream.toml; each group's text is its table, by default one with the queue `default`."""
    tables = groups or {"default": 'processes = 2\nqueues = ["default"]'}
    text = "".join(f"[workers.{name}]\ncrash_delay = 0.1\n{table}\n" for name, table in tables.items())
    return f"[supervisor]\n{supervisor}\n{text}"


class Reloading(Mill):
    """A mill to deploy to."""

    def __init__(self, up: Supervised, app: Millstream) -> None:
        super().__init__(up, app)
        self.pid = up.pid
        # All workers have imported the application before it changes, not only the first one of each group.
        wait_until(lambda: self.count("ready") >= self.events("worker.started") > 0, 20.0, up.log)

    def enqueue(self, job: str, *arguments: object, queue: str = "default") -> Handle[object]:
        """Enqueue by name."""
        return self.app.enqueue(job, *arguments, queue=queue)

    def begin(self, name: str, file: str = "go", queue: str = "default", limit: float = 30.0) -> Handle[object]:
        """Start a job that goes on until the file is there."""
        handle = self.enqueue("work", name, file, limit, queue=queue)
        self.wait_for("start", name)
        return handle

    def deploy(self, text: str | None = None, configuration: str | None = None) -> None:
        """Change what is on disk."""
        if text is not None:
            (self.up.folder / "app_under_test.py").write_text(text)
        if configuration is not None:
            (self.up.folder / "millstream.toml").write_text(f'app = "app_under_test:app"\n{configuration}')

    def hup(self) -> None:
        """Ask for a reload."""
        self.up.send(signal.SIGHUP)

    def events(self, name: str) -> int:
        """How many events of this name are in the log."""
        return len(re.findall(rf'"event":"{re.escape(name)}"', self.up.log()))

    def wait_event(self, name: str, count: int = 1, timeout: float = 30.0) -> None:
        """Wait for so many of them."""
        wait_until(lambda: self.events(name) >= count, timeout, lambda: f"{count} {name} in\n{self.up.log()}")

    def reload(self, text: str | None = None, configuration: str | None = None) -> None:
        """Deploy, and reload to the end."""
        done = self.events("reload.done")
        self.deploy(text, configuration)
        self.hup()
        self.wait_event("reload.done", done + 1)
        assert self.up.running and self.up.pid == self.pid
        assert "Traceback" not in self.up.log(), self.up.log()

    def refused(self, text: str | None = None, configuration: str | None = None) -> str:
        """Deploy, have it refused, and return the line of the log."""
        before = self.events("reload.refused")
        self.deploy(text, configuration)
        self.hup()
        self.wait_event("reload.refused", before + 1)
        assert self.up.running and self.up.pid == self.pid
        return next(line for line in reversed(self.up.log().splitlines()) if '"reload.refused"' in line)

    def runs(self, name: str = "probe") -> object:
        """Run a job; the version that ran it."""
        return self.enqueue("work", name).result(10)

    def others(self, title: str) -> list[int]:
        """Pids of the children with this title."""
        return [process.pid for process in titled(self.pid, f"millstream: {title}")]


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """For the supervisor: its small files in the test's folder; what changes twice in a second is read twice."""
    return {"XDG_RUNTIME_DIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **variables}


def pid_of(line: str) -> int:
    """The process that wrote this note of a start."""
    return int(line.split()[3])


def executing(pid: int) -> bool:
    """Whether a supervisor is on its way to its successor: it has its command line again, not its title."""
    try:
        return b"\0up\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
