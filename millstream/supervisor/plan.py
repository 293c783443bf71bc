"""What the supervisor's processes need to know, worked out once from the settings: plain, frozen, inherited by fork."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from millstream.protocol.keys import Keys, QueueKeys
from millstream.protocol.scoreboard import Record, Word
from millstream.supervisor.config import Group, Settings, bounds
from millstream.supervisor.cpus import cpus
from millstream.supervisor.identity import Identity
from millstream.worker.spec import WorkerSpec

SPARE_RECORDS = 16
"""Records beyond two per worker: for processes that died and are not settled yet, and for TTIN."""


@dataclass(frozen=True)
class GroupPlan:
    """One group of workers. Durations in seconds, sizes in bytes."""

    index: int
    name: str
    queues: tuple[str, ...]
    processes: int  # at the start, and at least
    most: int  # the same where the number is fixed
    drain_timeout: float
    memory_limit: int | None
    crash_limit: int
    crash_delay: float
    worker: WorkerSpec

    def spec(self, slot: int, incarnation: int) -> WorkerSpec:
        """What the next incarnation of a slot is told."""
        return replace(self.worker, slot=slot, incarnation=incarnation)


@dataclass(frozen=True)
class Plan:
    """All of one supervisor."""

    app: str
    url: str = field(repr=False)
    prefix: str
    identity: Identity
    gone: str
    lease: float
    preload: bool
    groups: tuple[GroupPlan, ...]
    restart_backoff: float
    restart_backoff_max: float
    restart_intensity: int
    restart_period: float
    burst: bool = False
    bind: str = ""  # where to serve metrics and health; "" for nowhere
    metrics: str = ""  # the folder of what is counted; "" where nothing is served
    max_backlog_age: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.time)  # when the supervisor was started, Unix time
    dead_ttl: float = 604800.0
    dead_cap: int = 10_000
    retired: tuple[GroupPlan, ...] = ()  # groups of before a reload, with workers that still finish their jobs

    @property
    def instance(self) -> str:
        return self.identity.instance

    @property
    def keys(self) -> Keys:
        return Keys(self.prefix)

    @property
    def queues(self) -> tuple[str, ...]:
        """Every queue that some worker serves, once."""
        return tuple(dict.fromkeys(queue for group in self.all_groups for queue in group.queues))

    @property
    def all_groups(self) -> tuple[GroupPlan, ...]:
        """The groups by their index: those of the configuration, then those that are retired."""
        return (*self.groups, *self.retired)

    @property
    def group_names(self) -> list[str]:
        """The names of all groups, each once: a group that a reload has changed is there twice."""
        return list(dict.fromkeys(group.name for group in self.all_groups))

    def group_of(self, record: Record) -> GroupPlan:
        """The group of the worker that has this record, as it was when the worker was started."""
        index = record.words[Word.GROUP]
        return self.groups[index] if index < len(self.groups) else self.retired[index - len(self.groups)]

    @property
    def queue_keys(self) -> list[QueueKeys]:
        return [self.keys.queue(queue) for queue in self.queues]

    @property
    def scaled(self) -> tuple[GroupPlan, ...]:
        """The groups whose number of processes follows their backlog."""
        return tuple(group for group in self.groups if group.processes < group.most)

    @property
    def records(self) -> int:
        """How many records the scoreboard needs."""
        return 2 * sum(group.most for group in self.groups) + SPARE_RECORDS

    @property
    def lanes(self) -> int:
        """How many lanes the scoreboard needs: two for each coroutine, as of records."""
        many = (group for group in self.groups if group.worker.concurrency > 1)
        return 2 * sum(group.most * group.worker.concurrency for group in many)


def make_plan(
    settings: Settings, identity: Identity, gone: str, app_queues: tuple[str, ...], *, burst: bool, metrics: str = ""
) -> Plan:
    """Work out the plan. *app_queues* are those of the registered jobs, for groups that name none.

    *metrics* is the folder of what is counted, "" where nothing is served.
    """
    location, own = settings.location, settings.supervisor
    groups = tuple(
        _group_plan(index, group, settings, identity, app_queues, metrics)
        for index, group in enumerate(settings.workers.values())
    )
    return Plan(
        app=settings.app or "",
        url=location.url,
        prefix=location.prefix,
        identity=identity,
        gone=gone,
        lease=own.lease,
        preload=own.preload,
        groups=groups,
        restart_backoff=own.restart_backoff,
        restart_backoff_max=own.restart_backoff_max,
        restart_intensity=own.restart_intensity,
        restart_period=own.restart_period,
        burst=burst,
        bind=settings.web.bind if metrics else "",
        metrics=metrics,
        max_backlog_age=settings.web.max_backlog_age or {},
        dead_ttl=settings.dead.ttl,
        dead_cap=settings.dead.cap,
    )


def _group_plan(
    index: int, group: Group, settings: Settings, identity: Identity, app_queues: tuple[str, ...], metrics: str
) -> GroupPlan:
    own, (least, most) = settings.supervisor, bounds(group)
    queues = group.queues or app_queues
    worker = WorkerSpec(
        url=settings.location.url,
        prefix=settings.location.prefix,
        instance=identity.instance,
        group=group.name,
        slot=0,
        incarnation=0,
        app=settings.app or "",
        queues=queues,
        weights=group.weights,
        concurrency=group.concurrency,
        crash_limit=group.crash_limit,
        lease=own.lease,
        timeout=group.timeout,
        kill_after=group.kill_after,
        unknown_grace=own.unknown_grace,
        max_jobs=group.max_jobs,
        max_age=group.max_age,
        max_rss=group.max_rss,
        nice=group.nice,
        env=_environment(group, most),
        metrics=metrics,
        signing_keys=settings.signing_keys.get_secret_value() if settings.signing_keys else "",
        accept_unsigned=settings.accept_unsigned,
    )
    return GroupPlan(
        index=index,
        name=group.name,
        queues=queues,
        processes=least,
        most=most,
        drain_timeout=own.drain_timeout if group.drain_timeout is None else group.drain_timeout,
        memory_limit=group.memory_limit,
        crash_limit=group.crash_limit,
        crash_delay=group.crash_delay,
        worker=worker,
    )


def _environment(group: Group, count: int) -> dict[str, str]:
    """The group's variables; native thread pools get their share of the CPUs, so that workers do not fight."""
    share = str(max(1, cpus() // count))
    pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), share)
    return {**pools, **{name: str(value) for name, value in group.env.items()}}
