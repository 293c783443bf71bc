"""sd_notify: what a service manager is told, by the class alone and by a real supervisor."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from millstream.protocol.scoreboard import Header, Scoreboard
from millstream.supervisor.maintenance.child import MaintenanceChild
from millstream.supervisor.notify import EXTEND_INTERVAL, EXTENSION, Notifier
from millstream.supervisor.plan import Plan
from tests.support.servers import Server
from tests.support.supervised import Supervised
from tests.support.waiting import stays, wait_until

Supervise = Callable[..., Supervised]


class ServiceManager:
    """The receiving end: a datagram socket, by path or in the abstract namespace."""

    def __init__(self, address: str) -> None:
        self.variable = address
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)

    def lines(self) -> list[str]:
        """Every line of every message so far."""
        while True:
            try:
                self.heard += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.heard

    def wait(self, line: str, timeout: float = 20.0) -> None:
        """Wait until this line was sent."""
        wait_until(lambda: line in self.lines(), timeout, lambda: f"{line} among {self.heard}")

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


@pytest.fixture(params=["path", "abstract"] if sys.platform == "linux" else ["path"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceManager]:
    kinds = {"path": str(tmp_path / "notify"), "abstract": f"@millstream-test-{secrets.token_hex(6)}"}
    own = ServiceManager(kinds[request.param])
    yield own
    own.close()


def notifier(manager: ServiceManager, **variables: str) -> Notifier:
    return Notifier.from_environment({"NOTIFY_SOCKET": manager.variable, **variables})


def beat(own: Notifier, now: float, *, sane: bool = True, stopping: bool = False, status: str = "fine") -> None:
    own.beat(now, sane=sane, stopping=stopping, status=lambda: status)


def test_ready(manager: ServiceManager) -> None:
    notifier(manager).ready()
    assert manager.lines() == ["READY=1"]


def test_the_watchdog_is_fed_at_half_its_interval_and_only_if_all_is_sane(manager: ServiceManager) -> None:
    own = notifier(manager, WATCHDOG_USEC="2000000", WATCHDOG_PID=str(os.getpid()))
    pings = []
    for now, sane in ((0.0, True), (0.9, True), (1.0, True), (2.0, False), (2.5, False), (2.6, True), (3.5, True)):
        beat(own, now, sane=sane)
        pings.append(manager.lines().count("WATCHDOG=1"))
    assert pings == [1, 1, 2, 2, 2, 3, 3]


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}],
)
def test_a_watchdog_that_is_not_ours_is_not_fed(manager: ServiceManager, variables: dict[str, str]) -> None:
    beat(notifier(manager, **variables), 1.0)
    assert manager.lines() == ["STATUS=fine"]


def test_more_time_is_asked_for_while_it_stops(manager: ServiceManager) -> None:
    own = notifier(manager)
    for now in (0.0, 1.0, EXTEND_INTERVAL, EXTEND_INTERVAL + 1, 2 * EXTEND_INTERVAL):
        beat(own, now, stopping=True)
    extensions = [line for line in manager.lines() if line.startswith("EXTEND_TIMEOUT_USEC=")]
    assert extensions == [f"EXTEND_TIMEOUT_USEC={int(EXTENSION * 1_000_000)}"] * 3
    assert manager.heard[0] == "STOPPING=1"
    assert 2 * EXTEND_INTERVAL < EXTENSION


def test_the_status_is_sent_when_it_changes_but_not_at_every_turn(manager: ServiceManager) -> None:
    own = notifier(manager)
    for now, status in ((0.0, "one"), (0.5, "two"), (1.0, "three"), (2.0, "three"), (3.0, "one")):
        beat(own, now, status=status)
    assert manager.lines() == ["STATUS=one", "STATUS=three", "STATUS=one"]


def test_the_variables_are_taken_out_of_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1", "HOME": "/"}
    Notifier.from_environment(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("address", ["", "@", "vsock:2:1234", "relative", "/nowhere/at/all", "/" + 200 * "x"])
def test_an_address_that_cannot_be_used_does_no_harm(address: str) -> None:
    own = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    own.ready()
    beat(own, 1.0, stopping=True)


def test_a_manager_that_does_not_read_delays_nothing(manager: ServiceManager) -> None:
    own = notifier(manager, WATCHDOG_USEC="1000000")
    for now in range(10_000):
        beat(own, float(now))  # far more than the socket's buffer holds
    assert manager.lines().count("WATCHDOG=1") >= 1


APP = """
import os, time
from millstream import Millstream

