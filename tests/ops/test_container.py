"""The Dockerfile without an engine: its steps run in roots of their own, then its program as a container has it.

Each stage gets a folder as its root, with this machine's programs and interpreter in place of the base image. The
program runs as process 1, as a user without a name, below a root that cannot be written.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from millstream import Millstream
from tests.ops.dockerfile import Stage, parse
from tests.ops.namespaces import INTERPRETER, PATH, Root, first_process, need, unshare
from tests.ops.tools import DOCKERFILE
from tests.support.acl import as_role
from tests.support.servers import StartServer, free_port
from tests.support.supervised import ROOT
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="namespaces and chroot are Linux's"),
]

APP = """
import os
from pathlib import Path
from millstream import Millstream

app = Millstream()

@app.job
def surroundings() -> dict[str, object]:
    try:
        Path("/app/new").write_text("")
        written = True
    except OSError:
        written = False
    return {"uid": os.getuid(), "supervisor": os.getppid(), "written": written, "variables": os.environ.get("PATH")}
"""


class Build:
    """The stages in order, each in its root."""

    def __init__(self, folder: Path, stages: list[Stage]) -> None:
        self._folder = folder
        self.roots: dict[str, Root] = {}
        for number, stage in enumerate(stages):
            self._workdir = "/"
            self._variables: dict[str, str] = {}
            self.root = self.roots[stage.name] = Root(folder / f"stage-{number}")
            for instruction, value in stage.instructions:
                self._apply(instruction, value)

    def _apply(self, instruction: str, value: str) -> None:
        match instruction:
            case "WORKDIR":
                self._workdir = value
                self.root.inside(value).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(value.split())
            case "ENV":
                self._variables |= Stage("", "", [(instruction, value)]).variables()
            case "RUN":
                self._run(value)
            case "USER" | "EXPOSE" | "STOPSIGNAL" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                pass  # they say how it is started
            case _:
                raise AssertionError(f"{instruction}: this test does not know how to do that")

    def _copy(self, words: list[str]) -> None:
        source = ROOT
        if words[0].startswith("--from="):
            source = self.roots[words.pop(0).removeprefix("--from=")].folder
        *names, target = words
        into = self.root.inside(str(Path(self._workdir, target)))
        for name in names:
            found, goal = source / name.lstrip("/"), into / Path(name).name if target.endswith("/") else into
            if found.is_dir():
                shutil.copytree(found, into, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, goal)

    def _run(self, script: str) -> None:
        """As the image's shell does; the variables about networks and package indexes are this machine's."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MILLSTREAM"))}
        environ = {**outside, **surroundings(self._variables)}
        command = [*unshare("mount"), *self.root.command(["/bin/sh", "-c", script], self._workdir)]
        done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, f"RUN {script}\n{done.stdout}{done.stderr}"


def surroundings(variables: dict[str, str]) -> dict[str, str]:
    """The variables of a process in the image: those of the Dockerfile, and where the interpreter is here."""
    found = {**variables, "LD_LIBRARY_PATH": f"{INTERPRETER}/lib", "HOME": "/"}
    return {**found, "PATH": variables.get("PATH", "$PATH").replace("$PATH", PATH)}


def answer(url: str) -> int:
    """The HTTP status that this URL answers with, 0 for no answer."""
    try:
        with urlopen(url, timeout=5) as response:
            return int(response.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return parse(DOCKERFILE.read_text())


@pytest.fixture(scope="module")
def image(stages: list[Stage], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """The root of the last stage, every step done, with an application in its folder. Needs a package index."""
    need("pid", "fork", "mount")
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)
    build = Build(folder, stages)
    (build.root.inside(stages[-1].value("WORKDIR")) / "shop.py").write_text(APP)
    yield build.root
    shutil.rmtree(folder)


def test_a_step_that_fails_is_noticed(tmp_path: Path) -> None:
    need("pid", "fork", "mount")
    with pytest.raises(AssertionError, match="RUN ls /no/such"):
        Build(tmp_path, parse("FROM scratch\nRUN ls /no/such"))


def test_the_image_is_small(image: Root) -> None:
    environment = image.inside("/opt/millstream")
    size = sum(path.lstat().st_size for path in environment.rglob("*"))
    assert size < 100 * 1024 * 1024
    assert not list(environment.glob("bin/pip*"))
    assert [path.name for path in image.inside("/app").iterdir()] == ["shop.py"]


def test_its_program_becomes_ready_works_and_drains(
    image: Root, stages: list[Stage], start_server: StartServer, prefix: str, tmp_path: Path
) -> None:
    server, last, port = start_server(tcp=True), stages[-1], free_port()
    environ = surroundings(last.variables()) | {
        "MILLSTREAM_APP": "shop:app",
        "MILLSTREAM_REDIS_URL": as_role(server.tcp_url, "worker"),
        "MILLSTREAM_PREFIX": prefix,
        "MILLSTREAM_WORKERS__DEFAULT__PROCESSES": "1",
        "MILLSTREAM_WEB__BIND": f"0.0.0.0:{port}",
    }
    program = [*json.loads(last.value("ENTRYPOINT")), *json.loads(last.value("CMD"))]
    command = image.command(program, last.value("WORKDIR"), final=True)
    with first_process(command, tmp_path, tmp_path / "log", environ, "mount") as own:
        own.wait_ready(60)
        app = Millstream(redis_url=server.url, prefix=prefix)
        found = app.enqueue("surroundings", queue="default").result(timeout=20)
        user = int(last.value("USER").partition(":")[0]) if os.getuid() == 0 else 0
        assert found == {"uid": user, "supervisor": 1, "written": False, "variables": environ["PATH"]}
        health = json.loads(last.value("HEALTHCHECK").partition("CMD ")[2])
        wait_until(lambda: answer(f"http://127.0.0.1:{port}/readyz") == 200, 10, own.text)
        wait_until(lambda: own.run_inside(health, environ).returncode == 0, 10, own.text)
        assert own.drain() == 0, own.text()
    assert server.client().keys(f"{prefix}*hosts") == []
