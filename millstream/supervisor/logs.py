"""Logging: readable lines on a terminal, JSON otherwise, on stderr; one renderer for structlog and logging.

No thread and no queue, so that a forked child may simply go on logging.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from millstream.protocol.errors import ConfigError
from millstream.supervisor.redaction import MASK, is_secret, redact
from millstream.worker.context import running_job

FORMAT = "MILLSTREAM_LOG_FORMAT"
LEVEL = "MILLSTREAM_LOG_LEVEL"
FORMATS = ("auto", "console", "json")
LEVELS = ("debug", "info", "warning", "error")


def configure(
    form: str | None = None,
    level: str | None = None,
    *,
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Set logging up for this process and those it forks; may be called again.

    None means MILLSTREAM_LOG_FORMAT (auto, console, json) and MILLSTREAM_LOG_LEVEL (debug, info, warning,
    error). Raises ConfigError for any other value.
    """
    form = _choice(FORMAT, form or environ.get(FORMAT) or "auto", FORMATS)
    chosen = _choice(LEVEL, level or environ.get(LEVEL) or "info", LEVELS)
    output = stream or sys.stderr
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), *_shared()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderer(form, output)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(chosen.upper())
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[chosen.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # loggers at module level must follow a later configure()
    )


def problems(environ: Mapping[str, str]) -> Iterator[str]:
    """What :func:`configure` would refuse."""
    for variable, choices in ((FORMAT, FORMATS), (LEVEL, LEVELS)):
        try:
            _choice(variable, environ.get(variable) or choices[0], choices)
        except ConfigError as error:
            yield from error.problems


def _choice(variable: str, value: str, choices: tuple[str, ...]) -> str:
    if value.lower() not in choices:
        raise ConfigError(f"{variable}: must be one of {', '.join(choices)}, not {redact(value)!r}")
    return value.lower()


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        _job,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _job(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Say for which job a line was written; looked up here, so that a job that logs nothing pays nothing."""
    job = running_job()
    if job is not None:
        facts = {"job": job.id, "name": job.name, "queue": job.queue, "attempt": job.attempt, "run": job.run}
        return {**facts, **event}
    return event


def _renderer(form: str, output: TextIO) -> list[Processor]:
    terminal = output.isatty()
    if form == "console" or (form == "auto" and terminal):
        colors = terminal and "NO_COLOR" not in os.environ
        # The plain traceback: the pretty ones print local variables, and with them secrets.
        console = structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=28
        )
        return [structlog.processors.format_exc_info, _redacted, console]
    return [
        structlog.processors.format_exc_info,
        _redacted,
        structlog.processors.JSONRenderer(serializer=_json),
    ]


def _redacted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask passwords in URLs anywhere, and whole values whose name says that they are secret."""
    return {name: MASK if is_secret(name) and value else _clean(value) for name, value in event.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: MASK if is_secret(str(name)) else _clean(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return redact(str(value)) if isinstance(value, BaseException) else value


def _json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
