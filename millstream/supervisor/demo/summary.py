"""What ``millstream demo`` says at its end: pure arithmetic on the records of its jobs, and its wording."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millstream.supervisor.cli.wording import duration, plural, printable, size

SLOWEST = 5


@dataclass
class Summary:
    """Totals of one demo. Seconds, bytes; ``slowest`` and ``workers`` are largest first."""

    wall: float
    cores: int
    jobs: int = 0
    failed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    compressed: int = 0
    lines: int = 0
    tokens: int = 0
    identical: int = 0
    cpu_seconds: float = 0.0
    workers: list[tuple[str, int, float]] = field(default_factory=list)
    slowest: list[tuple[str, float, int]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def jobs_per_second(self) -> float:
        return self.jobs / self.wall if self.wall else 0.0

    @property
    def efficiency(self) -> float:
        """CPU seconds of the jobs per second of a core that the workers could have used."""
        available = self.wall * self.cores
        return self.cpu_seconds / available if available else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        row = {name: value for name, value in vars(self).items() if name not in ("workers", "slowest", "failures")}
        return {
            **row,
            "jobs_per_second": round(self.jobs_per_second, 3),
            "efficiency": round(self.efficiency, 4),
            "workers": [{"worker": name, "jobs": jobs, "busy": busy} for name, jobs, busy in self.workers],
            "slowest": [{"path": path, "duration": took, "bytes": count} for path, took, count in self.slowest],
            "failures": [{"id": job_id, "message": message} for job_id, message in self.failures],
        }


def summarise(jobs: Sequence[dict[str, Any]], *, wall: float, cores: int) -> Summary:
    """Add up finished jobs, given as ``JobInfo.to_dict()``. *cores* is how many of them could run at once."""
    summary = Summary(wall, cores, jobs=len(jobs))
    digests: set[str] = set()
    for job in jobs:
        result = job.get("result")
        if job["state"] == "completed" and result is not None:
            _add_result(summary, result, digests)
        else:
            summary.failed += 1
            error = job.get("error") or {}
            summary.failures.append((job["id"], f"{job['state']}: {error.get('message') or error.get('cause')}"))
    _add_runs(summary, jobs)
    return summary


def _add_result(summary: Summary, result: dict[str, Any], digests: set[str]) -> None:
    summary.kinds[result["kind"]] += 1
    summary.bytes += result.get("bytes", 0)
    summary.compressed += result.get("compressed", 0)
    summary.lines += result.get("lines", 0)
    summary.tokens += result.get("tokens", 0)
    if digest := result.get("sha256"):
        summary.identical += digest in digests
        digests.add(digest)


def _add_runs(summary: Summary, jobs: Sequence[dict[str, Any]]) -> None:
    done: Counter[str] = Counter()
    busy: defaultdict[str, float] = defaultdict(float)
    timed: list[tuple[str, float, int]] = []
    for job in jobs:
        for attempt in job.get("attempts") or ():
            summary.cpu_seconds += attempt.get("cpu_seconds") or 0.0
            worker = slot_of(attempt.get("worker"))
            done[worker] += 1
            busy[worker] += attempt.get("duration") or 0.0
        if (result := job.get("result")) and job.get("attempts"):
            timed.append((result["path"], job["attempts"][-1].get("duration") or 0.0, result.get("bytes", 0)))
    summary.workers = sorted(((name, done[name], busy[name]) for name in done), key=lambda row: -row[2])
    summary.slowest = sorted(timed, key=lambda row: -row[1])[:SLOWEST]


def slot_of(worker: str | None) -> str:
    """``demo/3`` of a consumer's name such as ``host-1a2b3c:demo/3:17``."""
    parts = (worker or "?").split(":")
    return parts[1] if len(parts) == 3 else parts[-1]


def worded(summary: Summary, folder: Path) -> list[str]:
    """The summary as lines for people."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.kinds.most_common())
    ratio = summary.compressed / summary.bytes if summary.bytes else 0.0
    lines = [
        f"{plural(summary.jobs, 'file')} in {duration(summary.wall)}: {summary.jobs_per_second:,.1f} jobs/s, "
        f"{size(summary.bytes / summary.wall if summary.wall else 0)}/s",
        f"  kinds            {kinds or 'none'}",
        f"  content          {size(summary.bytes)}, {plural(summary.lines, 'line')}, "
        f"{plural(summary.tokens, 'token')} of Python",
        f"  compression      {size(summary.compressed)} with LZMA, {ratio:.0%} of the size",
        f"  CPU              {duration(summary.cpu_seconds)} in jobs on {plural(summary.cores, 'core')}: "
        f"efficiency {summary.efficiency:.0%}",
    ]
    if summary.identical:
        lines.insert(3, f"  copies           {plural(summary.identical, 'file')} with the same content as another")
    if summary.workers:
        name, jobs, busy = summary.workers[0]
        lines.append(
            f"  busiest worker   {name}: {plural(jobs, 'job')}, {duration(busy)} busy "
            f"(of {plural(len(summary.workers), 'worker')})"
        )
    lines += _worded_files(summary, folder)
    return lines


def _worded_files(summary: Summary, folder: Path) -> list[str]:
    lines = ["  slowest files"] if summary.slowest else []
    for path, seconds, count in summary.slowest:
        shown = Path(path).relative_to(folder) if Path(path).is_relative_to(folder) else path
        lines.append(f"    {duration(seconds):>8}  {size(count):>10}  {printable(str(shown))}")
    if summary.failed:
        lines.append(f"  failed           {plural(summary.failed, 'job')}")
        lines += [f"    {job_id}  {printable(message)}" for job_id, message in summary.failures[:SLOWEST]]
    return lines
