"""The handle of the private server: what the system refuses now may be there later."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from millstream.supervisor import embedded
from millstream.supervisor.embedded.child import LOOK_AGAIN, ServerChild


def test_a_start_that_the_system_refuses_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[int | OSError | None] = [OSError(errno.EMFILE, "Too many open files"), None, 4711]

    def respawn(data: Path, socket: Path) -> int | None:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(embedded, "respawn", respawn)
    child = ServerChild(embedded.Server(Path("s"), Path("d"), None))
    now = 100.0
    child.keep_alive(now)
    assert (child.pid, len(answers)) == (None, 2)
    child.keep_alive(now + LOOK_AGAIN / 2)
    assert len(answers) == 2, "not so soon"
    child.keep_alive(now + 10)
    assert (child.pid, len(answers)) == (None, 1), "another supervisor runs it"
    child.keep_alive(now + 20)
    assert child.pid == 4711
