"""What we break on purpose, written down so that the checker knows what it excuses."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator

import psutil

from tests.chaos import reading
from tests.chaos.checker import Loss
from tests.support import processes
from tests.support.servers import Server
from tests.support.supervised import Supervised

LEASE = 2.0
LOOK = 0.1  # s between two looks at what a stopped host holds
NEARLY = 0.5  # s before the end of a lease from which on we count it as over: our look and the sweep differ


class Damage:
    """Kills and stops processes of hosts, and notes which runs that may cost."""

    def __init__(self, server: Server) -> None:
        self.server = server  # the one that counts: a failover replaces it
        self.killed: dict[int, int] = {}
        self.supervisors: dict[int, int] = {}
        self.taken: set[tuple[str, int]] = set()
        self.losses: list[Loss] = []
        self.stops = 0

    def kill(self, pid: int) -> None:
        """SIGKILL one process: what it had finished outlives it."""
        self.killed[pid] = time.monotonic_ns()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()

    def kill_tree(self, host: Supervised) -> None:
        """SIGKILL a host's processes, the supervisor first: what they had not settled is lost with them."""
        pids = [process.pid for process in host.tree()]
        self._kill_supervisor(host)
        for pid in pids:
            self.kill(pid)
        self._ended(host)

    def kill_supervisor(self, host: Supervised, *others: int) -> None:
        """SIGKILL the supervisor, and these of its children: the whole tree must be gone within 2 s."""
        descendants = host.tree()
        for process in descendants:
            self.killed[process.pid] = time.monotonic_ns()
        self._kill_supervisor(host)
        for pid in others:
            self.kill(pid)
        host.wait(5)
        processes.assert_gone(descendants, timeout=2.0)
        self._ended(host)

    def _kill_supervisor(self, host: Supervised) -> None:
        self.supervisors[host.pid] = time.monotonic_ns()
        self.kill(host.pid)

    def _ended(self, host: Supervised) -> None:
        host.wait(5)
        processes.reap_adopted()
        self.taken |= reading.delivered(self.server, host.folder.name)  # nobody is there to settle this

    def note_killed(self, pids: Iterable[int]) -> None:
        """These processes are about to be killed for our doing, each for the run that it is in."""
        for pid in pids:
            self.killed[pid] = time.monotonic_ns()

    @contextlib.contextmanager
    def stopped(self, host: Supervised, pids: Iterable[int]) -> Iterator[None]:
        """Processes of a host are stopped for the time of the block; leases that end meanwhile may be lost."""
        stopped = [psutil.Process(pid) for pid in pids]
        self.stops += 1
        with self.out_of_touch(host):
            _signal(stopped, signal.SIGSTOP)
            try:
                yield
            finally:
                _signal(stopped, signal.SIGCONT)

    @contextlib.contextmanager
    def out_of_touch(self, host: Supervised) -> Iterator[None]:
        """A host cannot renew its leases for the time of the block; those that end meanwhile may be lost."""
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(host, over), name="leases", daemon=True)
        watch.start()
        try:
            yield
        finally:
            self._look(host)
            over.set()
            watch.join(10)

    def _watch(self, host: Supervised, over: threading.Event) -> None:
        while not over.wait(LOOK):
            self._look(host)

    def _look(self, host: Supervised) -> None:
        self.taken |= reading.delivered(self.server, host.folder.name, LEASE - NEARLY)

    @contextlib.contextmanager
    def forgetting(self, *, everything: bool = False, jobs: bool = True) -> Iterator[None]:
        """The server loses, in the block, what it wrote since the block began, or all; without `jobs` no job of it."""
        since = 0 if everything else time.monotonic_ns()
        yield
        self.losses.append(Loss(since, time.monotonic_ns(), jobs))


def _signal(stopped: list[psutil.Process], signum: signal.Signals) -> None:
    for process in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signum)
