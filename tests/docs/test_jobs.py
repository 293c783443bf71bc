"""The tables of jobs.md against the signatures and classes that they describe."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import re
import shlex
import tomllib
from collections.abc import Callable
from typing import Any

import orjson
import pytest

import millstream
from millstream import Attempt, CurrentJob, Handle, Job, JobError, JobInfo, Millstream, Retry
from millstream.protocol.envelope import Entry
from millstream.protocol.fate import fate_of, fates_of_kills
from millstream.protocol.policy import BACKOFFS, crash_limit
from millstream.protocol.transitions import Kind
from millstream.supervisor.cli import run
from millstream.supervisor.config import Group
from millstream.worker import reporting
from millstream.worker.context import set_current_run
from millstream.worker.execution import Run
from tests.docs.documents import DOCS, blocks, code, commands, rows, sections
from tests.support.acl import as_role

TEXT = (DOCS / "jobs.md").read_text()
SECTIONS = sections(TEXT)


def documented(section: str, column: int = 0) -> set[str]:
    """What stands in backticks in one column of the tables of a section."""
    return {name for row in rows(SECTIONS[section]) for name in code(row[column])}


def parameters(function: Callable[..., Any]) -> dict[str, object]:
    """Names and defaults of the named parameters, "none" for None."""
    named = inspect.signature(function).parameters.values()
    return {one.name: "none" if one.default is None else one.default for one in named if one.name not in ("self", "fn")}


def default(cell: str) -> object:
    """A default as the document writes it: Python in backticks, or a word."""
    return eval(values[0]) if (values := code(cell)) else cell


@pytest.mark.parametrize(
    ("section", "function"), [("The application", Millstream), ("`@app.job`", Millstream.job), ("`Retry`", Retry)]
)
def test_options_and_defaults(section: str, function: Callable[..., Any]) -> None:
    assert {code(row[0])[0]: default(row[1]) for row in _options(section)} == parameters(function)


def _options(section: str) -> list[list[str]]:
    """The rows of the first table of a section."""
    text, _, _ = SECTIONS[section].partition("\nDelays after")
    return rows(text)


def test_delays_of_every_backoff() -> None:
    shown = {default(row[0]): [float(part) for part in row[1].split(", ")] for row in _delays()}
    assert shown == {
        name: [Retry(backoff=name).nominal_delay(attempt) for attempt in (1, 2, 3)]  # type: ignore[arg-type]
        for name in BACKOFFS
    }


def _delays() -> list[list[str]]:
    return rows(SECTIONS["`Retry`"].partition("\nDelays after")[2])


def test_the_examples_of_policies() -> None:
    scope: dict[str, Any] = {}
    for title in ("Different exceptions", "Budgets by cause"):
        exec(blocks(SECTIONS[title], "python")[0].text, scope)
    entry = Entry("n1-0", "j", "notify", "default", [], {}, "normal", 0, attempt=1)
    rules = scope["notify"].retry
    assert fate_of(rules, entry, scope["Refused"](), "error").kind is Kind.DISCARDED
    refused = fate_of(rules, entry, ConnectionRefusedError(), "error")
    assert (refused.kind, refused.delay) == (Kind.RETRY, 60.0)
    assert fate_of(rules, entry, ValueError(), "error").kind is Kind.DEAD
    timeout, memory = fates_of_kills(scope["simulate"].retry, entry)
    assert (timeout.kind, memory.kind, crash_limit(scope["simulate"].retry)) == (Kind.TIMEOUT, Kind.DEAD, 2)


def test_options_of_using() -> None:
    table = rows(SECTIONS["Enqueue"].partition("Options of `using`")[2])
    assert {code(row[0])[0] for row in table} == set(parameters(Job.using))


def test_fields() -> None:
    assert documented("JobInfo") == {field.name for field in dataclasses.fields(JobInfo)}
    explained = documented("JobInfo", 1)
    assert explained >= {field.name for kind in (JobError, Attempt) for field in dataclasses.fields(kind)}
    assert {field.name for field in dataclasses.fields(CurrentJob)} <= set(code(SECTIONS["In a handler"]))


def test_members_of_handle() -> None:
    members = {name for name in vars(Handle) if not name.startswith("_")} | {"id", "queue", "created"}
    named = {name.partition("(")[0] for name in code(SECTIONS["Handle"])}
    assert members <= named, members - named


def test_every_public_name_is_mentioned() -> None:
    mentioned = {word for part in code(TEXT) for word in re.findall(r"\w+", part)}
    assert not set(millstream.__all__) - mentioned


def test_the_example_of_tags(url: str, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    exec(next(block.text for block in blocks(TEXT, "python") if "metadata=" in block.text), scope)
    scope["app"].connect_to(as_role(url, "producer"), prefix)
    job_id = scope["order"](42, "acme")
    (search,) = commands(SECTIONS["Tags and metadata"])
    connection = ["--redis-url", as_role(url, "operator")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLSTREAM_PREFIX", prefix)
        assert run([*shlex.split(search.text)[1:], *connection, "-o", "ndjson"]) == 0
        (found,) = map(orjson.loads, capsys.readouterr().out.splitlines())
        assert (found["id"], found["tags"], found["metadata"]) == (job_id, ["pdf", "urgent"], {"customer": "acme"})
        assert run(["jobs", "delete", job_id, "--yes", *connection]) == 0
    scope["app"].client.close()


def test_the_reporting_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job as a worker runs it: what it said is in its report."""
    scope: dict[str, Any] = {}
    (example,) = (block.text for block in blocks(TEXT, "python") if "job.progress(" in block.text)
    exec(example, scope)
    reporter, told = reporting.Reporter("redis://127.0.0.1:1", "t:"), list[reporting.Report]()
    monkeypatch.setattr(reporter, "add", told.append)
    monkeypatch.setattr(reporting, "_reporter", reporter)
    entry = Entry("n1-0", "j", "resize", "q", [], {}, "normal", 0)
    set_current_run(Run(1, entry, scope["resize"], 0, 1))
    scope["resize"](["a.png", "b.txt"])
    set_current_run(None)
    (latest,) = {report.latest for report in told}
    assert latest is not None and list(latest) == [50, "b.txt"]
    assert [line for _, line in told[0].lines] == ["left out b.txt"]


@pytest.mark.leaves_jobs
@pytest.mark.parametrize("section", ["Delay and time", "Idempotency", "Unique jobs", "Jobs that expire", "Cancel"])
def test_the_examples_do_as_they_say(section: str, url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_REDIS_URL", url)
    monkeypatch.setenv("MILLSTREAM_PREFIX", prefix)
    scope: dict[str, Any] = {}
    exec(blocks(SECTIONS[section], "python")[0].text, scope)
    scope["app"].client.close()


def test_the_async_example_runs() -> None:
    (example,) = blocks(SECTIONS["Async handlers"], "python")
    scope: dict[str, Any] = {"app": Millstream(), "asyncio": asyncio}
    exec(example.text, scope)
    assert asyncio.run(scope["call"]("abc")) == 3
    (configuration,) = blocks(SECTIONS["Async handlers"], "toml")
    groups = tomllib.loads(configuration.text)["workers"]
    assert Group.model_validate({"name": "web", **groups["web"]}).concurrency == 100


def test_the_example_runs() -> None:
    scope: dict[str, Any] = {}
    exec(blocks(TEXT, "python")[0].text, scope)
    assert scope["render"](42, fmt="csv") == "42.csv"
