"""The workers of all groups: their slots, how many there should be, and what becomes of those that die."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from resource import struct_rusage

import structlog

from millstream.protocol.app import Millstream
from millstream.protocol.scoreboard import Cause, Header, Order, RecordState, Scoreboard, Word
from millstream.supervisor import endings
from millstream.supervisor.blame import blame
from millstream.supervisor.children import spawn_worker, with_lanes
from millstream.supervisor.endings import Ending
from millstream.supervisor.oom import OomKills
from millstream.supervisor.plan import GroupPlan, Plan
from millstream.supervisor.reload.handover import OldWorker
from millstream.supervisor.restart import HEALTHY, Backoff, RestartIntensity
from millstream.supervisor.slot import Process, Slot
from millstream.supervisor.targets import Targets
from millstream.worker.rows import RSS_UNIT

log = structlog.get_logger("millstream.supervisor")

BOOT_LIMIT = 120.0
"""Seconds that a worker may take to import the application and to run its start hooks."""

SPAWN_TIME = 0.02
"""Seconds after which the rest of the workers are started at the next tick: deadlines do not wait for many forks."""

DYING = 0.25
"""Seconds for which those that were killed have the CPU before those that take their places."""

POSTPONED = 1.0
"""Seconds for which starting workers may be put off for that."""

LEAVE_LIMIT = 30.0
"""Seconds that it may take for its stop hooks, when it has settled its last job."""


RUN_KILLED = (Cause.TIMEOUT, Cause.MEMORY, Cause.CANCELLED, Cause.LEASE_EXPIRED)
"""Causes of a kill that was meant for a run, not for its worker."""


PLANNED = (Cause.DRAIN, Cause.TIMEOUT, Cause.CANCELLED, Cause.LEASE_EXPIRED)
"""Causes of a kill that says nothing about whether workers can live."""


class Workers:
    """Fills each group's slots, and restarts what dies: with backoff, and slowly in a group that keeps dying.

    *forget* lets go, in a new child, of what is the supervisor's own.
    """

    def __init__(self, plan: Plan, board: Scoreboard, app: Millstream | None, forget: Callable[[], None]) -> None:
        self._plan = plan
        self._board = board
        self._app = app
        self._forget = forget
        self._slots: list[Slot] = []
        self._groups = {group.name: group for group in plan.groups}
        self._targets = Targets(plan, board)
        self._intensity = {
            group.name: RestartIntensity(plan.restart_intensity, plan.restart_period) for group in plan.groups
        }
        self._down_since: dict[str, float] = {}  # of groups without a worker that is ready
        self._incarnations = 0
        self._order = Order.WORK
        self.oom_kills = OomKills()
        self.behind_since = 0.0  # since when slots are to be filled for which there was no time; 0 for none

    def __iter__(self) -> Iterator[Slot]:
        """All slots, filled or not."""
        return iter(self._slots)

    @property
    def processes(self) -> list[tuple[Slot, Process]]:
        """The slots that are filled, with their processes."""
        return [(slot, slot.process) for slot in self._slots if slot.process is not None]

    @property
    def all_groups_ready(self) -> bool:
        """Whether each group has a worker that is ready."""
        return self._ready_groups >= self._groups.keys()

    @property
    def _ready_groups(self) -> set[str]:
        return {slot.group for slot, process in self.processes if process.ready}

    @property
    def summary(self) -> str:
        """One line for people: how many there are, how many are busy, which groups keep dying."""
        processes = self.processes
        busy = sum(1 for _, process in processes if process.running)
        degraded = ", ".join(sorted(name for name in self._groups if self._is_degraded(name)))
        return f"{busy} of {len(processes)} workers busy" + (f"; degraded: {degraded}" if degraded else "")

    def group(self, slot: Slot) -> GroupPlan:
        """The plan of a slot's group."""
        return slot.old or self._groups[slot.group]

    # Those of before a reload.

    @property
    def state(self) -> tuple[OldWorker, ...]:
        """What a successor must know of the processes; the rest stands in their records."""
        return tuple(
            OldWorker(process.record.index, slot.number, slot.retiring, process.to_dict())
            for slot, process in self.processes
        )

    @property
    def incarnations(self) -> int:
        """How many there were."""
        return self._incarnations

    @property
    def targets(self) -> dict[str, int]:
        """How many workers the groups should have."""
        return self._targets.current

    def adopt(self, old: Sequence[OldWorker], incarnations: int, targets: Mapping[str, int]) -> None:
        """Take over workers that were started before a reload: they go on as they are until others are ready."""
        self._incarnations = incarnations
        self._targets.go_on_from(targets)
        for one in old:
            record = self._board.records[one.record]
            group = self._plan.group_of(record)
            process = with_lanes(Process(record=record, **one.process), self._board.lanes_of(record))
            slot = Slot(group.name, one.slot, Backoff(), process, retiring=one.retiring, old=group)
            self._slots.append(slot)
            if not process.ready:  # it holds nothing, and others are started now: many reloads make no more workers
                process.kill(Cause.DRAIN)

    @property
    def old(self) -> int:
        """How many processes of before the reload there still are."""
        return sum(1 for slot, _ in self.processes if slot.old is not None)

    @property
    def relieved(self) -> bool:
        """Whether no worker of before the reload is kept any longer than its job."""
        return not any(slot.old is not None and not slot.retiring for slot in self._slots)

    def _relieve(self) -> None:
        """Let those of before the reload go, group by group, once all that take their places are ready."""
        waiting = {
            slot.group
            for slot in self._slots
            if slot.old is None and not slot.retiring and (slot.process is None or not slot.process.ready)
        }
        for slot in self._slots:
            if slot.old is not None and not slot.retiring and slot.group not in waiting:
                slot.retire()

    # What the supervisor wants of them.

    def order(self, order: Order) -> None:
        """Tell all workers, also those that are started later; one that is to leave goes on leaving."""
        self._order = order
        for slot, process in self.processes:
            if not slot.retiring:
                process.order(order)

    def change_count(self, by: int) -> None:
        """So many workers more (or fewer) in every group, but never none."""
        self._targets.shift(by, time.monotonic())

    def kill_all(self) -> None:
        """Kill every worker with its subprocesses; their jobs go back uncounted."""
        for _, process in self.processes:
            process.kill(Cause.DRAIN)

    # How many there are.

    def restore_count(self, now: float, *, until: float) -> None:
        """Fill, add and retire slots until each group has what it should have; start nothing that lasts *until*."""
        ready = self._ready_groups
        for group in self._plan.groups:
            self._judge_intensity(group, now)
            judged = self._order is Order.WORK and not self._is_degraded(group.name)
            self._targets.follow(group, self._slots_of(group) if judged else None, now)
            self._match_target(group)
            self._replace_worn(group)
            self._publish(group, now, up=group.name in ready)
        self._fill(now, until)
        self._relieve()
        self._slots = [slot for slot in self._slots if slot.process is not None or not (slot.retiring or slot.old)]

    def _replace_worn(self, group: GroupPlan) -> None:
        """Let workers go that are worn out, as many as keep two thirds of the group at work."""
        slots = [slot for slot in self._slots_of(group) if not slot.retiring]
        gone = sum(slot.process is None or slot.process.away for slot in slots)
        for process in (slot.process for slot in slots if slot.process is not None):
            words = process.record.words
            if words[Word.MAY_LEAVE] and process.record.running and len(slots) > 1:
                words[Word.MAY_LEAVE] = 0  # it has found another job, maybe a long one: others may go meanwhile
            elif not process.away and (len(slots) == 1 or (words[Word.WORN] and gone < max(1, len(slots) // 3))):
                words[Word.MAY_LEAVE] = 1
                gone += 1

    def _fill(self, now: float, until: float) -> None:
        """Start what is missing, as far as there is time: those that die, or are to, come first."""
        missing = [
            slot
            for slot in self._slots
            if slot.process is None and slot.old is None and not slot.retiring and now >= slot.not_before
        ]
        if not missing or not self.behind_since:
            self.behind_since = now if missing else 0.0
        until = self._time_to_fill(now, until)
        for slot in missing:
            if time.monotonic() > until:
                return
            self._spawn(self._groups[slot.group], slot, now)
        self.behind_since = 0.0

    def _time_to_fill(self, now: float, until: float) -> float:
        """Until when workers may be started at this tick."""
        if now - self.behind_since > POSTPONED:
            return now + SPAWN_TIME
        dying = any(now - process.killed_at < DYING for _, process in self.processes if process.killed_at)
        return 0.0 if dying else min(now + SPAWN_TIME, until - SPAWN_TIME)

    def _publish(self, group: GroupPlan, now: float, *, up: bool) -> None:
        """Say in the scoreboard what only we know of a group."""
        header = self._board.header
        waiting = [slot.not_before for slot in self._slots_of(group) if slot.process is None and slot.not_before > now]
        header[Header.TARGETS + group.index] = self._targets.of(group)
        header[Header.DEGRADED + group.index] = int(self._is_degraded(group.name))
        header[Header.RESTART_AT + group.index] = int(max(waiting, default=0.0) * 1e9)
        self._down_since[group.name] = 0.0 if up else self._down_since.get(group.name) or now
        header[Header.DOWN_SINCE + group.index] = int(self._down_since[group.name] * 1e9)

    def free_settled_records(self) -> None:
        """Free the records of the dead that maintenance has settled."""
        for record in self._board.in_state(RecordState.DEAD):
            if record.words[Word.SETTLED] == record.words[Word.INCARNATION]:
                record.words[Word.STATE] = RecordState.FREE

    def enforce_hook_limits(self, now: float, gap_since: Callable[[float], float]) -> None:
        """Kill what does not get ready, or does not end, in time. *gap_since*: seconds that do not count."""
        for slot, process in self.processes:
            left = process.record.words[Word.LEFT] / 1e9
            since, limit = (left, LEAVE_LIMIT) if left else (process.started, BOOT_LIMIT)
            if (left or not process.ready) and now - since - gap_since(since) > limit:
                log.error("worker.hook_timeout", worker=slot.name, pid=process.pid, seconds=limit)
                process.kill(Cause.HOOK)

    def _judge_intensity(self, group: GroupPlan, now: float) -> None:
        """A group that keeps dying is degraded: its slots restart slowly until its workers live again."""
        before = self._is_degraded(group.name)
        failing = any(slot.failing(now) for slot in self._slots_of(group) if not slot.retiring)
        after = self._intensity[group.name].judge(now, failing=failing)
        if after and not before:
            log.error("group.degraded", group=group.name, hint="its workers keep dying; restarts are slowed down")
        elif before and not after:
            log.info("group.recovered", group=group.name)

    def _is_degraded(self, name: str) -> bool:
        return self._intensity[name].degraded

    def _match_target(self, group: GroupPlan) -> None:
        target = self._targets.of(group)
        staying = [slot for slot in self._slots_of(group) if not slot.retiring]
        # Whoever has nothing to do leaves first, so that nobody waits for what it would have to give back.
        for slot in sorted(staying, key=lambda slot: (not slot.busy, slot.process is None, slot.number))[target:]:
            slot.retire()
        for _ in range(target - len(staying)):
            used = {slot.number for slot in self._slots_of(group)}
            number = next(number for number in range(len(used) + 1) if number not in used)
            backoff = Backoff(self._plan.restart_backoff, self._plan.restart_backoff_max)
            self._slots.append(Slot(group.name, number, backoff))

    def _spawn(self, group: GroupPlan, slot: Slot, now: float) -> None:
        record, many = self._board.free_record(), group.worker.concurrency
        if record is None or (many > 1 and not self._board.give_lanes(record, many)):
            return  # maintenance is behind with settling the dead; come back at the next tick
        self._incarnations += 1
        record.words[Word.ORDER] = self._order
        try:
            slot.process = spawn_worker(
                group, slot.number, self._incarnations, record, self._board.lanes_of(record), self._app, self._forget
            )
        except OSError as error:  # no memory, processes or descriptors left: they may come back
            slot.not_before = now + max(1.0, slot.backoff.after_death(0.0))
            log.error("worker.not_started", worker=slot.name, error=str(error))
            return
        log.info("worker.started", worker=slot.name, pid=slot.process.pid)

    def _slots_of(self, group: GroupPlan) -> list[Slot]:
        return [slot for slot in self._slots if slot.group == group.name and slot.old is None]

    # Those that die.

    def find(self, pid: int) -> Slot | None:
        """The slot that this process fills."""
        return next((slot for slot, process in self.processes if process.pid == pid), None)

    def bury(self, slot: Slot, status: int, usage: struct_rusage, now: float) -> Ending:
        """Note how a slot's process ended and leave its record to maintenance; the slot is free."""
        process = slot.process
        assert process is not None
        words = process.record.words
        endings.kill_leftovers(process.pid)
        process.record.keep_stack(process.read_stack())
        os.close(process.stack_file)
        if not words[Word.CAUSE] and endings.ended_by(status, signal.SIGKILL) and self.oom_kills.explain_death():
            words[Word.CAUSE] = Cause.OOM
        if not words[Word.CAUSE] and words[Word.ORDER] == Order.DRAIN and endings.ended_by(status, signal.SIGTERM):
            words[Word.CAUSE] = Cause.DRAIN  # by our own TERM: the handler had taken away what answers it
        ending = endings.describe(status, Cause(words[Word.CAUSE]))
        words[Word.EXIT] = status
        words[Word.CPU_USED] = int((usage.ru_utime + usage.ru_stime) * 1e9)
        words[Word.PEAK_RSS] = usage.ru_maxrss * RSS_UNIT
        words[Word.REAPED] = time.monotonic_ns()
        blame(process)
        words[Word.STATE] = RecordState.DEAD
        slot.process = None
        for one in process.holders:
            if one.record.words[Word.CAUSE] in RUN_KILLED:
                _tell_of_kill(slot, one)
        planned = _was_planned(slot, process, ending)
        log.log(
            logging.INFO if planned else logging.ERROR,
            "worker.exited",
            worker=slot.name,
            pid=process.pid,
            cause=ending.cause,
            signal=ending.signal,
            exit_code=ending.exit_code,
        )
        if not planned and slot.old is None:
            intensity = self._intensity[slot.group]
            intensity.add(now)
            slot.not_before = now + intensity.slowed(slot.backoff.after_death(process.lived(now)))
        elif process.ready:  # whatever ended it: workers can start and work
            slot.backoff.failing = False
        return ending


def _tell_of_kill(slot: Slot, process: Process) -> None:
    record = process.record
    log.warning(
        "job.killed",
        worker=slot.name,
        pid=process.pid,
        job=record.job_id,
        name=record.job_name,
        attempt=record.words[Word.ATTEMPT] + 1,
        run=record.words[Word.RUN_TOKEN],
        cause=Cause(record.words[Word.CAUSE]).name.lower(),
    )


def _was_planned(slot: Slot, process: Process, ending: Ending) -> bool:
    """Whether a worker ended because it was told to, or was worn out; not one that was so before its first job."""
    words = process.record.words
    told = slot.retiring or words[Word.ORDER] == Order.DRAIN
    useful = words[Word.DONE] > 0 or time.monotonic() - process.started >= HEALTHY
    return (ending.clean and (told or useful)) or words[Word.CAUSE] in PLANNED
