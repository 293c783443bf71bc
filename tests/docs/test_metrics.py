"""The tables of metrics.md against what is exported: names, types, labels; outcomes and reasons."""

from __future__ import annotations

from collections.abc import Iterator

from millstream.supervisor.maintenance import counting
from millstream.supervisor.web import health
from millstream.supervisor.web.gauges import GAUGES
from millstream.worker import metrics
from tests.docs.documents import DOCS, code, rows, sections

SECTIONS = sections((DOCS / "metrics.md").read_text())

TABLES = [row for title in ("What is counted", "What is looked at") for row in rows(SECTIONS[title]) if len(row) == 4]


def exported() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, type and labels of everything that is ours."""
    for metric in metrics.COUNTED:
        yield metric.name, "histogram" if metric.buckets else "counter", metric.labels
    for gauge in GAUGES:
        yield gauge.name, gauge.kind, gauge.labels


def test_every_metric_is_documented() -> None:
    documented = [(code(name)[0], kind, tuple(code(labels))) for name, kind, labels, _ in TABLES]
    assert documented == list(dict.fromkeys(documented))
    assert sorted(documented) == sorted(exported())


def test_buckets_are_documented() -> None:
    listed = {
        tuple(map(float, line.rpartition(": ")[2].split()))
        for line in SECTIONS["What is counted"].splitlines()
        if line.startswith("- ")
    }
    assert listed == {metric.buckets for metric in metrics.COUNTED if metric.buckets}


def test_outcomes_and_reasons_are_documented() -> None:
    outcomes = {code(row[0])[0] for row in rows(SECTIONS["What is counted"]) if len(row) == 2}
    assert outcomes == set(metrics.OUTCOMES.values())
    meanings = {code(row[0])[0]: code(row[3]) for row in TABLES}
    assert set(meanings["millstream_worker_exits_total"]) == set(counting.REASONS)
    assert set(meanings["millstream_jobs_redelivered_total"]) == set(metrics.REASONS)
    assert set(meanings["millstream_jobs_enqueued_total"]) == set(metrics.ARRIVALS)
    assert set(meanings["millstream_redis_errors_total"]) == {"exchange", *counting.OPERATIONS}


def test_numbers_of_the_checks() -> None:
    table = {code(row[0])[0]: row[1] for row in rows(SECTIONS["Health"])}
    assert f"{health.SUPERVISOR_SILENT:g} s" in table["supervisor"]
    assert f"{health.REDIS_SILENT:g} s" in table["redis"]
