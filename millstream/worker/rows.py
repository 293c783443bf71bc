"""The row that is kept of a run: who, when, how long, and what came of it, as JSON."""

from __future__ import annotations

import resource
import sys
import traceback
from typing import Any

import orjson

from millstream.protocol.envelope import Entry

MESSAGE_LIMIT = 2000
TRACEBACK_LIMIT = 8000
MEASURED = 0.001
"""Seconds from which on a run's memory and subprocesses are looked up; below it that would cost more than it tells."""

OUR_FILES = ("/millstream/worker/", "/millstream/protocol/contract.py")
"""What the paths of our own frames have in common; the reader of a traceback looks for his."""

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of ``ru_maxrss``."""


def run_row(
    entry: Entry,
    *,
    attempt: int,
    max_attempts: int,
    worker: str,
    started_at: int,
    duration: float,
    cpu: float,
    cause: str | None = None,
    result: bytes | None = None,
    error: dict[str, Any] | None = None,
    labels: dict[str, Any] | None = None,
    not_kept: bool = False,
    tell: bool = False,
) -> bytes:
    """Encode the row of one run. ``started_at`` in ms, durations in seconds; ``result`` is JSON already.

    ``labels`` are tags and metadata, for where the envelope is not kept; ``not_kept`` says that a result was not to be;
    ``tell``, of a death, that the application wants to be told of it.
    """
    row: dict[str, Any] = {
        "n": entry.name,
        "t": entry.enqueued_at,
        "a": attempt,
        "x": max_attempts,
        "w": worker,
        "s": started_at,
        "d": round(duration, 6),
        "u": round(cpu, 6),
    }
    if duration >= MEASURED:
        row["m"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    if entry.run != attempt:  # some of the runs before were not counted
        row["k"] = entry.run
    if entry.priority != "normal":
        row["p"] = entry.priority
    if cause is not None:
        row["c"] = cause
    if result is not None:
        row["r"] = orjson.Fragment(result)
    if error is not None:
        row["e"] = error
    if labels:
        row["o"] = labels
    if not_kept:
        row["z"] = 1
    return told(row) if tell else orjson.dumps(row)


def told(row: dict[str, Any]) -> bytes:
    """The row of a run whose application wants to be told that it made the job dead: scripts look for this end."""
    return orjson.dumps({**row, "h": 1})


def error_of(error: BaseException, cause: str = "error") -> dict[str, Any]:
    """Type, message and bounded traceback of an exception, without our own frames."""
    try:
        story = traceback.TracebackException.from_exception(error)
        handlers = [frame for frame in story.stack if not any(file in frame.filename for file in OUR_FILES)]
        story.stack = traceback.StackSummary.from_list(handlers)
        text = "".join(story.format())
    except Exception as problem:  # an exception whose own text cannot be made
        text = f"{type(error).__name__}, whose traceback cannot be formatted: {type(problem).__name__}"
    row = {
        "type": type(error).__name__,
        "message": _printable(text_of(error), MESSAGE_LIMIT),
        "traceback": _printable(text, TRACEBACK_LIMIT),
        "cause": cause,
    }
    return {**row, "exit_code": exit_code_of(error)} if isinstance(error, SystemExit) else row


def exit_code_of(error: BaseException) -> int:
    """With what a process would end of this exception, were it not caught."""
    code = error.code if isinstance(error, SystemExit) else 1
    return code & 0xFF if isinstance(code, int) else int(code is not None)


def text_of(error: BaseException) -> str:
    """An exception's message, also where its ``__str__`` raises."""
    try:
        return str(error)
    except Exception as problem:
        return f"(its text cannot be made: {type(problem).__name__})"


def _printable(text: str, limit: int) -> str:
    """At most *limit* characters, the middle left out, without what UTF-8 cannot carry."""
    if len(text) > limit:
        text = f"{text[: limit // 4]}\n… {len(text) - limit} characters left out …\n{text[-(limit * 3 // 4) :]}"
    return text.encode("utf-8", "backslashreplace").decode()
