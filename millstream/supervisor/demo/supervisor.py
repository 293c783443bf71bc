"""The supervisor that ``millstream demo`` starts: a subprocess with a folder and a configuration of its own."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import millstream
from millstream.protocol.client import Client
from millstream.protocol.errors import MillstreamError, Unavailable
from millstream.protocol.inspect import hosts
from millstream.protocol.keys import Keys
from millstream.protocol.location import DEFAULT_PREFIX, FILE_NAME, locate
from millstream.supervisor.demo.jobs import QUEUE
from millstream.supervisor.web.folder import served_at

NAME = "demo"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
POLL = 0.05

# Other settings of the caller's own application must not reach the demo's.
PASSED_ON = ("REDIS_URL", "REDIS_URL_FILE", "REDIS_SERVER", "ENV", "LOG_", "TEST")

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class DemoFailed(MillstreamError):
    """The demo's supervisor did not start, or ended too early."""


class DemoSupervisor:
    """Starts ``millstream up`` for the demo and leaves nothing of it behind, unless it is to be kept."""

    def __init__(self, *, processes: int, keep: bool, redis_url: str | None = None) -> None:
        self.processes = processes
        self.keep = keep
        self.home = _make_home(keep)
        self.file = self.home / FILE_NAME
        self.log = self.home / "supervisor.log"
        self.environment = _environment(os.environ, redis_url)
        if not keep:
            self.environment["XDG_RUNTIME_DIR"] = str(self.home)  # the supervisor's lock goes with the rest
        self.file.write_text(self._configuration(DEFAULT_PREFIX if keep else f"ms-demo-{secrets.token_hex(4)}:"))
        try:
            self.location = locate(config=self.file, environ=self.environment)
        except MillstreamError:
            self._remove_home()
            raise
        self.client = Client(self.location.url, Keys(self.location.prefix))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> str:
        """Where metrics and health checks are served, while it is to be kept."""
        return served_at(NAME, self.location.url, self.location.prefix)

    def start(self) -> None:
        """Start it and wait until its workers do. Raises :class:`DemoFailed`."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "millstream", "--config", str(self.file), "up"],
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends the supervisor
                preexec_fn=_end_with_parent,
            )
        self._wait_for(self._is_ready, "it is not ready")
        if self.keep:
            self._wait_for(self._serves, "it serves no metrics")

    def _configuration(self, prefix: str) -> str:
        lines = (
            'app = "millstream.supervisor.demo.jobs:app"',
            f"prefix = {json.dumps(prefix)}",
            "[supervisor]",
            f'name = "{NAME}"',
            "drain_timeout = 10",
            "[web]",
            f'bind = "{"127.0.0.1:0" if self.keep else "off"}"',
            "[workers.demo]",
            f'queues = ["{QUEUE}"]',
            f"processes = {self.processes}",
        )
        return "\n".join(lines) + "\n"

    def _is_ready(self) -> bool:
        try:
            found = hosts(self.client, self.client.keys)
        except Unavailable:
            return False
        workers = [
            worker for host in found for worker in host.heartbeat.get("workers", ()) if host.alive and host.name == NAME
        ]
        return sum(worker.get("state") in ("idle", "busy") for worker in workers) >= self.processes

    def _serves(self) -> bool:
        try:
            return bool(self.address)
        except OSError:
            return False

    def _wait_for(self, condition: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"the supervisor runs, but {problem} after {START_TIMEOUT:g} s:\n{self.tail()}")
            time.sleep(POLL)

    def check(self) -> None:
        """Raise :class:`DemoFailed` (with the exit code that it ended with) if the supervisor has ended."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            failure = DemoFailed(f"the supervisor has ended with exit code {code}:\n{self.tail()}")
            failure.exit_code = code if code > 0 else 1
            raise failure

    def wait(self) -> int:
        """Wait until somebody ends the supervisor, and return its exit code."""
        assert self._process is not None
        return self._process.wait()

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(its log is empty)"

    def stop(self) -> None:
        """TERM, wait for the drain, and clean up; an interruption meanwhile stops it at once."""
        try:
            if self._process is not None:
                self._end(self._process)
        finally:
            self._clean_up()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.terminate()
            process.wait(STOP_TIMEOUT)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(STOP_TIMEOUT)
            finally:
                process.kill()  # its children end with it
                process.wait()

    def _clean_up(self) -> None:
        if not self.keep and not self.location.embedded:
            self._delete_keys()
        self.client.close()
        self._remove_home()

    def _remove_home(self) -> None:
        if not self.keep:
            shutil.rmtree(self.home, ignore_errors=True)

    def _delete_keys(self) -> None:
        """The demo's keys on a server that is not its own all have its prefix, which nobody else uses."""
        cursor: bytes = b"0"
        while True:
            pattern = self.location.prefix + "*"
            cursor, keys = self.client.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            if keys:
                self.client.execute("UNLINK", *keys)
            if cursor == b"0":
                return


def _make_home(keep: bool) -> Path:
    if not keep:
        return Path(tempfile.mkdtemp(prefix="millstream-demo-")).resolve()
    home = Path.cwd() / ".millstream" / "demo"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DemoFailed(f"{home} cannot be made: {error.strerror}") from error
    return home


def _environment(environ: Mapping[str, str], redis_url: str | None) -> dict[str, str]:
    ours = "MILLSTREAM_"
    passed = {
        name: value
        for name, value in environ.items()
        if not name.startswith(ours) or name.removeprefix(ours).startswith(PASSED_ON)
    }
    source = str(Path(millstream.__file__).resolve().parents[1])
    passed["PYTHONPATH"] = os.pathsep.join(filter(None, (source, environ.get("PYTHONPATH"))))
    return passed | ({"MILLSTREAM_REDIS_URL": redis_url} if redis_url else {})


def _end_with_parent() -> None:
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
