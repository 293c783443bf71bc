"""Logging: one renderer for structlog and logging, without secrets, also in forked children."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from millstream.protocol.errors import ConfigError
from millstream.supervisor.logs import configure

log = structlog.get_logger()
URL = "redis://user:p/@ss@host:6379/0"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(output: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_json_where_there_is_no_terminal() -> None:
    output = io.StringIO()
    configure(stream=output, environ={})
    log.info("worker.started", group="reports", pid=7)
    logging.getLogger("somebody").warning("hello %s", "there")
    log.debug("not this")
    first, second = lines(output)
    assert (first["event"], first["level"], first["group"], first["pid"]) == ("worker.started", "info", "reports", 7)
    assert (second["event"], second["level"], second["logger"]) == ("hello there", "warning", "somebody")
    assert str(first["timestamp"]).endswith("Z")


def test_readable_on_a_terminal() -> None:
    output = Terminal()
    configure(stream=output, environ={})
    log.info("worker.started", group="reports")
    assert "worker.started" in output.getvalue()
    assert not output.getvalue().startswith("{")


def test_no_secret_is_written() -> None:
    output = io.StringIO()
    configure(stream=output, environ={"MILLSTREAM_LOG_LEVEL": "debug"})
    log.info("connected", url=URL, token="p/@ss", settings={"password": "p/@ss", "list": [URL]})
    logging.getLogger("other").error("cannot reach %s", URL, extra={"api_key": "p/@ss"})
    try:
        raise ValueError(URL)
    except ValueError as error:
        log.exception("failed", error=error)
    assert "p/@ss" not in output.getvalue()
    assert "redis://***@host:6379/0" in output.getvalue()
    assert len(lines(output)) == 3


def test_a_forked_child_goes_on_logging(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+", buffering=1) as output:
        configure("json", stream=output, environ={})
        log.info("before")
        child = os.fork()
        if child == 0:
            log.info("child")
            os._exit(0)
        os.waitpid(child, 0)
        log.info("after")
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert events == ["before", "child", "after"]


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("MILLSTREAM_LOG_FORMAT", "MILLSTREAM_LOG_FORMAT: must be one of auto, console, json, not 'xml'"),
        ("MILLSTREAM_LOG_LEVEL", "MILLSTREAM_LOG_LEVEL: must be one of debug, info, warning, error, not 'xml'"),
    ],
)
def test_other_values_are_refused(variable: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(environ={variable: "xml"})
    assert caught.value.problems == [message]
