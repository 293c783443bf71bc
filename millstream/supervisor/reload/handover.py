"""What a supervisor leaves to its successor, the same process with new code: a file without a name, and descriptors.

The processes stay children of the same parent, the scoreboard stays where it is; only what stood in the supervisor's
own memory has to be written down.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pydantic import TypeAdapter

from millstream.protocol.scoreboard import LAYOUT, Header, Record, RecordState, Scoreboard, Word, anonymous_file
from millstream.supervisor.embedded import Server
from millstream.supervisor.plan import GroupPlan, Plan
from millstream.supervisor.slot import KEPT_ELSEWHERE, Process

FORMAT = 1
"""Of everything in this file, and of the plan. A version that cannot read what its predecessor writes has another."""


@dataclass(frozen=True)
class OldWorker:
    """A worker that goes on under the code and the plan with which it was started."""

    record: int
    slot: int
    retiring: bool
    process: dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """The folder of metrics, its lock, and the link that leads to it."""

    path: str
    lock: int
    link: str | None


@dataclass(frozen=True)
class Handover:
    """All that the successor must know. Descriptors are numbers, times monotonic seconds."""

    pid: int
    lock: int  # of our name
    board: int
    records: int
    groups: tuple[GroupPlan, ...]  # whose numbers stand in the records
    workers: tuple[OldWorker, ...]
    incarnations: int
    targets: dict[str, int]  # of the groups, by name
    replaced: tuple[int, ...]  # the children that run no job: the successor starts its own
    server: Server | None
    folder: Folder | None
    quiet: bool
    again: bool  # another reload was asked for
    last_tick: float
    gaps: tuple[tuple[float, float], ...]
    began: float

    @property
    def descriptors(self) -> Iterator[int]:
        """What has to stay open."""
        yield self.lock
        yield self.board
        yield from (worker.process["stack_file"] for worker in self.workers)
        if self.folder is not None:
            yield self.folder.lock


_OF_A_PROCESS = {one.name for one in fields(Process)} - KEPT_ELSEWHERE
_PLAN = TypeAdapter(Plan)
_HANDOVER = TypeAdapter(Handover)


def write(content: dict[str, Any], descriptor: int | None = None) -> int:
    """Write to a file without a name, a new one or this; returns its descriptor."""
    if descriptor is None:
        descriptor = anonymous_file("millstream-reload")
    os.ftruncate(descriptor, 0)
    text = json.dumps({**content, "format": FORMAT, "layout": LAYOUT}, default=str).encode()
    while text:
        os.lseek(descriptor, 0, os.SEEK_END)
        text = text[os.write(descriptor, text) :]
    return descriptor


def read(descriptor: int) -> dict[str, Any]:
    """What was written; empty where it cannot be read. Raises :class:`OSError`."""
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    with suppress(ValueError):
        return dict(json.loads(text))
    return {}


def fits(content: dict[str, Any]) -> bool:
    """Whether this version can go on with what its writer has left."""
    return content.get("format") == FORMAT and content.get("layout") == LAYOUT


def plan_of(content: dict[str, Any]) -> Plan:
    """The plan in a file. Raises :class:`ValueError` for one of another version."""
    if not fits(content):
        raise ValueError("this was written by another version")
    return _PLAN.validate_python(content.get("plan"))


def as_written(value: Plan | Handover) -> dict[str, Any]:
    """A plan or a handover as it is written to a file."""
    return asdict(value)


def handover_of(content: dict[str, Any]) -> Handover:
    """The handover in a file. Raises :class:`ValueError` for one of another version."""
    found = _HANDOVER.validate_python(content.get("handover"))
    if any(worker.process.keys() != _OF_A_PROCESS for worker in found.workers):
        raise ValueError("this was written by another version")
    return found


def inherit(found: Handover, plan: Plan) -> tuple[Plan, Scoreboard]:
    """The scoreboard, with room for all that the new plan needs, and the plan, which knows the old workers' groups.

    Whoever reads the scoreboard by the old plan is ended first: from then on its numbers are those of the new one.
    """
    for pid in found.replaced:
        _end(pid)
    board = Scoreboard(found.board, found.records)
    used = list(in_use(board))
    retired: list[GroupPlan] = []
    for record in used:
        group = found.groups[record.words[Word.GROUP]]
        alike = next((one for one in retired if replace(one, index=group.index) == group), None)
        if alike is None:
            alike = replace(group, index=len(plan.groups) + len(retired))
            retired.append(alike)
        for one in (record, *board.lanes_of(record)):
            one.words[Word.GROUP] = alike.index
    board.header[Header.BACKLOG_AT] = 0  # what waits is known of other numbers of groups
    plan = replace(plan, retired=tuple(retired))
    wanted = max(found.records, len(used) + plan.records)
    lanes = max(board.header[Header.LANES], board.lanes_end + plan.lanes if plan.lanes else 0)
    if wanted > found.records or lanes > board.header[Header.LANES]:
        board = Scoreboard.extend(found.board, wanted, lanes)
    return plan, board


def in_use(board: Scoreboard) -> Iterator[Record]:
    """The records of workers that live, or are not settled yet."""
    return (record for record in board.records if record.words[Word.STATE] != RecordState.FREE)


def _end(pid: int) -> None:
    """Kill a child and reap it."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
