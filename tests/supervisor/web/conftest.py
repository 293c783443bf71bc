"""A supervisor that serves metrics and health on a port of its own, and what it says there."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from millstream.protocol.app import Millstream
from tests.support.processes import titled
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

APP = """
import os, signal, time
from pathlib import Path
from millstream import Millstream, Retry
from prometheus_client import Counter, Gauge, Histogram

app = Millstream()
seen = Counter("shop_seen", "What the handlers have seen.", ["kind"])
open_files = Gauge("shop_open_files", "A live gauge.", multiprocess_mode="livesum")
sizes = Histogram("shop_size_bytes", "A histogram.", buckets=(10, 100))

@app.job(queue="a")
def ok(number: int) -> int:
    seen.labels("job").inc()
    open_files.set(2)
    sizes.observe(number)
    return number

@app.job(queue="b", retry=Retry(attempts=2, backoff="none"))
def fail() -> None:
    raise ValueError("no")

@app.job(queue="b")
def die_once(name: str) -> None:
    if not Path(name).exists():
        Path(name).touch()
        os.kill(os.getpid(), signal.SIGKILL)

@app.job(queue="b")
def until(name: str) -> None:
    Path("started-" + name).touch()
    while not Path(name).exists():
        time.sleep(0.01)
"""

TOML = """
[workers.default]
queues = ["a", "b"]
processes = {processes}
crash_delay = 0.1
[web]
bind = "127.0.0.1:0"
{web}
[supervisor]
restart_intensity = 1000
restart_backoff_max = 0.2
{supervisor}
"""


class Answer(NamedTuple):
    """What a path was answered."""

    code: int
    text: str

    def json(self) -> Any:
        """The text as JSON."""
        return json.loads(self.text)

    def reasons(self) -> set[str]:
        """The names of the reasons of a health check."""
        return {reason["name"] for reason in self.json()["reasons"]}


class Mill:
    """A supervisor, what it serves, and a producer."""

    def __init__(self, up: Supervised) -> None:
        self.up = up
        self.app = Millstream(redis_url=up.redis_url, prefix=up.prefix)
        self.jobs = 0

    @property
    def address(self) -> str:
        """Where the web child listens now."""
        found: list[str] = wait_until(
            lambda: re.findall(r'"address":"([^"]+)","event":"web.listening"', self.up.log()), describe=self.up.log
        )
        return found[-1]

    def web(self) -> int:
        """The pid of the web child."""
        return wait_until(lambda: titled(self.up.pid, "millstream: web"), describe=self.up.log)[0].pid

    def get(self, path: str) -> Answer:
        """Ask."""
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read().decode())
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, sorted: ``name{a="b"}``."""
        return {
            _name(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(self.get("/metrics").text)
            for sample in family.samples
        }

    def wait_metric(self, name: str, value: float, timeout: float = 15.0) -> None:
        """Wait until a sample has this value."""
        wait_until(
            lambda: self.metrics().get(name) == value,
            timeout,
            lambda: f"{name} is {self.metrics().get(name)}, not {value}\n{self.up.log()}",
        )

    def finished(self, job: str, outcome: str) -> float:
        """How many runs of a job ended so."""
        queue = "a" if job == "ok" else "b"
        return self.metrics()[f'millstream_jobs_finished_total{{job="{job}",outcome="{outcome}",queue="{queue}"}}']

    def wait_finished(self, job: str, outcome: str, count: float, timeout: float = 15.0) -> None:
        """Wait until so many runs of a job have ended so."""
        queue = "a" if job == "ok" else "b"
        self.wait_metric(
            f'millstream_jobs_finished_total{{job="{job}",outcome="{outcome}",queue="{queue}"}}', count, timeout
        )

    def enqueue(self, name: str, *args: object) -> Any:
        """Enqueue a job."""
        self.jobs += 1
        return self.app.enqueue(name, *args, queue="a" if name == "ok" else "b")

    def folder(self) -> Path:
        """Where the supervisor's processes count."""
        return next(Path(self.up.environment["XDG_RUNTIME_DIR"]).glob("millstream-*/metrics-*"))


def _name(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name


StartMill = Callable[..., Mill]


@pytest.fixture
def mill(supervise: Callable[..., Supervised], tmp_path: Path) -> Iterator[StartMill]:
    """Start one: `mill(processes=2, web="max_backlog_age = 1")`."""
    started: list[Mill] = []

    def start(
        *,
        processes: int | str = 1,
        web: str = "",
        supervisor: str = "",
        app: str = APP,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> Mill:
        toml = TOML.format(processes=processes, web=web, supervisor=supervisor)
        runtime = tmp_path / "run"
        runtime.mkdir(exist_ok=True)
        # An empty variable counts as absent: the file says where to listen.
        ours = {"MILLSTREAM_WEB__BIND": "", "XDG_RUNTIME_DIR": str(runtime)}
        up = supervise(app, toml, env={**ours, **(env or {})}, **options)
        started.append(Mill(up))
        return started[-1]

    yield start
    for mill in started:
        mill.app.client.close()
