"""Signed jobs: only what a holder of a key has enqueued runs, wherever it was in between, and keys can be changed."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis as redis_py

from millstream import Millstream
from millstream.protocol import control
from millstream.protocol.drafts import new_job
from millstream.protocol.handle import Handle
from millstream.protocol.info import State
from millstream.protocol.registry import Draft
from millstream.protocol.signing import Keyring
from millstream.protocol.transitions import NewJob
from tests.lifecycle import program
from tests.lifecycle.conftest import PROGRAM, Mill, StartMill, config, with_workers
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

SECRET = "Qq7Ww8" * 8
OLD, NEW = f"old:{SECRET}-old", f"new:{SECRET}-new"
ARGUMENT = "8675309"

MORE = """
@app.job
def enqueue_more(number: int) -> None:
    noop.enqueue(number)
    app.enqueue_many(noop.job(number) for _ in range(2))
"""


def holding(app: Millstream, keys: str) -> Millstream:
    """The producer with other keys, "" for none."""
    app.client.close()
    app.connect_to(app.location.url, app.location.prefix, Keyring.parse(keys) if keys else None)
    return app


class Rotating(Mill):
    """A mill whose keys are in a file."""

    def __init__(self, up: Supervised, app: Millstream, file: Path) -> None:
        super().__init__(up, app)
        self.file = file

    def rotate(self, keys: str, more: str = "") -> None:
        """Let it read other keys, and other settings at the top of its configuration."""
        done = self.up.log().count("reload.done")
        self.file.write_text(keys)
        file = self.up.folder / "millstream.toml"
        kept = [line for line in file.read_text().splitlines() if "accept_unsigned" not in line]
        file.write_text("\n".join([more, *kept]))
        self.up.send(signal.SIGHUP)
        wait_until(lambda: self.up.log().count("reload.done") > done, 30, self.up.log)

    def dead(self) -> list[str]:
        """Ids of the dead letters."""
        ids = self.operator.execute("ZRANGE", self.app.queue_keys("default").dead, 0, -1)
        return [name.decode() for name in ids]


@pytest.fixture
def signing(supervise: Callable[..., Supervised], app: Millstream, tmp_path: Path) -> Callable[..., Rotating]:
    """Start a supervisor with keys; the producer holds the same ones: `signing(keys, top="accept_unsigned = true")`."""

    def start(keys: str = OLD, *, top: str = "", processes: int = 1, **options: object) -> Rotating:
        file = tmp_path / "keys"
        file.write_text(keys)
        toml = f"{top}\n{config(processes=processes, **options)}"  # type: ignore[arg-type]
        env = {"XDG_RUNTIME_DIR": str(tmp_path), "MILLSTREAM_SIGNING_KEYS_FILE": str(file)}
        up = supervise(PROGRAM + MORE, toml, env=env)
        running = Rotating(up, holding(app, keys), file)
        with_workers(running, processes)
        return running

    return start


def test_all_ways_to_enqueue_sign(signing: Callable[..., Rotating]) -> None:
    running = signing()
    program.noop.enqueue(1)
    asyncio.run(program.noop.aenqueue(1))
    running.app.enqueue_many(program.noop.job(1) for _ in range(3))
    running.app.enqueue("noop", 1)
    (running.up.folder / "plain.toml").touch()
    for command in (("noop", "1"), ("noop", "1", "--queue", "default", "--config", "plain.toml")):
        done = running.up.command("enqueue", *command)
        assert done.returncode == 0, done.stderr
    running.app.enqueue("enqueue_more", 1, queue="default")
    running.wait_for("noop", count=11)
    running.up.stop()
    assert not running.dead(), running.up.log()


def test_preloaded_applications_sign_too(signing: Callable[..., Rotating]) -> None:
    running = signing(supervisor="preload = true")
    running.app.enqueue("enqueue_more", 1, queue="default")
    running.wait_for("noop", count=3)
    running.up.stop()
    assert not running.dead(), running.up.log()


def test_without_keys_signed_jobs_run(mill: StartMill) -> None:
    """So producers may have them first."""
    running = mill()
    holding(running.app, OLD)
    assert program.add.enqueue(1).result(10) == 3
    running.up.stop()


def draft(queue: str = "default") -> Draft:
    return program.noop.using(queue=queue).job(int(ARGUMENT))


FORGED: dict[str, tuple[Callable[[], NewJob], str]] = {
    "unsigned": (lambda: new_job(draft(), None), r"entry \S+ is not signed: give its producer the signing keys.*"),
    "unknown key": (
        lambda: new_job(draft(), Keyring.parse(NEW)),
        r"entry \S+ is signed by key 'new', which signing_keys lacks here: .*",
    ),
    "another secret": (
        lambda: new_job(draft(), Keyring.parse(f"{OLD}er")),
        r"the signature of entry \S+ by key 'old' does not fit: .*",
    ),
    "other arguments": (
        lambda: _changed(lambda job: job._replace(envelope=job.envelope.replace(ARGUMENT.encode(), b"8675310"))),
        r"the signature of entry \S+ by key 'old' does not fit: .*",
    ),
    "other name": (
        lambda: _changed(lambda job: job._replace(envelope=job.envelope.replace(b'"noop"', b'"fail"'))),
        r"the signature of entry \S+ by key 'old' does not fit: .*",
    ),
    "other id": (
        lambda: _changed(lambda job: job._replace(id="another")),
        r"the signature of entry \S+ by key 'old' does not fit: .*",
    ),
    "other queue": (
        lambda: new_job(draft("elsewhere"), Keyring.parse(OLD)),
        r"the signature of entry \S+ by key 'old' does not fit: .*",
    ),
    "no JSON": (
        lambda: _changed(lambda job: job._replace(envelope=b"\xff\x00{")),
        r"entry \S+ is not signed: .*",
    ),
    "another type": (
        lambda: _changed(lambda job: job._replace(envelope=b'{"v":1,"n":5,"o":[1],"t":9e99,"a":{}}')),
        r"entry \S+ is not signed: .*",
    ),
}


def _changed(change: Callable[[NewJob], NewJob]) -> NewJob:
    return change(new_job(draft(), Keyring.parse(OLD)))


@pytest.mark.leaves_jobs
def test_what_does_not_fit_never_runs(signing: Callable[..., Rotating], redis: redis_py.Redis) -> None:
    running = signing()
    (worker,) = running.up.workers()
    keys = running.app.queue_keys("default")
    sent: dict[str, str] = {}
    for title, (make, _) in FORGED.items():
        job = make()
        sent[job.id] = title
        redis.xadd(keys.stream("normal"), {"id": job.id, "env": job.envelope})
    program.noop.enqueue(1)
    running.wait_for("noop", count=1)
    wait_until(lambda: running.counters().get("dead") == len(FORGED), 10, running.up.log)
    _expect_refused(running, sent)
    listed = running.up.command("dead", "list", "--json")
    assert {row["id"] for row in orjson.loads(listed.stdout)} == set(sent), listed.stderr

    assert set(control.retry_dead(running.operator, keys, list(sent)).values()) == {control.Retried.QUEUED}
    wait_until(lambda: running.counters().get("dead") == 2 * len(FORGED), 10, running.up.log)
    _expect_refused(running, sent)
    assert running.count("noop") == 1 and not running.count("fail"), "none of them ran"
    assert running.up.workers() == [worker], "no worker died of it"
    lines = [line for line in running.up.log().splitlines() if "entry.malformed" in line]
    assert len(lines) == 2 * len(FORGED), "one line for each delivery"
    assert "Qq7" not in running.up.log() and ARGUMENT not in running.up.log()
    running.up.stop()


def _expect_refused(running: Rotating, sent: dict[str, str]) -> None:
    assert sorted(running.dead()) == sorted(sent)
    for job_id, title in sent.items():
        info = running.app.handle(job_id, "default").info()
        assert info.error is not None, title
        assert (info.state, info.error.cause, info.error.type) == (State.DEAD, "malformed", "BadSignature"), title
        assert re.fullmatch(FORGED[title][1], info.error.message), (title, info.error.message)


@pytest.mark.leaves_jobs
def test_signatures_stay_with_their_jobs(signing: Callable[..., Rotating]) -> None:
    """Delayed, paused, retried, crashed, recovered from a dead host, dead and retried: verified at each delivery."""
    running = signing(supervisor="lease = 1", crash_limit=2)
    keys = running.app.queue_keys("default")
    assert program.fail_once.enqueue().result(10) == 2
    running.operator.run(control.pause(keys))
    held, later = program.add.enqueue(1), program.add.using(delay=0.1).enqueue(2)
    control.resume_all(running.operator, keys)
    assert (held.result(10), later.result(10)) == (3, 4)

    crashing = program.crash.enqueue()
    _wait(crashing, State.DEAD)
    assert running.count("crash") == 2
    assert control.retry_dead(running.operator, keys, [crashing.id])[crashing.id] is control.Retried.QUEUED
    running.wait_for("crash", count=4)
    _wait(crashing, State.DEAD)
    assert (error := crashing.info().error) and error.cause == "crash"

    waiting = program.until.enqueue("recovered", "go")
    running.wait_for("start", "recovered")
    running.up.send_tree(signal.SIGKILL)
    running.up.wait()
    running.up.start()
    running.wait_for("start", "recovered", count=2)
    running.touch("go")
    assert waiting.result(10) == "recovered"
    running.up.stop()
    assert running.dead() == [crashing.id]
    assert "entry.malformed" not in (running.up.folder / "stderr").read_text()


def _wait(handle: Handle[Any], state: State) -> None:
    wait_until(lambda: handle.status() is state, 20, lambda: str(handle.info()))


class Load(threading.Thread):
    """Enqueues jobs, one every few milliseconds, until it is over."""

    def __init__(self, app: Millstream) -> None:
        super().__init__()
        self._app = app
        self._over = threading.Event()
        self.handles: list[Handle[object]] = []

    def run(self) -> None:
        while not self._over.wait(0.005):
            self.handles.append(self._app.enqueue("noop", len(self.handles)))

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def go_on(self, count: int = 20) -> None:
        """Wait until it has enqueued some more."""
        aim = len(self.handles) + count
        wait_until(lambda: len(self.handles) >= aim, 20)


def use(app: Millstream, keys: str) -> None:
    """Let a producer that is at work sign by other keys: as if it was restarted."""
    app.__dict__["keyring"] = Keyring.parse(keys)


def test_keys_change_under_load(signing: Callable[..., Rotating]) -> None:
    """In the documented order: behind the old one everywhere, in front, alone. No job is refused, lost or run twice."""
    running = signing(processes=2)
    with Load(running.app) as load:
        load.go_on()
        running.rotate(f"{OLD}\n{NEW}\n")
        use(running.app, f"{NEW},{OLD}")
        load.go_on()
        running.rotate(f"{NEW},{OLD}")
        load.go_on()
        wait_until(lambda: load.handles[-1].status() is not State.QUEUED, 20)
        wait_until(lambda: running.count("noop") > 40, 20)
    running.wait_for("noop", count=len(load.handles), timeout=30)
    running.rotate(NEW)
    with Load(running.app) as more:
        more.go_on()
    total = len(load.handles) + len(more.handles)
    running.wait_for("noop", count=total, timeout=30)
    running.up.stop()
    assert running.count("noop") == total
    assert not running.dead(), running.up.log()


@pytest.mark.leaves_jobs
def test_keys_change_in_the_wrong_order(signing: Callable[..., Rotating]) -> None:
    """Producers first: jobs become dead letters, and run when the key is there and they are retried."""
    running = signing(processes=2)
    with Load(running.app) as load:
        load.go_on()
        use(running.app, NEW)
        load.go_on()
        wait_until(running.dead, 20)
        running.rotate(f"{OLD},{NEW}")
        load.go_on()
    wait_until(lambda: running.count("noop") + len(running.dead()) == len(load.handles), 30, running.up.log)
    refused = running.dead()
    assert len(refused) > 0 and running.count("noop") > 0
    done = running.up.command("dead", "retry", "--all", "--yes")
    assert done.returncode == 0, done.stderr
    running.wait_for("noop", count=len(load.handles), timeout=30)
    running.up.stop()
    assert running.count("noop") == len(load.handles) and not running.dead()


@pytest.mark.leaves_jobs
def test_a_roll_out_accepts_what_is_not_signed(signing: Callable[..., Rotating], redis: redis_py.Redis) -> None:
    running = signing(top="accept_unsigned = true")
    holding(running.app, "")
    assert program.add.enqueue(1).result(10) == 3
    holding(running.app, NEW)
    wrong = program.add.enqueue(1)
    _wait(wrong, State.DEAD)
    assert "signatures protect nothing" in running.up.command("check").stderr

    running.rotate(OLD)
    holding(running.app, "")
    unsigned = program.add.enqueue(1)
    _wait(unsigned, State.DEAD)
    assert (error := unsigned.info().error) and "is not signed" in error.message
    holding(running.app, OLD)
    assert program.add.enqueue(1).result(10) == 3
    assert "signatures protect nothing" not in running.up.command("check").stderr
    running.up.stop()


def test_secrets_are_not_shown(signing: Callable[..., Rotating]) -> None:
    running = signing(f"{NEW},{OLD}")
    shown = running.up.command("config", "show")
    assert re.search(r"signing_keys +\*\*\* +MILLSTREAM_SIGNING_KEYS_FILE", shown.stdout), shown.stdout
    checked = running.up.command("check", "--json")
    assert orjson.loads(checked.stdout)["signing"] == ["new", "old"]
    spoken = [shown, checked, running.up.command("enqueue", "noop", "1")]
    running.wait_for("noop", count=1)
    for signum in (signal.SIGUSR1, signal.SIGUSR2):  # dumps of stacks, and of what each child does
        running.up.send(signum)
    running.file.write_text(f"new:{SECRET},{SECRET}")
    running.up.send(signal.SIGHUP)
    running.up.wait_log("reload.refused")
    refusal = next(line for line in running.up.log().splitlines() if "reload.refused" in line)
    assert "signing_keys (MILLSTREAM_SIGNING_KEYS_FILE): key 2 of 2 must be id:secret" in refusal
    for command in (("check",), ("config", "show"), ("up",), ("enqueue", "noop", "1")):
        done = running.up.command(*command)
        assert done.returncode == 78 and "key 2 of 2" in done.stderr, done
        spoken.append(done)
    assert not [done for done in spoken if "Qq7" in done.stdout + done.stderr]
    running.up.stop()
    assert "Qq7" not in running.up.output()
