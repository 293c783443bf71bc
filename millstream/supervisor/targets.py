"""How many workers each group should have now: reads the scoreboard, asks the policy, and says what has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog

from millstream.protocol.scoreboard import Header, Scoreboard, Word
from millstream.supervisor.plan import GroupPlan, Plan
from millstream.supervisor.scaling import Load, Scale, Step
from millstream.supervisor.slot import Process, Slot

log = structlog.get_logger("millstream.supervisor")


class Targets:
    """The targets of all groups. Times are monotonic seconds."""

    def __init__(self, plan: Plan, board: Scoreboard) -> None:
        self._board = board
        self._scaled = {group.name for group in plan.scaled}
        self._scales = {group.name: Scale(group.processes, group.most) for group in plan.groups}

    def of(self, group: GroupPlan) -> int:
        """How many workers a group should have."""
        return self._scales[group.name].target

    @property
    def current(self) -> dict[str, int]:
        """The targets by group."""
        return {name: scale.target for name, scale in self._scales.items()}

    def go_on_from(self, targets: Mapping[str, int]) -> None:
        """Begin with the targets of before a reload, where a group follows its backlog."""
        for name in self._scaled & targets.keys():
            self._scales[name].go_on_from(targets[name])

    def follow(self, group: GroupPlan, slots: Iterable[Slot] | None, now: float) -> None:
        """Look at a group's load; None for *slots* where this is no time to judge it."""
        if group.name in self._scaled:
            load = None if slots is None else self._load(group, slots, now)
            _tell(group.name, self._scales[group.name].look(load, now))

    def shift(self, by: int, now: float) -> None:
        """So many workers more (or fewer) in every group, but never none."""
        for name, scale in self._scales.items():
            _tell(name, scale.shift(by, now))

    def _load(self, group: GroupPlan, slots: Iterable[Slot], now: float) -> Load:
        header = self._board.header
        staying = [slot.process for slot in slots if slot.process and not slot.retiring]
        ready = [process for process in staying if process.ready]
        stuck = [_stuck(process, now) for process in ready]
        return Load(
            ready=len(ready),
            busy=sum(process.busy for process in ready),
            idle=sum(process.idle for process in ready),
            waiting=header[Header.BACKLOG + group.index] + sum(jobs for jobs, _ in stuck),
            late=max([header[Header.BACKLOG_AGE + group.index] / 1e9, *(waited for jobs, waited in stuck if jobs)]),
            counted=header[Header.BACKLOG_AT] / 1e9,
        )


def _stuck(process: Process, now: float) -> tuple[int, float]:
    """How many jobs wait behind the one that a worker runs, and for how long at least: they wait as those in Redis do.

    Only when another worker idles they are handed back, so somebody has to be there first.
    """
    return process.record.stuck, now - process.record.words[Word.STARTED] / 1e9


def _tell(group: str, step: Step | None) -> None:
    if step is not None:
        log.info("group.scaled", group=group, **{"from": step.before}, to=step.after, why=str(step.why))
