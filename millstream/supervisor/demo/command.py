"""``millstream demo``: real work for several worker processes, watched by a progress bar and summed up."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click

from millstream.protocol.connection import redacted
from millstream.protocol.inspect import survey
from millstream.protocol.listing import infos_of
from millstream.supervisor.cli.output import print_fields
from millstream.supervisor.cli.wording import plural
from millstream.supervisor.cpus import cpus
from millstream.supervisor.demo.files import Files, find_files
from millstream.supervisor.demo.jobs import QUEUE, analyse, app
from millstream.supervisor.demo.summary import Summary, summarise, worded
from millstream.supervisor.demo.supervisor import DemoFailed, DemoSupervisor

LOOK = 0.1
"""Seconds between two looks at the queue."""

SAY = 2.0
"""Seconds between two lines of progress where there is no terminal."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Plan:
    """What was asked for on the command line; None means the default."""

    folder: Path | None = None
    keep: bool = False
    processes: int | None = None
    limit: int | None = None
    redis_url: str | None = None
    output: str = "table"


def run(plan: Plan) -> int:
    """Run the demo and return the exit code: 1 where a job failed. Raises :class:`DemoFailed`."""
    files = find_files(plan.folder, plan.limit)
    if not files.paths:
        raise DemoFailed(f"there are no files in {files.folder}")
    supervisor = DemoSupervisor(processes=plan.processes or max(2, cpus()), keep=plan.keep, redis_url=plan.redis_url)
    with _ended_by_signals():
        try:
            _start(supervisor, files)
            summary, ids = _work(supervisor, files)
            if plan.output == "table":
                click.echo("\n".join(worded(summary, files.folder)))
            else:
                print_fields(summary.to_dict(), plan.output)
            if plan.keep:
                _stay(supervisor, ids[-1])
        finally:
            supervisor.stop()
    return 1 if summary.failed else 0


def _start(supervisor: DemoSupervisor, files: Files) -> None:
    where = "a private server" if supervisor.location.embedded else redacted(supervisor.location.url)
    click.echo(f"starting a supervisor with {supervisor.processes} worker processes on {where}", err=True)
    if files.skipped:
        click.echo(f"left out {plural(files.skipped, 'file')} whose names are not UTF-8", err=True)
    supervisor.start()


def _work(supervisor: DemoSupervisor, files: Files) -> tuple[Summary, list[str]]:
    """Enqueue a job per file, wait for their end, and add them up."""
    app.connect_to(supervisor.location.url, supervisor.location.prefix)
    begun = time.monotonic()
    handles = app.enqueue_many(analyse.job(path) for path in files.paths)
    with _progress(len(handles)) as advance:
        _watch(supervisor, len(handles), advance)
    wall = time.monotonic() - begun
    ids = [handle.id for handle in handles]
    infos = infos_of(supervisor.client, app.queue_keys(QUEUE), ids)
    cores = min(supervisor.processes, cpus())
    return summarise([info.to_dict() for info in infos], wall=wall, cores=cores), ids


def _watch(supervisor: DemoSupervisor, total: int, advance: Advance) -> None:
    keys = app.queue_keys(QUEUE)
    while True:
        counted = supervisor.client.run(survey(keys))
        left = counted.waiting + counted.running + counted.due
        advance(max(0, total - left))
        if not left:
            return
        supervisor.check()
        time.sleep(LOOK)


@contextmanager
def _progress(total: int) -> Iterator[Advance]:
    """A progress bar on a terminal, a line now and then elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        yield _lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("analysing"), BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("analysing", total=total)
        yield lambda done: bar.update(task, completed=done)


def _lines(total: int) -> Advance:
    said = time.monotonic()

    def advance(done: int) -> None:
        nonlocal said
        if done == total or time.monotonic() - said >= SAY:
            said = time.monotonic()
            click.echo(f"{done:,} of {plural(total, 'file')}", err=True)

    return advance


def _stay(supervisor: DemoSupervisor, job_id: str) -> None:
    """Say what there is to look at, and wait for Ctrl-C or for the supervisor's end."""
    command = f"{_program()} --config {shlex.quote(str(supervisor.file))}"
    click.echo(
        f"\nThe supervisor (pid {supervisor.pid}) stays up until Ctrl-C. In another terminal:\n"
        f"  {command} queues list\n"
        f"  {command} ps\n"
        f"  {command} stats\n"
        f"  {command} jobs list --state completed --limit 10\n"
        f"  {command} jobs show {job_id} --args\n"
        f"  {command} enqueue analyse /etc/hosts\n"
        f"  curl -s http://{supervisor.address}/metrics\n"
        f"  kill -9 a worker's pid (see ps): it is replaced at once\n"
        f"  tail -f {shlex.quote(str(supervisor.log))}",
        err=True,
    )
    supervisor.wait()


def _program() -> str:
    """How this program was called, so that what we print can be pasted."""
    called = Path(sys.argv[0])
    if called.name != "millstream":
        return f"{shlex.quote(sys.executable)} -m millstream"
    return "millstream" if shutil.which("millstream") else shlex.quote(str(called.absolute()))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """TERM and HUP end the demo in good order, as Ctrl-C does."""

    def end(signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before = {signum: signal.signal(signum, end) for signum in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
