"""A setting that changes nothing yet is named at start, not ignored without a word."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.supervised import Supervised

APP = """
from millstream import Millstream

app = Millstream()

@app.job
def nothing() -> None:
    pass
"""

TOML = """
[workers.default]
queues = ["default"]
processes = 1
concurrency = 4
"""


def test_settings_without_effect_are_named(supervise: Callable[..., Supervised]) -> None:
    log = supervise(APP, TOML).log()
    assert "workers.default.concurrency" in log


def test_others_are_not(supervise: Callable[..., Supervised]) -> None:
    assert "config.not_used" not in supervise(APP).log()
