"""Redis goes away and comes back: the same processes go on, and nothing is lost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import redis

from millstream.protocol.app import Millstream
from millstream.protocol.errors import Unavailable
from millstream.protocol.info import State
from tests.lifecycle import program
from tests.lifecycle.conftest import PROGRAM, Mill, config, with_workers
from tests.support.servers import Kind, Server, StartServer
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

AWAY = 10.0
"""Seconds; ops/chaos has longer outages."""

ONE_FIXTURE = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)
"""The shared server plays no part here."""

StartOn = Callable[..., Mill]


@pytest.fixture
def mill_on(supervise: Callable[..., Supervised], prefix: str, tmp_path: object) -> Iterator[Callable[[Server], Mill]]:
    """A mill on a server of the test's own."""

    def start(server: Server, **options: object) -> Mill:
        program.app.connect_to(server.url, prefix)
        up = supervise(
            PROGRAM,
            config(**options),  # type: ignore[arg-type]
            redis_url=server.url,
            env={"XDG_RUNTIME_DIR": str(tmp_path)},
        )
        return with_workers(Mill(up, program.app), int(str(options.get("processes", 1))))

    yield start
    program.app.client.close()


@contextlib.contextmanager
def busy_with_a_script(server: Server) -> Iterator[None]:
    """The server runs a script without an end, and answers everything else with an error."""

    def run() -> None:
        with contextlib.suppress(redis.RedisError), server.client() as client:
            client.eval("while true do end", 0)

    with server.client() as client:
        client.config_set("busy-reply-threshold", 10)
        hog = threading.Thread(target=run)
        hog.start()
        yield
        client.execute_command("SCRIPT", "KILL")
    hog.join(10)


class Producer(threading.Thread):
    """Enqueues no-ops one by one until told to stop, and notes which were acknowledged."""

    def __init__(self, app: Millstream) -> None:
        super().__init__(daemon=True)
        self._app = app
        self._stopping = threading.Event()
        self.acknowledged: list[int] = []
        self.refused: list[int] = []
        self.slowest_refusal = 0.0

    def run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                program.noop.enqueue(number)
                self.acknowledged.append(number)
            except Unavailable:
                self.refused.append(number)
                self.slowest_refusal = max(self.slowest_refusal, time.monotonic() - begun)
            number += 1
            self._stopping.wait(0.002)

    def stop(self) -> None:
        self._stopping.set()
        self.join(10)


@ONE_FIXTURE
@pytest.mark.parametrize(("kind", "end"), [(Kind.VALKEY, "kill9"), (Kind.REDIS, "stop")])
def test_the_server_is_away_under_load(start_server: StartServer, mill_on: StartOn, kind: Kind, end: str) -> None:
    server = start_server(kind, appendonly=True, appendfsync="always")
    running = mill_on(server, processes=2, supervisor="lease = 30")
    workers = sorted(running.up.workers())
    producer = Producer(running.app)
    producer.start()
    running.wait_for("noop", count=100)
    over = program.nap.enqueue("over", AWAY / 2)  # ends while the server is away
    running.wait_for("start", "over")
    getattr(server, end)()
    time.sleep(AWAY)  # the outage itself, not a synchronisation
    server.start()
    back = time.monotonic()
    probe = program.add.enqueue(1)
    assert probe.result(6) == 3
    assert time.monotonic() - back < 5.0
    assert over.result(5) == "over"
    producer.stop()

    assert sorted(running.up.workers()) == workers, "no worker was restarted"
    assert producer.refused, "the outage was noticed"
    assert producer.slowest_refusal < 2.2
    _assert_nothing_lost(running, producer)
    assert running.count("start", "over") == 1
    running.up.stop()
    with server.client() as client:
        client.flushall()


def _assert_nothing_lost(running: Mill, producer: Producer) -> None:
    """What was acknowledged ran. What was refused may have been executed all the same: its reply was lost."""
    expected = set(producer.acknowledged)
    wait_until(lambda: expected <= _ran(running).keys(), 15.0, running.up.log)
    ran = _ran(running)
    assert set(ran) <= expected | set(producer.refused)
    assert {number for number, count in ran.items() if count > 1} == set()
    assert "stale" not in running.counters()


def _ran(running: Mill) -> Counter[int]:
    return Counter(int(line.split()[1]) for line in running.lines("noop"))


