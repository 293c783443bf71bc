"""The parts of a reload: how a process is started again, what it is left, and what ends a rehearsal."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from millstream.protocol.errors import ConfigError
from millstream.protocol.scoreboard import LAYOUT, Header, Order, Record, RecordState, Scoreboard, Word
from millstream.supervisor import config
from millstream.supervisor.deadlines import share
from millstream.supervisor.identity import Identity
from millstream.supervisor.plan import Plan, make_plan
from millstream.supervisor.reload import handover, relaunch
from millstream.supervisor.reload.handover import FORMAT, Folder, Handover, OldWorker
from millstream.supervisor.reload.relaunch import VARIABLE, Launch, Role
from millstream.supervisor.restart import Backoff
from millstream.supervisor.slot import Process, Slot
from tests.support.supervised import ROOT

OTHERS: list[dict[str, object]] = [{"format": FORMAT + 1}, {"layout": LAYOUT + 1}, {"plan": {"app": 5}}, {"plan": None}]
"""What another version may have written."""


def plan_of(toml: str, folder: Path) -> Plan:
    """The plan of a configuration."""
    file = folder / "millstream.toml"
    file.write_text(f'app = "shop:app"\nredis_url = "redis://localhost/0"\n{toml}')
    identity = Identity("here", "here-123456", "boot", "namespace", 7)
    return make_plan(config.load(file, environ={}), identity, "", ("default",), burst=False, metrics=str(folder))


TOML = """
[workers.a]
queues = { x = 2, y = 1 }
drain_timeout = "inf"
env = { LC_ALL = "C" }
[workers.b]
queues = ["z"]
memory_limit = "1GiB"
"""


def left(plan: Plan, board: Scoreboard, **changes: object) -> Handover:
    """What a supervisor leaves that has one worker, in record 3."""
    process = Process(12, 5, board.records[3], 9, 1.5)
    worker = OldWorker(3, 0, False, process.to_dict())
    folder = Folder("/run/m", 8, None)
    values: dict[str, object] = {
        "pid": os.getpid(),
        "lock": plan.identity.lock,
        "board": board.descriptor,
        "records": len(board.records),
        "groups": plan.all_groups,
        "workers": (worker,),
        "incarnations": 5,
        "targets": {"default": 2},
        "replaced": (),
        "server": None,
        "folder": folder,
        "quiet": False,
        "again": True,
        "last_tick": 1.25,
        "gaps": ((2.0, 1.5),),
        "began": 1.0,
    }
    return Handover(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    """A scoreboard with one live worker, one dead, and one record that was freed."""
    own = Scoreboard.create(18)
    for index, group, state in ((3, 1, RecordState.ALIVE), (4, 0, RecordState.DEAD), (5, 1, RecordState.FREE)):
        words = own.records[index].words
        words[Word.STATE], words[Word.GROUP], words[Word.INCARNATION] = state, group, index
    yield own
    os.close(own.descriptor)


def written(plan: Plan, found: Handover) -> dict[str, object]:
    """A handover as its reader gets it."""
    file = handover.write({"plan": handover.as_written(plan), "handover": handover.as_written(found)})
    try:
        return handover.read(file)
    finally:
        os.close(file)


def test_a_plan_and_a_handover_are_read_as_they_were_written(tmp_path: Path, board: Scoreboard) -> None:
    plan = plan_of(TOML, tmp_path)
    assert plan.groups[0].drain_timeout == math.inf
    found = left(plan, board)
    content = written(plan, found)
    assert handover.plan_of(content) == plan
    assert handover.handover_of(content) == found
    assert list(found.descriptors) == [7, board.descriptor, 9, 8]


@pytest.mark.parametrize("change", OTHERS)
def test_what_another_version_has_written_is_refused(
    tmp_path: Path, board: Scoreboard, change: dict[str, object]
) -> None:
    plan = plan_of(TOML, tmp_path)
    with pytest.raises(ValueError, match=r"version|validation error"):
        handover.plan_of({**written(plan, left(plan, board)), **change})


def test_a_handover_with_other_fields_is_refused(tmp_path: Path, board: Scoreboard) -> None:
    content = written(plan_of(TOML, tmp_path), left(plan_of(TOML, tmp_path), board))
    for change in ({"pid": None}, {"workers": [{"record": 3, "slot": 0, "retiring": False, "process": {"pid": 1}}]}):
        found = content["handover"]
        assert isinstance(found, dict)
        with pytest.raises(ValueError, match=r"version|validation error"):
            handover.handover_of({**content, "handover": {**found, **change}})


def test_an_answer_that_was_never_written_is_empty() -> None:
    with tempfile.TemporaryFile() as file:
        assert handover.read(file.fileno()) == {}
        file.write(b"{")
        file.flush()
        assert handover.read(file.fileno()) == {}


def test_old_records_keep_their_groups(tmp_path: Path, board: Scoreboard) -> None:
    """They are numbered behind the new ones, each once, whatever is new there."""
    old = plan_of(TOML, tmp_path)
    new = plan_of('[workers.b]\nqueues = ["new"]\nprocesses = 30\n', tmp_path)
    plan, seen = handover.inherit(left(old, board), new)
    assert plan.groups == new.groups
    assert [(group.name, group.index) for group in plan.retired] == [("b", 1), ("a", 2)]
    for index, name in ((3, "b"), (4, "a")):
        group = plan.group_of(seen.records[index])
        assert dataclasses.replace(group, index=0) == dataclasses.replace(
            next(one for one in old.groups if one.name == name), index=0
        )
    assert plan.queues == ("new", "z", "x", "y")
    assert plan.group_names == ["b", "a"]
    assert len(seen.records) == 2 + 2 * 30 + 16 == seen.header[Header.RECORDS]
    assert seen.records[70].words[Word.STATE] == RecordState.FREE
    board.records[3].words[Word.ORDER] = Order.QUIET
    assert seen.records[3].words[Word.ORDER] == Order.QUIET, "the same memory"


def test_groups_of_several_reloads_are_kept_once_each(tmp_path: Path, board: Scoreboard) -> None:
    old = plan_of(TOML, tmp_path)
    once, seen = handover.inherit(left(old, board), old)
    seen.records[6].words[Word.STATE] = RecordState.ALIVE  # a worker of between the reloads, of the same group as 4
    seen.records[6].words[Word.GROUP] = 0
    twice, again = handover.inherit(left(once, seen, groups=once.all_groups), old)
    assert [group.name for group in twice.retired] == ["b", "a"]
    assert twice.group_of(again.records[6]) == twice.group_of(again.records[4])


def test_the_variable_is_taken_out_and_checked() -> None:
    with tempfile.TemporaryFile() as file:
        os.set_inheritable(file.fileno(), True)
        environ = {VARIABLE: f"rehearsal:{file.fileno()}", "HOME": "/"}
        assert relaunch.received(environ) == (Role.REHEARSAL, file.fileno())
        assert not os.get_inheritable(file.fileno()), "it is not for what the application starts"
    assert environ == {"HOME": "/"}
    assert relaunch.received(environ) is None
    for wrong in ("5", "rehearsal:", "rehearsal:x", "other:5", "rehearsal:987654"):
        with pytest.raises(ConfigError, match="own use"):
            relaunch.received({VARIABLE: wrong})


@pytest.mark.parametrize("value", ["successor:0", "successor:99", "rehearsal:99", "other:5"])
def test_a_wrong_variable_is_an_error_without_a_traceback(tmp_path: Path, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "millstream", "up"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: value},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 78
    assert done.stderr == f"millstream: {VARIABLE}: is for the supervisor's own use; remove it\n"


def test_a_folder_is_found_again_by_its_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, link = tmp_path / "release", tmp_path / "current"
    release.mkdir()
    link.symlink_to(release)
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    assert Launch.of_this_process().folder == str(link)
    for wrong in (str(tmp_path), "current", "", str(tmp_path / "absent")):
        monkeypatch.setenv("PWD", wrong)
        assert Launch.of_this_process().folder == str(release)


LATE = """
import os, sys, time
from pathlib import Path
from millstream.protocol.scoreboard import Scoreboard
from millstream.supervisor import logs
from millstream.supervisor.notify import Notifier
from millstream.supervisor.reload import child, handover
from millstream.supervisor.reload.relaunch import Launch
from tests.supervisor.test_reload_parts import TOML, left, plan_of

