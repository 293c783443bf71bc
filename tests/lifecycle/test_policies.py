"""Budgets by cause, rules by exception and the hooks of dead jobs, through a real supervisor."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from millstream import Handle, JobInfo, Millstream, State
from tests.lifecycle.conftest import config
from tests.support.servers import Kind
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.leaves_jobs,
    pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str),
]

APP = """
import os, signal, time
from pathlib import Path

import orjson

from millstream import Discard, JobTimeout, Millstream, Retry, current_job
from millstream.protocol.errors import Interruption

app = Millstream()


def note(hook, /, **facts):
    line = orjson.dumps({"hook": hook, **facts}) + b"\\n"
    descriptor = os.open("told", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line)
    os.close(descriptor)


def hang():
    while True:
        try:
            time.sleep(30)
        except Interruption:
            pass


@app.job(timeout=0.2, retry=Retry(2, delay=0.05, jitter=False, timeouts=3))
def hard(mode: str) -> None:
    # Two timeouts, one of them soft, are apart from the two attempts.
    runs = Path("runs-" + mode)
    with runs.open("a") as file:
        file.write("x")
    count = len(runs.read_text())
    if count == 1:
        hang()
    if count == 2:
        time.sleep(30)
    if mode == "fails":
        raise ValueError("no")
    hang()


@app.job(timeout=0.2, retry=[Retry(discard_on=JobTimeout, on=JobTimeout), Retry(4)])
def discards() -> None:
    hang()


@app.job(retry=Retry(crashes=1))
def crashes_once() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.job(retry=Retry(memory=1, attempts=4))
def large() -> None:
    blocks = [bytearray(b"x" * (1 << 20)) for _ in range(300)]
    time.sleep(30)


@app.job(retry=Retry(2, delay=0.05, jitter=False, backoff=lambda attempt, error: None))
def bad_backoff() -> None:
    raise ValueError("no")


def tell(info):
    note("own", id=info.id, job=info.job, state=info.state, args=info.args, cause=info.error.cause)


@app.job(retry=1, on_dead=tell)
def told(how: str) -> None:
    if how == "raise":
        raise ValueError("no")
    if how == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    Path("started").touch()
    hang()


@app.job(timeout=0.2, retry=Retry(3, delay=300, jitter=False), on_dead=tell)
def late() -> None:
    hang()
"""

FAILING_HOOK = """

@app.on_dead
async def sometimes(info):
    note("all", id=info.id, job=info.job, attempt=current_job().attempt, name=current_job().name)
    if current_job().attempt == 1:
        raise OSError("the pager is engaged")
