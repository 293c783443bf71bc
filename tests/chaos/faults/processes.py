"""Processes that are killed, stopped, and told to end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

from tests.chaos import reading
from tests.chaos.damage import LEASE
from tests.chaos.faults import CALM, USUAL
from tests.chaos.world import DRAIN, World
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

RELOADED = 15.0  # s until the workers of before are gone: the longest job that they may be in takes 4 s
SILENT = 2.0  # s without a tick of the supervisor after which its leases are not renewed


def nothing_recovered(world: World) -> list[str]:
    """Where maintenance lives, and renews, no job has to wait for the end of a lease."""
    count = reading.counters(world.server).get("recovered", 0)
    return [f"{count} jobs waited for the end of their lease, and nobody had lost one"] if count else []


def kill_workers(world: World) -> None:
    """SIGKILL a worker in the middle of a job; its slot is filled again, and what it held goes back at once."""
    world.at_the_end(nothing_recovered)
    host = world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(0.3, 0.9):
        kill_worker(world, host)


def kill_worker(world: World, host: Supervised) -> None:
    """SIGKILL one, and see it replaced."""
    victim = world.rng.choice(wait_until(host.workers, 5.0, "a worker"))
    world.damage.kill(victim)

    def whole() -> bool:
        workers = host.workers()
        return len(workers) == 2 and victim not in workers

    wait_until(whole, 5.0, lambda: f"two workers after a kill, not {host.workers()}")


def stop_workers(world: World) -> None:
    """SIGSTOP a worker past the lease, then CONT: maintenance renews for it, its job is not given away."""
    host = world.start_host("a")
    world.start_producer(*CALM, "slow", pace=0.05)
    for _ in world.steps(0.2, 0.5):
        stop_worker(world, host)


def stop_worker(world: World, host: Supervised) -> None:
    """SIGSTOP one for longer than a lease."""
    with world.damage.stopped(host, [world.rng.choice(wait_until(host.workers, 5.0, "a worker"))]):
        time.sleep(world.rng.uniform(1.0, 2.0) * LEASE)


def kill_supervisor(world: World) -> None:
    """SIGKILL the supervisor: its tree is gone in 2 s, and a new one of the same name takes over."""
    host = world.start_host("a")
    world.start_producer(*USUAL)
    for number, _ in enumerate(world.steps(1.0, 1.5)):
        maintenance = host.maintenance()
        # Maintenance ends the tree; where it dies at the same moment, the kernel does.
        world.damage.kill_supervisor(host, *([maintenance] if maintenance and number % 2 else []))
        restart(host)


def kill_supervisor_and_restart(world: World, host: Supervised) -> None:
    """SIGKILL it, see its tree gone, start it again."""
    world.damage.kill_supervisor(host)
    restart(host)


def stop_supervisors(world: World) -> None:
    """SIGSTOP a supervisor past its lease: nobody enforces its deadlines, so its leases end and others take over."""
    world.start_host("a")
    world.start_host("b")
    world.start_producer(*CALM, pace=0.05)
    for _ in world.steps(0.5, 1.0):
        job_id = world.enqueue("longest")[0]
        run = wait_until(partial(world.run_of, job_id), 10.0, "a long run")
        host = next(host for host in world.hosts.values() if host.pid == run.supervisor)
        with world.damage.stopped(host, [host.pid]):
            time.sleep(SILENT + LEASE + 1.0)
            kept = (job_id, run.run) in reading.delivered(world.server, host.folder.name)
        assert not kept, f"{job_id} kept its lease while its supervisor was stopped"


def stop_supervisor(world: World, host: Supervised) -> None:
    """SIGSTOP it for longer than maintenance waits for it, and a lease more."""
    with world.damage.stopped(host, [host.pid]):
        time.sleep(SILENT + world.rng.uniform(1.0, 1.5) * LEASE)


def kill_maintenances(world: World) -> None:
    """SIGKILL maintenance: it is replaced before a lease ends, and nothing runs twice."""
    world.at_the_end(nothing_recovered)
    host = world.start_host("a")
    world.start_producer(*USUAL * 4, "long", pace=0.03)
    for _ in world.steps(0.3, 0.8):
        kill_maintenance(world, host)


def kill_maintenance(world: World, host: Supervised) -> None:
    """SIGKILL it (it holds no job), and see it replaced."""
    _replaced(host, lambda pid: os.kill(pid, signal.SIGKILL))


def stop_maintenances(world: World) -> None:
    """SIGSTOP maintenance: the supervisor replaces it before a lease ends, and nothing runs twice."""
    host = world.start_host("a")
    world.start_producer(*USUAL * 4, "long", pace=0.03)
    for _ in world.steps(0.3, 0.8):
        stop_maintenance(world, host)


def stop_maintenance(world: World, host: Supervised) -> None:
    """SIGSTOP it for good, and see it replaced."""
    _replaced(host, lambda pid: os.kill(pid, signal.SIGSTOP))


def _replaced(host: Supervised, end: Callable[[int], None]) -> None:
    before = wait_until(host.maintenance, 5.0, "maintenance")
    end(before)
    wait_until(lambda: host.maintenance() not in (None, before), 5.0, "another maintenance")


def lose_host(world: World) -> None:
    """SIGKILL one of two process trees at once; the other host runs its jobs after the lease."""
    world.start_host("b")
    world.start_host("a")
    world.start_producer(*USUAL)
    for _ in world.steps(1.0, 2.0):
        lose_a_host(world, world.hosts[world.rng.choice("ab")])


def lose_a_host(world: World, lost: Supervised) -> None:
    """SIGKILL its tree; it comes back at once, or after its jobs were taken over."""
    world.damage.kill_tree(lost)
    time.sleep(world.rng.choice([0.0, LEASE + 1.0]))
    restart(lost)


def restart(host: Supervised) -> None:
    """Start a host again; its name stays taken for a lease where the death of its holder is not certain."""

    def started() -> bool:
        host.start(wait=False)
        wait_until(lambda: host.ready or not host.running, 20.0, lambda: f"ready or exit:\n{host.output()}")
        assert host.running or host.exit_code == 75, f"exit {host.exit_code}:\n{host.output()}"
        return host.running

    wait_until(started, 3 * LEASE + 5.0, "the name to be free", interval=0.2)


def stop_hosts(world: World) -> None:
    """SIGSTOP the whole tree of one of two hosts past its lease, then CONT: its late settles are stale."""
    world.start_host("a")
    world.start_host("b")
    world.start_producer(*CALM, "slow", "slow", pace=0.05)
    for _ in world.steps(0.5, 1.0):
        stop_host(world, world.hosts[world.rng.choice("ab")])


def stop_host(world: World, host: Supervised) -> None:
    """SIGSTOP its tree for longer than a lease."""
    with world.damage.stopped(host, [host.pid, *(process.pid for process in host.tree())]):
        time.sleep(world.rng.uniform(0.5, 2.0) * LEASE + 1.0)


def term_under_load(world: World) -> None:
    """TERM with short and long jobs running: exit 0 in time, long jobs are given back uncounted."""
    world.at_the_end(nothing_recovered)
    host = world.start_host("a")
    world.start_producer(*USUAL * 6, "long", pace=0.03)
    for _ in world.steps(0.5, 1.5):
        stop_and_start(world, host)


def stop_and_start(_world: World, host: Supervised) -> None:
    """TERM, which must end within the drain timeout and 2 s, and a new start."""
    host.stop(timeout=DRAIN + 2.0)
    host.start()


def stop_now(world: World) -> None:
    """A second TERM, or QUIT, ends a supervisor at once; TERM while it starts does no harm."""
    host = world.start_host("a")
    world.start_producer(*USUAL * 6, "long", pace=0.03)
    for _ in world.steps(0.5, 1.0):
        _stop_at_once(world, host)
        _stop_while_it_starts(world, host)


def stop_at_once_and_start(world: World, host: Supervised) -> None:
    """TERM twice, or QUIT, and a new start."""
    _stop_at_once(world, host)
    restart(host)


def _stop_at_once(world: World, host: Supervised) -> None:
    second, pause = signal.SIGTERM if world.rng.random() < 0.7 else signal.SIGQUIT, world.rng.uniform(0.0, 0.3)
    if second is signal.SIGTERM:
        host.send(signal.SIGTERM)
        time.sleep(pause)
    world.damage.note_killed(host.workers())
    host.send(second)
    assert host.wait(DRAIN) in (0, 1), f"exit {host.exit_code}:\n{host.output()}"


def _stop_while_it_starts(world: World, host: Supervised) -> None:
    host.start(wait=False)
    time.sleep(world.rng.uniform(0.0, 0.8))
    world.damage.note_killed(host.workers())
    host.send(signal.SIGTERM)
    code = host.wait(DRAIN + 2.0)
    assert code in (0, -signal.SIGTERM), f"exit {code}:\n{host.output()}"
    restart(host)


def reload_hosts(world: World) -> None:
    """HUP again and again, some with a worker killed meanwhile: the same pid, nothing runs twice, nothing waits."""
    world.at_the_end(nothing_recovered)
    host = world.start_host("a")
    world.start_producer(*USUAL * 8, "long", pace=0.05)
    for _ in world.steps(0.1, 0.8):
        reload_host(world, host)


def reload_host(world: World, host: Supervised) -> None:
    """HUP, and see every worker replaced: old ones end with the run that they are in."""
    before = wait_until(host.workers, 5.0, "a worker")
    host.send(signal.SIGHUP)
    if world.rng.random() < 0.3:
        time.sleep(world.rng.uniform(0.0, 2.0))
        world.damage.kill(world.rng.choice(host.workers()))

    def renewed() -> bool:
        workers = host.workers()
        return len(workers) == 2 and not set(workers) & set(before)

    wait_until(renewed, RELOADED, lambda: f"two new workers, not {host.workers()} after {before}:\n{host.output()}")


def resize(_world: World, host: Supervised) -> None:
    """TTIN and TTOU: a worker more, and one fewer."""
    host.send(signal.SIGTTIN)
    wait_until(lambda: len(host.workers()) == 3, 5.0, "one worker more")
    host.send(signal.SIGTTOU)
    wait_until(lambda: len(host.workers()) == 2, RELOADED, "one worker fewer")


def boot_crashes(world: World) -> None:
    """For a while each new worker dies while it imports the application: no job is claimed, none is lost."""
    trap = world.folder / "trap"
    host = world.start_host("a", env={"MILLSTREAM_CHAOS_TRAP": str(trap)})
    world.start_producer(*USUAL)
    for _ in world.steps(0.3, 0.6):
        trap.touch()
        for victim in host.workers():
            world.damage.kill(victim)
        time.sleep(world.rng.uniform(0.3, 1.0))
        trap.unlink()
        world.wait_for_work()
