"""A real `millstream up` as a subprocess: its log, its tree, its signals, its exit code."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support import acl, processes
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"\bready\b")

DEFAULT_GROUP = """
[workers.default]
processes = 1
"""


class Supervised:
    """`python -m millstream up` in a folder with an application module and a millstream.toml.

    The module must define `app`. `toml` follows the line `app = ...`, so it may begin with further
    top-level keys; without any text there is one group `default` with one process.
    """

    def __init__(
        self,
        folder: Path,
        app: str,
        toml: str = "",
        *,
        redis_url: str | None,
        prefix: str = "ms:",
        env: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        module: str = "app_under_test",
        launcher: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.prefix = prefix
        self.redis_url = redis_url
        self.arguments = arguments
        self.launcher = launcher  # a command that becomes the one after it, in other surroundings
        self.process: subprocess.Popen[bytes] | None = None
        self._env = env or {}
        self.extra: dict[str, str] = {}  # variables from the next start on
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{module}.py").write_text(app)
        (folder / "millstream.toml").write_text(f'app = "{module}:app"\n{toml or DEFAULT_GROUP}')

    def __enter__(self) -> Supervised:
        return self if self.process else self.start()

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """The subprocess's environment; also right for commands that are to see the same configuration."""
        # Nothing is served unless a test wants it: one address cannot be shared by tests that run at the same time.
        env = {**os.environ, "MILLSTREAM_PREFIX": self.prefix, "MILLSTREAM_WEB__BIND": "off"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
        if self.redis_url is not None:
            env["MILLSTREAM_REDIS_URL"] = acl.as_role(self.redis_url, "worker")
        return {**env, **self._env, **self.extra}

    def start(self, wait: bool = True, timeout: float = 20.0) -> Supervised:
        """Start it; with `wait`, until it says that it is ready (seconds)."""
        with (self.folder / "stdout").open("ab") as out, (self.folder / "stderr").open("ab") as err:
            self._out_start, self._log_start = out.tell(), err.tell()
            self.process = subprocess.Popen(
                [*self.launcher, sys.executable, "-m", "millstream", "up", *self.arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=processes.die_with_parent,
                start_new_session=True,
            )
        if wait:
            self.wait_ready(timeout)
        return self

    def command(self, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run `millstream ARGUMENT...` in the same folder with the same environment."""
        env = self.environment
        if "MILLSTREAM_REDIS_URL" in env:
            env["MILLSTREAM_REDIS_URL"] = acl.as_role(
                env["MILLSTREAM_REDIS_URL"], "worker" if "up" in arguments else "operator"
            )
        return subprocess.run(
            [sys.executable, "-m", "millstream", *arguments],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def wait_ready(self, timeout: float = 20.0) -> None:
        """Wait for the ready line; fails at once when the process ends before."""

        def ready() -> bool:
            assert self.running, f"ended with {self.exit_code}:\n{self.output()}"
            return self.ready

        wait_until(ready, timeout, lambda: f"the ready line; output:\n{self.output()}")

    @property
    def ready(self) -> bool:
        """Whether it has said so since the last start."""
        return READY.search(self.output()) is not None

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the supervisor lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Exit code (negative: the signal), None while it runs."""
        return None if self.process is None else self.process.poll()

    def log(self) -> str:
        """What it wrote to stderr since the last start."""
        data = (self.folder / "stderr").read_bytes()
        return data[self._log_start :].decode(errors="replace")

    def output(self) -> str:
        """Both streams since the last start, stdout first."""
        data = (self.folder / "stdout").read_bytes()
        return data[self._out_start :].decode(errors="replace") + self.log()

    def wait_log(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Wait until stderr matches the regular expression."""
        return wait_until(
            lambda: re.search(pattern, self.log()), timeout, lambda: f"/{pattern}/ in the log:\n{self.log()}"
        )

    def tree(self) -> list[psutil.Process]:
        """Every living descendant."""
        return processes.tree(self.pid)

    def workers(self, group: str = "") -> list[int]:
        """Pids of the worker processes, by their title."""
        return [process.pid for process in processes.titled(self.pid, f"millstream: worker {group}")]

    def maintenance(self) -> int | None:
        """Pid of the maintenance process, if it lives."""
        found = processes.titled(self.pid, "millstream: maintenance")
        return found[0].pid if found else None

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the supervisor only."""
        assert self.process is not None
        self.process.send_signal(signum)

    def send_tree(self, signum: signal.Signals) -> None:
        """Send a signal to the supervisor and each of its descendants, parents first."""
        for process in [psutil.Process(self.pid), *self.tree()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signum)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the end and return the exit code."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end within {timeout:g} s:\n{self.output()}") from None

    def stop(self, expect: int = 0, timeout: float = 30.0) -> None:
        """TERM, wait, compare the exit code, and see that no descendant is left."""
        descendants = self.tree()
        self.send(signal.SIGTERM)
        code = self.wait(timeout)
        assert code == expect, f"exit code {code}, not {expect}:\n{self.output()}"
        processes.assert_gone(descendants)

    def close(self) -> None:
        """End it by any means; for teardown."""
        if self.process is None:
            return
        descendants = self.tree() if self.running else []
        if self.running:
            self.send_tree(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        if self.running:
            self.process.kill()
            self.process.wait(10)
        processes.kill([process for process in descendants if processes.alive(process)])
