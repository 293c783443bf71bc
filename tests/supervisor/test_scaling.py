"""The policy of scaling: pure functions of what was seen. A group is simulated where it takes one."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.supervisor import scaling
from millstream.supervisor.scaling import CALM, GROW_AFTER, LATE, STALE, Load, Scale, Step, Why

TICK = 0.1


def load(ready: int, busy: int, waiting: int = 0, *, now: float, late: float | None = None, age: float = 0.0) -> Load:
    """A load that was counted *age* seconds ago."""
    return Load(ready, busy, ready - busy, waiting, (60.0 if waiting else 0.0) if late is None else late, now - age)


def looked(scale: Scale, seconds: float, ready: int, busy: int, waiting: int = 0, *, start: float = 0.0) -> list[Step]:
    """What a scale does in some seconds of one load, looked at every tick."""
    times = [start + TICK * tick for tick in range(round(seconds / TICK) + 1)]
    steps = [scale.look(load(ready, busy, waiting, now=now), now) for now in times]
    return [step for step in steps if step is not None]


@dataclass
class Group:
    """A simulated group. Work comes at `rate` (worker-seconds per second); a new worker is ready after `boot` s."""

    scale: Scale
    rate: float
    length: float = 0.05
    boot: float = 0.3
    rng: random.Random | None = None
    now: float = 0.0
    backlog: float = 0.0
    ready_at: list[float] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    counted: tuple[float, int, float] = (0.0, 0, 0.0)

    def run(self, seconds: float) -> list[Step]:
        """Let it work for so long; returns how the target changed meanwhile."""
        before, end = len(self.steps), self.now + seconds
        while self.now < end:
            self._tick()
        return self.steps[before:]

    def _tick(self) -> None:
        self.now = round(self.now + TICK, 6)
        target = self.scale.target
        self.ready_at = [*self.ready_at, *[self.now + self.boot] * (target - len(self.ready_at))][:target]
        ready = sum(at <= self.now for at in self.ready_at)
        arrived = self.rate * TICK * (self.rng.expovariate(1.0) if self.rng else 1.0)
        work = self.backlog + arrived
        done = min(work, ready * TICK)
        self.backlog = work - done
        busy = round(done / TICK) if self.backlog < 1e-9 else ready
        if self.now - self.counted[0] >= 1.0:
            late = self.backlog / self.rate if self.rate else (60.0 if self.backlog else 0.0)
            self.counted = (self.now, round(self.backlog / self.length), late)
        at, waiting, late = self.counted
        step = self.scale.look(Load(ready, min(busy, ready), max(0, ready - busy), waiting, late, at), self.now)
        self.steps += [step] if step else []


def test_it_doubles_while_all_are_busy_and_jobs_wait() -> None:
    scale = Scale(1, 7)
    now = 0.0
    for before, after in ((1, 2), (2, 4), (4, 7)):
        assert looked(scale, GROW_AFTER - TICK, before, before, 100, start=now) == []
        assert looked(scale, 0.0, before, before, 100, start=now + 1.01) == [Step(before, after, Why.BACKLOG)]
        now += 2.0
    assert looked(scale, 10.0, 7, 7, 100, start=now) == [], "never above its most"


def test_never_more_than_have_something_to_do() -> None:
    scale = Scale(4, 100)
    assert looked(scale, 2.0, 4, 4, 1) == [Step(4, 5, Why.BACKLOG)]


def test_workers_that_are_starting_are_waited_for() -> None:
    scale = Scale(1, 8)
    assert looked(scale, 2.0, 1, 1, 100) == [Step(1, 2, Why.BACKLOG)]
    assert looked(scale, 60.0, 1, 1, 100, start=2.1) == [], "the second one is not ready yet"
    assert looked(scale, 2.0, 2, 2, 100, start=62.2) == [Step(2, 4, Why.BACKLOG)]


@pytest.mark.parametrize(("ready", "busy", "grows"), [(20, 18, True), (20, 17, False), (9, 8, False), (9, 9, True)])
def test_nine_in_ten_are_enough(ready: int, busy: int, grows: bool) -> None:
    assert bool(looked(Scale(ready, 100), 2.0, ready, busy, 100)) is grows


def test_a_moment_of_idleness_begins_the_window_anew() -> None:
    scale = Scale(1, 8)
    assert looked(scale, GROW_AFTER - TICK, 1, 1, 100) == []
    assert looked(scale, 0.0, 1, 0, 100, start=GROW_AFTER) == []
    assert looked(scale, GROW_AFTER - TICK, 1, 1, 100, start=GROW_AFTER + TICK) == []


def test_a_worker_that_is_replaced_does_not() -> None:
    """Neither when nobody is there, nor when it is there and has not fetched yet; but it takes one to grow."""
    scale = Scale(1, 8)
    for tick in range(60):
        now = tick * TICK
        ready, busy = [(1, 1), (0, 0), (1, 0), (1, 1)][tick % 4]
        step = scale.look(Load(ready, busy, 0, 100, 60.0, now), now)
        if step is not None:
            assert ready == 1
            assert step == Step(1, 2, Why.BACKLOG)
            break
    assert scale.target == 2
    assert looked(Scale(1, 8), 60.0, 0, 0, 100) == [], "who never gets ready is no reason for more"


def test_jobs_that_do_not_wait_long_are_no_reason() -> None:
    scale = Scale(1, 8)
    for tick in range(100):
        now = tick * TICK
        assert scale.look(load(1, 1, 5, now=now, late=LATE - 0.01), now) is None


def test_a_second_step_needs_a_count_that_was_made_after_the_first() -> None:
    scale = Scale(1, 8)
    assert [step.after for step in looked(scale, 1.0, 1, 1, 100)] == [2]
    for tick in range(11, 30):
        now = tick * TICK
        assert scale.look(load(2, 2, 100, now=now, age=now - 0.9), now) is None


def test_it_gives_up_one_worker_at_a_time() -> None:
    scale = Scale(1, 4)
    scale.target = 4
    assert looked(scale, CALM - TICK, 4, 0) == []
    steps = looked(scale, 4 * CALM, 4, 0, start=CALM)
    assert steps == [Step(4, 3, Why.CALM), Step(3, 2, Why.CALM), Step(2, 1, Why.CALM)]
    assert scale.target == 1


@pytest.mark.parametrize(("busy", "shrinks"), [(0, True), (1, True), (2, False), (4, False)])
def test_the_others_must_have_time_for_its_work(busy: int, shrinks: bool) -> None:
    """Four workers: three would be busy for half of their time with one and a half."""
    scale = Scale(1, 4)
    scale.target = 4
    assert bool(looked(scale, CALM + 1, 4, busy)) is shrinks


def test_nobody_is_sent_away_while_all_are_busy() -> None:
    scale = Scale(1, 2)
    scale.target = 2
    assert looked(scale, CALM - 1, 2, 0) == []
    assert looked(scale, 5.0, 2, 2, start=CALM - 1 + TICK) == [], "light work on average, but none idles now"
    assert looked(scale, TICK, 2, 1, start=CALM + 5) == [Step(2, 1, Why.CALM)]


def test_a_backlog_ends_the_calm() -> None:
    scale = Scale(1, 2)
    scale.target = 2
    assert looked(scale, CALM - 1, 2, 0) == []
    assert looked(scale, 0.0, 2, 0, 5, start=CALM - 0.5) == []
    assert looked(scale, CALM - 1, 2, 0, start=CALM) == []


@pytest.mark.parametrize("busy", [0, 4])
@pytest.mark.parametrize("known", [True, False])
def test_nothing_changes_on_old_news_or_none(busy: int, known: bool) -> None:
    """Redis or maintenance is away, or the supervisor said that this is no time for it."""
    scale = Scale(1, 8)
    scale.target = 4
    for tick in range(round(2 * CALM / TICK)):
        now = tick * TICK
        assert scale.look(load(4, busy, busy, now=now, age=STALE + 0.1) if known else None, now) is None
    assert scale.target == 4


def test_the_time_in_which_nobody_was_ready_is_no_hard_work() -> None:
    scale = Scale(1, 8)
    assert looked(scale, 10.0, 0, 0, 100) == []
    assert looked(scale, GROW_AFTER - TICK, 1, 1, 100, start=10.1) == []


def test_what_was_seen_before_an_outage_does_not_count_after_it() -> None:
    scale = Scale(1, 8)
    assert looked(scale, GROW_AFTER - TICK, 1, 1, 100) == []
    assert scale.look(None, GROW_AFTER) is None
    assert looked(scale, GROW_AFTER - TICK, 1, 1, 100, start=GROW_AFTER + TICK) == []


class TestSignals:
    """TTIN and TTOU."""

    @pytest.mark.parametrize(
        ("by", "bounds", "target"),
        [(1, (3, 5), 3), (3, (5, 7), 5), (-1, (1, 3), 1), (-2, (1, 2), 1), (-9, (1, 1), 1)],
    )
    def test_both_bounds_move_and_the_target_with_them(self, by: int, bounds: object, target: int) -> None:
        scale = Scale(2, 4)
        for _ in range(abs(by)):
            scale.shift(1 if by > 0 else -1, 0.0)
        assert (scale.bounds, scale.target) == (bounds, target)

    def test_one_undoes_the_other(self) -> None:
        scale = Scale(1, 4)
        assert scale.shift(-1, 0.0) is None
        scale.shift(+1, 0.0)
        assert scale.bounds == (1, 4)

    def test_the_load_does_not_undo_them(self) -> None:
        scale = Scale(1, 4)
        assert scale.shift(+1, 0.0) == Step(1, 2, Why.SIGNAL)
        assert looked(scale, 3 * CALM, 2, 0) == []
        scale.target = 5
        assert scale.shift(-1, 200.0) == Step(5, 4, Why.SIGNAL)
        assert looked(scale, 10.0, 4, 4, 100, start=200.0) == []

    @pytest.mark.parametrize(("signals", "targets"), [((1, 1, -1, -1, -1, 1), (3, 4, 3, 2, 1, 2)), ((-1, -1), (1, 1))])
    def test_a_fixed_number(self, signals: tuple[int, ...], targets: tuple[int, ...]) -> None:
        scale = Scale(2, 2)
        assert tuple((scale.shift(by, 0.0), scale.target)[1] for by in signals) == targets


LOADS = st.tuples(
    st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 500), st.floats(0, 100), st.floats(0, 5)
)
EVENTS = st.one_of(LOADS, st.none(), st.sampled_from((-1, 1)))


@given(st.integers(1, 9), st.integers(0, 9), st.lists(st.tuples(st.floats(0.01, 40), EVENTS), max_size=200))
def test_whatever_happens_the_target_stays_within_its_bounds(
    least: int, more: int, events: list[tuple[float, tuple[int, int, int, int, float, float] | int | None]]
) -> None:
    scale, now = Scale(least, least + more), 0.0
    for pause, event in events:
        now, before = now + pause, scale.target
        if isinstance(event, int):
            step = scale.shift(event, now)
        else:
            given_load = None
            if event is not None:
                ready, busy, idle, waiting, late, age = event
                given_load = Load(
                    ready, min(ready, busy), min(idle, ready - min(ready, busy)), waiting, late, now - age
                )
            step = scale.look(given_load, now)
            if step and step.after > before:
                assert given_load is not None
                assert given_load.waiting > 0, "nothing waits"
                assert step.after <= min(2 * given_load.ready, given_load.busy + given_load.waiting)
            elif step:
                assert step.after == before - 1
        low, high = scale.bounds
        assert 1 <= low <= scale.target <= high
        assert (step is None) == (scale.target == before)
        assert step is None or (step.before, step.after) == (before, scale.target)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.floats(0.0, 20.0), st.floats(0.0, 1.0), st.floats(0.1, 8.0))
def test_it_comes_to_rest_under_a_constant_load(least: int, more: int, first: float, part: float, boot: float) -> None:
    """With one load, and then with less: enough workers for it, not many more, and no more changes."""
    most = least + more
    group = Group(Scale(least, most), first, boot=boot)
    group.run(60.0)
    for rate in (first, 0.95 * most * part):
        group.rate = rate
        while group.backlog > 1e-9 and rate < most:
            group.run(10.0)
        group.run(2 * CALM * (more + 2))
        assert group.run(5 * CALM) == []
        assert min(rate, most) - 0.1 <= group.scale.target <= max(least, 2 * rate + 2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.2, 10.0))
def test_an_uneven_load_does_not_make_it_flap(seed: int, rate: float) -> None:
    group = Group(Scale(1, 16), rate, rng=random.Random(seed))
    group.run(10 * CALM)
    grown = [step for step in group.run(20 * CALM) if step.after > step.before]
    assert len(grown) <= 8, "what is given up is not taken back at once"


@given(st.integers(1, 5), st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_without_work_it_always_shrinks_to_its_least(least: int, more: int) -> None:
    group = Group(Scale(least, least + more), 0.0)
    group.scale.target = least + more
    group.run((CALM + 1) * more + 2 * CALM)
    assert group.scale.target == least


def test_a_burst_is_met_within_seconds() -> None:
    group = Group(Scale(1, 8), 0.0)
    group.run(5.0)
    group.backlog = 100.0
    steps = group.run(6.0)
    assert [step.after for step in steps] == [2, 4, 8]


def test_the_gap_between_growing_and_shrinking_is_wide() -> None:
    assert scaling.LIGHT < scaling.SATURATED / 1.5