"""


@pytest.fixture
def app(url: str, prefix: str) -> Iterator[Millstream]:
    made = Millstream(redis_url=url, prefix=prefix)
    yield made
    made.client.close()


def ended(handle: Handle[object], up: Supervised) -> JobInfo:
    """Wait for its end."""
    final = (State.DEAD, State.DISCARDED, State.COMPLETED)
    wait_until(lambda: handle.status() in final, 30.0, lambda: f"{handle.info()}\n{up.log()}")
    return handle.info()


def causes(info: JobInfo) -> list[str | None]:
    return [attempt.cause for attempt in info.attempts]


def notes(up: Supervised, count: int) -> list[dict[str, object]]:
    """What the hooks have noted, when it is so many."""
    path = up.folder / "told"

    def found() -> list[dict[str, object]] | None:
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines] if len(lines) >= count else None

    return wait_until(found, 30.0, up.log)


def test_every_cause_has_its_budget(supervise: Callable[..., Supervised], app: Millstream) -> None:
    up = supervise(APP, config(processes=2, kill_after=0.2))
    names = {name: app.enqueue("hard", name, queue="default") for name in ("fails", "hangs")}
    others = {name: app.enqueue(name, queue="default") for name in ("discards", "crashes_once", "bad_backoff")}

    info = ended(names["fails"], up)
    assert (info.state, info.attempt, causes(info)) == (State.DEAD, 2, ["timeout", "timeout", "error", "error"])
    info = ended(names["hangs"], up)
    assert (info.state, info.attempt, causes(info)) == (State.DEAD, 0, ["timeout"] * 3)
    info = ended(others["discards"], up)
    assert (info.state, info.attempt, causes(info)) == (State.DISCARDED, 1, ["timeout"])
    info = ended(others["crashes_once"], up)
    assert (info.state, info.crashes, causes(info)) == (State.DEAD, 1, ["crash"])
    info = ended(others["bad_backoff"], up)
    assert (info.state, info.attempt, causes(info)) == (State.DEAD, 2, ["error", "error"])
    up.wait_log("job.backoff_failed")
    up.stop()


def test_a_kill_for_memory_has_a_budget(supervise: Callable[..., Supervised], app: Millstream) -> None:
    up = supervise(APP, config(memory_limit='"200MiB"'))
    info = ended(app.enqueue("large", queue="default"), up)
    assert (info.state, info.attempt, causes(info)) == (State.DEAD, 0, ["memory"])
    up.stop()


def test_hooks_are_told_of_every_death(supervise: Callable[..., Supervised], app: Millstream) -> None:
    """One in the worker, one by a crash, one by a kill at the deadline."""
    up = supervise(APP, config(crash_limit=1, kill_after=0.2, timeout=3))
    handles = {how: app.enqueue("told", how, queue="default") for how in ("raise", "crash", "hang")}
    told = {str(note["id"]): note for note in notes(up, 3)}
    for how, cause in (("raise", "error"), ("crash", "crash"), ("hang", "timeout")):
        assert told[handles[how].id] == {
            "hook": "own", "id": handles[how].id, "job": "told", "state": "dead", "args": [how], "cause": cause
        }  # fmt: skip
    up.stop()
    assert len((up.folder / "told").read_text().splitlines()) == 3, "each once"


def test_a_hook_is_told_of_a_job_whose_deadline_comes_before_its_next_run(
    supervise: Callable[..., Supervised],
) -> None:
    """It was killed: only the step that settles knows of the deadline."""
    up = supervise(APP, config(kill_after=0.2))
    done = up.command("enqueue", "late", "--queue", "default", "--expires-in", "60")
    assert done.returncode == 0, done.stderr
    (note,) = notes(up, 1)
    assert (note["id"], note["state"], note["cause"]) == (done.stdout.strip(), "dead", "timeout")
    up.stop()


def test_a_hook_that_fails_is_run_again(supervise: Callable[..., Supervised], app: Millstream) -> None:
    """As a job of its own; the worker goes on, and a hook's job that is dead tells nobody."""
    up = supervise(APP + FAILING_HOOK, config())
    workers = up.workers()
    handle = app.enqueue("bad_backoff", queue="default")
    first, second = notes(up, 2)
    assert (first["id"], first["job"], first["attempt"]) == (handle.id, "bad_backoff", 1)
    assert (second["id"], second["attempt"], second["name"]) == (handle.id, 2, "millstream.on_dead")
    assert up.workers() == workers
    up.stop()


def test_a_hook_is_called_though_its_first_worker_dies(
    supervise: Callable[..., Supervised], app: Millstream, tmp_path: Path
) -> None:
    """Killed within the hook; and the death of a run whose job was deleted meanwhile is told by the notice itself."""
    text = APP + '@app.on_dead\ndef once(info):\n    note("begun", pid=os.getpid(), args=info.args)\n    hang_once()\n'
    text += 'def hang_once():\n    if not Path("go").exists():\n        time.sleep(60)\n'
    up = supervise(text, config())
    handle = app.enqueue("bad_backoff", queue="default")
    (begun,) = notes(up, 1)
    assert begun["args"] == []
    assert up.command("dead", "delete", handle.id, "--yes").returncode == 0
    (up.folder / "go").touch()
    os.kill(int(str(begun["pid"])), signal.SIGKILL)
    again = notes(up, 2)[1]
    assert again["args"] is None
    up.stop()


@pytest.mark.parametrize("keys", ["2026-11:" + "k" * 32])
def test_hooks_with_signed_jobs(supervise: Callable[..., Supervised], app: Millstream, keys: str) -> None:
    """The notice is not signed, the dead job is; one whose record is not is not told of."""
    up = supervise(APP, config(), env={"MILLSTREAM_SIGNING_KEYS": keys})
    done = up.command("enqueue", "told", '"raise"')
    assert done.returncode == 0, done.stderr
    (note,) = notes(up, 1)
    assert (note["id"], note["args"]) == (done.stdout.strip(), ["raise"])
    up.stop()
