"""What a run tells of itself while it is on: how far it is, and lines of its log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from millstream.protocol.call import Argument, Call
from millstream.protocol.keys import QueueKeys
from millstream.protocol.scripts import script

LOG_BYTES = 16 * 1024
"""Bytes of a job's log that are kept: its newest lines."""

LINE_LIMIT = 1000
"""Characters of a line or a message that are kept."""


class Line(NamedTuple):
    """One line to be kept: how old it is in milliseconds, and its text."""

    age: int
    text: str


@dataclass(frozen=True)
class LogLine:
    """A line that a handler logged: when (by the server's clock), in which run, what."""

    at: datetime | None
    run: int
    line: str


def report(
    keys: QueueKeys,
    job_id: str,
    ref: str,
    run: int,
    progress: tuple[float, str | None] | None,
    batch: str = "",
    lines: Sequence[Line] = (),
) -> Call[bool]:
    """Note percent and message, and lines; False where the delivery was taken from that run.

    *batch* names these lines: sent again after a lost reply they are noted once.
    """
    told = b"" if progress is None else orjson.dumps((ref, *progress))
    args: list[Argument] = [ref, told, run, LOG_BYTES, batch]
    for line in lines:
        args += (line.age, orjson.dumps(line.text))
    return Call(script("report"), (keys.job(job_id),), args, bool)


def shortened(text: str) -> str:
    """At most :data:`LINE_LIMIT` characters, and nothing that UTF-8 cannot carry."""
    if len(text) > LINE_LIMIT:
        text = text[: LINE_LIMIT - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode()


def read_progress(record: dict[str, bytes]) -> tuple[float | None, str | None]:
    """What the current or last run reported; (None, None) where it has not, or only an earlier one did."""
    told = _load(record.get("progress"))
    if not isinstance(told, list) or len(told) != 3 or told[0] != record.get("entry", b"").decode(errors="replace"):
        return None, None
    _, percent, message = told
    number = float(percent) if isinstance(percent, int | float) and not isinstance(percent, bool) else None
    return number, message if isinstance(message, str) else None


def read_log(record: dict[str, bytes]) -> list[tuple[float, int, str]]:
    """The lines that are kept: (ms, run, line) each, without what is none."""
    rows = _load(b"[" + record.get("log", b"").replace(b"\n", b",") + b"]")
    return [(row[0], row[1], row[2]) for row in rows if _is_row(row)] if isinstance(rows, list) else []


def _is_row(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 3:
        return False
    at, run, line = row
    return isinstance(at, int | float) and isinstance(run, int) and isinstance(line, str)


def _load(encoded: bytes | None) -> Any:
    try:
        return orjson.loads(encoded) if encoded else None
    except orjson.JSONDecodeError:
        return None
