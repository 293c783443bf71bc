"""What a supervisor tells the others about itself."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any

import orjson
import psutil

import millstream
from millstream.protocol.scoreboard import Header, Phase, Record, RecordState, Scoreboard, Word
from millstream.supervisor.plan import Plan


def heartbeat(plan: Plan, board: Scoreboard) -> bytes:
    """The heartbeat as JSON; the server adds its own time as ``at``."""
    phase = Phase(board.header[Header.PHASE])
    return orjson.dumps(
        {
            **identity(plan),
            "state": phase.name.lower(),
            "groups": {
                group.name: {"queues": group.queues, "target": board.header[Header.TARGETS + group.index]}
                for group in plan.groups
            },
            "workers": [_worker(record, plan, board) for record in board.in_state(RecordState.ALIVE)],
        }
    )


def identity(plan: Plan) -> dict[str, Any]:
    """The part of the heartbeat that does not change."""
    own = plan.identity
    return {
        "instance": own.instance,
        "name": own.name,
        "host": socket.gethostname(),
        "pid": os.getppid(),
        "boot": own.boot,
        "pidns": own.namespace,
        "lock": own.lock_file,
        "started": int(plan.started * 1000),
        "lease": plan.lease,
        "version": millstream.__version__,
    }


def _worker(record: Record, plan: Plan, board: Scoreboard) -> dict[str, Any]:
    """A worker process; of several jobs at a time, the one that has run for longest is named."""
    words = record.words
    holders = [one for one in board.holders(record) if one.running]
    holder = min(holders, key=lambda one: one.words[Word.STARTED], default=record)
    run = holder.running
    rss = None
    with contextlib.suppress(psutil.Error):
        rss = psutil.Process(words[Word.PID]).memory_info().rss
    return {
        "group": plan.group_of(record).name,
        "slot": words[Word.SLOT],
        "pid": words[Word.PID],
        "state": record.activity,
        "job": holder.job_id if run else None,
        "name": holder.job_name if run else None,
        "since": round((time.monotonic_ns() - holder.words[Word.STARTED]) / 1e9, 3) if run else None,
        "running": len(holders),
        "jobs": words[Word.DONE],
        "rss": rss,
    }
