"""What is counted where there is no room for it: no process dies of it, and what fits is kept."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from tests.ops import namespaces
from tests.support.supervised import ROOT


def run(script: str, folder: Path, *prefix: str) -> Any:
    """What a script prints last, as JSON; it has to end well."""
    text = textwrap.dedent(script)
    command = [*prefix, sys.executable, "-c", text, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


HEAD = """
import json, os, resource, subprocess, sys
from millstream.worker import cells, stores
from millstream.worker.cells import Counter, Metric
from millstream.supervisor.web.ledger import Ledger

folder, told = sys.argv[1], []
metric = Metric("things_total", ("number",), "Some things." + 200 * "x")

def count(first, last):
    made = []
    for number in range(first, last):
        made.append(Counter(metric, str(number)))
        made[-1].add()
    return made

def kept():
    return sum(float(line.split()[-1]) for line in Ledger(folder).text().splitlines() if line.startswith("things"))
"""


def test_a_full_file_system_kills_nobody(tmp_path: Path) -> None:
    namespaces.need("mount")
    script = """
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", folder], check=True)
    cells.install(folder, "0", told.append)
    made = count(0, 2000)  # half a megabyte
    for one in made:
        one.add()
    print(json.dumps([told, kept(), sorted(os.listdir(folder))]))
    """
    told, sum_kept, files = run(HEAD + textwrap.dedent(script), tmp_path, *namespaces.unshare("mount"))
    assert told == [28], "ENOSPC, once"
    assert 200 < sum_kept < 4000, "what had its place before"
    assert sum_kept % 2 == 0, "and goes on there"
    assert files == ["counter_0.db"]


def test_what_was_counted_meanwhile_is_kept_when_there_is_room_again(tmp_path: Path) -> None:
    script = """
    stores.AGAIN = 0.0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    cells.install(folder, "0", told.append)
    before = count(0, 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
    count(100, 1000)
    without = kept()
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    before[0].add()
    after = kept()
    count(1000, 1100)
    print(json.dumps([told, without, after, kept()]))
    """
    told, without, after, end = run(HEAD + textwrap.dedent(script), tmp_path)
    assert told == [27, 0], "EFBIG, then well again"
    assert 100 <= without < 1000 and after == 1001 and end == 1101


def test_counts_of_the_one_before_are_not_overwritten(tmp_path: Path) -> None:
    """A process that could not open its file does not know what stands there."""
    script = """
    stores.AGAIN = 0.0
    if not os.fork():
        cells.install(folder, "0")
        count(0, 10)
        os._exit(0)
    os.wait()
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    from prometheus_client import values  # what is imported later needs descriptors
    cells.install(folder, "0", told.append)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, descriptors[1]))
    made = count(0, 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)
    made[0].add()
    print(json.dumps([told, kept()]))
    """
    told, sum_kept = run(HEAD + textwrap.dedent(script), tmp_path)
    assert told == [24] and sum_kept == 10, "EMFILE"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = """
    cells.install(folder, "0", told.append)
    count(0, 2000)
    print(json.dumps(told))
    """
    assert run(HEAD + textwrap.dedent(script), tmp_path / "file" / "below") == [20]


def test_a_histogram_has_what_prometheus_would_have(tmp_path: Path) -> None:
    """Amounts on the bounds, between and beyond them; against the client's own histogram."""
    script = """
    import random
    from prometheus_client import Histogram
    from millstream.worker.cells import Histogram as Ours
    bounds, draw = (0.5, 1, 2.5), random.Random(7)
    cells.install(folder, "0", told.append)
    theirs = Histogram("theirs_seconds", "x", buckets=bounds)
    ours = Ours(Metric("ours_seconds", (), "x", bounds))
    ours.prepare()
    for size in (0, 1, 2, 50, 200):
        amounts = [draw.choice((0.0, 0.5, 0.7, 1.0, 2.5, 2.6, 9.0)) for _ in range(size)]
        ours.add(amounts)
        for amount in amounts:
            theirs.observe(amount)
    lines = [line.partition("_") for line in Ledger(folder).text().splitlines() if not line.startswith("#")]
    print(json.dumps({name: sorted(rest for who, _, rest in lines if who == name) for name in ("ours", "theirs")}))
    """
    found = run(HEAD + textwrap.dedent(script), tmp_path)
    assert len(found["ours"]) == 6
    assert [line.split()[0] for line in found["ours"]] == [line.split()[0] for line in found["theirs"]]
    for ours, theirs in zip(found["ours"], found["theirs"], strict=True):
        assert abs(float(ours.split()[1]) - float(theirs.split()[1])) < 1e-9
