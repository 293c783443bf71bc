"""``millstream check`` and ``millstream config``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import Cli


class TestConfiguration:
    def test_check(self, cli: Cli, project: Path) -> None:
        code, out, err = cli("check")
        assert code == 0
        assert "add (q)" in out
        assert "job 'endless' has no timeout" in err
        assert err.endswith("the configuration is good\n")

    def test_check_warns_of_a_queue_that_nobody_serves(self, cli: Cli, project: Path) -> None:
        with (project / "millstream.toml").open("a") as file:
            file.write('[workers.other]\nqueues = ["another"]\nprocesses = 1\ntimeout = 0\n')
        _, out, err = cli("check", "--json")
        assert "no group serves queue 'q'" in err
        assert "group 'other' has timeout = 0" in err
        assert json.loads(out)["groups"] == [{"name": "other", "processes": 1, "queues": ["another"], "timeout": 0}]

    def test_check_warns_of_hints_that_cannot_be_used(self, cli: Cli, project: Path) -> None:
        with (project / "project_jobs.py").open("a") as file:
            file.write('\n@app.job(queue="q")\ndef odd(a: "Unknown", b: list[int]) -> int:\n    return 1\n')
        _, _, err = cli("check")
        line = (
            "warning: job 'odd': the hint of 'a' cannot be used, so it stays as JSON has it (NameError: name 'Unknown'"
        )
        assert line in err
        assert err.count("cannot be used") == 1

    def test_check_shows_both_bounds_of_a_group(self, cli: Cli, project: Path) -> None:
        with (project / "millstream.toml").open("a") as file:
            file.write('[workers.other]\nqueues = ["q"]\nprocesses = { max = 4 }\n')
        assert "other: 1 to 4 processes, queues q" in cli("check")[1]
        _, out, _ = cli("check", "--json")
        assert json.loads(out)["groups"][0]["processes"] == {"min": 1, "max": 4}

    def test_all_problems_at_once(self, cli: Cli, project: Path) -> None:
        (project / "millstream.toml").write_text('appp = "x"\n[workers.a]\nprocesses = "many"\n')
        code, _, err = cli("check")
        assert code == 78
        assert "appp" in err
        assert "workers.a.processes" in err

    @pytest.mark.parametrize("app", ["nowhere:app", "project_jobs:nothing", "broken", "json:dumps"])
    def test_an_app_that_cannot_be_imported(self, cli: Cli, project: Path, app: str) -> None:
        (project / "broken.py").write_text("1 / 0\n")
        code, _, err = cli("check", "--app", app)
        assert code == 78
        assert err.startswith("millstream: app")
        assert "Traceback" not in err

    def test_config_show_masks_secrets(self, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MILLSTREAM_REDIS_URL", "redis://me:s3cret@localhost:1/0")
        code, out, _ = cli("config", "show")
        assert code == 0
        assert "s3cret" not in out
        assert "MILLSTREAM_REDIS_URL" in out
        rows = {row["key"]: row for row in json.loads(cli("config", "show", "--json")[1])}
        assert rows["app"]["value"] == "project_jobs:app"
