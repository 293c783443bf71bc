"""The command line on a terminal."""

from __future__ import annotations

import pytest

from tests.support.commands import CTRL_C, Terminal
from tests.support.filled import Filled


class TestTerminal:
    def test_a_table_keeps_ids_in_one_piece(self, filled: Filled) -> None:
        filled.add(1, name="a-very-long-name-of-a-job-that-does-not-fit")
        with Terminal("jobs", "list") as terminal:
            code, text = terminal.end()
        assert code == 0
        assert "a-very-long-name-of-a-job-that-does-not-fit" in text
        assert "\x1b[1m" in text
        filled.drain()

    def test_no_color(self, filled: Filled) -> None:
        filled.add(1)
        with Terminal("queues", "list", NO_COLOR="1") as terminal:
            assert "\x1b[3" not in terminal.end()[1]
        filled.drain()

    @pytest.mark.parametrize(("answer", "code", "left"), [("y\r", 0, 0), ("n\r", 1, 2), ("\r", 1, 2), (CTRL_C, 130, 2)])
    def test_a_question(self, filled: Filled, answer: str, code: int, left: int) -> None:
        filled.add(2)
        with Terminal("queues", "purge", "q") as terminal:
            terminal.read_until("Remove 2 jobs of queue q? [y/N]: ")
            terminal.answer(answer)
            found, text = terminal.end()
        assert (found, filled.survey().waiting) == (code, left)
        assert ("removed 2 jobs" in text) is (left == 0)
        filled.drain()
