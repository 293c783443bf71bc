"""The tables of jobs.md against the signatures and classes that they describe."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import millstream
from millstream import Attempt, CurrentJob, Handle, Job, JobError, JobInfo, Millstream, Retry
from millstream.worker import reporting
from millstream.worker.context import set_current_run
from tests.docs.documents import DOCS, blocks, code, rows, sections

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
    assert {code(row[0])[0]: default(row[1]) for row in rows(SECTIONS[section])} == parameters(function)


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


def test_the_reporting_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job as a worker runs it: what it said is in its report."""
    scope: dict[str, Any] = {}
    (example,) = (block.text for block in blocks(TEXT, "python") if "job.progress(" in block.text)
    exec(example, scope)
    reporter, told = reporting.Reporter("redis://127.0.0.1:1", "t:"), list[reporting.Report]()
    monkeypatch.setattr(reporter, "add", told.append)
    monkeypatch.setattr(reporting, "_reporter", reporter)
    job = CurrentJob("j", "resize", "q", 1, 1, {}, "n1-0")
    set_current_run(SimpleNamespace(current_job=lambda: job))
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


def test_the_example_runs() -> None:
    scope: dict[str, Any] = {}
    exec(blocks(TEXT, "python")[0].text, scope)
    assert scope["render"](42, fmt="csv") == "42.csv"
