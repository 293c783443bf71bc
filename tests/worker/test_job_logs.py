"""Every line that a handler logs says for which job, through whichever logging it was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

APP = """
import logging
import structlog
from millstream import Millstream, current_job

app = Millstream()

@app.job
def chatty() -> str:
    logging.getLogger("shop").warning("from logging")
    structlog.get_logger().warning("from structlog")
    current_job().log("from the job")
    return current_job().id

@app.job
def silent() -> None:
    pass
"""


@pytest.mark.parametrize("text", ["from logging", "from structlog", "job.log"])
def test_a_handlers_lines_carry_its_job(supervise: Callable[..., Supervised], text: str) -> None:
    up = supervise(APP)
    from millstream import Millstream

    app = Millstream(redis_url=up.redis_url, prefix=up.prefix)
    handle = app.enqueue("chatty", queue="default")
    assert handle.result(10) == handle.id

    def line() -> dict[str, Any] | None:
        lines = [json.loads(row) for row in up.log().splitlines() if row.startswith("{")]
        return next((row for row in lines if row["event"] == text), None)

    found = wait_until(line, describe=up.log)
    assert (found["job"], found["name"], found["queue"], found["attempt"], found["run"]) == (
        handle.id,
        "chatty",
        "default",
        1,
        1,
    )
    app.client.close()


ENDINGS = """
import os
import signal
import time
from millstream import CancelRequested, Discard, Fail, Millstream, Retry, Snooze, current_job

app = Millstream()

@app.job
def completes() -> None:
    time.sleep(SLOW)

@app.job
def fails() -> None:
    raise ValueError("no paper")

@app.job(retry=1)
def dies() -> None:
    raise Fail("no ink")

@app.job
def discards() -> None:
    raise Discard("not needed")

@app.job
def snoozes() -> None:
    if current_job().run == 1:
        raise Snooze(60)

@app.job
def crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)

@app.job(timeout=0.1, retry=1)
def hangs() -> None:
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
""".replace("SLOW", "1.0")

TOML = """
[workers.default]
processes = 1
kill_after = 0.3
"""


@pytest.mark.leaves_jobs
@pytest.mark.parametrize(
    ("name", "event", "cause"),
    [
        ("completes", "job.completed", None),
        ("fails", "job.failed", "error"),
        ("dies", "job.dead", "error"),
        ("discards", "job.discarded", "error"),
        ("snoozes", "job.released", "snoozed"),
        ("crashes", "job.failed", "crash"),
        ("hangs", "job.killed", "timeout"),
        ("hangs", "job.dead", "timeout"),
    ],
)
def test_what_becomes_of_a_run_is_one_line(
    supervise: Callable[..., Supervised], name: str, event: str, cause: str | None
) -> None:
    up = supervise(ENDINGS, TOML)
    from millstream import Millstream

    app = Millstream(redis_url=up.redis_url, prefix=up.prefix)
    handle = app.enqueue(name, queue="default")

    def found() -> list[dict[str, Any]]:
        lines = [json.loads(row) for row in up.log().splitlines() if row.startswith("{")]
        return [line for line in lines if line["event"] == event and line.get("job") == handle.id]

    wait_until(found, describe=up.log)
    [line] = [line for line in found() if line["run"] == 1]
    assert (line["name"], line["attempt"], line.get("cause")) == (name, 1, cause)
    assert line["worker"].endswith("default/0")
    app.client.close()
