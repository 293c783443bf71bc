"""The checker sees each broken promise, and nothing where none is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import evidence
from tests.chaos.checker import Acknowledged, History, Loss, check
from tests.chaos.evidence import Mark, Run

MS = 1_000_000


def run(
    number: int, pid: int, begin: int, end: int | None, mark: Mark = Mark.END, job_id: str = "j", last: bool = True
) -> Run:
    """A run with times in milliseconds, of a process whose supervisor is the process 100."""
    ended = None if end is None else end * MS
    return Run(job_id, number, pid, begin * MS, ended, mark if end is not None else Mark.BEGIN, 100, last)


def history(*runs: Run, state: str = "completed", kind: str = "slow", **changes: object) -> History:
    """One job, `j`, acknowledged, and in this state."""
    fields: dict[str, object] = {
        "acknowledged": {"j": Acknowledged(kind, 0)},
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
        history(run(1, 1, 0, None), run(2, 2, 60, 70), killed={1: 50 * MS}),
        history(run(1, 1, 0, 49), run(2, 2, 60, 70), killed={1: 50 * MS}),
        history(run(1, 1, 0, 900), run(2, 2, 60, 70), taken={("j", 1)}),
        history(run(1, 1, 810, 820), run(2, 2, 60, 70), taken={("j", 1)}),
        history(run(1, 1, 0, 10), run(1, 2, 60, 70), losses=[Loss(5 * MS, 50 * MS)]),
        history(run(1, 1, 900, 910), run(1, 2, 60, 70), losses=[Loss(5 * MS, 50 * MS)]),
        history(
            *(run(n, 1, n * 100, n * 100 + 1, Mark.FAILED) for n in (1, 2)),
            *(run(n, 1, 2000 + n, 2000 + n, Mark.FAILED) for n in (1, 2)),
            losses=[Loss(50 * MS, 250 * MS)],
            state="dead",
            kind="failing",
        ),
        history(state="queued", states={}, counters={}, losses=[Loss(0, 50 * MS)]),
        history(*crashes(3), state="dead", kind="poison"),
        history(*crashes(4), state="dead", kind="poison", supervisors={100: 250 * MS}),
        history(*(run(n, 1, n * 10, n * 10 + 1, Mark.FAILED) for n in (1, 2)), run(3, 1, 90, 91), kind="flaky"),
        history(run(1, 1, 0, 10, Mark.INTERRUPTED), run(2, 2, 20, 30)),
    ],
    ids=[
        "plain",
        "killed",
        "killed before its settle",
        "stopped",
        "stopped before its begin",
        "settle forgotten",
        "delivery forgotten",
        "history forgotten",
        "job forgotten",
        "poison",
        "crash not counted",
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
        (history(run(1, 1, 0, 30), run(2, 2, 160, 170), killed={1: 150 * MS}), "returned in process 1, yet run 2"),
        (
            history(run(1, 1, 0, 49, last=False), run(2, 2, 60, 70), killed={1: 50 * MS}),
            "returned in process 1, yet run 2",
        ),
        (history(run(1, 1, 0, None), run(2, 2, 40, 70), killed={1: 50 * MS}), "held a valid lease"),
        (history(run(1, 1, 0, 900), run(2, 2, 60, 70), taken={("j", 2)}), "held a valid lease"),
        (history(run(1, 1, 0, 10), run(1, 2, 60, 70)), "run 1 began twice (pids 1 and 2)"),
        (history(run(1, 1, 0, 4), run(2, 2, 1600, 1700), losses=[Loss(400 * MS, 500 * MS)]), "yet run 2 followed"),
        (history(run(1, 1, 0, 4), run(1, 2, 1600, 1700), losses=[Loss(400 * MS, 500 * MS)]), "began twice"),
        (history(run(1, 1, 1900, 1910), run(1, 2, 1800, 1810), losses=[Loss(5 * MS, 50 * MS)]), "began twice"),
        (history(states={}, counters={}, losses=[Loss(1, 50 * MS)]), "acknowledged, now unknown"),
        (history(states={}, counters={}, losses=[Loss(0, 50 * MS, jobs=False)]), "acknowledged, now unknown"),
        (history(*crashes(4), state="dead", kind="poison", supervisors={101: 250 * MS}), "crashed 4 processes"),
        (history(*crashes(4), state="dead", kind="poison", supervisors={100: 2250 * MS}), "crashed 4 processes"),
        (history(*crashes(5), state="dead", kind="stuck"), "failed 5 times"),
        (history(run(1, 1, 0, None), run(2, 2, 60, 70)), "process 1 died in run 1, and nobody had killed it"),
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


def test_evidence_is_read(tmp_path: Path) -> None:
    path = tmp_path / "evidence"
    path.write_text("j 1 B 10 1 9\nj 1 B 20 2 9\nj 1 E 30 2 9\nk 1 E 40 2 9\nl 3 B 50 2 9\n")
    runs, problems = evidence.read(path)
    assert runs == [
        Run("j", 1, 1, 10, None, Mark.BEGIN, 9),
        Run("j", 1, 2, 20, 30, Mark.END, 9, last=False),
        Run("l", 3, 2, 50, None, Mark.BEGIN, 9),
    ]
    assert problems == ["k: run 1 ended without a begin"]
