"""Run one scenario from its seed to the verdict."""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.chaos import jobs
from tests.chaos.checker import KILLED, History, check
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.world import World
from tests.support.servers import Kind

ITSELF = "the scenario itself failed:"
KEPT = "logs and evidence are kept in"
ATTEMPTS = {"flaky": jobs.ATTEMPTS, "failing": jobs.ATTEMPTS, **dict.fromkeys(KILLED, jobs.KILLED_ATTEMPTS)}


@dataclass
class Verdict:
    """What a run showed; `problems` is empty when every promise was kept."""

    scenario: str
    seed: str
    problems: list[str]
    seconds: float
    facts: dict[str, int] = field(default_factory=dict)


def run_scenario(name: str, seed: str, seconds: float, kind: Kind = Kind.VALKEY) -> Verdict:
    """Break things for so many seconds, drain, check; a scenario's own assertion is a problem as well."""
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="ms-chaos-"))
    problems, facts = _break_and_check(name, folder, seed, seconds, kind)
    if problems:
        (folder / "problems").write_text("\n".join(problems))
        problems.append(f"{KEPT} {folder}")
    else:
        shutil.rmtree(folder)
    return Verdict(name, seed, problems, time.monotonic() - begin, facts)


def _break_and_check(
    name: str, folder: Path, seed: str, seconds: float, kind: Kind
) -> tuple[list[str], dict[str, int]]:
    scenario = SCENARIOS[name]
    world = World(folder, seed, seconds, kind, through_proxy=scenario.through_proxy, options=scenario.options)
    with world:
        try:
            scenario.run(world)
            world.drain()
        except AssertionError as failure:
            return [str(failure)], {}
        except (redis.RedisError, OSError) as failure:
            return [f"{ITSELF} {failure!r}\n{traceback.format_exc()}"], {}
        history = world.history(ATTEMPTS)
        return check(history), _facts(history, world)


def _facts(history: History, world: World) -> dict[str, int]:
    states = list(history.states.values())
    return {
        "jobs": len(history.acknowledged),
        "runs": len(history.runs),
        "completed": states.count("completed"),
        "dead": states.count("dead"),
        "killed": len(history.killed),
        "stopped": world.damage.stops,
        "taken": len(history.taken),
        "replies lost": sum(proxy.lost for proxy in world.proxies.values()),
        "stale": history.counters.get("stale", 0),
        "recovered": history.counters.get("recovered", 0),
    }
