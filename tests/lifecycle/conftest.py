"""A running mill: a supervisor on the application `program`, and the producer's side in the test itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from millstream.protocol.app import Millstream
from millstream.protocol.client import Client
from tests.lifecycle import program
from tests.support.acl import as_role
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.lifecycle.reloading import Reloading

PROGRAM = Path(program.__file__).read_text()


class Mill:
    """A supervisor and its jobs' notes. `up` is the process, `app` the producer."""

    def __init__(self, up: Supervised, app: Millstream) -> None:
        self.up = up
        self.app = app

    @cached_property
    def operator(self) -> Client:
        """What commands of an operator connect by."""
        return Client(as_role(self.app.client.url, "operator"), self.app.client.keys)

    def lines(self, *words: object) -> list[str]:
        """The notes that begin with these words."""
        path, begin = self.up.folder / "ran", " ".join(map(str, words))
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line == begin or line.startswith(f"{begin} " if begin else "")]

    def count(self, *words: object) -> int:
        """How many notes begin with these words."""
        return len(self.lines(*words))

    def wait_for(self, *words: object, count: int = 1, timeout: float = 10.0) -> list[str]:
        """Wait for notes that begin with these words."""
        return wait_until(
            lambda: found if len(found := self.lines(*words)) >= count else None,
            timeout,
            lambda: f"{count} notes {words}; there are {self.lines()[-20:]}\n{self.up.log()}",
        )

    def counters(self) -> dict[str, int]:
        """The queue's counters."""
        flat = self.app.client.execute("HGETALL", self.app.queue_keys("default").stats)
        return {name.decode(): int(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}

    def touch(self, name: str) -> None:
        """Make the file for which `until` and `interrupted` wait."""
        (self.up.folder / name).touch()


StartMill = Callable[..., Mill]
StartReloading = Callable[..., "Reloading"]


def config(*, processes: int = 1, supervisor: str = "", **group: object) -> str:
    """The text of a millstream.toml with one group that serves the queue `default`."""
    values = {"processes": processes, "queues": '["default"]', "crash_delay": 0.2, **group}
    lines = "\n".join(f"{key} = {value}" for key, value in values.items())
    return f"[supervisor]\n{supervisor}\n[workers.default]\n{lines}\n"


@pytest.fixture
def app(url: str, prefix: str) -> Iterator[Millstream]:
    """The application, connected to the test's server and prefix."""
    program.app.connect_to(url, prefix)
    yield program.app
    program.app.client.close()


@pytest.fixture
def mill(supervise: Callable[..., Supervised], app: Millstream, tmp_path: Path) -> StartMill:
    """Start one: `mill(processes=2, supervisor="lease = 3", timeout=..., env={...})`."""

    def start(*, env: dict[str, str] | None = None, arguments: tuple[str, ...] = (), **options: object) -> Mill:
        runtime = {"XDG_RUNTIME_DIR": str(tmp_path), **(env or {})}
        up = supervise(PROGRAM, config(**options), env=runtime, arguments=arguments)  # type: ignore[arg-type]
        return with_workers(Mill(up, app), int(str(options.get("processes", 1))))

    return start


@pytest.fixture
def reloading(supervise: Callable[..., Supervised], url: str, prefix: str, tmp_path: Path) -> Iterator[StartReloading]:
    """Start a supervisor on an application that will change: `reloading(configuration, text, **variables)`."""
    from tests.lifecycle.reloading import Reloading, code, environment, toml

    app = Millstream(redis_url=url, prefix=prefix)

    def start(configuration: str = "", text: str = "", **variables: str) -> Reloading:
        up = supervise(text or code("one"), configuration or toml(), env=environment(tmp_path, **variables))
        return Reloading(up, app)

    yield start
    app.client.close()


def with_workers(running: Mill, count: int) -> Mill:
    """Wait until all its workers have started: it is ready when one of each group is."""
    wait_until(lambda: running.count("worker_start") >= count, 10.0, running.up.log)
    return running


def lives(pid: int) -> bool:
    """Whether a process of this id exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
