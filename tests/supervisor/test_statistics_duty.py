"""What is counted in files comes into Redis once, wherever maintenance dies on the way."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millstream.protocol.errors import Unavailable
from millstream.protocol.keys import QueueKeys
from millstream.protocol.link import Link
from millstream.protocol.statistics import read_statistics
from millstream.supervisor.maintenance import totals
from millstream.supervisor.maintenance.statistics import Statistics
from millstream.supervisor.plan import Plan
from millstream.worker import cells
from millstream.worker.metrics import Ended, JobSeries
from tests.conftest import SharedServers
from tests.supervisor.web.test_scrape_cost import plan_of
from tests.support.acl import as_role
from tests.support.servers import Kind, Server

fork = multiprocessing.get_context("fork")


def count(folder: str, worker: int, number: int) -> None:
    """What a worker counts that completes so many jobs in each of two queues, and fails once."""
    cells.install(folder, str(worker))
    series = JobSeries()
    for queue in ("queue0", "queue1"):
        ran = Ended(number, [0.2] * number, [0.001] * number, [1.0] * number, [1] * number)
        series.count(queue, {("render", "completed"): ran, ("render", "retry"): Ended(1)})


class Died(BaseException):
    """The process was killed at this line."""


class Host:
    """The files of a supervisor, and the maintenance that reads them: each new one is a process that began anew."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.link = Link(plan.url)
        self.keys: list[QueueKeys] = plan.queue_keys[:2]

    def count(self, worker: int, number: int) -> None:
        """Let a worker count so many runs in each of two queues, and one that failed."""
        worker_process = fork.Process(target=count, args=(self.plan.metrics, worker, number))
        worker_process.start()
        worker_process.join(30)
        assert worker_process.exitcode == 0

    def maintenance(self) -> Statistics:
        return Statistics(self.plan)

    def added(self) -> tuple[int, int]:
        """The runs that the statistics of each queue have."""
        one, two = (
            next((one.processed for one in read_statistics(self.link, keys, 3600, job="render")), 0)
            for keys in self.keys
        )
        return one, two


@pytest.fixture
def server(servers: SharedServers) -> Server:
    """One kind is enough: the scripts have tests of their own."""
    return servers.get(Kind.VALKEY)


@pytest.fixture
def host(tmp_path: Path, url: str, prefix: str) -> Any:
    folder = tmp_path / "metrics"
    folder.mkdir()
    host = Host(dataclasses.replace(plan_of(folder), url=as_role(url, "worker"), prefix=prefix))
    yield host
    host.link.close()


def test_each_batch_once(host: Host) -> None:
    maintenance = host.maintenance()
    maintenance.add(host.link)
    assert host.added() == (0, 0)
    host.count(1, 10)
    maintenance.add(host.link)
    maintenance.add(host.link)
    assert host.added() == (11, 11)
    host.count(1, 5)
    host.count(2, 7)
    maintenance.add(host.link)
    assert host.added() == (25, 25)
    (found,) = read_statistics(host.link, host.keys[0], 3600, job="render")
    assert found.outcomes == {"completed": 22, "retried": 3}
    assert found.duration.count == found.wait.count == 22
    assert found.duration.mean == pytest.approx(0.2) and found.wait.mean == pytest.approx(0.001)


@pytest.mark.parametrize("line", ["before it is written down", "before it is sent", "half sent", "before the reply"])
@pytest.mark.parametrize("how", [Died, Unavailable])
def test_death_and_lost_replies(
    host: Host, monkeypatch: pytest.MonkeyPatch, line: str, how: type[BaseException]
) -> None:
    host.count(1, 10)
    first = host.maintenance()
    first.add(host.link)
    host.count(1, 5)
    with monkeypatch.context() as patched:
        _break(patched, host.link, line, how)
        with pytest.raises(how):
            first.add(host.link)
    successor = first if how is Unavailable else host.maintenance()
    host.count(2, 3)
    for _ in range(3):
        successor.add(host.link)
    assert host.added() == (21, 21)
    host.maintenance().add(host.link)
    assert host.added() == (21, 21), "the last batch that is written down is sent again, and changes nothing"


def _break(patched: pytest.MonkeyPatch, link: Link, line: str, how: type[BaseException]) -> None:
    run: Callable[[Any], Any] = link.run
    left = {"before it is sent": 0, "half sent": 1, "before the reply": 2}.get(line, 0)

    def broken(call: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            reply = run(call)
            if left or line != "before the reply":
                return reply
        raise how("here")

    def fail(*_: object) -> None:
        raise how("here")

    if line == "before it is written down":
        patched.setattr("millstream.supervisor.maintenance.statistics.keep", fail)
    else:
        patched.setattr(link, "run", broken)


def test_a_disk_that_is_full(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    maintenance = host.maintenance()
    host.count(1, 10)
    with monkeypatch.context() as patched:
        patched.setattr(totals, "write", _no_room)
        maintenance.add(host.link)
        assert host.added() == (0, 0), "what cannot be written down is not sent"
    host.count(1, 10)
    maintenance.add(host.link)
    assert host.added() == (22, 22)


def _no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("text", [None, b"{", b"[]", b'{"number":1,"totals":[],"batch":{}}'])
def test_a_book_that_is_lost(host: Host, text: bytes | None) -> None:
    """What was added before is not added again; what is counted from now on is."""
    host.count(1, 10)
    first = host.maintenance()
    first.add(host.link)
    host.count(1, 10)
    first.add(host.link)
    book = Path(host.plan.metrics, totals.FILE)
    book.unlink() if text is None else book.write_bytes(text)
    second = host.maintenance()
    second.add(host.link)
    host.count(1, 4)
    second.add(host.link)
    assert host.added() == (27, 27)


def test_files_that_are_gone(host: Host) -> None:
    host.count(1, 10)
    first = host.maintenance()
    first.add(host.link)
    for file in Path(host.plan.metrics).glob("*.db"):
        file.unlink()
    host.count(1, 3)
    second = host.maintenance()
    second.add(host.link)
    host.count(1, 2)
    second.add(host.link)
    assert host.added() == (14, 14), "11, and what came after the loss was noticed"


def test_files_that_are_garbage_end_nothing(host: Host) -> None:
    host.count(1, 10)
    maintenance = host.maintenance()
    maintenance.add(host.link)
    garbage = Path(host.plan.metrics, "counter_9.db")
    garbage.write_bytes((200).to_bytes(4, "little") + bytes(4) + b"\xff" * 500)
    maintenance.add(host.link)
    garbage.unlink()
    host.count(1, 4)
    maintenance.add(host.link)
    assert host.added() == (16, 16)


def test_a_queue_that_is_broken_keeps_no_other_waiting(host: Host) -> None:
    host.count(1, 10)
    host.link.execute("SET", host.keys[0].statistics + "names", "no hash", "EX", 60)
    maintenance = host.maintenance()
    maintenance.add(host.link)
    assert host.added() == (0, 11)
    host.link.execute("DEL", host.keys[0].statistics + "names")
    host.count(1, 1)
    maintenance.add(host.link)
    assert host.added() == (2, 13)


def test_the_rest_is_added_at_the_end(host: Host) -> None:
    maintenance = host.maintenance()
    host.count(1, 10)
    maintenance.add_last()
    assert host.added() == (11, 11)