logs.configure("json")
board = Scoreboard.create(18)
plan = plan_of(TOML, Path.cwd())
launch = Launch((sys.executable, "-c", "import time; time.sleep(60)"), os.getcwd(), dict(os.environ))
own = child.Reload(launch, Notifier(), lambda: None)
own.start(plan, left(plan, board))
own.keep_time(time.monotonic() + child.LIMIT - 1)
assert os.waitpid(own.pid, os.WNOHANG) == (0, 0)
own.keep_time(time.monotonic() + child.LIMIT + 1)
own.died(os.waitpid(own.pid, 0)[1])
assert own.idle and not own.wanted

own = child.Reload(Launch(("/nowhere/python",), os.getcwd(), {}), Notifier(), lambda: None)
own.start(plan, left(plan, board))
own.died(os.waitpid(own.pid, 0)[1])
assert own.idle

own = child.Reload(None, Notifier(), lambda: None)
own.start(plan, left(plan, board))
assert own.idle
"""


def test_what_ends_a_rehearsal(tmp_path: Path) -> None:
    """In a process of its own: one with threads must not fork."""
    done = subprocess.run(
        [sys.executable, "-c", LATE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    refused = [line for line in done.stderr.splitlines() if '"reload.refused"' in line]
    reasons = ("longer than 120 s", "cannot be started: [Errno 2]", "not started by")
    for line, words in zip(refused, reasons, strict=True):
        assert words in line


SUCCEED = """
import dataclasses, os, sys
from pathlib import Path
from millstream.protocol.scoreboard import Scoreboard
from millstream.supervisor import logs
from millstream.supervisor.notify import Notifier
from millstream.supervisor.reload import child, handover
from millstream.supervisor.reload.relaunch import Launch
from tests.supervisor.test_reload_parts import TOML, left, plan_of

