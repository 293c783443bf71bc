"""What becomes of the job that was running when its worker died."""

from __future__ import annotations

from typing import Any

import orjson

from millstream.protocol.fate import Fate
from millstream.protocol.scoreboard import Cause, Record, Word
from millstream.protocol.transitions import NOT_COUNTED, Kind, Outcome
from millstream.supervisor.endings import Ending, describe
from millstream.supervisor.plan import GroupPlan, Plan
from millstream.worker.rows import told

ENDED_TTL = 86_400_000
"""Milliseconds for which the record of a job is kept that was cancelled, or discarded, by killing its worker."""

OUR_THREAD = "/millstream/worker/reporting.py"
"""What shows in a dump that a thread is the worker's own: it sends what the handler reports."""

STEPPING = "/millstream/worker/stepping.py"

BESIDE_OTHERS = "; it ran beside other jobs in this process, and nobody knows whose fault it was"


def outcome_of_death(record: Record, group: GroupPlan, plan: Plan) -> Outcome | None:
    """The outcome by the cause of the death; None where the job simply goes back, uncounted."""
    words, refs = record.words, record.held
    index = words[Word.INDEX]
    if index >= len(refs):
        return None
    ref, job_id = refs[index], record.job_id
    ending = describe(words[Word.EXIT], Cause(words[Word.CAUSE]))
    if words[Word.SHARED]:
        return _crashed(record, group, plan, ending, ref)
    match Cause(words[Word.CAUSE]):
        case Cause.DRAIN | Cause.LEASE_EXPIRED | Cause.HOOK:
            return None
        case Cause.CANCELLED:
            row = _row(record, group, plan, ending, "cancelled", counted=1)
            return Outcome(ref, job_id, Kind.CANCELLED, ENDED_TTL, row, holds=True)  # it may: we do not know
        case Cause.TIMEOUT:
            return _killed(record, group, plan, ending, ref, Fate.unpack(words[Word.IF_TIMEOUT]))
        case Cause.MEMORY:
            return _killed(record, group, plan, ending, ref, Fate.unpack(words[Word.IF_MEMORY]))
        case _:
            return _crashed(record, group, plan, ending, ref)


def _killed(record: Record, group: GroupPlan, plan: Plan, ending: Ending, ref: str, fate: Fate) -> Outcome:
    """A kill for its time or memory is a failure like another: the worker has said what its policies make of it."""
    row = _row(record, group, plan, ending, ending.cause, counted=int(fate.counted))
    if fate.kind is Kind.DEAD:
        return Outcome(ref, record.job_id, fate.kind, 0 if fate.counted else NOT_COUNTED, row)
    if fate.kind is Kind.DISCARDED:
        return Outcome(ref, record.job_id, fate.kind, ENDED_TTL, row, holds=True)
    return Outcome(ref, record.job_id, fate.kind, max(1, int(fate.wait() * 1000)), row)


def _crashed(record: Record, group: GroupPlan, plan: Plan, ending: Ending, ref: str) -> Outcome:
    """A crash has its own count: again at once, then 10 s later, then 20 s …, then dead.

    A death that may be the fault of other jobs buries none: what has crashed so often is run by itself then.
    """
    crashes = record.words[Word.CRASHES] + 1
    cause = "exit" if ending.signal is None else ending.cause
    shared = bool(record.words[Word.SHARED])
    dead = not shared and crashes >= (record.words[Word.CRASH_LIMIT] or group.crash_limit)
    row = _row(record, group, plan, ending, cause, counted=0)
    if dead:
        return Outcome(ref, record.job_id, Kind.CRASHED, 0, row)
    delay = 0 if crashes == 1 else int(group.crash_delay * 1000 * 2 ** (crashes - 2))
    return Outcome(ref, record.job_id, Kind.CRASH, delay, row)


def _row(record: Record, group: GroupPlan, plan: Plan, ending: Ending, cause: str, *, counted: int) -> bytes:
    words = record.words
    row: dict[str, Any] = {
        "n": record.job_name,
        "a": words[Word.ATTEMPT] + counted,
        "x": words[Word.MAX_ATTEMPTS],
        "w": f"{plan.identity.name}:{group.name}/{words[Word.SLOT]}",
        "c": cause,
        "s": words[Word.RUN_STARTED_AT],
        "d": round(max(0, words[Word.REAPED] - words[Word.STARTED]) / 1e9, 3),
        "u": round(max(0, words[Word.CPU_USED] - words[Word.CPU_BEFORE] - words[Word.CHILD_CPU]) / 1e9, 6),
        "m": words[Word.PEAK_RSS],
        "e": {
            "type": "WorkerDied",
            "message": _message(ending, cause) + (BESIDE_OTHERS if words[Word.SHARED] else ""),
            "cause": cause,
            "stack": _handler_frames(record.stack),
            "signal": ending.signal,
            "exit_code": ending.exit_code,
        },
    }
    return told(row) if words[Word.TELLS] else orjson.dumps(row)  # settling may find its deadline over, and bury it


def _handler_frames(stack: str) -> str:
    """faulthandler's dump without the frames below the handler: they are ours, and the same each time."""
    if STEPPING in stack:  # a process with coroutines has a thread of ours as well
        stack = next(thread for thread in stack.split("\n\n") if STEPPING in thread).partition(STEPPING)[0]
        return stack.rpartition("\n")[0]
    lines: list[str] = []
    threads = stack.split("\n\n")
    for line in "\n\n".join(one for one in threads if OUR_THREAD not in one).splitlines():
        if "/millstream/worker/execution.py" in line:
            break
        lines.append(line)
    return "\n".join(lines)


def _message(ending: Ending, cause: str) -> str:
    match cause:
        case "timeout":
            return "the job did not end within its time limit and was killed"
        case "memory":
            return "the job used more memory than its group's memory_limit and was killed"
        case "oom":
            return "the kernel killed the worker process for want of memory while it ran the job"
        case "cancelled":
            return "the job was cancelled and its worker killed"
        case "exit":
            return f"the worker process ended itself with exit code {ending.exit_code} while it ran the job"
        case _:
            return f"the worker process was killed by {ending.signal} while it ran the job"
