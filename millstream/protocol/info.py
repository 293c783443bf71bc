"""What is known of a job, as users see it: in Python, on the command line and in the API."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from millstream.protocol.errors import JobNotFound
from millstream.protocol.labels import labels_of
from millstream.protocol.reports import LogLine, read_log, read_progress
from millstream.protocol.states import FINAL as FINAL  # named here by those who show jobs
from millstream.protocol.states import State as State
from millstream.protocol.transitions import Inspected


@dataclass(frozen=True)
class JobError:
    """How a run failed. ``cause`` is one of error, timeout, memory, oom, crash, exit, lease_expired, cancelled,
    deadline, unknown_job, malformed, result."""

    type: str = ""
    message: str = ""
    traceback: str = ""
    stack: str = ""
    cause: str = "error"
    signal: str | None = None
    exit_code: int | None = None


@dataclass(frozen=True)
class Attempt:
    """One run of a job. Durations in seconds, ``peak_rss`` in bytes."""

    attempt: int
    worker: str
    cause: str | None
    started_at: datetime | None
    duration: float | None
    cpu_seconds: float | None
    peak_rss: int | None


@dataclass(frozen=True)
class JobInfo:
    """What is known of a job at one moment. Instants are aware datetimes in UTC.

    ``args`` and ``kwargs`` are None once the job has ended well: only waiting, running and dead jobs keep them; and
    where they are nested too deeply to be shown.
    """

    id: str
    job: str
    queue: str
    state: State
    priority: str = "normal"
    attempt: int = 0
    max_attempts: int | None = None
    crashes: int = 0
    run: int = 1
    progress: float | None = None
    message: str | None = None
    result: Any = None
    error: JobError | None = None
    attempts: tuple[Attempt, ...] = ()
    enqueued_at: datetime | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    logs: tuple[LogLine, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values: ISO 8601 UTC times, durations in seconds, sizes in bytes."""
        return orjson.loads(orjson.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]


def dead_info(queue: str, job_id: str, name: str, run: int, row: bytes) -> JobInfo:
    """What the row of its last run tells of a dead job whose record is gone: no arguments, no earlier runs."""
    record = {"state": b"dead", "out": row, "run": b"%d" % run, "env": orjson.dumps({"n": name})}
    return replace(job_info(queue, job_id, Inspected(0, record, {}, "", 0)), args=None, kwargs=None)


def instant(milliseconds: float | bytes | None) -> datetime | None:
    """Milliseconds of the Unix epoch as an aware datetime; None where that is no time that we know."""
    try:
        return datetime.fromtimestamp(float(milliseconds) / 1000, UTC) if milliseconds else None
    except (ValueError, OverflowError, OSError):
        return None


def job_info(queue: str, job_id: str, facts: Inspected) -> JobInfo:
    """Make a :class:`JobInfo` of the raw facts. Raises :class:`JobNotFound`."""
    record = facts.record
    if not record:
        raise JobNotFound(f"there is no job {job_id!r} in queue {queue!r}: it never existed, or its record has expired")
    envelope = _envelope(record.get("env") or facts.entry.get("env"))
    last = _load_object(record.get("out"))
    options = _object(envelope.get("o")) or _object(last.get("o"))
    labels = labels_of(options)
    tries = _load(b"[" + record.get("tries", b"") + b"]") or []
    state = State(record["state"].decode())
    if state is State.QUEUED and facts.consumer:
        state = State.RUNNING
    counters: dict[str, Any] = record if "attempt" in record else facts.entry
    attempt = int(last.get("a") or counters.get("attempt") or 0) + (1 if state is State.RUNNING else 0)
    rows = [*tries, *([last] if last else [])]
    progress, message = read_progress(record)
    ended = rows[-1] if rows else {}
    return JobInfo(
        id=job_id,
        job=envelope.get("n") or last.get("n") or "",
        queue=queue,
        state=state,
        priority=envelope.get("p") or last.get("p") or "normal",
        attempt=attempt,
        max_attempts=last.get("x") or ended.get("x") or options.get("attempts"),
        crashes=_crashes(state, counters, tries),
        run=int(counters.get("run") or last.get("k") or max(len(tries) + 1, attempt)),
        progress=progress,
        message=message,
        result=last.get("r"),
        error=_error(ended) if state is not State.COMPLETED else None,
        attempts=tuple(_attempt(row) for row in rows),
        enqueued_at=instant(envelope.get("t") or last.get("t")),
        due_at=instant(record.get("due")),
        expires_at=instant(record.get("expires")),
        started_at=_started(state, facts, ended),
        finished_at=_finished(last) if state in FINAL else None,
        metadata=labels.get("metadata", {}),
        tags=tuple(labels.get("tags", ())),
        args=envelope.get("a", []) if envelope else None,
        kwargs=envelope.get("k", {}) if envelope else None,
        logs=tuple(LogLine(instant(at), run, line) for at, run, line in read_log(record)),
    )


def keeps_result(facts: Inspected) -> bool:
    """Whether the result of a job that completed is kept: not with a ``result_ttl`` of 0."""
    return "z" not in _load_object(facts.record.get("out"))


def _crashes(state: State, counters: dict[str, bytes], tries: list[dict[str, Any]]) -> int:
    """How often the job's worker died; a job that ended well has no counter any more, but its earlier runs."""
    if "crashes" in counters or state not in FINAL:
        return int(counters.get("crashes", 0))
    return sum(row.get("c") in ("crash", "exit", "oom") for row in tries)


_MEMBERS: dict[str, type] = {"n": str, "p": str, "t": int, "a": list, "k": dict, "o": dict}


def _envelope(encoded: bytes | None) -> dict[str, Any]:
    """The envelope of a job, without what is not as it must be: one that was refused is kept as it came.

    None stands for what is nested so deeply that it can be read, but not written again.
    """
    loaded = _load_object(encoded)
    members = {name: value for name, value in loaded.items() if isinstance(value, _MEMBERS.get(name, object))}
    try:
        orjson.dumps([members])  # one level more, as whoever shows it has
    except TypeError:
        return {name: value if isinstance(value, str | int) else None for name, value in members.items()}
    return members


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _load_object(encoded: bytes | None) -> dict[str, Any]:
    """A JSON object of a record; {} where it is something else: a malformed entry keeps what it came with."""
    return _object(_load(encoded))


def _load(encoded: bytes | None) -> Any:
    """JSON of a record; {} where there is none or where it is garbage (a malformed entry's own fields)."""
    try:
        return orjson.loads(encoded) if encoded else {}
    except orjson.JSONDecodeError:
        return {}


def _attempt(row: dict[str, Any]) -> Attempt:
    return Attempt(
        attempt=row.get("a", 0),
        worker=row.get("w", ""),
        cause=row.get("c"),
        started_at=instant(row.get("s")),
        duration=row.get("d"),
        cpu_seconds=row.get("u"),
        peak_rss=row.get("m"),
    )


def _error(row: dict[str, Any]) -> JobError | None:
    return JobError(**{"cause": row.get("c") or "error", **row["e"]}) if row.get("e") else None


def _started(state: State, facts: Inspected, ended: dict[str, Any]) -> datetime | None:
    if state is State.RUNNING:
        return instant(facts.now - facts.idle)
    return instant(ended.get("s"))


def _finished(row: dict[str, Any]) -> datetime | None:
    return instant(row["s"] + 1000 * (row.get("d") or 0)) if row.get("s") else None
