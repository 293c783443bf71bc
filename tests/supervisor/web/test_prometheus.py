"""A real Prometheus scrapes a running supervisor, and its queries return what was done."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.supervisor.web.conftest import StartMill
from tests.support.processes import die_with_parent
from tests.support.servers import Kind
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

CONFIG = """
global:
  scrape_interval: 200ms
  scrape_timeout: 200ms
scrape_configs:
  - job_name: millstream
    static_configs:
      - targets: ["{target}"]
"""


class Prometheus:
    """One Prometheus on a port of its own."""

    def __init__(self, folder: Path, target: str) -> None:
        folder.mkdir()
        (folder / "prometheus.yml").write_text(CONFIG.format(target=target))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        arguments = [
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", *arguments], cwd=folder, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        self.log = folder / "log"

    def ask(self, query: str) -> list[dict[str, object]]:
        """The result of an instant query; nothing while it does not answer yet."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", f"/api/v1/query?query={quote(query)}")
            answer = json.loads(connection.getresponse().read())
            return list(answer.get("data", {}).get("result", ()))
        except (OSError, ValueError, http.client.HTTPException):
            return []
        finally:
            connection.close()

    def wait_for(self, query: str, value: float) -> None:
        """Wait until a query has one result, of this value."""
        wait_until(
            lambda: [float(one["value"][1]) for one in self.ask(query)] == [value],  # type: ignore[index]
            30.0,
            lambda: f"{query}: {self.ask(query)}\n{self.log.read_text()[-2000:]}",
            interval=0.1,
        )


StartPrometheus = Callable[[str], Prometheus]


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[StartPrometheus]:
    """Start one: `prometheus(target)`."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on this machine (Debian package prometheus)")
    started: list[Prometheus] = []

    def start(target: str) -> Prometheus:
        started.append(Prometheus(tmp_path / "prometheus", target))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_its_queries_return_what_was_done(mill: StartMill, prometheus: StartPrometheus) -> None:
    running = mill(processes=2)
    watching = prometheus(running.address)
    watching.wait_for('up{job="millstream"}', 1)
    for number in range(30):
        running.enqueue("ok", number)
    running.enqueue("die_once", "died")
    # Prometheus has a label `job` of its own: ours is called `exported_job` there.
    watching.wait_for('sum(millstream_jobs_finished_total{exported_job="ok", outcome="completed"})', 30)
    watching.wait_for('sum(millstream_jobs_finished_total{exported_job="die_once", outcome="retried"})', 1)
    watching.wait_for('millstream_job_duration_seconds_count{exported_job="ok"}', 30)
    watching.wait_for('sum(millstream_worker_exits_total{reason="crash"})', 1)
    watching.wait_for("max(millstream_fleet_instances)", 1)
    running.up.stop()
