"""``millstream enqueue``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import Cli
from tests.support.filled import Filled

TYPED = """
from datetime import datetime
from millstream import Millstream

app = Millstream()

@app.job(queue="q")
def stamp(at: datetime, copies: int = 1) -> None:
    pass
"""


class TestEnqueue:
    def test_a_registered_job_is_checked_and_its_queue_known(self, cli: Cli, project: Path, filled: Filled) -> None:
        code, out, err = cli("enqueue", "add", "2", "--kwargs", '{"b": 3}')
        assert (code, err) == (0, "")
        (entry,) = filled.take(1)
        assert (entry.id, entry.name, entry.args, entry.kwargs) == (out.strip(), "add", [2], {"b": 3})
        filled.end([entry])

    def test_a_wrong_call_is_a_usage_error(self, cli: Cli, project: Path) -> None:
        code, out, err = cli("enqueue", "add")
        assert (code, out) == (2, "")
        assert err == "millstream: add(a: int, b: int = 1) -> int: missing a required argument: 'a'\n"

    def test_arguments_are_read_by_the_hints_of_the_handler(self, cli: Cli, project: Path, filled: Filled) -> None:
        (project / "project_jobs.py").write_text(TYPED)
        assert cli("enqueue", "stamp", "2026-01-31T12:00:00Z", "2")[0] == 0
        (entry,) = filled.take(1)
        assert entry.args == ["2026-01-31T12:00:00+00:00", 2]
        filled.end([entry])
        code, out, err = cli("enqueue", "stamp", "tomorrow")
        assert (code, out) == (2, "")
        assert err.startswith("millstream: stamp(): parameter 'at': expected datetime.datetime, got str (")
        code, _, err = cli("enqueue", "stamp", "2026-01-31", "two")
        assert (code, err) == (2, "millstream: stamp(): parameter 'copies': expected int, got str\n")
        assert cli("enqueue", "stamp")[2].endswith("missing a required argument: 'at'\n")

    def test_an_unknown_name_needs_a_queue(self, cli: Cli, project: Path, filled: Filled) -> None:
        code, _, err = cli("enqueue", "nothing", "1")
        assert code == 2
        assert "there is no job 'nothing': this application has: add, endless" in err
        assert cli("enqueue", "nothing", "1", "--queue", "q")[0] == 0
        (entry,) = filled.take(1)
        assert entry.name == "nothing"
        filled.end([entry])

    def test_arguments_are_json_or_text(self, cli: Cli, filled: Filled) -> None:
        arguments = ("42", "4.5", "null", '{"a": [1]}', "hello", '"42"', "", "--", "-x")
        assert cli("enqueue", "any", "--queue", "q", *arguments)[0] == 0
        (entry,) = filled.take(1)
        assert entry.args == [42, 4.5, None, {"a": [1]}, "hello", "42", "", "-x"]
        filled.end([entry])

    def test_options(self, cli: Cli, filled: Filled) -> None:
        call = ("enqueue", "any", "--queue", "q", "--id", "mine", "--delay", "60", "--priority", "high", "--json")
        assert json.loads(cli(*call)[1]) == {"id": "mine", "queue": "q", "created": True}
        code, out, err = cli(*call)
        assert (code, json.loads(out)["created"]) == (0, False)
        assert err == "job mine existed already; nothing was enqueued\n"
        assert filled.survey().due == 1
        assert cli("queues", "purge", "q", "--due", "--yes")[0] == 0

    def test_a_held_key_is_told_with_its_holder(self, cli: Cli, project: Path, filled: Filled) -> None:
        first = cli("enqueue", "add", "2", "--unique-for", "60")[1].strip()
        code, out, err = cli("enqueue", "add", "--unique-for", "60", "--", "2")
        assert (code, out.strip(), err) == (0, first, f"job {first} holds the unique key; nothing was enqueued\n")
        assert cli("enqueue", "any", "--queue", "q", "--unique-for", "60", "--unique-by", "own")[2] == ""
        assert cli("enqueue", "other", "--queue", "q", "--unique-for", "60", "--unique-by", "own")[2] != ""
        filled.end(filled.take(2))

    def test_a_job_that_expires(self, cli: Cli, filled: Filled) -> None:
        call = ("enqueue", "any", "--queue", "q")
        soon = cli(*call, "--expires-in", "60")[1].strip()
        late = cli(*call, "--deadline", "2100-01-01T00:00:00+00:00")[1].strip()
        shown = [json.loads(cli("jobs", "show", job_id, "--json")[1])["expires_at"] for job_id in (soon, late)]
        assert shown[0] < shown[1]
        assert shown[1].startswith(("2099-12-31T23:59:59", "2100-01-01T00:00"))
        filled.end(filled.take(2))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--kwargs", "[1]"), "must be a JSON object"),
            (("--kwargs", "{"), "not JSON"),
            (("--priority", "urgent"), "priority 'urgent' is not valid"),
            (("--delay", "-1"), "-1.0 is not in the range"),
            (("--id", "white space"), "job id 'white space' is not valid"),
            (("--queue", "a/b"), "queue name 'a/b' is not valid"),
            (("--unique-by", "k"), "unique_by and unique_until need unique_for"),
            (("--deadline", "tomorrow"), "not a time: write it as 2030-01-31T18:00:00+00:00"),
            (("--deadline", "2030-01-31T18:00"), "use an aware datetime"),
            (("--deadline", "2030-01-31", "--expires-in", "5"), "use an aware datetime"),
            (("--delay", "9", "--expires-in", "5"), "job 'any' would expire before its time comes"),
        ],
    )
    def test_bad_options(self, cli: Cli, arguments: tuple[str, ...], message: str) -> None:
        code, out, err = cli("enqueue", "any", "--queue", "q", *arguments)
        assert (code, out) == (2, "")
        assert message in err
