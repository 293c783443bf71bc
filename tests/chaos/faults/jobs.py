"""Jobs and entries that do harm, and what older and newer versions do to each other."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from millstream.protocol.keys import Keys, QueueKeys
from tests.chaos import reading
from tests.chaos.damage import LEASE
from tests.chaos.faults import CALM, USUAL
from tests.chaos.faults.processes import nothing_recovered
from tests.chaos.jobs import STUCK_AFTER
from tests.chaos.world import World
from tests.support.supervised import ROOT
from tests.support.waiting import wait_until

KILL_AFTER = 0.5
PAGE = 200  # entries that one step of a sweep looks at
GARBAGE = (b"{", b"[1]", b'{"v":1,"t":1}', b'{"v":"x","n":"quick","t":1}', b"\xff\x00", b'{"v":1,"n":5,"t":1}')


def poison_jobs(world: World) -> None:
    """Jobs that kill their worker each time end as dead letters; the others run once, also those of its batch."""
    world.at_the_end(nothing_recovered)
    world.start_host("a")
    world.start_producer(*["quick"] * 60, "slow", "poison")
    for _ in world.steps(0.2, 0.4):
        kinds = ["quick"] * 80
        kinds.insert(world.rng.randrange(20, 60), "poison")
        world.enqueue(*kinds)


def stuck_jobs(world: World) -> None:
    """Jobs that ignore their time limit are killed at the hard one, subprocesses too; each kill is an attempt."""
    world.start_host("a", processes=3, group=f"kill_after = {KILL_AFTER}")
    world.start_producer(*CALM * 10, "stuck", pace=0.03)
    for _ in world.steps(0.2, 0.4):
        pass
    world.at_the_end(judge_durations)


def judge_durations(world: World) -> list[str]:
    """How long each killed run took: its hard limit, and not a second more."""
    hard = STUCK_AFTER + KILL_AFTER
    with world.server.client() as client:
        rows = {
            name: json.loads(row)
            for name, (state, row) in reading.ends(client, reading.dead(client)).items()
            if state == "dead" and '"n":"stuck"' in row
        }
    problems = [
        f"{name}: a run took {row['d']} s, its hard limit is {hard} s"
        for name, row in rows.items()
        if row["c"] != "timeout" or not hard - 0.1 <= row["d"] <= hard + 1.0
    ]
    return problems if rows else ["no job was killed for taking too long"]


def greedy_jobs(world: World) -> None:
    """Jobs that take more memory than their group may are killed, and end as dead letters; the others run once."""
    world.start_host("a", group='memory_limit = "250MiB"')
    world.start_producer(*CALM * 10, "glutton", pace=0.03)
    for _ in world.steps(0.2, 0.4):
        pass


def malformed_entries(world: World) -> None:
    """Entries that are no jobs become dead letters, once each, and no worker dies of them."""
    host = world.start_host("a")
    world.start_producer(*CALM)
    wait_until(lambda: len(host.workers()) == 2, 5.0, "two workers")
    before = sorted(host.workers())
    with world.server.client() as client:
        for number, _ in enumerate(world.steps(0.01, 0.05)):
            job_id = f"{world.seed}-garbage-{number}"
            world.note_foreign(job_id, "garbage")
            stream = world.rng.choice(reading.STREAMS)
            client.xadd(stream, {b"id": job_id.encode(), b"env": world.rng.choice(GARBAGE)})
    assert sorted(host.workers()) == before, f"workers were replaced: {before} -> {host.workers()}"


def pinned_entries(world: World) -> None:
    """Behind pages of entries that a live owner holds, those of a dead one are reached as soon as its lease is over."""
    keys = Keys(reading.PREFIX).queue("chaos")
    world.enqueue(*["quick"] * (2 * PAGE + 50))
    _deliver(world, keys, "vault-1:x/0:1", lease=3600.0)
    pinned = reading.delivered(world.server, "vault")
    behind = world.enqueue(*["quick"] * (PAGE + 50))
    _deliver(world, keys, "ghost-1:x/0:1", lease=LEASE)
    time.sleep(LEASE)  # the dead owner's consumer may be pruned, if only it held nothing
    host = world.start_host("a")
    world.start_producer(*CALM, pace=0.05)
    with world.server.client() as client:
        # A new host gives every owner a lease's time first.
        wait_until(
            lambda: all(state == "completed" for state, _ in reading.ends(client, behind).values()),
            2 * LEASE + 2.0,
            lambda: f"what a dead owner held; {world.describe()}",
        )
        for _ in world.steps(0.2, 0.4):
            pass
        assert reading.delivered(world.server, "vault") == pinned, "a live owner's entries were taken"
        client.hset(keys.owners, "vault-1", 1)
    assert host.running


def _deliver(world: World, keys: QueueKeys, consumer: str, *, lease: float) -> None:
    """All that waits is delivered to an owner that never comes back."""
    with world.server.client() as client:
        if not client.exists(keys.stream("normal")) or not client.xinfo_groups(keys.stream("normal")):
            client.xgroup_create(keys.stream("normal"), reading.GROUP, id="0", mkstream=True)
        client.hset(keys.owners, consumer.split(":")[0], int(lease * 1000))
        client.xreadgroup(reading.GROUP, consumer, {keys.stream("normal"): ">"}, count=10_000)


def rolling_upgrade(world: World) -> None:
    """Producer, then hosts go to the next version, with a newer key format and a new job, one by one, and back."""
    newer = {"MILLSTREAM_CHAOS_NEWER": "1"}
    package = _next_version(world.folder / "next")
    world.start_host("a")
    world.start_host("b")
    world.start_producer(*USUAL * 4, "newcomer", pace=0.03, env=newer)
    upgraded = {**newer, "PYTHONPATH": str(package)}
    for environment in (upgraded, {}, upgraded):
        for host in world.hosts.values():
            host.stop()
            host.extra = environment
            host.start()
            world.wait_for_work()
    _refuse_the_older(world)


def _next_version(folder: Path) -> Path:
    """A copy of the package that knows one more key format."""
    shutil.copytree(ROOT / "millstream", folder / "millstream", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").symlink_to(ROOT / "tests")
    keys = folder / "millstream" / "protocol" / "keys.py"
    text = keys.read_text()
    assert "\nSCHEMA = 1\n" in text, "the format has a new number: make this copy one more"
    keys.write_text(text.replace("\nSCHEMA = 1\n", "\nSCHEMA = 2\n"))
    return folder


def _refuse_the_older(world: World) -> None:
    """On keys of a format that is two versions on the older host does not start; the newer ones work on."""
    with world.server.client() as client:
        client.set(reading.PREFIX + "schema", 3)
    older = world.start_host("older", wait=False)
    assert older.wait(10) != 0, "a host of an older version started on keys of a newer format"
    assert "upgrade millstream" in older.output(), older.output()
    del world.hosts["older"]
    world.wait_for_work()
    world.environment = {**world.hosts["a"].extra}
