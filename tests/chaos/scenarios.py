"""The faults. Each scenario starts what it needs and breaks it until its time is over."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.chaos import reading
from tests.chaos.world import DRAIN, LEASE, Scenario, World
from tests.support import processes
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

USUAL = ("quick", "quick", "quick", "quick", "slow", "busy", "flaky", "failing")
CALM = ("quick", "quick", "slow", "busy")


def kill_workers(world: World) -> None:
    """SIGKILL a worker in the middle of a job; its slot is filled again."""
    host = world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(0.3, 0.9):
        _kill_worker(world, host)


def _kill_worker(world: World, host: Supervised) -> None:
    victim = world.rng.choice(wait_until(host.workers, 5.0, "a worker"))
    world.kill_worker(victim)
    _wait_respawned(host, victim)


def _wait_respawned(host: Supervised, victim: int) -> None:
    def whole() -> bool:
        workers = host.workers()
        return len(workers) == 2 and victim not in workers

    wait_until(whole, 5.0, lambda: f"two workers after a kill, not {host.workers()}")


def kill_supervisor(world: World) -> None:
    """SIGKILL the supervisor: its tree is gone in 2 s, and a new one of the same name takes over."""
    host = world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(1.0, 2.0):
        _kill_supervisor_and_restart(world, host)


def _kill_supervisor(world: World, host: Supervised) -> None:
    descendants = host.tree()
    world.note_killed([process.pid for process in descendants])
    world.kill_tree([host.pid])
    host.wait(5)
    processes.assert_gone(descendants, timeout=2.0)
    processes.reap_adopted()


def lose_host(world: World) -> None:
    """SIGKILL one of two process trees at once; the other host runs its jobs after the lease."""
    world.start_host("b")
    world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(1.0, 2.0):
        _lose_host(world, world.hosts[world.rng.choice("ab")])


def _lose_host(world: World, lost: Supervised) -> None:
    world.kill_tree([lost.pid, *(process.pid for process in lost.tree())])
    lost.wait(5)
    processes.reap_adopted()
    time.sleep(world.rng.choice([0.0, LEASE + 1.0]))  # back at once, or after its jobs were taken over
    _restart(lost)


def _restart(host: Supervised) -> None:
    # A name stays taken for a lease where the death of its holder is not certain.
    def started() -> bool:
        host.start(wait=False)
        wait_until(lambda: host.ready or not host.running, 20.0, lambda: f"ready or exit:\n{host.output()}")
        assert host.running or host.exit_code == 75, f"exit {host.exit_code}:\n{host.output()}"
        return host.running

    wait_until(started, 3 * LEASE + 5.0, "the name to be free", interval=0.2)


def stop_host(world: World) -> None:
    """SIGSTOP the whole tree of one of two hosts past its lease, then CONT: its late settles are stale."""
    world.start_host("a")
    world.start_host("b")
    world.start_producer(*CALM, "slow", "slow", pace=0.05)
    for _ in world.steps(0.5, 1.0):
        _stop_host(world, world.hosts[world.rng.choice("ab")])


def _stop_host(world: World, host: Supervised) -> None:
    with world.stopped(host):
        time.sleep(world.rng.uniform(0.5, 2.0) * LEASE + 1.0)


def poison_jobs(world: World) -> None:
    """Jobs that kill their worker each time end as dead letters; the others run once."""
    world.start_host("a")
    world.start_producer(*CALM * 16, "poison")
    for _ in world.steps(0.2, 0.4):
        pass


def term_under_load(world: World) -> None:
    """TERM with short and long jobs running: exit 0 in time, long jobs are given back uncounted."""
    host = world.start_host("a")
    world.start_producer(*USUAL * 6, "long", pace=0.03)
    for _ in world.steps(0.5, 1.5):
        _stop_and_start(world, host)


def _stop_and_start(_world: World, host: Supervised) -> None:
    host.stop(timeout=DRAIN + 2.0)
    host.start()


def restart_server(world: World) -> None:
    """The server goes away (TERM or SIGKILL) and returns; the same processes resume within 5 s of that."""
    host = world.start_host("a")
    world.start_producer(*CALM)
    wait_until(lambda: len(host.workers()) == 2, 5.0, "two workers")
    before = sorted(host.workers())
    for _ in world.steps(0.5, 1.5):
        _restart_server(world, host)
        assert sorted(host.workers()) == before, f"workers were replaced: {before} -> {host.workers()}"


def _restart_server(world: World, _host: Supervised) -> None:
    world.restart_server()
    _wait_work(world)


def _wait_work(world: World) -> None:
    done = reading.counters(world.server).get("completed", 0)

    def more() -> bool:
        return reading.counters(world.server).get("completed", 0) > done

    wait_until(more, 5.0, lambda: f"work again; {world.describe()}")


def lose_replies(world: World) -> None:
    """Replies to enqueue, fetch, renew and settle are lost after their execution."""
    world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(0.05, 0.25):
        _lose_reply(world)


def _lose_reply(world: World) -> None:
    world.proxy.drop_reply(_is_call, hang=world.rng.random() < 0.03)


def _is_call(request: bytes) -> bool:
    upper = request[:200].upper()
    return any(name in upper for name in (b"EVALSHA", b"XREADGROUP", b"XADD", b"XACK"))


def everything(world: World) -> None:
    """All faults in random order, on two hosts, with replies lost all the time."""
    faults = [_kill_worker, _kill_supervisor_and_restart, _lose_host, _stop_host, _stop_and_start, _restart_server]
    world.start_host("a")
    world.start_host("b")
    world.start_producer(*USUAL * 8, "poison", pace=0.02)
    for _ in world.steps(0.2, 0.6):
        _lose_reply(world)
        fault, host = world.rng.choice(faults), world.hosts[world.rng.choice("ab")]
        world.note(fault.__name__.strip("_"), host)
        fault(world, host)


def _kill_supervisor_and_restart(world: World, host: Supervised) -> None:
    _kill_supervisor(world, host)
    _restart(host)


@dataclass(frozen=True)
class Named:
    """A scenario with its number in the list of faults; 0 is all of them."""

    number: int
    run: Scenario
    through_proxy: bool = False


SCENARIOS = {
    "kill-workers": Named(1, kill_workers),
    "kill-supervisor": Named(2, kill_supervisor),
    "lose-host": Named(3, lose_host),
    "stop-host": Named(4, stop_host),
    "poison-jobs": Named(8, poison_jobs),
    "term-under-load": Named(11, term_under_load),
    "restart-server": Named(13, restart_server),
    "lose-replies": Named(18, lose_replies, through_proxy=True),
    "everything": Named(0, everything, through_proxy=True),
}
