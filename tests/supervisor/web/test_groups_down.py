"""A group of which no worker is ready for long."""

from __future__ import annotations

import os
import time
from pathlib import Path

from millstream.protocol.scoreboard import Header, Scoreboard
from millstream.supervisor import config
from millstream.supervisor.identity import Identity
from millstream.supervisor.plan import make_plan
from millstream.supervisor.web.facts import Snapshot
from millstream.supervisor.web.health import DOWN, healthy


def test_a_group_that_was_down_for_long_is_told_of(tmp_path: Path) -> None:
    """Also where nothing dies: a start hook may hang."""
    (tmp_path / "millstream.toml").write_text('[workers.a]\nqueues = ["a"]\n[workers.b]\nqueues = ["b"]\n')
    settings = config.load(tmp_path / "millstream.toml", environ={}, folder=tmp_path)
    plan = make_plan(settings, Identity("i", "i-1", "", "", 0), "", ("default",), burst=False)
    board = Scoreboard.create(1)
    board.header[Header.REDIS_SEEN] = time.monotonic_ns()
    for down, expected in ((DOWN - 5, []), (DOWN + 1, ["no worker of group b was ready for 31 s"])):
        board.header[Header.DOWN_SINCE + 1] = time.monotonic_ns() - int(down * 1e9)
        report = healthy(plan, board, Snapshot())
        assert report.passed, "what another process would not mend"
        assert [reason.text for reason in report.reasons] == expected
    os.close(board.descriptor)
