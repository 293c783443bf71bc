"""Entries that cannot be run: what is no job becomes a dead letter, an unknown job waits for a newer worker."""

from __future__ import annotations

import base64
import logging
from typing import Any

import orjson
import structlog

from millstream.protocol.envelope import Entry
from millstream.protocol.errors import InvalidJob
from millstream.protocol.ids import new_id
from millstream.protocol.keys import checked_id
from millstream.protocol.labels import labels_of
from millstream.protocol.transitions import Kind, Outcome
from millstream.worker.execution import Run, keep_of
from millstream.worker.rows import run_row, told

log = structlog.get_logger("millstream.worker")

UNKNOWN_DELAY = 5000
"""Milliseconds until an unknown job is tried again: a rolling deploy brings a worker that knows it."""

NOT_A_JOB = 1
"""The number of a dead letter that has no payload which could run."""

FORGED = 2
"""The number of a dead letter whose payload may be run once it is known to be right: it is kept, and verified again."""

RAW_LIMIT = 65536
"""Bytes that are kept of the raw fields of a malformed entry, all together."""

SAID_LIMIT = 1000
"""Unknown names that are remembered: anybody may send any."""

_said: set[str] = set()
"""Names that were said to be unknown: each job of them comes back every few seconds."""


def unknown_job(entry: Entry, worker: str, started_at: int, reason: str = "", *, tell: bool = False) -> Outcome:
    """Give back a job whose name (or envelope version) this worker does not know; dead after the grace.

    *tell*: the application wants to be told of every job that is dead.
    """
    message = reason or f"no job {entry.name!r} is registered in this application"
    log.log(
        logging.DEBUG if entry.name in _said else logging.WARNING,
        "job.unknown",
        job=entry.id,
        name=entry.name,
        queue=entry.queue,
        attempt=entry.attempt,
        run=entry.run,
        cause="unknown_job",
        error=message,
    )
    if len(_said) >= SAID_LIMIT:
        _said.clear()
    _said.add(entry.name)
    row = {
        "n": entry.name,
        "t": entry.enqueued_at,
        "a": entry.attempt,
        "w": worker,
        "s": started_at,
        "d": 0.0,
        "c": "unknown_job",
        "e": {"type": "UnknownJob", "message": message, "cause": "unknown_job"},
    }
    return Outcome(entry.ref, entry.id, Kind.UNKNOWN, UNKNOWN_DELAY, told(row) if tell else orjson.dumps(row))


def expired(late: Run, worker: str) -> Outcome:
    """End a job that was not started in time; its record is kept like that of one that has run."""
    entry = late.entry
    message = "the job was not started before its deadline"
    names = {"name": entry.name, "queue": entry.queue, "attempt": entry.attempt, "run": entry.run}
    log.info("job.expired", job=entry.id, **names, cause="deadline", error=message)
    row = run_row(
        entry,
        attempt=entry.attempt,
        max_attempts=late.max_attempts,
        worker=worker,
        started_at=late.started_at,
        duration=0.0,
        cpu=0.0,
        cause="deadline",
        error={"type": "JobExpired", "message": message, "cause": "deadline"},
        labels=labels_of(entry.options),
    )
    return Outcome(entry.ref, entry.id, Kind.EXPIRED, keep_of(late.job, entry), row, entry.holds)


def malformed(ref: str, fields: list[bytes], reason: str, worker: str, started_at: int) -> Outcome:
    """Make a dead letter of an entry that is not a job; its raw fields are kept."""
    row = {**_row("Malformed", reason, worker, started_at), "raw": _raw(fields)}
    return _dead(ref, fields, reason, NOT_A_JOB, row)


def forged(ref: str, fields: list[bytes], reason: str, worker: str, started_at: int) -> Outcome:
    """Make a dead letter of an entry without a signature that fits; an operator who lacked a key may retry it."""
    return _dead(ref, fields, reason, FORGED, _row("BadSignature", reason, worker, started_at))


def _row(kind: str, reason: str, worker: str, started_at: int) -> dict[str, Any]:
    error = {"type": kind, "message": reason, "cause": "malformed"}
    return {"a": 0, "w": worker, "s": started_at, "d": 0.0, "c": "malformed", "e": error}


def _dead(ref: str, fields: list[bytes], reason: str, number: int, row: dict[str, Any]) -> Outcome:
    job_id = _id_of(fields)
    log.error("entry.malformed", job=job_id, entry=ref, cause="malformed", error=reason)
    return Outcome(ref, job_id, Kind.DEAD, number, orjson.dumps(row))


def _raw(fields: list[bytes]) -> list[str | dict[str, str]]:
    """The first fields, as much of them as there is room for."""
    kept, room = [], RAW_LIMIT
    for field in fields:
        if room <= 0:
            break
        kept.append(_readable(field[:room]))
        room -= len(field) + 1
    return kept


def _id_of(fields: list[bytes]) -> str:
    """The entry's own id where it has a usable one, else a new one."""
    pairs = dict(zip(fields[::2], fields[1::2], strict=False))
    try:
        return checked_id(pairs[b"id"].decode())
    except (KeyError, UnicodeDecodeError, InvalidJob):
        return new_id()


def _readable(field: bytes) -> str | dict[str, str]:
    try:
        return field.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(field).decode()}
