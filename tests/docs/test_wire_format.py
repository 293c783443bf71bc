"""The wire format as documented: enqueue as another language would, and look at what is in Redis then."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import orjson
import pytest
import redis as redis_py

from millstream.protocol.keys import Keys, QueueKeys
from millstream.protocol.scripts import script
from millstream.protocol.transitions import MAX_ITEMS, all_keys
from tests.docs.documents import DOCS, blocks, code, commands, rows, sections
from tests.support.acl import password
from tests.support.servers import Server
from tests.support.supervised import Supervised
from tests.support.waiting import wait_until

TEXT = (DOCS / "wire-format.md").read_text()
SECTIONS = sections(TEXT)
COMMANDS = [command.text for command in commands(TEXT)]

APP = """
import os
from millstream import Millstream, Retry

app = Millstream()

@app.job(queue="reports")
def render(report_id: int, fmt: str = "pdf") -> str:
    return f"{report_id}.{fmt}"

@app.job(queue="reports", retry=Retry(attempts=2, backoff="none"))
def fail() -> None:
    raise ValueError("no")

@app.job(queue="reports")
def die() -> None:
    os._exit(3)
"""

TOML = """
[workers.reports]
queues = ["reports"]
processes = 1
crash_limit = 2
"""

Enqueue = Callable[[str], str]


def documented(section: str, column: int = 0) -> set[str]:
    """What stands in backticks in one column of the tables of a section."""
    return {name for row in rows(SECTIONS[section]) for name in code(row[column])}


@pytest.fixture
def lua(tmp_path: Path) -> Path:
    """A folder with enqueue.lua, written by the documented command."""
    command = next(text for text in COMMANDS if text.startswith("python"))
    quoted = shlex.quote(sys.executable)
    subprocess.run(["bash", "-c", command.replace("python", quoted, 1)], cwd=tmp_path, check=True)
    return tmp_path


def by_redis_cli(server: Server, lua: Path, command: str) -> str:
    """Run a documented command with redis-cli."""
    if shutil.which("redis-cli") is None:
        pytest.skip("no redis-cli on this machine (Debian package redis-tools)")
    arguments = command.replace("redis-cli", f"redis-cli -s {server.socket}{_admin(server)}", 1)
    done = subprocess.run(["bash", "-c", arguments], cwd=lua, capture_output=True, text=True, check=True)
    return done.stdout


def _admin(server: Server) -> str:
    return f" --no-auth-warning --user admin --pass {password('admin')}" if server.options.has_roles else ""


def by_raw_commands(server: Server, lua: Path, command: str) -> str:
    """Run it without redis-cli: the same keys and values by EVAL, as any client library has it."""
    parts = shlex.split(command.replace("\\\n", " "))[1:]
    with server.client(decode_responses=True) as client:
        if parts[0] != "--eval":
            return str(client.execute_command(*parts))
        comma = parts.index(",")
        text, keys, values = (lua / parts[1]).read_text(), parts[2:comma], parts[comma + 1 :]
        return str(client.execute_command("EVAL", text, len(keys), *keys, *values))


@pytest.fixture(params=[by_redis_cli, by_raw_commands])
def enqueue(request: pytest.FixtureRequest, server: Server, lua: Path, prefix: str) -> Enqueue:
    """Run one of the documented commands, under the test's own prefix."""
    return lambda command: str(request.param(server, lua, re.sub(r"\bms:", prefix, command)))


def test_a_worker_runs_what_the_documented_command_enqueued(
    enqueue: Enqueue, supervise: Callable[..., Supervised], redis: redis_py.Redis, prefix: str
) -> None:
    register, send = (text for text in COMMANDS if "SADD" in text or "--eval" in text)
    enqueue(register)
    assert "1" in enqueue(send)
    record = f"{prefix}{{reports}}:job:invoice-42"
    assert redis.hgetall(record)[b"state"] == b"queued"
    assert "1" in enqueue(send), "the same call again is the same job"
    assert "0" in enqueue(send.replace("5f0c2a", "another"))

    up = supervise(APP, TOML)
    wait_until(lambda: redis.hget(record, "state") == b"completed", describe=lambda: str(redis.hgetall(record)))
    row = orjson.loads(redis.hgetall(record)[b"out"])
    assert row["r"] == "42.csv" and row["n"] == "render"
    assert "completed" in enqueue(next(text for text in COMMANDS if "HMGET" in text))
    assert 86_000 < redis.ttl(record) <= 86_400
    up.stop()


