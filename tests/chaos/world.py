"""The system under chaos: a server, proxies, supervisors, a producer, and a record of every fault."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tests.chaos import evidence, jobs, producer, reading
from tests.chaos.checker import History
from tests.chaos.damage import LEASE, Damage
from tests.chaos.evidence import Run
from tests.chaos.watcher import Watcher
from tests.support import processes
from tests.support.proxy import Proxy
from tests.support.servers import Kind, Options, Server
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

T = TypeVar("T")

DRAIN = 3.0
STANDSTILL = 12.0  # s without any change after which a drain is given up: the longest delay of a job is 5 s
BROOM = "broom"  # the host that comes last and cleans up after the others

APP = "from tests.chaos.jobs import app\n"
TOML = """
[workers.chaos]
queues = ["chaos"]
processes = {processes}
crash_delay = 0.2
{group}
[supervisor]
name = "{name}"
lease = {lease}
drain_timeout = {drain}
restart_backoff = 0.05
restart_backoff_max = 0.2
restart_intensity = 10000
unknown_grace = 60
"""


class World:
    """Everything that one scenario needs; `with` starts the server and ends all processes."""

    def __init__(
        self,
        folder: Path,
        seed: str,
        seconds: float,
        kind: Kind = Kind.VALKEY,
        *,
        through_proxy: bool = False,
        options: Options | None = None,
    ) -> None:
        self.folder = folder
        self.seed = seed
        self.rng = random.Random(seed)
        self.hosts: dict[str, Supervised] = {}
        self.contradictions: list[str] = []
        self.environment: dict[str, str] = {}  # of the host that cleans up
        self.proxies: dict[str, Proxy] = {}  # by the host whose own it is; of all others: ""
        self._judges: list[Callable[[World], list[str]]] = []
        self._number = 0
        self._seconds = seconds
        self._deadline = 0.0
        self._stack = contextlib.ExitStack()
        self._producer: subprocess.Popen[bytes] | None = None
        self._through_proxy = through_proxy
        self.server = Server(kind, options or Options(appendonly=True, appendfsync="always"))
        self.damage = Damage(self.server)
        self.watcher = Watcher(self.server, folder / "ids")

    def __enter__(self) -> World:
        self._stack.enter_context(self.server)
        self.proxy = self._new_proxy("")
        return self

    def __exit__(self, *_exc: object) -> None:
        self.watcher.stop()
        if self._producer is not None:
            self._producer.kill()
            self._producer.wait(10)
        for host in self.hosts.values():
            host.close()
        processes.reap_adopted()
        self._stack.close()

    def open(self, resource: contextlib.AbstractContextManager[T]) -> T:
        """Enter something that is closed with the world."""
        return self._stack.enter_context(resource)

    def _new_proxy(self, owner: str) -> Proxy:
        self.proxies[owner] = self.open(Proxy(self.address))
        return self.proxies[owner]

    @property
    def address(self) -> str | tuple[str, int]:
        """Where proxies find the server."""
        return ("127.0.0.1", self.server.port) if self.server.port else str(self.server.socket)

    @property
    def url(self) -> str:
        """Where hosts and producer connect."""
        return self.proxy.url if self._through_proxy else self.server.url

    @property
    def evidence(self) -> Path:
        """The file in which handlers note their runs."""
        return self.folder / "evidence"

    # --- actors

    def start_host(self, name: str, *, wait: bool = True, **options: Any) -> Supervised:
        """Start a supervisor with two workers, or start a stopped one again.

        Options: `url`, `own_proxy`, `processes`, `group` (lines of its table), `env`, `launcher`.
        """
        if name not in self.hosts:
            self.hosts[name] = self._new_host(name, **options)
        return self.hosts[name].start(wait=wait)

    def _new_host(
        self,
        name: str,
        *,
        url: str = "",
        own_proxy: bool = False,
        processes: int = 2,
        group: str = "",
        env: dict[str, str] | None = None,
        launcher: tuple[str, ...] = (),
    ) -> Supervised:
        url = url or (self._new_proxy(name).url if own_proxy else self.url)
        toml = TOML.format(name=name, lease=LEASE, drain=DRAIN, processes=processes, group=group)
        return Supervised(
            self.folder / name,
            APP,
            toml,
            redis_url=url,
            prefix=reading.PREFIX,
            env={evidence.VARIABLE: str(self.evidence), **(env or {})},
            launcher=launcher,
        )

    def start_producer(self, *kinds: str, pace: float = 0.015, env: dict[str, str] | None = None) -> None:
        """Begin to enqueue jobs of these kinds, one each `pace` seconds; the scenario's time begins here."""
        host = next(iter(self.hosts.values()))
        arguments = [self.seed, str(self.folder / "ids"), str(pace), *kinds]
        command = [sys.executable, "-m", "tests.chaos.producer", *arguments]
        with (self.folder / "producer").open("ab") as output:
            self._producer = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**host.environment, "MILLSTREAM_REDIS_URL": self.url, **(env or {})},
                stdout=output,
                stderr=output,
                preexec_fn=processes.die_with_parent,
            )
        self.watcher.start()
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

    def note(self, fault: str, host: Supervised | None = None) -> None:
        """Write down what is about to be broken, for whoever reads the logs of a failure."""
        where = f" {host.folder.name} {host.pid}" if host else ""
        with (self.folder / "faults").open("a") as lines:
            lines.write(f"{datetime.now(UTC).isoformat()} {time.monotonic_ns()} {fault}{where}\n")

    def use(self, server: Server) -> None:
        """From now on this is the server that counts: the other one has failed."""
        self.server = self.damage.server = self.watcher.server = server

    def enqueue(self, *kinds: str) -> list[str]:
        """Enqueue jobs of these kinds from here, all at once; their ids."""
        jobs.app.connect_to(self.url, reading.PREFIX)
        ids = [f"{self.seed}-own-{self._number + number}" for number in range(len(kinds))]
        self._number += len(kinds)
        drafts = [producer.draft(job_id, kind, self.rng) for job_id, kind in zip(ids, kinds, strict=True)]
        self._note_ids("tried", ids, kinds)
        jobs.app.enqueue_many(drafts)
        self._note_ids("acknowledged", ids, kinds)
        jobs.app.client.close()
        return ids

    def _note_ids(self, what: str, ids: Sequence[str], kinds: Sequence[str]) -> None:
        with (self.folder / "ids").open("a") as lines:
            for job_id, kind in zip(ids, kinds, strict=True):
                lines.write(f"{what} {job_id} {kind} {time.monotonic_ns()}\n")

    def note_foreign(self, job_id: str, kind: str) -> None:
        """Something of this id is about to be put into a stream by hand."""
        self._note_ids("tried", [job_id], [kind])

    def run_of(self, job_id: str) -> Run | None:
        """The last run of a job that has begun and not ended."""
        runs, _ = evidence.read(self.evidence)
        return next((run for run in reversed(runs) if run.id == job_id and run.end is None), None)

    # --- what must go on

    def completed(self) -> int:
        """How many jobs the server counts as completed."""
        return reading.counters(self.server).get("completed", 0)

    def wait_for_work(self, timeout: float = 5.0) -> None:
        """Wait until one more job is completed than now."""
        done = self.completed()
        wait_until(lambda: self.completed() > done, timeout, lambda: f"work again; {self.describe()}")

    # --- the end

    def at_the_end(self, judge: Callable[[World], list[str]]) -> None:
        """Have this judge say, after the drain, which promise was broken."""
        self._judges.append(judge)

    def drain(self, timeout: float = 45.0) -> None:
        """Heal everything, run what is stored, stop every host cleanly, and have the rest cleaned up."""
        self.stop_producer()
        for proxy in self.proxies.values():
            proxy.resume()
        for name, host in self.hosts.items():
            if not host.running:
                self.start_host(name)
        self._wait_drained(timeout)
        for host in self.hosts.values():
            host.stop()
        self._sweep()
        self._see_nobody_left()

    def _wait_drained(self, timeout: float) -> None:
        """Wait until nothing is stored; less patiently where nothing happens any more."""
        before, since = None, time.monotonic()
        deadline = since + timeout
        while stored := reading.stored(self.server):
            now, facts = time.monotonic(), (stored, reading.counters(self.server))
            before, since = facts, since if facts == before else now
            assert now - since < STANDSTILL, f"{stored} jobs stay for {STANDSTILL} s; {self.describe()}"
            assert now < deadline, f"{stored} jobs are not drained within {timeout} s; {self.describe()}"
            time.sleep(0.05)

    def _sweep(self) -> None:
        """A host that comes later forgets the consumers of those that are gone, once their leases are over."""
        time.sleep(LEASE)  # a consumer is not pruned before

        def only_own() -> bool:
            return all(name.startswith(BROOM + "-") for name in reading.consumers(self.server))

        broom = self.start_host(BROOM, env=self.environment)
        try:
            wait_until(only_own, 3.0)
        except AssertionError:
            self.contradictions.append(f"consumers of the dead are left: {sorted(reading.consumers(self.server))}")
        broom.stop()

    def _see_nobody_left(self) -> None:
        lines = {process: processes.command_line(process) for process in processes.tree(os.getpid())}
        left = [process for process, line in lines.items() if line.startswith(("millstream:", " ".join(jobs.CHILD)))]
        self.contradictions += [f"process {process.pid} is left: {lines[process]}" for process in left]
        processes.kill(left)

    def stop_producer(self) -> None:
        """Let the producer end after the job that it is about to enqueue."""
        assert self._producer is not None
        self._producer.terminate()
        assert self._producer.wait(30) == 0, f"the producer failed; {self._logs()}"

    def history(self, attempts: dict[str, int]) -> History:
        """Everything that is known, for the checker."""
        self.watcher.stop()
        damage = self.damage
        tried, acknowledged = reading.ids(self.folder / "ids")
        runs, contradictions = evidence.read(self.evidence)
        seen = self.watcher.contradictions(damage.losses)
        history = History(
            acknowledged=acknowledged,
            tried=tried,
            runs=runs,
            states=reading.states(self.server),
            stored=reading.stored(self.server),
            counters=reading.counters(self.server),
            attempts=attempts,
            killed=damage.killed,
            supervisors=damage.supervisors,
            taken=damage.taken,
            losses=damage.losses,
            contradictions=[*contradictions, *seen, *self.contradictions],
        )
        # The record of a job that the server was made to forget in part stays: nobody knows that it is alone.
        orphans = {job_id for job_id, job in acknowledged.items() if history.may_be_lost(job)}
        history.contradictions += reading.leftovers(self.server, orphans)
        history.contradictions += [problem for judge in self._judges for problem in judge(self)]
        return history

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
