"""The shipped unit under a real systemd, which is process 1 of namespaces of its own; only times are shortened."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from millstream import Millstream
from millstream.protocol.handle import Handle
from tests.ops.own_systemd import SERVICE, OwnSystemd, need_own_systemd, own_systemd, prepare
from tests.support.processes import alive, titled
from tests.support.servers import Server, StartServer
from tests.support.supervised import Supervised
from tests.support.waiting import stays, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's"),
]

APP = """
import os, time
from pathlib import Path
from millstream import Millstream, current_job

app = Millstream()

@app.on_worker_start
def wait_for_go() -> None:
    while not Path("go").exists():
        time.sleep(0.01)

@app.job
def surroundings() -> dict[str, object]:
    told = [name for name in os.environ if name == "NOTIFY_SOCKET" or name.startswith("WATCHDOG_")]
    return {"root": os.getuid() == 0, "told": told}

@app.job
def until(name: str) -> list[object]:
    while not Path(name).exists():
        time.sleep(0.01)
    return ["one", current_job().run]
"""

SHORT = """
RestartSec=200ms
TimeoutStopSec=2
WatchdogSec=3
Environment=MILLSTREAM_WORKERS__DEFAULT__PROCESSES=2
"""


class Service:
    """Our service under its systemd; `app` is the producer, on the service's server."""

    def __init__(self, manager: OwnSystemd, server: Server, app: Millstream) -> None:
        self.manager = manager
        self.server = server
        self.app = app

    def touch(self, name: str) -> None:
        """Make the file for which workers or jobs wait."""
        self.manager.root.inside(f"/srv/millstream/{name}").touch()

    def start(self) -> None:
        """Start it; returns when systemd says that it has started."""
        self.touch("go")
        done = self.manager.systemctl("start", SERVICE)
        assert done.returncode == 0, done.stderr + self.manager.log()

    def begin(self, name: str) -> Handle[object]:
        """Start a job that runs until its file is made."""
        handle = self.app.enqueue("until", name, queue="default")
        self.manager.wait("StatusText", "running: 1 of 2 workers busy")
        return handle

    def ended(self) -> dict[str, str]:
        """How its main process ended, and what systemd thinks of it."""
        return self.manager.show_all("ActiveState", "Result", "ExecMainStatus", "NRestarts")

    def wait_failed(self, code: int) -> None:
        """Wait until it was started again, and ended with this exit code again."""

        def failed() -> bool:
            ended = self.ended()
            return ended["NRestarts"] != "0" and ended["ExecMainStatus"] == str(code)

        wait_until(failed, 20, self.manager.log)


StartService = Callable[..., Service]


@pytest.fixture
def service(start_server: StartServer, prefix: str, tmp_path: Path) -> Iterator[StartService]:
    """A systemd with our service, not started yet: `service(more_settings)`."""
    need_own_systemd()
    server = start_server()
    with ExitStack() as stack:

        def make(settings: str = "") -> Service:
            root = prepare(tmp_path / "root", APP, SHORT + settings, server, prefix)
            app = Millstream(redis_url=server.url, prefix=prefix)
            stack.callback(app.client.close)
            return Service(stack.enter_context(own_systemd(root, tmp_path / "log")), server, app)

        yield make


