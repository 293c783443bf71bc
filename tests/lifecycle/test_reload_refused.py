"""HUP with code or a configuration that cannot be used: the log says why, and everything goes on as before."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream import Millstream
from tests.lifecycle.conftest import StartReloading
from tests.lifecycle.reloading import Reloading, code, environment, toml
from tests.support.proxy import Proxy
from tests.support.servers import Kind
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("server", [Kind.VALKEY], indirect=True, ids=str)

THREAD = "\nimport threading\nthreading.Thread(target=time.sleep, args=(600,), daemon=True, name='lurking').start()\n"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("import nowhere_to_be_found\n", "nowhere_to_be_found"),
        ("app = 1 / 0\n", "ZeroDivisionError: division by zero ("),
        ("def broken(:\n", "SyntaxError"),
        ("app = 5\n", "is a int, not a Millstream application"),
        ("import os\nos._exit(7)\n", "ended with exit code 7 and no answer"),
        ("import os\nos.kill(os.getpid(), 9)\n", "was killed by SIGKILL"),
        ("import sys\nsys.exit('no')\n", "SystemExit: no"),
    ],
    ids=["module", "error", "syntax", "no-app", "exit", "killed", "sys-exit"],
)
def test_code_that_does_not_load(reloading: StartReloading, broken: str, words: str) -> None:
    running = reloading()
    tree = {process.pid for process in running.up.tree()}
    assert words in running.refused(broken)
    assert {process.pid for process in running.up.tree()} == tree
    assert running.runs() == "one"
    running.reload(code("two"))
    assert running.runs() == "two"
    running.up.stop()


def test_a_configuration_with_errors_lists_them_all(reloading: StartReloading) -> None:
    running = reloading()
    line = running.refused(configuration=toml("leese = 3", default="processes = 0"))
    assert "supervisor.leese" in line and "did you mean lease?" in line
    assert "workers.default.processes" in line
    checked = running.up.command("check").stderr
    for problem in checked.splitlines():
        assert problem.removeprefix("millstream: ").replace('"', '\\"') in line
    assert "not valid TOML" in running.refused(configuration="[[[")
    (running.up.folder / "millstream.toml").unlink()
    assert "app: name your application" in running.refused()
    assert running.runs() == "one"
    running.up.stop()


def test_what_only_a_restart_can_change_is_named(reloading: StartReloading) -> None:
    running = reloading()
    line = running.refused(configuration=toml('name = "other"\nlease = 12'))
    for key in ("supervisor.name", "supervisor.lease"):
        assert f"{key}: cannot be changed by a reload" in line
    assert "redis_url" not in line and "prefix" not in line and "web" not in line
    assert running.runs() == "one"
    running.up.stop()


def test_threads_of_the_application_are_no_obstacle(reloading: StartReloading) -> None:
    """Neither to the rehearsal, which ends when it has answered, nor to the supervisor, which does not import it."""
    running = reloading(toml("preload = true"))
    running.reload(code("two", THREAD))
    assert running.runs() == "two"
    running.up.stop()


def test_nothing_waits_for_a_rehearsal_and_it_ends_with_the_supervisor(reloading: StartReloading) -> None:
    running = reloading()
    running.deploy(code("two", "\nimport subprocess\nsubprocess.run(['sleep', '61.5'])\n"))
    running.hup()
    wait_until(lambda: running.others("rehearsal"), 10.0)
    wait_until(lambda: any("61.5" in " ".join(process.cmdline()) for process in running.up.tree()), 10.0)
    assert running.runs() == "one"
    started = time.monotonic()
    running.up.stop()
    assert time.monotonic() - started < 5.0, running.up.log()


def test_a_folder_that_is_gone(reloading: StartReloading) -> None:
    running = reloading()
    moved = running.up.folder.rename(running.up.folder.with_name("moved"))
    running.hup()
    wait_until(lambda: '"reload.refused"' in (moved / "stderr").read_text(), 10.0)
    assert "cannot be started" in (moved / "stderr").read_text()
    moved.rename(running.up.folder)
    running.reload(code("two"))
    assert running.runs() == "two"
    running.up.stop()


def test_redis_that_is_away(
    supervise: Callable[..., Supervised], proxy: Proxy, url: str, prefix: str, tmp_path: Path
) -> None:
    """What cannot be checked is not risked; the workers ride the outage out."""
    up = supervise(code("one"), toml(), redis_url=proxy.url, env=environment(tmp_path))
    app = Millstream(redis_url=url, prefix=prefix)
    running = Reloading(up, app)
    workers = sorted(up.workers())
    proxy.refuse()
    assert "Redis" in running.refused(code("two"))
    proxy.resume()
    assert running.runs() == "one"
    assert sorted(up.workers()) == workers
    running.reload()
    assert running.runs() == "two"
    app.client.close()
    up.stop()
