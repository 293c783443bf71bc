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
