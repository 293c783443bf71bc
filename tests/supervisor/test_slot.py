"""The handle of a worker process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from millstream.protocol.scoreboard import Cause, Scoreboard, Word
from millstream.supervisor.slot import Process


def test_the_first_kill_says_why() -> None:
    """A run that was killed for its memory takes a while to die: a drain that ends meanwhile does not excuse it."""
    board = Scoreboard.create(1)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as child:
        process = Process(child.pid, 1, board.records[0], stack_file=-1, started=time.monotonic())
        process.kill(Cause.MEMORY)
        process.kill(Cause.DRAIN)
        assert Cause(board.records[0].words[Word.CAUSE]) is Cause.MEMORY
        assert child.wait(10) == -9
    os.close(board.descriptor)
