"""How jobs look: a page of a list, the fields of one job. Arguments only where they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import orjson

from millstream.protocol.info import Attempt, JobInfo
from millstream.protocol.listing import Page
from millstream.supervisor.cli.output import Column, Row, print_rows
from millstream.supervisor.cli.wording import NOTHING, duration, shortened, size

Function = TypeVar("Function", bound=Callable[..., Any])

queue_option = click.option("--queue", help="Only this queue.")
args_option = click.option("--args", "with_args", is_flag=True, help="Show the arguments too.")


def list_options(command: Function) -> Function:
    """``--queue``, ``--name``, ``--limit``, ``--cursor`` and ``--args``."""
    for option in (
        args_option,
        click.option("--cursor", help="Go on where an earlier list ended."),
        click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at most."),
        click.option("--name", help="Only jobs of this name."),
        queue_option,
    ):
        command = option(command)
    return command


def print_page(page: Page, columns: Sequence[Column], form: str, *, with_args: bool, nothing: str) -> None:
    """Print one page of a list of jobs, and on stderr how to go on."""
    shown = (*columns, ARGS_COLUMN) if with_args else columns
    print_rows((row_of(info, with_args) for info in page.jobs), shown, form, nothing=nothing)
    if page.cursor:
        click.echo(f"there may be more: --cursor {page.cursor}", err=True)


def row_of(info: JobInfo, with_args: bool = False, with_logs: bool = False) -> dict[str, Any]:
    """A job as JSON prints it."""
    row = info.to_dict()
    if not with_logs:
        del row["logs"]
    if not with_args:
        row.pop("args", None)
        row.pop("kwargs", None)
    return row


def _attempt(row: Row) -> str:
    return f"{row['attempt']}/{row['max_attempts']}" if row["max_attempts"] else str(row["attempt"])


def _age(row: Row) -> str:
    if not row["enqueued_at"]:
        return NOTHING
    since = datetime.now(UTC) - datetime.fromisoformat(row["enqueued_at"])
    return duration(max(0.0, since.total_seconds()))


def _took(row: Row) -> str:
    return duration(row["attempts"][-1]["duration"]) if row["attempts"] else NOTHING


def error_line(row: Row) -> str:
    """Cause, type and message of the last failure on one line."""
    error = row["error"]
    if not error:
        return NOTHING
    text = ": ".join(part for part in (error["type"], error["message"]) if part)
    return shortened(f"{error['cause']} {text}".strip(), 60)


JOB_COLUMNS = (
    Column("id"),
    Column("job"),
    Column("queue"),
    Column("state"),
    Column("attempt", _attempt, right=True),
    Column("age", _age, right=True),
    Column("took", _took, right=True),
)

DEAD_COLUMNS = (
    Column("id"),
    Column("job"),
    Column("queue"),
    Column("attempt", _attempt, right=True),
    Column("crashes", right=True),
    Column("age", _age, right=True),
    Column("error", error_line),
)

ARGS_COLUMN = Column("args", lambda row: shortened(_call(row), 60))


def _call(row: Row) -> str:
    """A job's arguments as they would stand in a call."""
    if row["args"] is None:
        return "(not kept)"
    positional = [_json(value) for value in row["args"] or ()]
    return ", ".join((*positional, *(f"{name}={_json(value)}" for name, value in (row["kwargs"] or {}).items())))


def fields_of(info: JobInfo, with_args: bool = False, with_logs: bool = False) -> dict[str, object]:
    """A job as people read it: a name and a text per line; what is None is left out."""
    row = info.to_dict()
    fields: dict[str, object] = {
        "id": info.id,
        "job": info.job,
        "queue": info.queue,
        "state": str(info.state),
        "priority": info.priority,
        "attempt": _attempt(row),
        "crashes": info.crashes or None,
        "progress": None if info.progress is None else f"{info.progress:.0f} %",
        "message": info.message,
        "tags": ", ".join(info.tags) or None,
        "metadata": _json(info.metadata) if info.metadata else None,
        "enqueued": _time(info.enqueued_at),
        "due": _time(info.due_at),
        "started": _time(info.started_at),
        "finished": _time(info.finished_at),
    }
    if with_args:
        gone = "(not kept after a job's end)"
        fields["args"] = gone if info.args is None else _json(info.args)
        fields["kwargs"] = _json(info.kwargs) if info.kwargs else None
    if info.attempts:
        fields["runs"] = "\n".join(map(_run, info.attempts))
    if info.result is not None:
        fields["result"] = _json(info.result)
    fields |= _error_fields(info)
    if with_logs:
        fields["log"] = "\n".join(f"{_time(line.at)} {line.run}: {line.line}" for line in info.logs) or "(no lines)"
    return fields


def _error_fields(info: JobInfo) -> dict[str, object]:
    error = info.error
    if error is None:
        return {}
    return {
        "cause": error.cause,
        "error": ": ".join(part for part in (error.type, error.message) if part) or None,
        "signal": error.signal,
        "exit code": error.exit_code,
        "traceback": error.traceback.rstrip() or None,
        "stack": error.stack.rstrip() or None,
    }


def _run(attempt: Attempt) -> str:
    used = f", {duration(attempt.cpu_seconds)} CPU" if attempt.cpu_seconds is not None else ""
    peak = f", peak {size(attempt.peak_rss)}" if attempt.peak_rss else ""
    how = attempt.cause or "ok"
    return f"{attempt.attempt}: {how} after {duration(attempt.duration)}{used}{peak} on {attempt.worker}"


def _time(instant: datetime | None) -> str | None:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z") if instant else None


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
