"""The configuration: sources, order, every problem at once, and no secret in any message."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from millstream.protocol.errors import ConfigError
from millstream.protocol.location import MAX_SOCKET_PATH, locate, signing_keys, socket_path
from millstream.supervisor.config import Range, Settings, bounds, describe, load
from millstream.supervisor.cpus import cpu_quota, cpus

EXAMPLE = """
app = "shop.jobs:app"
redis_url = "redis://localhost:6379/0"
[workers.reports]
queues = ["urgent", "reports"]
processes = 4
max_jobs = 10_000
max_rss = "1GiB"
memory_limit = "2GiB"
timeout = 600
drain_timeout = 120
env = { OMP_NUM_THREADS = "1" }
kill_after = 2
[supervisor]
name = "shop-1"
lease = 30
drain_timeout = 25
[web]
bind = "127.0.0.1:7070"
"""


def loaded(folder: Path, text: str, flags: dict[str, Any] | None = None, **variables: str) -> Settings:
    (folder / "millstream.toml").write_text(text)
    return load(None, flags, environ=variables, folder=folder)


def problems(folder: Path, text: str, **variables: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, None, **variables)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def test_the_documented_example(tmp_path: Path) -> None:
    settings = loaded(tmp_path, EXAMPLE)
    group = settings.workers["reports"]
    assert (settings.app, settings.redis_url) == ("shop.jobs:app", "redis://localhost:6379/0")
    assert (group.name, group.queues, group.weights) == ("reports", ("urgent", "reports"), None)
    assert (group.processes, group.max_jobs, group.max_rss, group.memory_limit) == (4, 10_000, 2**30, 2**31)
    assert (group.timeout, group.drain_timeout, group.kill_after) == (600, 120, 2)
    assert group.env == {"OMP_NUM_THREADS": "1"}
    assert (settings.supervisor.name, settings.supervisor.lease) == ("shop-1", 30)


def test_without_a_file_there_is_one_group_for_all_queues(tmp_path: Path) -> None:
    settings = load(None, environ={}, folder=tmp_path)
    assert [(group.name, group.queues, group.processes) for group in settings.workers.values()] == [
        ("default", (), "auto")
    ]
    assert settings.redis_url is None
    assert settings.location.embedded
    assert settings.location.data == Path(os.path.realpath(tmp_path)) / ".millstream"


def test_variables_override_the_file_and_flags_override_variables(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        EXAMPLE,
        {"supervisor.name": "flag", "supervisor.lease": None, "redis_url": "redis://flag"},
        MILLSTREAM_REDIS_URL="redis://variable",
        MILLSTREAM_SUPERVISOR__NAME="variable",
        MILLSTREAM_SUPERVISOR__LEASE="12",
        MILLSTREAM_WORKERS__REPORTS__PROCESSES="2",
        MILLSTREAM_WORKERS__REPORTS__DRAIN_TIMEOUT="inf",
        MILLSTREAM_WORKERS__REPORTS__ENV__Mixed_Case="kept",
    )
    group = settings.workers["reports"]
    assert (settings.supervisor.name, settings.supervisor.lease) == ("flag", 12)
    assert (group.processes, group.drain_timeout) == (2, math.inf)
    assert group.env == {"OMP_NUM_THREADS": "1", "Mixed_Case": "kept"}
    assert (settings.location.url, settings.location.source) == ("redis://flag", "--redis-url")
    sources = {row.key: row.source for row in describe(settings)}
    assert sources["supervisor.name"] == "command line"
    assert sources["supervisor.lease"] == "MILLSTREAM_SUPERVISOR__LEASE"
    assert sources["workers.reports.timeout"] == str(tmp_path / "millstream.toml")
    assert sources["workers.reports.crash_limit"] == "default"
    assert sources["workers.reports.env.Mixed_Case"] == "MILLSTREAM_WORKERS__REPORTS__ENV__Mixed_Case"


@pytest.mark.parametrize(
    ("written", "expected", "least_and_most"),
    [
        ("4", 4, (4, 4)),
        ('"auto"', "auto", (cpus(), cpus())),
        ("{ min = 2, max = 8 }", Range(2, 8), (2, 8)),
        ("{ max = 3 }", Range(1, 3), (1, 3)),
    ],
)
def test_numbers_of_processes(tmp_path: Path, written: str, expected: object, least_and_most: tuple[int, int]) -> None:
    settings = loaded(tmp_path, f"[workers.a]\nqueues = ['q']\nprocesses = {written}")
    assert settings.workers["a"].processes == expected
    assert bounds(settings.workers["a"]) == least_and_most


def test_a_table_of_queues_gives_weights_and_order(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "[workers.a]\nqueues = { urgent = 5, 'x@tag' = 1 }")
    group = settings.workers["a"]
    assert (group.queues, group.weights) == (("urgent", "x@tag"), {"urgent": 5, "x@tag": 1})


def test_two_groups_may_serve_the_same_queue(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "[workers.a]\nqueues = ['q']\n[workers.b-c]\nqueues = ['q']")
    assert list(settings.workers) == ["a", "b-c"]


def test_variables_find_groups_whose_name_they_cannot_spell(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        "[workers.b-c]\nqueues = ['q']",
        MILLSTREAM_WORKERS__B_C__QUEUES="x, y",
        MILLSTREAM_WORKERS__B_C__PROCESSES__MAX="3",
    )
    assert (settings.workers["b-c"].queues, settings.workers["b-c"].processes) == (("x", "y"), Range(1, 3))


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = loaded(tmp_path, EXAMPLE)
    with pytest.raises(ValueError, match="frozen"):
        settings.app = "other:app"


FAULTS = [
    ('app = "shop"', "app (millstream.toml): must be like \"module:object\", not 'shop'"),
    ('redis_uri = "x"', "redis_uri (millstream.toml): unknown key; did you mean redis_url?"),
    ("prefix = 5", "prefix (millstream.toml): must be text in quotes, not 5"),
    (
        'prefix = "a{b}"',
        "prefix (millstream.toml): must be 1 to 100 characters without braces, spaces and control "
        "characters, not 'a{b}'",
    ),
    ("workers = 3", "workers (millstream.toml): must be a table, not 3"),
    ("[wokers]", "wokers (millstream.toml): unknown key; did you mean workers?"),
    ("[supervisor]\nlease = 0.5", "supervisor.lease (millstream.toml): must be at least 1, not 0.5"),
    ("[supervisor]\nlease = true", "supervisor.lease (millstream.toml): must be a number, not true"),
    (
        "[supervisor]\ndrain_timout = 3",
        "supervisor.drain_timout (millstream.toml): unknown key; did you mean drain_timeout?",
    ),
    (
        "[supervisor]\nrestart_backoff_max = 0.01",
        "supervisor.restart_backoff_max (millstream.toml): must not be below restart_backoff",
    ),
    (
        '[web]\nbind = "7070"',
        'web.bind (millstream.toml): must be like "127.0.0.1:7070" or "[::1]:7070", or off, not \'7070\'',
    ),
    (
        "[web]\nmax_backlog_age = 0",
        "web.max_backlog_age.* (millstream.toml): must be more than 0, not 0",
    ),
    (
        "[web]\nmax_backlog_age = { reports = 'long' }",
        "web.max_backlog_age.reports (millstream.toml): must be a number, not 'long'",
    ),
    (
        "[workers.a]\nprocesses = 1",
        'workers.a.queues (millstream.toml): is missing: name the queues that this group serves, like ["default"]',
    ),
    ("[workers.a]\nqueues = []", "workers.a.queues (millstream.toml): must name at least one queue"),
    ("[workers.a]\nqueues = ['q', 'q']", "workers.a.queues (millstream.toml): names q more than once"),
    (
        "[workers.a]\nqueues = ['q', 'a b']",
        "workers.a.queues[1] (millstream.toml): must be 1 to 100 letters, digits and . _ - "
        "(then @tag, if wanted), not 'a b'",
    ),
    (
        "[workers.a]\nqueues = { q = 0 }",
        "workers.a.queues.q (millstream.toml): must be at least 1, not 0",
    ),
    (
        "[workers.a]\nqueues = ['q']\nprocesses = 'many'",
        'workers.a.processes (millstream.toml): must be a whole number of at least 1, "auto", or '
        "{ min = 1, max = 8 } with min <= max, not 'many'",
    ),
    (
        "[workers.a]\nqueues = ['q']\nmax_rss = '1 elephant'",
        'workers.a.max_rss (millstream.toml): must be a number of bytes or a size like "512MiB" or "1GiB", '
        "not '1 elephant'",
    ),
    (
        "[workers.a]\nqueues = ['q']\nmax_rss = '2GiB'\nmemory_limit = '1GiB'",
        "workers.a.max_rss (millstream.toml): must be below memory_limit: a worker is recycled at the one "
        "and killed at the other",
    ),
    (
        "[workers.a]\nqueues = ['q']\nkill_after = 0",
        "workers.a.kill_after (millstream.toml): must be more than 0, not 0",
    ),
    (
        "[workers.a]\nqueues = ['q']\ntimeout = inf",
        "workers.a.timeout (millstream.toml): must be a finite number, not inf",
    ),
    (
        "[workers.a]\nqueues = ['q']\nproceses = 2",
        "workers.a.proceses (millstream.toml): unknown key; did you mean processes?",
    ),
    ("[workers.a]\nqueues = ['q']\nweights = {}", "workers.a.weights (millstream.toml): unknown key"),
    (
        "[workers.a",
        "millstream.toml: not valid TOML: Expected ']' at the end of a table declaration (at end of document)",
    ),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[message.split(" ")[0] for _, message in FAULTS])
def test_each_fault_has_its_message(tmp_path: Path, text: str, message: str) -> None:
    assert problems(tmp_path, text) == [message]


def test_all_faults_are_reported_at_once_each_with_its_source(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "app = 5\n[workers.a]\n[supervisor]\nlease = 0\n[web]\nbnd = 1",
        MILLSTREAM_ENV="prod",
        MILLSTREAM_WORKERS__A__PROCESSES="0",
        MILLSTREAM_REDIS_URL_FILE="/does/not/exist",
        MILLSTREAM_SUPERVISOR_LEASE="3",
        MILLSTREAM_REDIS_ULR="x",
    )
    assert [problem.split(": ")[0] for problem in found] == [
        "MILLSTREAM_REDIS_URL_FILE",
        "MILLSTREAM_REDIS_ULR",
        "MILLSTREAM_SUPERVISOR_LEASE",
        "app (millstream.toml)",
        "env (MILLSTREAM_ENV)",
        "workers.a.queues (MILLSTREAM_WORKERS__A__PROCESSES)",
        "workers.a.processes (MILLSTREAM_WORKERS__A__PROCESSES)",
        "supervisor.lease (millstream.toml)",
        "web.bnd (millstream.toml)",
    ]
    assert "MILLSTREAM_SUPERVISOR__LEASE" in found[2]


def test_variables_of_a_service_of_this_name_are_left_alone(tmp_path: Path) -> None:
    loaded(
        tmp_path,
        "",
        MILLSTREAM_PORT="tcp://10.0.0.1:80",
        MILLSTREAM_WEB_SERVICE_HOST="10.0.0.1",
        MILLSTREAM_WEB_PORT_7070_TCP_ADDR="10.0.0.1",
    )


def test_no_secret_in_messages_representations_or_rows(tmp_path: Path) -> None:
    secret = "hunter2"
    faulty = f'redis_url = "{secret}"\n[workers.a]\nqueues=["q"]\nenv = {{ API_TOKEN = ["{secret}"] }}\n'
    assert secret not in str(problems(tmp_path, faulty + "[web]\ntoken = ['hunter2']"))
    good = f'redis_url = "redis://u:{secret}@h"\n[workers.a]\nqueues=["q"]\nenv = {{ API_TOKEN = "{secret}" }}\n'
    settings = loaded(tmp_path, good, MILLSTREAM_WEB_TOKEN=secret)
    assert secret not in repr(settings)
    assert secret not in repr(settings.location)
    assert secret not in str(describe(settings))
    assert settings.web.token is not None
    assert settings.web.token.get_secret_value() == secret


class TestLocation:
    """Where Redis is."""

    def test_the_order_of_sources(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("redis://from-file-variable\n")
        (tmp_path / "millstream.toml").write_text('redis_url = "redis://toml"')
        variables = {
            "MILLSTREAM_REDIS_URL": "redis://variable",
            "MILLSTREAM_REDIS_URL_FILE": str(secret),
            "REDIS_URL": "redis://generic",
        }
        seen = [locate(url="redis://flag", environ=variables, folder=tmp_path).url]
        for name in ("", *variables):
            variables.pop(name, None)
            location = locate(environ=variables, folder=tmp_path)
            assert load(environ=variables, folder=tmp_path).location == location
            seen.append(location.url.removeprefix("redis://"))
        assert seen == ["redis://flag", "variable", "from-file-variable", "generic", "toml"]

    def test_the_file_is_searched_upward(self, tmp_path: Path) -> None:
        deep = tmp_path / "a" / "b"
        deep.mkdir(parents=True)
        (tmp_path / "pyproject.toml").write_text('[tool.millstream]\nprefix = "shop:"')
        (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]")
        location = locate(environ={}, folder=deep)
        assert (location.file, location.prefix) == (tmp_path / "pyproject.toml", "shop:")
        assert location.data == Path(os.path.realpath(tmp_path)) / ".millstream"
        (tmp_path / "a" / "millstream.toml").write_text('prefix = "near:"')
        assert locate(environ={}, folder=deep).prefix == "near:"

    def test_a_named_file_must_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="MILLSTREAM_CONFIG: there is no file"):
            locate(environ={"MILLSTREAM_CONFIG": "none.toml"}, folder=tmp_path)

    def test_a_broken_pyproject_of_somebody_else_is_not_ours(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("[broken")
        assert locate(environ={}, folder=tmp_path).file != tmp_path / "pyproject.toml"
        (tmp_path / "pyproject.toml").write_text("[tool.millstream]\nbroken")
        with pytest.raises(ConfigError, match="not valid TOML"):
            locate(environ={}, folder=tmp_path)

    def test_a_long_folder_gets_a_short_socket(self, tmp_path: Path) -> None:
        deep = tmp_path / ("x" * 90)
        location = locate(environ={"MILLSTREAM_DATA": str(deep)}, folder=tmp_path)
        assert len(os.fsencode(location.socket)) <= MAX_SOCKET_PATH
        assert location.socket == socket_path(location.data)
        assert location.socket != socket_path(location.data / "other")
        assert location.url == f"unix://{location.socket}"


class TestCpus:
    """The quota of the control groups."""

    @pytest.mark.parametrize(
        ("group", "top", "quota"), [("150000 100000", "max 100000", 1.5), ("max 100000", "50000 100000", 0.5)]
    )
    def test_the_lowest_limit_on_the_way_up_binds(self, tmp_path: Path, group: str, top: str, quota: float) -> None:
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "own").write_text("0::/a/b\n")
        (tmp_path / "cpu.max").write_text(top)
        (tmp_path / "a" / "b" / "cpu.max").write_text(group)
        assert cpu_quota(tmp_path, tmp_path / "own") == quota
        assert cpus(tmp_path, tmp_path / "own") == min(math.ceil(quota), cpus(tmp_path, tmp_path / "none"))

    @pytest.mark.parametrize(
        ("limit", "count"),
        [
            ("50000 100000", 1),
            ("100000 100000", 1),
            ("100001 100000", 2),
            ("150000 100000", 2),
            ("25000 10000", 3),
            ("max 100000", 8),
            ("900000 100000", 8),
            ("", 8),
            ("many", 8),
        ],
    )
    def test_a_part_of_a_cpu_counts_as_one_and_the_affinity_binds_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, count: int
    ) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
        (tmp_path / "own").write_text("0::/\n")
        (tmp_path / "cpu.max").write_text(limit)
        assert cpus(tmp_path, tmp_path / "own") == count

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
    def test_a_real_affinity(self, tmp_path: Path) -> None:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, [min(before)])
        try:
            assert cpus(tmp_path, tmp_path / "none") == 1
        finally:
            os.sched_setaffinity(0, before)

    @pytest.mark.parametrize("tight", ["kubepods", "kubepods/pod", "kubepods/pod/container"])
    def test_the_tightest_of_nested_groups_binds(self, tmp_path: Path, tight: str) -> None:
        (tmp_path / "kubepods/pod/container").mkdir(parents=True)
        for folder in ("kubepods", "kubepods/pod", "kubepods/pod/container"):
            (tmp_path / folder / "cpu.max").write_text("120000 100000" if folder == tight else "300000 100000")
        (tmp_path / "own").write_text("0::/kubepods/pod/container\n")
        assert cpu_quota(tmp_path, tmp_path / "own") == 1.2

    @pytest.mark.parametrize(
        ("controllers", "mount"),
        [("cpu,cpuacct", "cpu,cpuacct"), ("cpuacct,cpu", "cpu,cpuacct"), ("cpu", "cpu"), ("cpuacct,cpu", "cpu")],
    )
    @pytest.mark.parametrize("inside", ["", "pod", "pod/container"])
    def test_version_1(self, tmp_path: Path, controllers: str, mount: str, inside: str) -> None:
        (tmp_path / mount / "pod/container").mkdir(parents=True)
        for folder in ("", "pod", "pod/container"):
            (tmp_path / mount / folder / "cpu.cfs_quota_us").write_text("150000\n" if folder == inside else "-1\n")
            (tmp_path / mount / folder / "cpu.cfs_period_us").write_text("100000\n")
        (tmp_path / "own").write_text(f"4:memory:/x\n3:{controllers}:/pod/container\n2:cpuset:/\n0::/\n")
        assert cpu_quota(tmp_path, tmp_path / "own") == 1.5

    def test_version_1_where_only_the_root_of_the_mount_is_ours(self, tmp_path: Path) -> None:
        folder = tmp_path / "cpu,cpuacct"
        folder.mkdir()
        (folder / "cpu.cfs_quota_us").write_text("200000\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
        (tmp_path / "own").write_text("4:memory:/x\n3:cpu,cpuacct:/only/on/the/host\n")
        assert cpu_quota(tmp_path, tmp_path / "own") == 2

    def test_no_limit(self, tmp_path: Path) -> None:
        (tmp_path / "own").write_text("0::/\n")
        (tmp_path / "cpu.max").write_text("max 100000\n")
        assert cpu_quota(tmp_path, tmp_path / "own") is None
        assert cpu_quota(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ("", {}, None),
        ("[web]\nmax_backlog_age = 300", {}, {"*": 300}),
        ("", {"MILLSTREAM_WEB__MAX_BACKLOG_AGE": "60"}, {"*": 60}),
        ('[web]\nmax_backlog_age = { urgent = 5, "*" = 600 }', {}, {"urgent": 5, "*": 600}),
        ("", {"MILLSTREAM_WEB__MAX_BACKLOG_AGE": '{"urgent": 5}'}, {"urgent": 5}),
    ],
)
def test_thresholds_of_the_backlog(tmp_path: Path, text: str, variables: dict[str, str], expected: object) -> None:
    assert loaded(tmp_path, text, None, **variables).web.max_backlog_age == expected


def test_nothing_is_served_where_it_is_off(tmp_path: Path) -> None:
    assert loaded(tmp_path, "", None, MILLSTREAM_WEB__BIND="off").web.bind == "off"


def test_more_groups_than_the_scoreboard_has_room_for_are_refused(tmp_path: Path) -> None:
    text = "".join(f'[workers.g{number}]\nqueues = ["q"]\n' for number in range(161))
    assert problems(tmp_path, text) == ["workers (millstream.toml): has 161 groups, 160 are the most"]


@pytest.mark.parametrize("text", ['{"min": 1, "max": 2}', "{ min = 1, max = 2 }"])
def test_a_table_in_a_variable_is_json_or_as_in_the_file(tmp_path: Path, text: str) -> None:
    settings = load(
        folder=tmp_path, environ={"MILLSTREAM_WORKERS__A__PROCESSES": text, "MILLSTREAM_WORKERS__A__QUEUES": "q"}
    )
    assert settings.workers["a"].processes == Range(1, 2)


def test_a_refused_table_is_shown(tmp_path: Path) -> None:
    (tmp_path / "millstream.toml").write_text("[workers.a]\nprocesses = { min = 1, mx = 2 }\n")
    with pytest.raises(ConfigError, match=r"with min <= max, not '{ min = 1, mx = 2 }'"):
        load(folder=tmp_path, environ={})


class TestSigningKeys:
    """Who reads them, from where, and what is said of bad ones."""

    KEYS = "new:" + "Qq7" * 20

    def test_the_order_of_sources(self, tmp_path: Path) -> None:
        """The same for a supervisor and for a producer."""
        file, secret = tmp_path / "millstream.toml", tmp_path / "secret"
        file.write_text(f'signing_keys = "toml{self.KEYS}"')
        secret.write_text(f"file{self.KEYS}\n")
        variables = {"MILLSTREAM_SIGNING_KEYS": f"variable{self.KEYS}", "MILLSTREAM_SIGNING_KEYS_FILE": str(secret)}
        seen = []
        for name in ("", *variables):
            variables.pop(name, None)
            settings = load(environ=variables, folder=tmp_path)
            assert settings.signing_keys is not None
            found = signing_keys(file, environ=variables)
            assert found is not None
            assert found == settings.signing_keys.get_secret_value()
            assert "Qq7" not in repr(settings) and "Qq7" not in str(describe(settings))
            seen.append(found.removesuffix(self.KEYS))
        assert seen == ["variable", "file", "toml"]
        file.write_text("")
        assert signing_keys(file, environ={}) is None

    @pytest.mark.parametrize("text", ['""', f'"{"Qq7" * 20}"', '"id:Qq7"', "5", "true"])
    def test_keys_that_cannot_be_used(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "millstream.toml"
        file.write_text(f"signing_keys = {text}")
        for read in (partial(load, environ={}, folder=tmp_path), partial(signing_keys, file, environ={})):
            with pytest.raises(ConfigError, match=r"^signing_keys \(.*millstream.toml\): ") as caught:
                read()
            assert "Qq7" not in str(caught.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        variables = {"MILLSTREAM_SIGNING_KEYS_FILE": "/does/not/exist"}
        for read in (partial(load, environ=variables, folder=tmp_path), partial(signing_keys, None, environ=variables)):
            with pytest.raises(ConfigError, match="MILLSTREAM_SIGNING_KEYS_FILE: /does/not/exist cannot be read"):
                read()
