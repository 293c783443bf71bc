"""Arguments and results of other types than JSON has, through a worker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from millstream import InvalidJob, JobFailed, Millstream
from millstream.protocol.info import State
from tests.lifecycle import program
from tests.lifecycle.conftest import StartMill
from tests.lifecycle.program import Invoice, Kind, Line, Receipt

INVOICE = Invoice(UUID(int=7), datetime(2026, 1, 31, 12, tzinfo=UTC), [Line("flour", Decimal("9.90"), b"\xff\x00")])


def test_handlers_get_what_was_passed_and_callers_what_was_returned(mill: StartMill) -> None:
    running = mill()
    paid = Receipt(INVOICE.id, Decimal("9.90"), Kind.PAID, timedelta(days=30), Path("a/b"))
    assert program.settle.enqueue(INVOICE, Path("a/b"), kind=Kind.PAID).result(20) == paid
    assert program.settle.enqueue(INVOICE, Path("a/b")).result(20).kind is Kind.OPEN
    (first, second) = running.app.enqueue_many([program.settle_async.job(INVOICE), program.add.job(1)])
    assert (first.result(20), second.result(20)) == (INVOICE, 3)

    async def in_async_code() -> Receipt:
        handle = await program.settle.aenqueue(INVOICE, Path("a/b"), Kind.PAID)
        receipt = await handle.aresult(20)
        await running.app.aclient.close()
        return receipt

    assert asyncio.run(in_async_code()) == paid
    named = running.app.enqueue("settle", INVOICE, Path("x"))
    assert named.result(20)["total"] == "9.90", "by name it is plain JSON"
    handle = running.app.handle(first.id, "default")
    assert handle.result(20)["lines"][0] == {"text": "flour", "price": "9.90", "seal": "/wA="}
    with pytest.raises(
        InvalidJob, match=r"^settle\(\): parameter 'path': expected pathlib\.Path, got str, which would"
    ):
        running.app.enqueue("settle", INVOICE, "x")
    running.up.stop()


@pytest.mark.leaves_jobs
def test_arguments_that_do_not_fit_fail_their_run_and_harm_nothing_else(mill: StartMill, url: str, prefix: str) -> None:
    """As from a producer in another language, or of code that a deploy has changed."""
    running = mill()
    stranger = Millstream(redis_url=url, prefix=prefix)
    wrong = stranger.enqueue("settle", {"id": "secret-text", "due": 0, "lines": []}, "x", queue="default")
    few = stranger.enqueue("settle_async", queue="default")
    with pytest.raises(JobFailed):
        wrong.result(20)
    with pytest.raises(JobFailed, match=r"settle_async.*missing a required argument: 'invoice'"):
        few.result(20)
    info = wrong.info()
    assert info.error is not None
    assert (info.state, info.attempt, info.crashes, info.error.cause) == (State.DEAD, 2, 0, "error")
    assert info.error.type == "WrongArguments"
    assert info.error.message.startswith("settle(): parameter 'invoice'.id: ")
    assert "/millstream/" not in info.error.traceback
    assert "secret-text" not in running.up.log() + info.error.message + info.error.traceback
    right = stranger.enqueue("settle", {"id": str(UUID(int=7)), "due": 0, "lines": []}, "x", queue="default")
    assert right.result(20)["kind"] == "open", "the same worker goes on"
    assert running.count("worker_start") == 1
    stranger.client.close()
    running.up.stop()
