"""The restart policy: pure functions of the past."""

from __future__ import annotations

import pytest

from millstream.supervisor.deadlines import Gaps
from millstream.supervisor.restart import HEALTHY, Backoff, RestartIntensity


def test_first_death_costs_nothing_and_later_ones_wait_twice_as_long_each() -> None:
    backoff = Backoff(first=0.1, longest=1.0)
    assert [backoff.after_death(0.0) for _ in range(7)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_a_healthy_life_makes_the_backoff_start_anew() -> None:
    backoff = Backoff(first=0.1, longest=1.0)
    for _ in range(5):
        backoff.after_death(0.0)
    assert backoff.after_death(HEALTHY) == 0.0
    assert backoff.after_death(0.0) == pytest.approx(0.1)


def test_intensity_is_exceeded_by_more_than_so_many_exits_in_the_period_and_recovers_by_itself() -> None:
    intensity = RestartIntensity(intensity=3, period=10.0)
    for now in (0.0, 1.0, 2.0):
        intensity.add(now)
    assert not intensity.exceeded(2.0)
    intensity.add(3.0)
    assert intensity.exceeded(3.0)
    assert not intensity.exceeded(10.5)


def test_a_gap_between_ticks_is_added_to_the_deadlines_of_the_runs_that_it_hit() -> None:
    gaps = Gaps(last_tick=100.0)
    assert gaps.tick(100.1) == 0.0
    assert gaps.tick(104.1) == pytest.approx(4.0)
    assert gaps.since(90.0) == pytest.approx(4.0), "a run that began before the gap lost all of it"
    assert gaps.since(102.1) == pytest.approx(2.0), "a run that began inside it lost the rest"
    assert gaps.since(104.1) == 0.0, "a later run lost nothing"
