"""What follows from the settings for all processes."""

from __future__ import annotations

from pathlib import Path

from millstream.supervisor import config
from millstream.supervisor.cpus import cpus
from millstream.supervisor.identity import Identity
from millstream.supervisor.plan import SPARE_RECORDS, Plan, make_plan

OWN = Identity("i", "i-1", "", "", 0)


def plan_of(tmp_path: Path, text: str) -> Plan:
    (tmp_path / "millstream.toml").write_text(f'redis_url = "redis://nowhere"\n{text}')
    settings = config.load(tmp_path / "millstream.toml", environ={}, folder=tmp_path)
    return make_plan(settings, OWN, "", (), burst=False)


def test_there_are_records_for_all_workers_that_may_be(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        '[workers.a]\nqueues = ["a"]\nprocesses = { min = 1, max = 64 }\n[workers.b]\nqueues = ["b"]\nprocesses = 3\n',
    )
    assert [(group.processes, group.most) for group in plan.groups] == [(1, 64), (3, 3)]
    assert plan.records == 2 * (64 + 3) + SPARE_RECORDS
    assert [group.name for group in plan.scaled] == ["a"]


def test_native_threads_share_the_cpus_also_when_a_group_has_grown(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, f'[workers.a]\nqueues = ["a"]\nprocesses = {{ min = 1, max = {cpus()} }}\n')
    assert plan.groups[0].worker.env["OMP_NUM_THREADS"] == "1"


def test_auto_is_a_fixed_number(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, '[workers.a]\nqueues = ["a"]\n')
    assert (plan.groups[0].processes, plan.groups[0].most, plan.scaled) == (cpus(), cpus(), ())