app = Millstream()
AT_IMPORT = sorted(os.environ)

@app.job
def variables() -> list[str]:
    return [name for name in (*AT_IMPORT, *os.environ) if name == "NOTIFY_SOCKET" or name.startswith("WATCHDOG_")]

@app.job
def slow(seconds: float) -> None:
    time.sleep(seconds)
"""

TOML = """
[workers.default]
processes = 1
[supervisor]
preload = true
"""


def test_a_supervisor_says_what_it_does(supervise: Supervise, manager: ServiceManager) -> None:
    env = {"NOTIFY_SOCKET": manager.variable, "WATCHDOG_USEC": "600000"}
    own = supervise(APP, TOML, env=env)
    manager.wait("READY=1")
    manager.wait("STATUS=running: 0 of 1 workers busy")
    assert "STOPPING=1" not in manager.lines()
    pings = manager.lines().count("WATCHDOG=1")
    wait_until(lambda: manager.lines().count("WATCHDOG=1") >= pings + 3, 10)
    enqueued = own.command("enqueue", "variables").stdout.strip()
    watched = own.command("jobs", "watch", enqueued, "--json")
    assert '"result": []' in watched.stdout or '"result":[]' in watched.stdout, watched.stdout + watched.stderr
    own.command("enqueue", "slow", "4")
    manager.wait("STATUS=running: 1 of 1 workers busy")
    own.send(signal.SIGTERM)
    manager.wait("STOPPING=1")
    manager.wait(f"EXTEND_TIMEOUT_USEC={int(EXTENSION * 1_000_000)}")
    assert own.wait() == 0
    order = manager.lines()
    assert order.index("READY=1") < order.index("STOPPING=1")


def test_what_a_full_socket_refuses_is_said_later(tmp_path: Path) -> None:
    manager = ServiceManager(str(tmp_path / "own"))
    try:
        notifier = Notifier(str(tmp_path / "own"))
        for number in range(10_000):  # far more than any socket takes
            notifier.beat(float(number), sane=True, stopping=False, status=lambda number=number: str(number))  # type: ignore[misc]
        notifier.ready()
        assert "READY=1" not in manager.lines()
        notifier.beat(10_001.0, sane=True, stopping=False, status=lambda: "well")
        assert manager.lines()[-2:] == ["READY=1", "STATUS=well"]
    finally:
        manager.close()


def test_a_reload_begins_and_ends(supervise: Supervise, tmp_path: Path) -> None:
    manager = ServiceManager(str(tmp_path / "own"))
    try:
        own = supervise(APP, TOML, env={"NOTIFY_SOCKET": manager.variable, "WATCHDOG_USEC": "600000"})
        manager.wait("READY=1")
        before = time.monotonic_ns() // 1000
        own.send(signal.SIGHUP)
        wait_until(lambda: manager.lines().count("READY=1") == 2, 30, own.log)
        begun = manager.heard.index("RELOADING=1")
        name, _, moment = manager.heard[begun + 1].partition("=")
        assert name == "MONOTONIC_USEC"
        assert before <= int(moment) <= time.monotonic_ns() // 1000
        assert manager.heard.index("READY=1") < begun
        assert "READY=1" in manager.heard[begun:]
        pings = manager.lines().count("WATCHDOG=1")
        wait_until(lambda: manager.lines().count("WATCHDOG=1") > pings, 5)
        (own.folder / "millstream.toml").write_text("[")
        own.send(signal.SIGHUP)
        wait_until(lambda: manager.lines().count("READY=1") == 3, 30, own.log)
        assert manager.heard.count("RELOADING=1") == 2
        own.send(signal.SIGHUP)
        wait_until(lambda: manager.lines().count("RELOADING=1") == 3, 20, own.log)
        own.stop()
        heard = manager.lines()
        assert "READY=1" not in heard[heard.index("STOPPING=1") :], "nothing is ready that stops"
    finally:
        manager.close()


def test_the_watchdog_is_fed_before_the_supervisor_executes_itself(supervise: Supervise, tmp_path: Path) -> None:
    """Its silence lasts while the new code is imported: all of the interval is left for that."""
    manager = ServiceManager(str(tmp_path / "own"))
    try:
        own = supervise(APP, TOML, env={"NOTIFY_SOCKET": manager.variable, "WATCHDOG_USEC": "600000000"})
        manager.wait("READY=1")
        own.send(signal.SIGHUP)
        wait_until(lambda: manager.lines().count("READY=1") == 2, 30, own.log)
        begun = manager.heard.index("RELOADING=1")
        assert manager.heard[:begun].count("WATCHDOG=1") == 1
        assert manager.heard[begun:].count("WATCHDOG=1") == 2, "the old code and the new"
        own.stop()
    finally:
        manager.close()


def test_a_stopped_loop_feeds_no_watchdog(supervise: Supervise, tmp_path: Path) -> None:
    manager = ServiceManager(str(tmp_path / "own"))
    try:
        own = supervise(APP, TOML, env={"NOTIFY_SOCKET": manager.variable, "WATCHDOG_USEC": "200000"})
        manager.wait("WATCHDOG=1")
        own.send(signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{own.pid}/stat").read_text().rpartition(") ")[2][0] == "T", 5)
        before = manager.lines().count("WATCHDOG=1")
        stays(lambda: manager.lines().count("WATCHDOG=1") == before, 0.6)
        own.send(signal.SIGCONT)
        wait_until(lambda: manager.lines().count("WATCHDOG=1") > before, 5)
        own.stop()
    finally:
        manager.close()


def test_nothing_is_sent_before_it_is_ready(tmp_path: Path, server: Server, prefix: str) -> None:
    """A start that fails must not look like one that succeeded."""
    manager = ServiceManager(str(tmp_path / "own"))
    env = {"NOTIFY_SOCKET": manager.variable}
    try:
        with Supervised(tmp_path / "bad", "raise OSError('no')", redis_url=server.url, prefix=prefix, env=env) as own:
            own_code = own.exit_code
    except AssertionError as error:
        assert "ended with 78" in str(error)
    else:
        raise AssertionError(f"started: {own_code}")
    assert "READY=1" not in manager.lines()
    manager.close()


def test_maintenance_that_is_replaced_in_vain_is_silent() -> None:
    """A new incarnation begins without a tick: only a tick ends the silence."""
    plan, board = SimpleNamespace(lease=30.0), SimpleNamespace(header={Header.MAINTENANCE_TICK: 0})
    child = MaintenanceChild(cast(Plan, plan), cast(Scoreboard, board), lambda: None)
    start = time.monotonic()
    assert child.silent(start + 40) == pytest.approx(40, abs=1)
    board.header[Header.MAINTENANCE_TICK] = int((start + 39) * 1e9)
    assert child.silent(start + 40) == pytest.approx(1, abs=0.01)
    board.header[Header.MAINTENANCE_TICK] = 0
    assert child.silent(start + 50) == pytest.approx(11, abs=0.01)


DYING = """
import os
from millstream import Millstream
app = Millstream()
@app.on_worker_start
def die() -> None:
    os._exit(3)
"""

INTENSITY = """
[workers.default]
queues = ["default"]
processes = 1
[supervisor]
restart_intensity = 1
"""


def test_a_degraded_group_is_named_and_not_ready(tmp_path: Path, server: Server, prefix: str) -> None:
    manager = ServiceManager(str(tmp_path / "own"))
    env = {"NOTIFY_SOCKET": manager.variable}
    own = Supervised(tmp_path / "dying", DYING, INTENSITY, redis_url=server.url, prefix=prefix, env=env)
    try:
        own.start(wait=False)
        wait_until(lambda: any(line.endswith("; degraded: default") for line in manager.lines()), 20, own.output)
        assert "READY=1" not in manager.lines()
        own.stop()
    finally:
        own.close()
        manager.close()