@ONE_FIXTURE
def test_a_server_that_hangs_kills_nobody(start_server: StartServer, mill_on: StartOn) -> None:
    """It answers nothing for 3 s: maintenance must not look as if it hung, and workers go on afterwards."""
    server = start_server()
    running = mill_on(server, processes=2, supervisor="lease = 4")
    children = sorted(process.pid for process in running.up.tree())
    handle = program.nap.enqueue("nap", 1)
    running.wait_for("start", "nap")
    server.pause()
    time.sleep(3.0)  # the outage itself, not a synchronisation
    server.cont()
    assert handle.result(10) == "nap"
    assert program.add.enqueue(1).result(10) == 3
    assert sorted(process.pid for process in running.up.tree()) == children
    assert running.count("start", "nap") == 1
    running.up.stop()


@ONE_FIXTURE
def test_a_server_that_is_busy_for_a_lease_gives_no_job_away(start_server: StartServer, mill_on: StartOn) -> None:
    """Its clock goes on while nobody can renew: whoever looks for expired leases must know."""
    server = start_server()
    busy = mill_on(server, supervisor='name = "a"\nlease = 2')
    handle = program.until.enqueue("job", "go")
    busy.wait_for("start", "job")
    idle = mill_on(server, supervisor='name = "b"\nlease = 2')
    for _ in range(3):
        time.sleep(2.0)  # the time that owners were given before is over
        with busy_with_a_script(server):
            time.sleep(2.2)  # the outage itself
        wait_until(lambda: program.add.enqueue(1).result(10) == 3, 10.0)
    busy.touch("go")
    assert handle.result(10) == "job"
    assert "recovered" not in busy.counters()
    assert busy.count("start", "job") + idle.count("start", "job") == 1
    busy.up.stop()
    idle.up.stop()


@ONE_FIXTURE
@pytest.mark.parametrize("kind", list(Kind), ids=str)
def test_groups_are_rebuilt_after_flushall(start_server: StartServer, mill_on: StartOn, kind: Kind) -> None:
    server = start_server(kind)
    running = mill_on(server, processes=2)
    workers = sorted(running.up.workers())
    assert program.add.enqueue(1).result(5) == 3
    busy = program.until.enqueue("lost", "go")
    running.wait_for("start", "lost")
    server.flush()
    assert program.add.enqueue(2).result(5) == 4
    running.touch("go")
    running.wait_for("end", "lost")
    assert program.add.enqueue(3).result(5) == 5
    assert sorted(running.up.workers()) == workers
    with pytest.raises(Exception, match="there is no job"):
        busy.info()
    running.up.stop()


@ONE_FIXTURE
def test_term_while_the_server_is_away(start_server: StartServer, mill_on: StartOn) -> None:
    server = start_server(appendonly=True, appendfsync="always")
    running = mill_on(server, processes=2, supervisor="drain_timeout = 3")
    handle = program.nap.enqueue("nap", 1)
    running.wait_for("start", "nap")
    server.stop()
    running.up.stop(timeout=5.0)
    server.start()
    assert handle.status() is State.RUNNING, "nobody could settle it"
    running.up.start()
    wait_until(lambda: handle.status() is State.COMPLETED, 10.0, running.up.log)
    running.up.stop()


def test_enqueue_without_a_server_says_so_in_time(start_server: StartServer, prefix: str) -> None:
    server = start_server()
    app = Millstream(redis_url=server.url, prefix=prefix)
    app.enqueue("x", queue="q")
    with server.client() as client:
        client.flushall()
    server.pause()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer in time"):
        app.enqueue("x", queue="q")
    assert time.monotonic() - begun < 2.2
    server.cont()
    server.stop()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="cannot be reached"):
        app.enqueue("x", queue="q")
    assert time.monotonic() - begun < 2.2
    app.client.close()


@ONE_FIXTURE
@pytest.mark.parametrize("kind", list(Kind), ids=str)
def test_a_full_server_can_be_drained(start_server: StartServer, mill_on: StartOn, prefix: str, kind: Kind) -> None:
    """At maxmemory everything but enqueue works, also for a supervisor that starts only then."""
    server = start_server(kind, maxmemory=12 * 2**20)
    producer = Millstream(redis_url=server.url, prefix=prefix)
    accepted = 0
    with pytest.raises(Unavailable, match=r"is full \(maxmemory\)"):
        while True:
            producer.enqueue("measure", "x" * 20_000, queue="default")
            accepted += 1
    assert accepted > 50
    running = mill_on(server, processes=2)
    running.wait_for("measured", count=accepted, timeout=20.0)
    wait_until(lambda: running.counters().get("retry") == accepted, 10.0, lambda: str(running.counters()))
    wait_until(lambda: running.counters().get("completed") == accepted, 20.0, lambda: str(running.counters()))
    assert program.add.enqueue(1).result(5) == 3, "there is room again"
    running.up.stop()
    producer.client.close()