CLEAN = {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0", "NRestarts": "0"}


def test_it_has_started_when_its_workers_are_ready(service: StartService) -> None:
    own = service()
    own.manager.systemctl("start", "--no-block", SERVICE)
    wait_until(lambda: own.manager.show("StatusText").startswith("starting"), 10, own.manager.log)
    stays(lambda: own.manager.show("ActiveState") == "activating", 0.5, "a worker's hook has not returned")
    own.touch("go")
    own.manager.wait("ActiveState", "active")
    own.manager.wait("StatusText", "running: 0 of 2 workers busy")
    assert own.app.enqueue("surroundings", queue="default").result(10) == {"root": False, "told": []}


@pytest.mark.parametrize("mode", ["mixed", "control-group"])
def test_a_stop_waits_for_running_jobs_beyond_its_own_limit(service: StartService, mode: str) -> None:
    own = service(f"KillMode={mode}")
    own.start()
    job = own.begin("end")
    own.manager.systemctl("stop", "--no-block", SERVICE)
    own.manager.wait("StatusText", "draining: 1 of 1 workers busy")
    stays(lambda: own.manager.show("ActiveState") == "deactivating", 3.0, "TimeoutStopSec is 2 s")
    own.touch("end")
    assert job.result(10) == ["one", 1]
    own.manager.wait("ActiveState", "inactive")
    assert own.ended() == CLEAN, own.manager.log()


def test_a_supervisor_that_hangs_is_killed_and_its_jobs_run_again(service: StartService) -> None:
    own = service("WatchdogSec=2")
    own.start()
    stays(lambda: own.manager.show("NRestarts") == "0", 3.0, "WatchdogSec is 2 s, and it was fed")
    job, main = own.begin("end"), own.manager.main()
    family = main.children(recursive=True)
    main.suspend()
    own.manager.wait("NRestarts", "1", 15)
    wait_until(lambda: not any(map(alive, family)), 5, own.manager.log)
    own.touch("end")
    assert job.result(15) == ["one", 2]  # its lease is 30 s
    assert job.info().crashes == 0
    own.manager.wait("ActiveState", "active")


def test_a_reload_keeps_the_main_process_and_its_watchdog(service: StartService) -> None:
    own = service()
    own.start()
    job, main = own.begin("end"), own.manager.main()
    code = own.manager.root.inside("/srv/millstream/shop.py")
    code.write_text(APP.replace('"one"', '"two"'))
    assert own.manager.systemctl("reload", SERVICE).returncode == 0
    wait_until(lambda: "reload.taken_over" in own.manager.log(), 20, own.manager.log)
    own.touch("next")
    wait_until(lambda: own.app.enqueue("until", "next", queue="default").result(10)[0] == "two", 20, own.manager.log)
    own.touch("end")
    assert job.result(10) == ["one", 1], "under the code that it began with"
    wait_until(lambda: "reload.done" in own.manager.log(), 10, own.manager.log)
    own.manager.wait("ActiveState", "active")
    stays(lambda: own.ended()["NRestarts"] == "0", 4.0, "WatchdogSec is 3 s, and it is fed")
    assert own.manager.main() == main
    assert len(titled(main.pid, "millstream: worker")) == 2
    own.manager.systemctl("stop", SERVICE)
    assert own.ended() == CLEAN, own.manager.log()


def test_a_refused_reload_is_over_too(service: StartService) -> None:
    own = service()
    own.start()
    own.manager.root.inside("/srv/millstream/shop.py").write_text("import nothing_like_this")
    assert own.manager.systemctl("reload", SERVICE).returncode == 0
    wait_until(lambda: "reload.refused" in own.manager.log(), 20, own.manager.log)
    own.manager.wait("ActiveState", "active")
    own.touch("next")
    assert own.app.enqueue("until", "next", queue="default").result(10) == ["one", 1]
    assert own.ended()["NRestarts"] == "0"


def test_a_wrong_configuration_is_not_tried_again(service: StartService) -> None:
    own = service("Environment=MILLSTREAM_SUPERVISOR__LEASE=soon")
    assert own.manager.systemctl("start", SERVICE).returncode == 1
    assert own.ended() == {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78", "NRestarts": "0"}
    stays(lambda: own.ended()["ActiveState"] == "failed", 0.6, "RestartSec is 0.2 s")


def test_it_is_started_again_until_its_name_is_free(service: StartService, prefix: str, tmp_path: Path) -> None:
    own = service("Environment=MILLSTREAM_SUPERVISOR__NAME=taken")
    env = {"MILLSTREAM_SUPERVISOR__NAME": "taken"}
    holder = Supervised(tmp_path / "holder", APP, redis_url=own.server.url, prefix=prefix, env=env)
    (holder.folder / "go").touch()
    with holder:
        own.touch("go")
        own.manager.systemctl("start", "--no-block", SERVICE)
        own.wait_failed(75)
        holder.stop()
    own.manager.wait("ActiveState", "active", 20)


def test_it_is_started_again_until_redis_is_there(service: StartService) -> None:
    own = service()
    away = own.server.socket.rename(own.server.folder / "away")
    own.touch("go")
    own.manager.systemctl("start", "--no-block", SERVICE)
    own.wait_failed(69)
    away.rename(own.server.socket)
    own.manager.wait("ActiveState", "active", 20)