def test_what_is_in_redis_is_documented(
    supervise: Callable[..., Supervised], redis: redis_py.Redis, prefix: str
) -> None:
    up = supervise(APP, TOML)
    for arguments in (("render", "1"), ("fail",), ("die",), ("render", "2", "--delay", "3600"), ("render", "3")):
        assert up.command("enqueue", *arguments).returncode == 0
    records = f"{prefix}{{reports}}:job:"
    wait_until(lambda: _states(redis, records) == ["completed"] * 2 + ["dead"] * 2 + ["scheduled"], 20)
    found = [text(key) for key in redis.scan_iter(f"{records}*")]
    fields = {text(name) for key in found for name in redis.hkeys(key)}
    assert fields <= documented("Record"), fields - documented("Record")
    members = {name for row in _rows_of(redis, found) for name in row}
    assert members <= documented("Record"), members - documented("Record")
    envelopes = [orjson.loads(env) for key in found if (env := redis.hget(key, "env"))]
    assert {name for envelope in envelopes for name in envelope} <= documented("Envelope")
    assert {"v", "n", "q", "t"} <= set(envelopes[0])
    heartbeat = orjson.loads(redis.hvals(f"{prefix}hosts")[0])
    assert set(heartbeat) <= documented("Heartbeat"), set(heartbeat) - documented("Heartbeat")
    parts = {name for part in (*heartbeat["workers"], *heartbeat["groups"].values()) for name in part}
    assert parts <= documented("Heartbeat", 1), parts - documented("Heartbeat", 1)
    counters = {text(name) for name in redis.hkeys(f"{prefix}{{reports}}:stats")}
    assert counters <= set(code(SECTIONS["Stream entries"])), counters
    up.stop()
    redis.delete(f"{prefix}{{reports}}:due", f"{prefix}{{reports}}:dead", *found)


def text(value: bytes | str) -> str:
    """What Redis returned, as text."""
    return value.decode() if isinstance(value, bytes) else value


def _states(redis: redis_py.Redis, records: str) -> list[str]:
    return sorted(text(redis.hget(key, "state") or b"") for key in redis.scan_iter(f"{records}*"))


def _rows_of(redis: redis_py.Redis, records: list[str]) -> Iterator[dict[str, object]]:
    for key in records:
        listed = ",".join(text(part) for part in redis.hmget(key, "tries", "out") if part)
        yield from orjson.loads(f"[{listed}]")


def test_every_key_is_documented() -> None:
    keys, queue = Keys(), QueueKeys("ms:", "q")
    rooms = (queue.rooms, queue.crowded, queue.parked, queue.gate, queue.places)
    more = (queue.history_of(""), queue.statistics, *rooms)
    names = {*all_keys(queue), *more, keys.queues, keys.hosts, keys.schema}
    shown = {re.sub(r"<\w+>", "", name) for name in documented("Keys") if name.startswith("ms:")}
    assert shown == names


def test_every_script_is_documented() -> None:
    files = {path.name for path in resources.files("millstream.protocol.scripts").iterdir()}
    names = {name.removesuffix(".lua") for name in files if name.endswith(".lua") and not name.startswith("_")}
    assert documented("Replies of the scripts") | {"enqueue"} == names
    for name in names:
        assert script(name).text.startswith("#!lua"), name


def test_numbers_of_the_enqueue_script() -> None:
    header = script("enqueue").text
    assert "ARGV: per job 5" in header and "OOM" in SECTIONS["Enqueue from another language"]
    assert "allow-oom" not in header.splitlines()[0]
    assert all("allow-oom" in script(name).text.splitlines()[0] for name in documented("Replies of the scripts"))
    assert MAX_ITEMS >= 300


def test_a_worker_runs_what_the_documented_lines_have_signed(
    enqueue: Enqueue, supervise: Callable[..., Supervised], redis: redis_py.Redis, prefix: str
) -> None:
    secret = code(SECTIONS["Sign an envelope"])[-2]
    text = blocks(SECTIONS["Sign an envelope"], "sh")[0].text
    done = subprocess.run(["sh", "-c", text], env={**os.environ, "SECRET": secret}, capture_output=True, text=True)
    signed = done.stdout
    assert signed.endswith(f'{code(SECTIONS["Sign an envelope"])[-1]}"}}'), signed + done.stderr

    send = next(text for text in COMMANDS if "--eval" in text)
    plain = re.search(r"'({.*})'", send)
    assert plain is not None
    forged = signed.replace("[43]", "[44]")
    for job_id, envelope in (("invoice-43", signed), ("invoice-44", signed), ("invoice-45", forged)):
        assert "1" in enqueue(send.replace("invoice-42", job_id).replace(plain[1], envelope))
    up = supervise(APP, TOML, env={"MILLSTREAM_SIGNING_KEYS": f"2026-11:{secret}"})
    records = f"{prefix}{{reports}}:job:"
    wait_until(lambda: _states(redis, records) == ["completed", "dead", "dead"], 20, up.log)
    assert orjson.loads(redis.hget(f"{records}invoice-43", "out") or b"")["r"] == "43.pdf"
    up.stop()
    dead = [f"{records}invoice-44", f"{records}invoice-45"]
    redis.delete(f"{prefix}{{reports}}:dead", *dead)
