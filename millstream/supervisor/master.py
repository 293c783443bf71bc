"""The supervisor: a parent that stays poor.

It opens no connection, runs no handler and shares nothing but the scoreboard, so that it survives whatever kills its
children (the rule of PostgreSQL's postmaster). One thread, one loop: read :meth:`Supervisor.run` first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from enum import Enum

import structlog

from millstream.protocol.app import Millstream
from millstream.protocol.scoreboard import Cause, Header, Interrupt, Order, Phase, RecordState, Scoreboard, Word
from millstream.supervisor import deadlines, endings, memory
from millstream.supervisor.children import spawn_maintenance, spawn_worker
from millstream.supervisor.deadlines import Gaps
from millstream.supervisor.plan import GroupPlan, Plan
from millstream.supervisor.restart import Backoff, RestartIntensity
from millstream.supervisor.signals import Signals
from millstream.supervisor.slot import Slot

log = structlog.get_logger("millstream.supervisor")

TICK = 0.1
"""Seconds that the loop sleeps at most: deadlines are published without waking it."""

SHORT_TICK = 0.03
"""The same while a worker holds jobs behind the one that it runs."""

INTERRUPT_LEAD = 2.0
"""Seconds before the end of a drain at which running jobs are interrupted."""

BOOT_LIMIT = 120.0
"""Seconds that a worker may take to import the application and to run its start hooks."""

SETTLE_PATIENCE = 1.5
"""Seconds that maintenance has to settle the last deaths when we stop."""

EXIT_OK, EXIT_STOPPED, EXIT_NAME, EXIT_CONFIG = 0, 1, 75, 78


class Stage(Enum):
    """What the supervisor waits for."""

    RUNNING = "a signal"
    DRAINING = "running jobs to end"
    KILLING = "killed workers to be reaped"
    SETTLING = "maintenance to settle what the workers left"
    LEAVING = "maintenance to leave"
    DONE = "nothing"


class Supervisor:
    """The master process. ``on_ready`` is called once, when every group has a worker that is ready."""

    def __init__(
        self, plan: Plan, *, app: Millstream | None = None, server: int | None = None, on_ready: Callable[[], None]
    ) -> None:
        self._plan = plan
        self._app = app
        self._server = server
        self._on_ready = on_ready
        self._board = Scoreboard.create(plan.records)
        self._signals = Signals()
        self._gaps = Gaps(time.monotonic())
        self._stage = Stage.RUNNING
        self._exit_code = EXIT_OK
        self._ready = False
        self._quiet = False
        self._incarnations = 0
        self._drain_started = 0.0
        self._stage_started = 0.0
        self._targets = {group.name: group.processes for group in plan.groups}
        self._intensity = {
            group.name: RestartIntensity(plan.restart_intensity, plan.restart_period) for group in plan.groups
        }
        self._memory_limits = {group.name: group.memory_limit for group in plan.groups}
        self._memory_looked = 0.0
        self._degraded: set[str] = set()
        self._slots: list[Slot] = []
        self._maintenance: int | None = None
        self._maintenance_started = 0.0
        self._maintenance_backoff = Backoff(longest=min(2.0, plan.lease / 8))
        self._maintenance_not_before = 0.0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Supervise until told to stop; returns the exit code."""
        self._signals.install()
        while self._stage is not Stage.DONE:
            self._reap()
            self._act_on_signals()
            self._enforce_deadlines()
            self._watch_maintenance()
            self._restore_count()
            self._advance()
            self._tick_and_sleep()
        endings.stop_server(self._server)
        log.info("supervisor.stopped", exit_code=self._exit_code)
        return self._exit_code

    # Reap.

    def _reap(self) -> None:
        """Take note of every child that died, ours or (as PID 1) adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            slot = next((slot for slot in self._slots if slot.process and slot.process.pid == pid), None)
            if slot is not None:
                self._bury(slot, status)
            elif pid == self._maintenance:
                self._maintenance_died(status)
            elif pid == self._server:
                self._server_died(status)
            else:
                log.debug("child.adopted_reaped", pid=pid)

    def _bury(self, slot: Slot, status: int) -> None:
        process = slot.process
        assert process is not None
        words, now = process.record.words, time.monotonic()
        endings.kill_leftovers(process.pid)
        if not words[Word.STACK_LENGTH]:
            process.record.keep_stack(process.read_stack())
        os.close(process.stack_file)
        ending = endings.describe(status, Cause(words[Word.CAUSE]))
        words[Word.EXIT] = status
        words[Word.REAPED] = time.monotonic_ns()
        words[Word.STATE] = RecordState.DEAD
        self._wake_maintenance()
        slot.process = None
        told = slot.retiring or words[Word.ORDER] == Order.DRAIN
        useful = ending.clean and (told or words[Word.DONE] > 0)  # else: worn out before its first job
        planned = useful or words[Word.CAUSE] in (Cause.DRAIN, Cause.CANCEL)
        log.log(
            20 if planned else 40,
            "worker.exited",
            worker=slot.name,
            pid=process.pid,
            cause=ending.cause,
            signal=ending.signal,
            exit_code=ending.exit_code,
        )
        if planned or self._stage is not Stage.RUNNING:
            return
        if ending.exit_code == EXIT_CONFIG and not self._ready and not words[Word.READY]:
            self._exit_code = EXIT_CONFIG
            return self._begin_kill()
        self._intensity[slot.group].add(now)
        slot.not_before = now + slot.backoff.after_death(now - process.started)

    def _maintenance_died(self, status: int) -> None:
        ending = endings.describe(status, Cause.NONE)
        self._maintenance = None
        if self._stage is Stage.LEAVING:
            return
        now = time.monotonic()
        delay = self._maintenance_backoff.after_death(now - self._maintenance_started)
        self._maintenance_not_before = now + delay
        log.error("maintenance.exited", cause=ending.cause, signal=ending.signal, exit_code=ending.exit_code)

    def _server_died(self, status: int) -> None:
        self._server = None
        log.error("server.exited", **endings.describe(status, Cause.NONE)._asdict())
        if self._stage is Stage.RUNNING:
            self._exit_code = EXIT_STOPPED
            self._begin_drain()

    # Act on signals.

    def _act_on_signals(self) -> None:
        while (number := self._signals.next()) is not None:
            log.info("supervisor.signal", signal=number.name)
            match number:
                case signal.SIGTERM | signal.SIGINT:
                    self._begin_drain() if self._stage is Stage.RUNNING else self._stop_now()
                case signal.SIGQUIT:
                    self._stop_now()
                case signal.SIGUSR1:
                    endings.dump_stacks(self._processes())
                case signal.SIGUSR2:
                    self._log_children()
                case signal.SIGTTIN:
                    self._change_count(+1)
                case signal.SIGTTOU:
                    self._change_count(-1)
                case signal.SIGTSTP:
                    self._set_quiet(True)
                case signal.SIGCONT:
                    self._set_quiet(False)
                case _:
                    log.warning("supervisor.signal_ignored", signal=number.name, reason="reload is not available")

    def _begin_drain(self) -> None:
        self._enter(Stage.DRAINING)
        self._drain_started = time.monotonic()
        self._board.header[Header.PHASE] = Phase.DRAINING
        for slot in self._slots:
            if slot.process is not None:
                slot.process.order(Order.DRAIN)

    def _stop_now(self) -> None:
        self._exit_code = self._exit_code or EXIT_STOPPED
        if self._stage in (Stage.RUNNING, Stage.DRAINING):
            self._begin_kill()

    def _begin_kill(self) -> None:
        self._enter(Stage.KILLING)
        for slot in self._slots:
            if slot.process is not None:
                slot.process.record.words[Word.CAUSE] = Cause.DRAIN
                slot.process.kill_group()

    def _set_quiet(self, quiet: bool) -> None:
        if self._stage is not Stage.RUNNING or quiet == self._quiet:
            return
        self._quiet = quiet
        self._board.header[Header.PHASE] = Phase.QUIET if quiet else Phase.RUNNING
        for slot in self._slots:
            if slot.process is not None and not slot.retiring:
                slot.process.order(Order.QUIET if quiet else Order.WORK)

    def _change_count(self, by: int) -> None:
        for group in self._plan.groups:
            self._targets[group.name] = max(1, self._targets[group.name] + by)

    def _log_children(self) -> None:
        for slot in self._slots:
            process = slot.process
            record = process.record if process else None
            log.info(
                "child",
                worker=slot.name,
                pid=process.pid if process else None,
                job=record.job_id if record and record.running else None,
                done=record.words[Word.DONE] if record else 0,
            )
        log.info("child", maintenance=self._maintenance, server=self._server)

    # Enforce deadlines.

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        gap = self._gaps.tick(now)
        if gap:
            log.warning("supervisor.was_stopped", seconds=round(gap, 1))
            self._maintenance_started = now  # it was stopped too, as likely as not
        deadlines.enforce(self._slots, self._gaps, now)
        if now >= self._memory_looked + memory.INTERVAL:
            self._memory_looked = now
            memory.enforce(self._slots, self._memory_limits)
        if self._stage is Stage.DRAINING:
            self._enforce_drain(now)
        for slot in self._slots:
            process = slot.process
            if process and not process.ready and now - process.started - self._gaps.since(process.started) > BOOT_LIMIT:
                log.error("worker.boot_timeout", worker=slot.name, pid=process.pid, seconds=BOOT_LIMIT)
                process.record.words[Word.CAUSE] = Cause.BOOT
                process.kill_group()

    def _enforce_drain(self, now: float) -> None:
        for slot in self._slots:
            process = slot.process
            if process is None:
                continue
            left = self._drain_started + self._group(slot).drain_timeout - now
            run = process.record.running
            if left <= 0:
                process.record.words[Word.CAUSE] = Cause.DRAIN
                process.kill_group()
            elif left <= INTERRUPT_LEAD and run:
                deadlines.interrupt(process, run, Interrupt.DRAIN, now)

    # Keep the children.

    def _watch_maintenance(self) -> None:
        now = time.monotonic()
        if self._maintenance is None:
            if self._stage is not Stage.LEAVING and now >= self._maintenance_not_before:
                self._board.header[Header.MAINTENANCE_TICK] = 0
                self._maintenance = spawn_maintenance(self._plan, self._board, self._wake_read, self._forget)
                self._maintenance_started = now
            return
        tick = max(self._board.header[Header.MAINTENANCE_TICK] / 1e9, self._maintenance_started)
        limit = max(1.0, self._plan.lease / 6)
        if now - tick > limit:
            log.error("maintenance.stuck", pid=self._maintenance, seconds=round(now - tick, 1))
            os.kill(self._maintenance, signal.SIGKILL)
            self._maintenance_started = now

    def _restore_count(self) -> None:
        """Free settled records; fill, add and retire slots until each group has what it should have."""
        for record in self._board.in_state(RecordState.DEAD):
            if record.words[Word.SETTLED] == record.words[Word.INCARNATION]:
                record.words[Word.STATE] = RecordState.FREE
        if self._stage is not Stage.RUNNING:
            return
        now = time.monotonic()
        for group in self._plan.groups:
            self._board.header[Header.TARGETS + group.index] = self._targets[group.name]
            self._judge_intensity(group, now)
            self._match_target(group)
            for slot in self._slots_of(group):
                if slot.process is None and not slot.retiring and now >= slot.not_before:
                    self._spawn(group, slot)
        self._slots = [slot for slot in self._slots if slot.process is not None or not slot.retiring]

    def _judge_intensity(self, group: GroupPlan, now: float) -> None:
        """A group that keeps dying is degraded: its slots restart slowly until it calms down."""
        exceeded = self._intensity[group.name].exceeded(now)
        if exceeded and group.name not in self._degraded:
            self._degraded.add(group.name)
            log.error("group.degraded", group=group.name, hint="its workers keep dying; restarts are slowed down")
        elif not exceeded and group.name in self._degraded:
            self._degraded.discard(group.name)
            log.info("group.recovered", group=group.name)

    def _match_target(self, group: GroupPlan) -> None:
        slots = [slot for slot in self._slots_of(group) if not slot.retiring]
        for number in range(len(slots), self._targets[group.name]):
            used = {slot.number for slot in self._slots_of(group)}
            free = next(candidate for candidate in range(number + len(used) + 1) if candidate not in used)
            backoff = Backoff(self._plan.restart_backoff, self._plan.restart_backoff_max)
            self._slots.append(Slot(group.name, free, backoff))
        for slot in sorted(slots, key=lambda slot: slot.number)[self._targets[group.name] :]:
            slot.retiring = True
            if slot.process is not None:
                slot.process.order(Order.DRAIN)

    def _spawn(self, group: GroupPlan, slot: Slot) -> None:
        record = self._board.free_record()
        if record is None:  # maintenance is behind with settling the dead; come back at the next tick
            return
        now = time.monotonic()
        if group.name in self._degraded:
            slot.not_before = max(slot.not_before, now + self._plan.restart_backoff_max / 2)
        self._incarnations += 1
        slot.process = spawn_worker(group, slot.number, self._incarnations, record, self._app, self._forget)
        if self._quiet:
            slot.process.record.words[Word.ORDER] = Order.QUIET
        log.info("worker.started", worker=slot.name, pid=slot.process.pid)

    def _forget(self) -> None:
        """In a child: let go of what is the supervisor's own."""
        self._signals.close_in_child()
        os.close(self._wake_write)
        for slot in self._slots:
            if slot.process is not None:
                os.close(slot.process.stack_file)

    # Advance, tick, sleep.

    def _advance(self) -> None:
        """Go on to the next stage when the current one has what it waited for."""
        if self._stage is Stage.RUNNING:
            return self._advance_running()
        if self._stage in (Stage.DRAINING, Stage.KILLING) and not any(self._processes()):
            self._enter(Stage.SETTLING)
        waited = time.monotonic() - self._stage_started
        if self._stage is Stage.SETTLING:
            unsettled = any(self._board.in_state(RecordState.DEAD))
            if not unsettled or waited > SETTLE_PATIENCE:
                self._enter(Stage.LEAVING)
                self._board.header[Header.PHASE] = Phase.STOPPING
                self._wake_maintenance()
        elif self._stage is Stage.LEAVING:
            if self._maintenance is not None and waited > SETTLE_PATIENCE:
                os.kill(self._maintenance, signal.SIGKILL)
            if self._maintenance is None:
                self._enter(Stage.DONE)

    def _advance_running(self) -> None:
        header = self._board.header
        if header[Header.NAME_LOST]:
            log.error("supervisor.name_lost", hint="another supervisor took this name while ours was out of touch")
            self._exit_code = EXIT_NAME
            self._begin_drain()
        elif self._plan.burst and header[Header.NOTHING_LEFT]:
            log.info("supervisor.nothing_left")
            self._begin_drain()
        elif not self._ready and header[Header.MAINTENANCE_TICK] and all(map(self._has_ready, self._plan.groups)):
            self._ready = True
            header[Header.PHASE] = Phase.RUNNING
            self._on_ready()

    def _tick_and_sleep(self) -> None:
        now = time.monotonic()
        self._board.header[Header.SUPERVISOR_TICK] = time.monotonic_ns()
        draining = self._stage is Stage.DRAINING
        held = deadlines.share(self._slots, now, draining=draining or self._quiet)
        hurry = held or self._stage is not Stage.RUNNING or not self._ready
        if self._stage is not Stage.DONE:
            self._signals.sleep(SHORT_TICK if hurry else TICK)

    # Small things.

    def _enter(self, stage: Stage) -> None:
        self._stage, self._stage_started = stage, time.monotonic()
        log.info("supervisor.stage", stage=stage.name.lower(), waiting_for=stage.value)

    def _wake_maintenance(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it is awake
            os.write(self._wake_write, b"!")

    def _slots_of(self, group: GroupPlan) -> list[Slot]:
        return [slot for slot in self._slots if slot.group == group.name]

    def _group(self, slot: Slot) -> GroupPlan:
        return next(group for group in self._plan.groups if group.name == slot.group)

    def _has_ready(self, group: GroupPlan) -> bool:
        return any(slot.process is not None and slot.process.ready for slot in self._slots_of(group))

    def _processes(self) -> Iterator[tuple[str, int, int]]:
        """Name, pid and stack file of every live worker."""
        return (
            (slot.name, slot.process.pid, slot.process.stack_file) for slot in self._slots if slot.process is not None
        )
