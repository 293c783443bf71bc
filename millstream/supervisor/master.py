"""The supervisor: a parent that stays poor.

It opens no connection, runs no handler and shares nothing but the scoreboard, so that it survives whatever kills its
children (the rule of PostgreSQL's postmaster). One thread, one loop: read :meth:`Supervisor.run` first.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from enum import Enum
from resource import struct_rusage

import structlog

import millstream
from millstream.protocol.app import Millstream
from millstream.protocol.scoreboard import Cause, Header, Interrupt, Order, Phase, RecordState, Scoreboard, Word
from millstream.supervisor import deadlines, endings, memory, signals
from millstream.supervisor.deadlines import Gaps
from millstream.supervisor.embedded import Server
from millstream.supervisor.embedded.child import ServerChild
from millstream.supervisor.maintenance.child import MaintenanceChild
from millstream.supervisor.notify import Notifier
from millstream.supervisor.plan import Plan
from millstream.supervisor.reload.child import Reload
from millstream.supervisor.reload.handover import Handover
from millstream.supervisor.reload.relaunch import Launch
from millstream.supervisor.signals import Signals
from millstream.supervisor.slot import HALTED, Slot
from millstream.supervisor.strays import Strays
from millstream.supervisor.web.child import WebChild
from millstream.supervisor.web.folder import MetricsFolder
from millstream.supervisor.workers import Workers

log = structlog.get_logger("millstream.supervisor")

TICK = 0.1
"""Seconds that the loop sleeps at most: deadlines are published without waking it."""

SHORT_TICK = 0.03
"""The same while a worker holds jobs behind the one that it runs."""

INTERRUPT_LEAD = 2.0
"""Seconds before the end of a drain at which running jobs are interrupted."""

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
        self,
        plan: Plan,
        *,
        board: Scoreboard | None = None,
        signals: Signals | None = None,
        app: Millstream | None = None,
        server: Server | None = None,
        folder: MetricsFolder | None = None,
        notifier: Notifier | None = None,
        launch: Launch | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._notifier = notifier or Notifier()
        self._on_ready = on_ready
        self._signals = signals or Signals()
        self._board = board or Scoreboard.create(plan.records, plan.lanes)
        self._workers = Workers(plan, self._board, app, self._forget)
        self._maintenance = MaintenanceChild(plan, self._board, self._forget)
        self._server = ServerChild(server)
        self._web = WebChild(plan, self._board, self._forget)
        self._reload = Reload(launch, self._notifier, self._forget)
        self._gaps = Gaps(time.monotonic())
        self._memory = memory.Limits()
        self._strays = Strays(plan.instance)
        self._stage = Stage.RUNNING
        self._stage_started = 0.0
        self._drain_started = 0.0
        self._exit_code = EXIT_OK
        self._ready = False
        self._quiet = False
        self._next_look = 0.0

    def adopt(self, found: Handover) -> None:
        """Go on where the supervisor before us, this same process, has left off for a reload."""
        self._workers.adopt(found.workers, found.incarnations, found.targets)
        self._server.adopt(found.server)
        self._reload.adopt(found.began, again=found.again)
        self._gaps = Gaps(found.last_tick, list(found.gaps))
        now = time.monotonic()
        log.info("reload.taken_over", seconds=round(now - found.last_tick, 2), version=millstream.__version__)
        self._gaps.tick(now)  # deadlines wait for a successor that took long to start
        self._board.header[Header.SUPERVISOR_TICK] = time.monotonic_ns()
        self._board.header[Header.EXECUTING] = 0
        self._strays.look_out(now)  # the one before us may not have found all
        self._ready = True
        self._set_quiet(found.quiet)

    def run(self) -> int:
        """Supervise until told to stop; returns the exit code."""
        self._signals.install()
        while self._stage is not Stage.DONE:
            self._reap()
            self._end_strays()
            self._act_on_signals()
            self._enforce_deadlines()
            self._keep_children()
            self._advance()
            self._tick_and_sleep()
        self._web.stop()
        self._server.stop()
        self._signals.ignore()
        log.info("supervisor.stopped", exit_code=self._exit_code)
        return self._exit_code

    # Reap.

    def _reap(self) -> None:
        """Take note of every child that died, ours or (as PID 1) adopted."""
        for pid, status, usage in _dead_children():
            slot = self._workers.find(pid)
            if slot is not None:
                self._worker_died(slot, status, usage)
            elif pid == self._maintenance.pid:
                self._maintenance.died(status, expected=self._stage is Stage.LEAVING)
            elif pid == self._server.pid:
                self._server.died(status)
            elif pid == self._web.pid:
                self._web.died(status)
            elif pid == self._reload.pid:
                self._reload.died(status)
            else:
                log.debug("child.adopted_reaped", pid=pid)

    def _worker_died(self, slot: Slot, status: int, usage: struct_rusage) -> None:
        never_ready = slot.process is not None and not slot.process.ready
        now = time.monotonic()
        ending = self._workers.bury(slot, status, usage, now)
        self._strays.look_out(now)
        self._maintenance.wake()
        if self._stage is Stage.RUNNING and ending.exit_code == EXIT_CONFIG and never_ready and not self._ready:
            self._exit_code = EXIT_CONFIG  # the application cannot be imported: no restart will mend that
            self._begin_kill()

    def _end_strays(self) -> None:
        """Kill what dead workers have left, where one has died."""
        if self._strays.left:
            processes = [process for _, process in self._workers.processes]
            own = {self._maintenance.pid, self._server.pid, self._web.pid, self._reload.pid}
            own |= {process.pid for process in processes}
            self._strays.end(own, {process.incarnation for process in processes}, time.monotonic())

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
                    endings.dump_stacks(self._workers.processes)
                case signal.SIGUSR2:
                    self._log_children()
                case signal.SIGTTIN:
                    self._workers.change_count(+1)
                case signal.SIGTTOU:
                    self._workers.change_count(-1)
                case signal.SIGTSTP:
                    self._set_quiet(True)
                case signal.SIGCONT:
                    self._set_quiet(False)
                case _:
                    self._reload.wanted = self._stage is Stage.RUNNING

    def _begin_drain(self) -> None:
        busy = sum(1 for _, process in self._workers.processes if process.running)
        self._enter(Stage.DRAINING, busy=busy, hint="a second signal stops at once")
        self._reload.cancel()
        self._drain_started = time.monotonic()
        self._board.header[Header.PHASE] = Phase.DRAINING
        self._workers.order(Order.DRAIN)

    def _stop_now(self) -> None:
        self._exit_code = self._exit_code or EXIT_STOPPED
        if self._stage in (Stage.RUNNING, Stage.DRAINING):
            self._begin_kill()

    def _begin_kill(self) -> None:
        self._enter(Stage.KILLING)
        self._reload.cancel()
        self._workers.kill_all()

    def _set_quiet(self, quiet: bool) -> None:
        if self._stage is Stage.RUNNING and quiet != self._quiet:
            self._quiet = quiet
            self._board.header[Header.PHASE] = Phase.QUIET if quiet else Phase.RUNNING
            self._workers.order(Order.QUIET if quiet else Order.WORK)

    def _log_children(self) -> None:
        for slot, process in self._workers.processes:
            record = process.record
            job = record.job_id if record.running else None
            log.info("child", worker=slot.name, pid=process.pid, job=job, done=record.words[Word.DONE])
        log.info("child", maintenance=self._maintenance.pid, web=self._web.pid, server=self._server.pid)

    # Enforce deadlines.

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        gap = self._gaps.tick(now)
        if gap:
            log.warning("supervisor.was_stopped", seconds=round(gap, 1))
            self._maintenance.excuse(now)
        self._memory.look(self._workers, now)
        self._next_look = deadlines.enforce(self._workers, self._gaps, now)
        self._workers.oom_kills.look(now)
        self._workers.enforce_hook_limits(now, self._gaps.since)
        if self._stage is Stage.DRAINING:
            self._enforce_drain(now)

    def _enforce_drain(self, now: float) -> None:
        for slot, process in self._workers.processes:
            left = self._drain_started + self._workers.group(slot).drain_timeout - now
            if left <= 0:
                process.kill(Cause.DRAIN)
            elif left <= INTERRUPT_LEAD:
                for one in process.holders:
                    if run := one.record.running:
                        deadlines.interrupt(one, run, Interrupt.DRAIN, now)

    # Keep the children.

    def _keep_children(self) -> None:
        now = time.monotonic()
        if self._stage is not Stage.LEAVING:
            self._server.keep_alive(now)
            self._maintenance.keep_alive(now)  # first: leases do not wait for many workers to be forked
        self._workers.free_settled_records()
        if self._stage is Stage.RUNNING:
            self._workers.restore_count(now, until=self._next_look)
        if self._stage is not Stage.LEAVING:
            self._web.keep_alive(now)

    def _forget(self) -> None:
        """In a child: let go of what is the supervisor's own."""
        self._signals.close_in_child()
        self._maintenance.close_in_child()
        for _, process in self._workers.processes:
            os.close(process.stack_file)

    # Advance, tick, sleep.

    def _advance(self) -> None:
        """Go on to the next stage when the current one has what it waited for."""
        waited = time.monotonic() - self._stage_started
        match self._stage:
            case Stage.RUNNING:
                self._advance_running()
            case Stage.DRAINING | Stage.KILLING:
                if not self._workers.processes:
                    self._enter(Stage.SETTLING)
            case Stage.SETTLING:
                if waited > SETTLE_PATIENCE or not (any(self._board.in_state(RecordState.DEAD)) or self._strays.left):
                    self._enter(Stage.LEAVING)
                    self._board.header[Header.PHASE] = Phase.STOPPING
                    self._maintenance.wake()
            case Stage.LEAVING:
                if waited > SETTLE_PATIENCE:
                    self._maintenance.kill()
                if self._maintenance.pid is None:
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
        elif not self._ready and header[Header.MAINTENANCE_TICK] and self._workers.all_groups_ready:
            self._ready = True
            header[Header.PHASE] = Phase.RUNNING
            self._on_ready()
            self._notifier.ready()
        elif self._ready:
            self._advance_reload()

    # Reload.

    def _advance_reload(self) -> None:
        """Rehearse what was asked for, and become it; say when no old worker is kept from leaving any more."""
        self._reload.keep_time(time.monotonic())
        if self._workers.relieved:
            self._reload.finish(old=self._workers.old)
        if self._reload.accepted is not None:
            self._hand_over()
        elif self._reload.wanted and self._reload.idle:
            self._reload.start(self._plan, self._left())

    def _hand_over(self) -> None:
        """Become the new code. Signals that arrive meanwhile stay blocked until it has its handlers."""
        before = signals.block()
        if not self._signals.arrived:  # else they are acted on first, and this comes in the next turn
            self._board.header[Header.EXECUTING] = time.monotonic_ns()  # leases must not end meanwhile
            self._reload.become_successor(self._left())
            self._board.header[Header.EXECUTING] = 0
        signals.unblock(before)

    def _left(self) -> Handover:
        """What only we know."""
        folder = self._folder
        return Handover(
            pid=os.getpid(),
            lock=self._plan.identity.lock,
            board=self._board.descriptor,
            records=len(self._board.records),
            groups=self._plan.all_groups,
            workers=self._workers.state,
            incarnations=self._workers.incarnations,
            targets=self._workers.targets,
            replaced=tuple(pid for pid in (self._maintenance.pid, self._web.pid) if pid is not None),
            server=self._server.server,
            folder=None if folder is None else folder.state,
            quiet=self._quiet,
            again=self._reload.wanted,
            last_tick=self._gaps.last_tick,
            gaps=tuple(self._gaps.gaps),
            began=self._reload.began,
        )

    def _tick_and_sleep(self) -> None:
        self._board.header[Header.SUPERVISOR_TICK] = time.monotonic_ns()
        emptying = self._quiet or self._stage is Stage.DRAINING
        held = deadlines.share(self._workers, time.monotonic(), draining=emptying, revoked=self._maintenance.wake)
        behind = held or self._workers.behind_since or self._strays.left
        hurry = behind or not self._ready or self._stage is not Stage.RUNNING
        halting = deadlines.go_on(self._workers)
        self._notify()
        if self._stage is not Stage.DONE:
            longest = HALTED if halting or self._strays.behind else SHORT_TICK if hurry else TICK
            self._signals.sleep(min(longest, self._next_look - time.monotonic()))

    def _notify(self) -> None:
        """Feed the watchdog, unless maintenance is silent: where replacing it does not help, a fresh start may."""
        now = time.monotonic()
        sane = self._maintenance.silent(now) < self._plan.lease
        self._notifier.beat(now, sane=sane, stopping=self._stage is not Stage.RUNNING, status=self._status)

    def _status(self) -> str:
        doing = self._stage.name.lower()
        if self._stage is Stage.RUNNING and (self._quiet or not self._ready):
            doing = "quiet" if self._ready else "starting"
        return f"{doing}: {self._workers.summary}"

    def _enter(self, stage: Stage, **facts: object) -> None:
        self._stage, self._stage_started = stage, time.monotonic()
        log.info("supervisor.stage", stage=stage.name.lower(), waiting_for=stage.value, **facts)


def _dead_children() -> Iterator[tuple[int, int, struct_rusage]]:
    """Pid, status and use of resources of every child that has died."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status, usage
