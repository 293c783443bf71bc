"""The checker sees each broken promise, and nothing where none is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import evidence
from tests.chaos.checker import History, Killing, Window, check
from tests.chaos.evidence import Mark, Run

MS = 1_000_000


def run(number: int, pid: int, begin: int, end: int | None, mark: Mark = Mark.END, job_id: str = "j") -> Run:
    """A run with times in milliseconds."""
    ended = None if end is None else end * MS
    return Run(job_id, number, pid, begin * MS, ended, mark if end is not None else Mark.BEGIN)


def history(*runs: Run, state: str = "completed", kind: str = "slow", **changes: object) -> History:
    """One job, `j`, acknowledged, and in this state."""
    fields: dict[str, object] = {
        "acknowledged": {"j": kind},
        "tried": {"j": kind},
        "runs": list(runs),
        "states": {"j": state},
        "stored": 0,
        "counters": {state: 1},
        "attempts": {"flaky": 3},
    }
    return History(**{**fields, **changes})  # type: ignore[arg-type]


def crashes(count: int) -> list[Run]:
    return [run(number, number, number * 100, None) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    "good",
    [
        history(run(1, 1, 0, 10)),
        history(run(1, 1, 0, None), run(2, 2, 60, 70), killed={1: Killing(50 * MS, 10 * MS)}),
        history(run(1, 1, 0, 49), run(2, 2, 60, 70), killed={1: Killing(50 * MS, 10 * MS)}),
        history(run(1, 1, 0, 900), run(2, 2, 60, 70), windows=[Window(frozenset([1]), 5 * MS, 800 * MS)]),
        history(run(1, 1, 810, 820), run(2, 2, 60, 70), windows=[Window(frozenset([1]), 5 * MS, 900 * MS)]),
        history(*crashes(3), state="dead", kind="poison"),
        history(*(run(n, 1, n * 10, n * 10 + 1, Mark.FAILED) for n in (1, 2)), run(3, 1, 90, 91), kind="flaky"),
        history(run(1, 1, 0, 10, Mark.INTERRUPTED), run(2, 2, 20, 30)),
    ],
    ids=[
        "plain",
        "killed",
        "killed before its settle",
        "stopped",
        "stopped before its begin",
        "poison",
        "retried",
        "given back",
    ],
)
def test_kept_promises(good: History) -> None:
    assert check(good) == []


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (history(state="queued", counters={}), "acknowledged, now queued"),
        (history(run(1, 1, 0, 10), states={}, counters={}), "acknowledged, now unknown"),
        (history(run(1, 1, 0, 10), stored=2), "2 jobs are still stored"),
        (history(run(1, 1, 0, 10), run(1, 1, 0, 10, job_id="x")), "x: exists"),
        (history(run(1, 1, 0, 10), counters={"completed": 2}), "2 such settles were accepted"),
        (history(), "completed without a run that returned"),
        (history(run(1, 1, 0, 10, Mark.FAILED)), "completed without a run that returned"),
        (history(run(1, 1, 0, 50), run(2, 2, 40, 60)), "held a valid lease"),
        (history(run(1, 1, 0, 30), run(2, 2, 40, 60)), "returned in process 1, yet run 2 followed"),
        (
            history(run(1, 1, 0, 30), run(2, 2, 60, 70), killed={1: Killing(50 * MS, 10 * MS)}),
            "returned in process 1, yet run 2 followed",
        ),
        (history(run(2, 1, 0, 30, Mark.FAILED), run(1, 2, 40, 60)), "run 2 began before run 1"),
        (history(run(1, 1, 0, 10), state="dead"), "dead after 1 runs, 0 of them crashes"),
        (history(*crashes(4), state="dead", kind="poison"), "crashed 4 processes"),
        (history(run(1, 1, 0, 10), kind="poison"), "(poison): completed"),
        (
            history(*(run(n, 1, n * 10, n * 10 + 1, Mark.FAILED) for n in range(1, 5)), state="dead", kind="flaky"),
            "failed 4 times",
        ),
    ],
)
def test_broken_promises(bad: History, text: str) -> None:
    problems = check(bad)
    assert any(text in problem for problem in problems), problems


def test_a_run_that_began_twice_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "evidence"
    path.write_text("j 1 B 10 1\nj 1 B 20 2\nj 1 E 30 2\nk 1 E 40 2\n")
    runs, problems = evidence.read(path)
    assert len(runs) == 1
    assert problems == ["j: run 1 began twice (pids 1 and 2)", "k: run 1 ended without a begin"]