logs.configure("json")
board = Scoreboard.create(18)
plan = plan_of(TOML, Path.cwd())
plan = dataclasses.replace(plan, identity=dataclasses.replace(plan.identity, lock=os.open(".", os.O_RDONLY)))
own = child.Reload(Launch(("/nowhere/python",), os.getcwd(), {}), Notifier(), lambda: None)
own.accepted = handover.as_written(plan)
left_open = os.dup(1)
os.set_inheritable(left_open, True)  # as a library may
before = len(os.listdir("/dev/fd"))
own.become_successor(dataclasses.replace(left(plan, board), workers=(), folder=None))
assert len(os.listdir("/dev/fd")) == before
assert not os.get_inheritable(left_open), "it would pile up with each reload"
assert not os.get_inheritable(board.descriptor) and not os.get_inheritable(plan.identity.lock)
assert own.idle
"""


def test_a_successor_that_cannot_be_started_leaves_everything_as_it_was(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SUCCEED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "the new code cannot be started" in done.stderr


def test_the_backlog_of_before_is_not_taken_for_that_of_other_groups(tmp_path: Path, board: Scoreboard) -> None:
    board.header[Header.BACKLOG_AT] = 5
    plan = plan_of(TOML, tmp_path)
    handover.inherit(left(plan, board), plan)
    assert board.header[Header.BACKLOG_AT] == 0


class Held:
    """A process that holds jobs behind the one that it runs."""

    idle = False

    def __init__(self, record: Record) -> None:
        self.record = record
        self.revoked = 0
        words = record.words
        words[Word.RUN], words[Word.BATCH], words[Word.BATCH_SIZE], words[Word.STARTED] = 1, 1, 5, 1

    def revoke_rest(self, run: int) -> None:
        """Count."""
        self.revoked += 1


@pytest.mark.parametrize("retiring", [False, True])
def test_who_is_to_leave_gives_back_what_waits_though_nobody_idles(board: Scoreboard, retiring: bool) -> None:
    process = Held(board.records[3])
    slot = Slot("a", 0, Backoff(), cast(Process, process), retiring=retiring)
    assert share([slot], time.monotonic(), draining=False)
    assert process.revoked == retiring
