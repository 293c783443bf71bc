"""The system under chaos: a server, a proxy, supervisors, a producer, and a record of every fault."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil

from tests.chaos import evidence, reading
from tests.chaos.checker import OUTBOX_SLACK, SETTLE_SLACK, History, Killing, Window
from tests.support import processes
from tests.support.proxy import Proxy
from tests.support.servers import Kind, Options, Server
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

LEASE = 2.0
DRAIN = 3.0
RESUME = 5_000_000_000  # ns after the server's return until which workers have resumed

APP = "from tests.chaos.jobs import app\n"
TOML = """
[workers.chaos]
queues = ["chaos"]
processes = 2
crash_delay = 0.2

[supervisor]
name = "{name}"
lease = {lease}
drain_timeout = {drain}
restart_backoff = 0.05
restart_backoff_max = 0.2
restart_intensity = 10000
"""


class World:
    """Everything that one scenario needs; `with` starts the server and ends all processes."""

    def __init__(
        self, folder: Path, seed: str, seconds: float, kind: Kind = Kind.VALKEY, through_proxy: bool = False
    ) -> None:
        self.folder = folder
        self.seed = seed
        self.rng = random.Random(seed)
        self.hosts: dict[str, Supervised] = {}
        self.killed: dict[int, Killing] = {}
        self.windows: list[Window] = []
        self._seconds = seconds
        self._outage = (0, 0)
        self._deadline = 0.0
        self._stack = contextlib.ExitStack()
        self._producer: subprocess.Popen[bytes] | None = None
        self._through_proxy = through_proxy
        self.server = Server(kind, Options(appendonly=True, appendfsync="always"))

    def __enter__(self) -> World:
        self._stack.enter_context(self.server)
        self.proxy = self._stack.enter_context(Proxy(str(self.server.socket)))
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._producer is not None:
            self._producer.kill()
            self._producer.wait(10)
        for host in self.hosts.values():
            host.close()
        processes.reap_adopted()
        self._stack.close()

    @property
    def url(self) -> str:
        """Where hosts and producer connect."""
        return self.proxy.url if self._through_proxy else self.server.url

    @property
    def evidence(self) -> Path:
        """The file in which handlers note their runs."""
        return self.folder / "evidence"

    # --- actors

    def start_host(self, name: str) -> Supervised:
        """Start a supervisor with two workers, or start a stopped one again."""
        if name not in self.hosts:
            toml = TOML.format(name=name, lease=LEASE, drain=DRAIN)
            env = {evidence.VARIABLE: str(self.evidence)}
            folder = self.folder / name
            self.hosts[name] = Supervised(folder, APP, toml, redis_url=self.url, prefix=reading.PREFIX, env=env)
        return self.hosts[name].start()

    def start_producer(self, *kinds: str, pace: float = 0.008) -> None:
        """Begin to enqueue jobs of these kinds, one each `pace` seconds; the scenario's time begins here."""
        host = next(iter(self.hosts.values()))
        arguments = [self.seed, str(self.folder / "ids"), str(pace), *kinds]
        command = [sys.executable, "-m", "tests.chaos.producer", *arguments]
        with (self.folder / "producer").open("ab") as output:
            self._producer = subprocess.Popen(
                command,
                cwd=self.folder,
                env=host.environment,
                stdout=output,
                stderr=output,
                preexec_fn=processes.die_with_parent,
            )
        self._deadline = time.monotonic() + self._seconds
        wait_until(self.evidence.exists, 20.0, lambda: f"the first run; {self._logs()}")

    def time_left(self) -> bool:
        """Whether the scenario is to go on."""
        assert self._producer is not None and self._producer.poll() is None, f"no producer; {self._logs()}"
        return time.monotonic() < self._deadline

    def steps(self, shortest: float, longest: float) -> Iterator[None]:
        """One pass for each fault, at random distances (seconds), until the time is over."""
        while self.time_left():
            time.sleep(self.rng.uniform(shortest, longest))
            yield

    # --- faults, each of them recorded

    def note(self, fault: str, host: Supervised | None = None) -> None:
        """Write down what is about to be broken, for whoever reads the logs of a failure."""
        where = f" {host.folder.name} {host.pid}" if host else ""
        with (self.folder / "faults").open("a") as lines:
            lines.write(f"{datetime.now(UTC).isoformat()} {time.monotonic_ns()} {fault}{where}\n")

    def kill_worker(self, pid: int) -> None:
        """SIGKILL one worker: what it had finished outlives it."""
        self.killed[pid] = Killing(time.monotonic_ns(), OUTBOX_SLACK)
        psutil.Process(pid).kill()

    def kill_tree(self, pids: list[int]) -> None:
        """SIGKILL these processes, in this order: what they had not settled is lost with them."""
        for pid in pids:
            self.killed[pid] = Killing(time.monotonic_ns(), self._unsettled())
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()

    def note_killed(self, pids: list[int]) -> None:
        """These processes are about to be killed by somebody else for our doing."""
        for pid in pids:
            self.killed.setdefault(pid, Killing(time.monotonic_ns(), self._unsettled()))

    def _unsettled(self) -> int:
        # After an outage each worker resumes at its own time; what ended meanwhile waits until then.
        now, (begin, end) = time.monotonic_ns(), self._outage
        return now - begin + SETTLE_SLACK if now - end < RESUME else SETTLE_SLACK

    def restart_server(self) -> None:
        """The server goes away for a moment, cleanly or not."""
        begin = time.monotonic_ns()
        self.rng.choice([self.server.stop, self.server.kill9])()
        time.sleep(self.rng.uniform(0.1, 2.0))
        self.server.start()
        self._outage = (begin, time.monotonic_ns())

    @contextlib.contextmanager
    def stopped(self, host: Supervised) -> Iterator[None]:
        """The whole tree of a host is stopped for the time of the block; its leases may be lost."""
        pids = frozenset([host.pid, *(process.pid for process in host.tree())])
        begin = time.monotonic_ns() - self._unsettled()
        host.send_tree(signal.SIGSTOP)
        try:
            yield
        finally:
            host.send_tree(signal.SIGCONT)
            end = time.monotonic_ns() + int(LEASE * 1e9)  # until it has noticed
            self.windows.append(Window(pids, begin, end))

    # --- the end

    def drain(self, timeout: float = 60.0) -> None:
        """Heal everything, run what is stored, and stop every host cleanly."""
        self._stop_producer()
        self.proxy.resume()
        for name, host in self.hosts.items():
            if not host.running:
                self.start_host(name)
        wait_until(
            lambda: reading.stored(self.server) == 0, timeout, lambda: f"a drained queue; {self.describe()}", 0.05
        )
        for host in self.hosts.values():
            host.stop()

    def _stop_producer(self) -> None:
        assert self._producer is not None
        self._producer.terminate()
        assert self._producer.wait(30) == 0, f"the producer failed; {self._logs()}"

    def history(self, attempts: dict[str, int]) -> History:
        """Everything that is known, for the checker."""
        tried, acknowledged = reading.ids(self.folder / "ids")
        runs, contradictions = evidence.read(self.evidence)
        return History(
            acknowledged=acknowledged,
            tried=tried,
            runs=runs,
            states=reading.states(self.server),
            stored=reading.stored(self.server),
            counters=reading.counters(self.server),
            attempts=attempts,
            killed=self.killed,
            windows=self.windows,
            contradictions=contradictions,
        )

    def describe(self) -> str:
        """The state of things, for a failure's message."""
        facts = f"{reading.lengths(self.server)}; {reading.counters(self.server)}"
        return f"seed {self.seed}; {facts}; {self._logs()}"

    def _logs(self) -> str:
        return "".join(f"\n--- {path}\n{_tail(path)}" for path in self._log_files())

    def _log_files(self) -> list[Path]:
        return [self.folder / "producer", *(self.folder / name / "stderr" for name in self.hosts)]


def _tail(path: Path, size: int = 3000) -> str:
    return path.read_text(errors="replace")[-size:] if path.exists() else ""


Scenario = Callable[[World], None]
