"""The demo: its jobs, its files, its summary, and the whole of it against a private and a given server."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
import redis as redis_py

from millstream.supervisor.demo.files import LARGE, find_files, standard_library
from millstream.supervisor.demo.jobs import CHUNK, analyse
from millstream.supervisor.demo.summary import Summary, slot_of, summarise, worded
from tests.support import processes
from tests.support.acl import as_role
from tests.support.supervised import ROOT
from tests.support.waiting import wait_until


class TestAnalyse:
    def test_python(self, tmp_path: Path) -> None:
        source = b"# a comment\nx = 1\n\n\ndef f():\n    return x\n"
        (tmp_path / "a.py").write_bytes(source)
        assert analyse(str(tmp_path / "a.py")) == {
            "path": str(tmp_path / "a.py"),
            "kind": "python",
            "bytes": len(source),
            "sha256": hashlib.sha256(source).hexdigest(),
            "compressed": len(lzma.compress(source)),
            "lines": 6,
            "tokens": 11,
            "names": 5,
            "comments": 1,
        }

    @pytest.mark.parametrize(
        "source", [b"def f(:\n", b"x = '\n", b"  x\n y\n", b"# coding: nowhere\n", b"x = '\xff'\n", b"(\n"]
    )
    def test_what_is_not_python_stays_a_text(self, tmp_path: Path, source: bytes) -> None:
        (tmp_path / "a.py").write_bytes(source)
        result = analyse(str(tmp_path / "a.py"))
        assert result["kind"] in ("text", "python")  # the tokenizer accepts more in some versions of Python
        assert ("fault" in result) == (result["kind"] == "text")
        assert result["bytes"] == len(source)

    @pytest.mark.parametrize(
        ("content", "kind", "lines"),
        [
            (b"", "text", 0),
            (b"one", "text", 1),
            (b"one\n", "text", 1),
            (b"one\ntwo", "text", 2),
            (b"\xff\xfe", "text", 1),
            (b"a\0b", "binary", None),
            (b"x\n" * CHUNK, "text", CHUNK),
        ],
    )
    def test_other_files(self, tmp_path: Path, content: bytes, kind: str, lines: int | None) -> None:
        (tmp_path / "file").write_bytes(content)
        result = analyse(str(tmp_path / "file"))
        assert (result["kind"], result.get("lines"), result["bytes"]) == (kind, lines, len(content))

    def test_unreadable_is_a_result(self, tmp_path: Path) -> None:
        missing = analyse(str(tmp_path / "missing"))
        assert missing == {
            "path": str(tmp_path / "missing"),
            "kind": "unreadable",
            "error": "No such file or directory",
        }
        assert analyse(str(tmp_path))["kind"] == "unreadable"


class TestFiles:
    def test_every_regular_file_large_ones_first(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "small").write_text("x")
        (tmp_path / "sub" / "large").write_bytes(bytes(LARGE))
        (tmp_path / "medium").write_text("xxx")
        (tmp_path / "link").symlink_to(tmp_path / "small")
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / os.fsdecode(b"bad\xff")).write_text("")
        found = find_files(tmp_path)
        assert [Path(path).name for path in found.paths] == ["large", "medium", "small"]
        assert found.skipped == 1
        assert find_files(tmp_path, 2).paths == [str(tmp_path / "medium")]

    def test_the_standard_library_by_default(self) -> None:
        found = find_files(None)
        assert found.folder == standard_library()
        assert len(found.paths) > 500
        assert all(path.endswith(".py") and "site-packages" not in path for path in found.paths)


def job(path: str, worker: str, duration: float, **result: Any) -> dict[str, Any]:
    run = {"worker": f"demo-1a2b3c:demo/{worker}:7", "duration": duration, "cpu_seconds": duration / 2}
    row = {"path": path, "kind": "python", "bytes": 100, "compressed": 25, "lines": 10, "tokens": 50}
    return {"id": path, "state": "completed", "result": row | result, "error": None, "attempts": [run]}


class TestSummary:
    def test_totals(self) -> None:
        dead: dict[str, Any] = {
            "id": "x",
            "state": "dead",
            "result": None,
            "attempts": [],
            "error": {"message": "boom"},
        }
        jobs = [
            job("/f/a", "0", 1.0, sha256="1"),
            job("/f/b", "1", 3.0, sha256="1"),
            job("/f/c", "0", 1.5, kind="binary", lines=0),
            {**job("/f/d", "0", 0.0), "result": {"path": "/f/d", "kind": "unreadable", "error": "no"}},
            dead,
        ]
        summary = summarise(jobs, wall=2.0, cores=2)
        assert (summary.jobs, summary.failed, summary.identical) == (5, 1, 1)
        assert summary.kinds == {"python": 2, "binary": 1, "unreadable": 1}
        assert (summary.bytes, summary.compressed, summary.lines, summary.tokens) == (300, 75, 20, 150)
        assert (summary.jobs_per_second, summary.cpu_seconds) == (2.5, 2.75)
        assert summary.efficiency == pytest.approx(0.6875)
        assert summary.workers[0] == ("demo/1", 1, 3.0)
        assert summary.slowest[0] == ("/f/b", 3.0, 100)
        text = "\n".join(worded(summary, Path("/f")))
        for part in ("5 files in 2.0 s: 2.5 jobs/s", "25% of the size", "efficiency 69%", "demo/1: 1 job", "boom"):
            assert part in text

    def test_of_nothing(self) -> None:
        assert worded(Summary(wall=0.0, cores=1), Path("/"))

    def test_slot_of(self) -> None:
        assert slot_of("host-1a2b3c:demo/3:17") == "demo/3"
        assert slot_of(None) == "?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some sources, a binary, an empty and an odd file."""
    folder = tmp_path / "files"
    folder.mkdir()
    for source in sorted(standard_library().glob("*.py"))[:12]:
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / "binary").write_bytes(bytes(range(256)) * 100)
    (folder / "empty").write_bytes(b"")
    (folder / "broken.py").write_text("def f(:\n")
    return folder


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Start]:
    """Start ``millstream demo`` with a folder of its own for what is temporary."""
    started: list[subprocess.Popen[str]] = []
    (tmp_path / "tmp").mkdir()

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp"), **variables}
        command = [sys.executable, "-m", "millstream", "demo", *arguments]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(
                command, env=env, text=True, cwd=tmp_path, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL
            )
        )
        return started[-1]

    yield start
    for process in started:
        tree = processes.tree(process.pid)
        process.kill()
        process.communicate()
        processes.kill(tree)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestDemo:
    def test_a_private_server(self, demo: Start, folder: Path, tmp_path: Path) -> None:
        process = demo(str(folder), "--processes", "2")
        seen: list[psutil.Process] = wait_until(lambda: processes.titled(process.pid, "millstream: worker"), 20.0)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
        assert re.match(r"15 files in \S+ \S+: ", out)
        assert "12 python, 2 text, 1 binary" in out
        assert "of 2 workers" in out
        assert "starting a supervisor with 2 worker processes on a private server" in err
        processes.assert_gone(seen)
        assert left_in(tmp_path / "tmp") == []

    def test_a_given_server_is_left_as_it_was(self, demo: Start, folder: Path, url: str, redis: redis_py.Redis) -> None:
        out, err = demo(str(folder), "--limit", "3", MILLSTREAM_REDIS_URL=as_role(url, "admin")).communicate(timeout=60)
        assert out.startswith("3 files in"), out + err
        assert redis.dbsize() == 0

    def test_json(self, demo: Start, folder: Path) -> None:
        out, err = demo(str(folder), "--limit", "3", "--json").communicate(timeout=60)
        summary = json.loads(out)
        assert (summary["jobs"], summary["failed"], sum(row["jobs"] for row in summary["workers"])) == (3, 0, 3), err

    def test_nothing_of_the_callers_configuration_matters(self, demo: Start, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "millstream.toml").write_text('app = "nowhere:app"\nredis_url = "redis://127.0.0.1:1/0"\n')
        out, err = demo(str(folder), "--limit", "2", MILLSTREAM_APP="nowhere:app").communicate(timeout=60)
        assert out.startswith("2 files in"), out + err

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_interrupted(self, demo: Start, tmp_path: Path, signum: signal.Signals) -> None:
        process = demo()
        workers = wait_until(lambda: processes.titled(process.pid, "millstream: worker"), 20.0)
        seen = processes.tree(process.pid)
        process.send_signal(signum)
        out, err = process.communicate(timeout=30)
        assert process.returncode == (130 if signum is signal.SIGINT else 128 + signum), out + err
        assert "Traceback" not in err
        processes.assert_gone([*workers, *seen])
        assert left_in(tmp_path / "tmp") == []

    def test_killed_leaves_no_process(self, demo: Start) -> None:
        process = demo()
        wait_until(lambda: processes.titled(process.pid, "millstream: worker"), 20.0)
        seen = processes.tree(process.pid)
        process.kill()
        processes.assert_gone(seen, timeout=15.0)

    def test_keep_stays_up_and_says_what_to_look_at(self, demo: Start, folder: Path, tmp_path: Path) -> None:
        process = demo(str(folder), "--limit", "2", "--keep")
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        command = next(line for line in lines if "queues list" in line).strip()
        done = subprocess.run(
            [*command.split(), "--json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert [row["queue"] for row in json.loads(done.stdout)] == ["demo"]
        url = next(line for line in lines if "curl" in line).split()[-1]
        with urlopen(url, timeout=10) as answer:
            assert b"millstream_workers_target" in answer.read()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert (tmp_path / ".millstream" / "demo" / "millstream.toml").exists()

    def test_no_files(self, demo: Start, tmp_path: Path) -> None:
        (tmp_path / "nothing").mkdir()
        process = demo(str(tmp_path / "nothing"))
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (1, f"millstream: there are no files in {tmp_path / 'nothing'}\n")

    def test_no_folder(self, demo: Start) -> None:
        process = demo("nowhere")
        _, err = process.communicate(timeout=20)
        assert process.returncode == 2
        assert "'nowhere' does not exist" in err

    def test_a_supervisor_that_cannot_start_is_explained(self, demo: Start, folder: Path, tmp_path: Path) -> None:
        process = demo(str(folder), MILLSTREAM_ENV="production")
        _, err = process.communicate(timeout=30)
        assert process.returncode == 78
        assert "MILLSTREAM_ENV=production refuses the embedded server" in err
        assert left_in(tmp_path / "tmp") == []
