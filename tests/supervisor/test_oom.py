"""Which deaths the kernel's out-of-memory killer explains, by the counter of the control group."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.supervisor.oom import INTERVAL, OomKills, oom_kills

EVENTS = "low 0\nhigh 3\nmax 12\noom 2\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own", "file", "text"),
    [
        ("0::/system.slice/mill.service\n", "system.slice/mill.service/memory.events", EVENTS),
        ("0::/\n", "memory.events", EVENTS),
        ("0::/kubepods/pod1/abc\n", "memory.events", EVENTS),  # the host's path; here is the container's own group
        ("4:memory:/a/b\n1:cpu:/\n0::/\n", "memory/a/b/memory.oom_control", CONTROL),
        ("4:memory:/docker/abc\n0::/\n", "memory/memory.oom_control", CONTROL),
    ],
)
def test_the_counter_is_found(tmp_path: Path, own: str, file: str, text: str) -> None:
    write(tmp_path / "own", own)
    write(tmp_path / "cgroup" / file, text.format(7))
    assert oom_kills(tmp_path / "cgroup", tmp_path / "own") == 7


@pytest.mark.parametrize("text", [None, "", "oom_kill\n", "oom_kill x\n", "\n\n", "oom 3\n"])
def test_there_may_be_none(tmp_path: Path, text: str | None) -> None:
    write(tmp_path / "own", "0::/\n")
    if text is not None:
        write(tmp_path / "cgroup" / "memory.events", text)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "own") == 0
    assert oom_kills(tmp_path / "nowhere", tmp_path / "nothing") == 0


def test_each_kill_explains_one_death() -> None:
    count = 5
    kills = OomKills(lambda: count)
    assert not kills.explain_death(), "those of before were others"
    count = 7
    assert [kills.explain_death() for _ in range(3)] == [True, True, False]


def test_a_kill_explains_no_later_death() -> None:
    """A handler's subprocess was killed, its worker lived on; later somebody kills that one."""
    count = 0
    kills = OomKills(lambda: count)
    kills.look(100.0)
    count = 1
    kills.look(100.0 + INTERVAL)
    kills.look(100.0 + 2 * INTERVAL)
    assert not kills.explain_death()


def test_a_kill_may_have_been_seen_before_the_death_is_reaped() -> None:
    count = 0
    kills = OomKills(lambda: count)
    kills.look(100.0)
    count = 1
    kills.look(100.0 + INTERVAL)
    assert kills.explain_death()
    kills.look(100.0 + 2 * INTERVAL)
    assert not kills.explain_death()
