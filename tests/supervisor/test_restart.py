"""The restart policy: pure functions of the past."""

from __future__ import annotations

import pytest

from millstream.supervisor.deadlines import Gaps
from millstream.supervisor.restart import HEALTHY, SLOWLY, Backoff, RestartIntensity


def test_first_death_costs_nothing_and_later_ones_wait_twice_as_long_each() -> None:
    backoff = Backoff(first=0.1, longest=1.0)
    assert [backoff.after_death(0.0) for _ in range(7)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_a_healthy_life_makes_the_backoff_start_anew() -> None:
    backoff = Backoff(first=0.1, longest=1.0)
    for _ in range(5):
        backoff.after_death(0.0)
    assert backoff.after_death(HEALTHY) == 0.0
    assert backoff.after_death(0.0) == pytest.approx(0.1)


def test_who_died_young_fails_until_one_has_lived() -> None:
    backoff = Backoff()
    failing = [backoff.failing]
    for lifetime in (HEALTHY - 0.1, HEALTHY):
        backoff.after_death(lifetime)
        failing.append(backoff.failing)
    assert failing == [False, True, False]


def test_a_group_is_degraded_until_few_die_and_its_workers_live_again() -> None:
    intensity = RestartIntensity(intensity=3, period=10.0)
    for now in (0.0, 1.0, 2.0):
        intensity.add(now)
    assert not intensity.judge(2.0, failing=True), "a few deaths are no trouble, whoever died"
    intensity.add(3.0)
    assert intensity.judge(3.0, failing=True)
    assert intensity.judge(50.0, failing=True), "slow restarts are few, but nobody lives"
    assert not intensity.judge(50.1, failing=False)
    assert not intensity.judge(50.2, failing=True), "it takes many deaths to begin anew"
    for _ in range(4):
        intensity.add(51.0)
    assert intensity.judge(51.0, failing=False)
    assert intensity.judge(60.9, failing=False), "too many died lately, though all live now"
    assert not intensity.judge(61.0, failing=False)


def test_no_restart_is_at_once_in_a_degraded_group() -> None:
    intensity = RestartIntensity(intensity=0)
    intensity.judge(0.0, failing=False)
    assert intensity.slowed(0.0) == 0.0
    intensity.add(1.0)
    intensity.judge(1.0, failing=True)
    assert intensity.slowed(0.0) == SLOWLY
    assert intensity.slowed(30.0) == 30.0


def test_intensity_is_exceeded_by_more_than_so_many_exits_in_the_period() -> None:
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
