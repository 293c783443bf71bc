"""What a type checker accepts and refuses of the public names; never run.

A line that both checkers must refuse ends in an ignore comment, so that the project's own checks stay clean. The test
takes those comments away and sees that exactly these lines are refused.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from millstream import Handle, Job, JobInfo, Millstream, Retry, State, current_job

app = Millstream(include=["shop.*"])


@app.job
def plain(text: str) -> None:
    """A job without options."""


@app.job(queue="reports", timeout=60, retry=Retry(attempts=5, backoff="exponential", on=(IOError,)))
def render(report_id: int, fmt: str = "pdf") -> str:
    """A job with options."""
    return f"{report_id}.{fmt}"


@app.job(retry=3, priority="high", result_ttl=timedelta(hours=1))
def measure(*sizes: float, unit: str) -> dict[str, float]:
    """A job with variable arguments."""
    return {unit: sum(sizes)}


def right() -> None:
    """Calls that are right, and what they give."""
    assert_type(render(1), str)
    assert_type(render.enqueue(1), Handle[str])
    assert_type(render.enqueue(report_id=1, fmt="csv").result(timeout=10), str)
    assert_type(render.using(delay=60, priority="high", id="r-1").enqueue(1), Handle[str])
    assert_type(render.using(at=datetime.now(UTC)).enqueue(1, fmt="csv").id, str)
    assert_type(plain.enqueue("x").result(), None)
    assert_type(measure.enqueue(1, 2.5, unit="mm").result(), dict[str, float])
    assert_type(render.enqueue(1).status(), State)
    assert_type(render.enqueue(1).info(), JobInfo)
    assert_type(render.enqueue(1).cancel(), bool)
    assert_type(render.enqueue(1).created, bool)
    assert_type(app.enqueue("render", 1, queue="reports"), Handle[Any])
    assert_type(app.enqueue_many(render.job(n) for n in range(3)), list[Handle[Any]])
    assert_type(current_job().run, int)


async def right_async() -> None:
    """The same for async code."""
    handle = await render.aenqueue(1)
    assert_type(handle, Handle[str])
    assert_type(await handle.aresult(timeout=10), str)
    assert_type(await handle.astatus(), State)
    assert_type(await handle.acancel(), bool)


def wrong_arguments() -> None:
    """What does not fit the function."""
    render("one")  # type: ignore[arg-type]
    render.enqueue("one")  # type: ignore[arg-type]
    render.enqueue()  # type: ignore[call-arg]
    render.enqueue(1, "csv", 3)  # type: ignore[call-arg]
    render.enqueue(1, fmt=2)  # type: ignore[arg-type]
    render.enqueue(1, format="csv")  # type: ignore[call-arg]
    render.using(delay=60).enqueue("one")  # type: ignore[arg-type]
    render.job("one")  # type: ignore[arg-type]
    measure.enqueue("long", unit="mm")  # type: ignore[arg-type]
    measure.enqueue(1.0)  # type: ignore[call-arg]
    plain.enqueue(1)  # type: ignore[arg-type]


def wrong_options() -> None:
    """Options that do not exist or have another type; and options never mix with arguments."""
    render.using(dealy=60)  # type: ignore[call-arg]
    render.using(delay="60")  # type: ignore[arg-type]
    render.using(priority=1.5)  # type: ignore[arg-type]
    render.enqueue(1, delay=60)  # type: ignore[call-arg]
    Retry(attempts="5")  # type: ignore[arg-type]
    Retry(backoff="cubic")  # type: ignore[arg-type]
    app.job(queue=5)  # type: ignore[call-overload]
    app.enqueue_many([render])  # type: ignore[list-item]


def wrong_results() -> None:
    """Results that are taken for something else."""
    number: int = render.enqueue(1).result()  # type: ignore[assignment]
    handle: Handle[int] = render.enqueue(1)  # type: ignore[assignment]
    job: Job[[str], str] = render  # type: ignore[assignment]
    print(number, handle, job)


async def wrong_results_async() -> None:
    """The same for async code."""
    number: int = await (await render.aenqueue(1)).aresult()  # type: ignore[assignment]
    await render.aenqueue("one")  # type: ignore[arg-type]
    print(number)
