"""The scenarios by name: which fault, and what surrounds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.faults import USUAL, clocks, jobs, network, processes, server
from tests.chaos.faults.jobs import KILL_AFTER
from tests.chaos.world import Scenario, World
from tests.support import clock, network_namespace
from tests.support.servers import Options


@dataclass(frozen=True)
class Named:
    """A scenario; hosts and producer reach the server through a proxy where that is to break connections."""

    run: Scenario
    through_proxy: bool = False
    options: Options | None = None  # of the server
    needs: Callable[[], bool] | None = None  # whether the machine allows it

    @property
    def possible(self) -> bool:
        """Whether this machine allows it."""
        return self.needs is None or self.needs()

    @property
    def promise(self) -> str:
        """What is broken, and what must hold."""
        return (self.run.__doc__ or "").strip()


MIXED = (
    processes.kill_worker,
    processes.stop_worker,
    processes.kill_supervisor_and_restart,
    processes.stop_supervisor,
    processes.kill_maintenance,
    processes.stop_maintenance,
    processes.lose_a_host,
    processes.stop_host,
    processes.stop_and_start,
    processes.stop_at_once_and_start,
    processes.reload_host,
    processes.resize,
    network.silence,
    server.restart_server,
    server.restart_server_meanwhile,
    server.refuse_for_a_moment,
    server.forget_scripts,
)


def everything(world: World) -> None:
    """All of these faults in random order, on three hosts, with replies lost all the time, and jobs that do harm."""
    for name in "abc":
        world.start_host(name, own_proxy=True, group=f'memory_limit = "250MiB"\nkill_after = {KILL_AFTER}')
    world.start_producer(*(*USUAL, *["quick"] * 8) * 40, "poison", "hung", "glutton", "long", pace=0.004)
    for _ in world.steps(0.2, 0.6):
        network.lose_reply(world)
        fault, host = world.rng.choice(MIXED), world.hosts[world.rng.choice("abc")]
        world.note(fault.__name__, host)
        fault(world, host)


SCENARIOS = {
    "kill-workers": Named(processes.kill_workers),
    "stop-workers": Named(processes.stop_workers),
    "reload": Named(processes.reload_hosts),
    "kill-supervisor": Named(processes.kill_supervisor),
    "stop-supervisor": Named(processes.stop_supervisors),
    "kill-maintenance": Named(processes.kill_maintenances),
    "stop-maintenance": Named(processes.stop_maintenances),
    "lose-host": Named(processes.lose_host),
    "stop-host": Named(processes.stop_hosts),
    "term-under-load": Named(processes.term_under_load),
    "stop-now": Named(processes.stop_now),
    "boot-crashes": Named(processes.boot_crashes),
    "poison-jobs": Named(jobs.poison_jobs),
    "stuck-jobs": Named(jobs.stuck_jobs),
    "greedy-jobs": Named(jobs.greedy_jobs),
    "malformed-entries": Named(jobs.malformed_entries),
    "pinned-entries": Named(jobs.pinned_entries),
    "rolling-upgrade": Named(jobs.rolling_upgrade),
    "restart-server": Named(server.restart_servers),
    "long-outage": Named(server.long_outage),
    "lose-power": Named(server.lose_power, options=Options(appendonly=True, appendfsync="everysec")),
    "flush-server": Named(server.flush_server),
    "destroy-groups": Named(server.destroy_groups),
    "delete-streams": Named(server.delete_streams),
    "flush-scripts": Named(server.flush_scripts),
    "fill-server": Named(server.fill_server),
    "refusing-server": Named(server.refusing_server, options=server.UNWILLING),
    "fail-over": Named(server.fail_over, through_proxy=True, options=Options(tcp=True)),
    "lose-replies": Named(network.lose_replies, through_proxy=True),
    "silent-connections": Named(network.silent_connections),
    "partitioned-host": Named(network.partitioned_host, needs=network_namespace.permitted),
    "step-clock": Named(clocks.step_clock, needs=clock.permitted),
    "step-clock-of-a-host": Named(clocks.step_clock_of_a_host, needs=clock.permitted),
    "everything": Named(everything, through_proxy=True),
}
