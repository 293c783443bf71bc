"""Each scenario for a short time; `ops/chaos` runs them for long."""

from __future__ import annotations

import pytest

from tests.chaos.run import run_scenario
from tests.chaos.scenarios import SCENARIOS
from tests.support.servers import Kind

SECONDS = 3.0
KINDS = dict(zip(SCENARIOS, [Kind.VALKEY, Kind.REDIS] * len(SCENARIOS), strict=False))


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "everything"])
def test_promises_hold_under(name: str) -> None:
    verdict = run_scenario(name, "42", SECONDS, KINDS[name])
    assert not verdict.problems, "\n".join(verdict.problems)
    assert verdict.facts["jobs"] > 10, verdict.facts
