"""Redis executes a command and its reply is lost: nothing is lost with it, nothing is done twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from millstream.protocol.scripts import script
from tests.lifecycle import program
from tests.lifecycle.conftest import PROGRAM, Mill, config
from tests.support.proxy import Proxy
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

SHA = {name: script(name).sha.encode() for name in ("fetch", "settle", "enqueue")}


@pytest.fixture
def mill(supervise: Callable[..., Supervised], url: str, prefix: str, proxy: Proxy, tmp_path: Path) -> Iterator[Mill]:
    """A mill behind the proxy; the producer goes straight to the server."""
    program.app.connect_to(url, prefix)
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    yield Mill(supervise(PROGRAM, config(processes=1), redis_url=proxy.url, env=env), program.app)
    program.app.client.close()


def test_a_job_whose_delivery_was_lost_runs_at_once(mill: Mill, proxy: Proxy) -> None:
    """The worker waits for work; the reply that brings it is lost."""
    loss = proxy.drop_reply(b"BLOCK", times=1)
    loss_of_reply = wait_until(lambda: loss.requests or loss.lost, 10.0, "the next blocking read")
    assert loss_of_reply
    handle = program.add.enqueue(1)
    begun = time.monotonic()
    assert handle.result(10) == 3
    assert time.monotonic() - begun < 6.0, "far less than the lease of 30 s"
    assert (handle.info().run, handle.info().crashes) == (1, 0)
    mill.up.stop()


@pytest.mark.parametrize("name", ["fetch", "settle"])
def test_lost_replies_under_load(mill: Mill, proxy: Proxy, name: str) -> None:
    for step in range(10):
        loss = proxy.drop_reply(SHA[name], times=1)
        mill.app.enqueue_many(program.noop.job(number) for number in range(100 * step, 100 * step + 100))
        loss.wait(1, 10.0)
    wait_until(lambda: mill.counters().get("completed") == 1000, 10.0, lambda: f"{mill.counters()}\n{mill.up.log()}")
    assert Counter(mill.lines("noop")) == Counter(f"noop {number}" for number in range(1000))
    assert not {"stale", "recovered"} & set(mill.counters())
    mill.up.stop()


def test_a_lost_reply_to_an_enqueue_makes_no_second_job(mill: Mill, proxy: Proxy, prefix: str) -> None:
    program.app.connect_to(proxy.url, prefix)
    for number in range(10):
        proxy.drop_reply(SHA["enqueue"], times=1)
        handle = program.noop.enqueue(number)
        assert handle.created
        named = program.noop.using(id=f"named-{number}")
        proxy.drop_reply(SHA["enqueue"], times=1)
        assert named.enqueue(number).created
        assert not named.enqueue(number).created
    wait_until(lambda: mill.counters().get("completed") == 20, 10.0, mill.up.log)
    assert mill.count("noop") == 20
    mill.up.stop()
