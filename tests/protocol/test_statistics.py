"""What is counted by minute and hour: added once, bounded, read back over any time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from millstream.protocol import statistics
from millstream.protocol.errors import InvalidJob
from millstream.protocol.spread import DURATIONS, Spread
from millstream.protocol.statistics import Added, Counts, Resolution, Statistics, read_statistics
from tests.protocol.rig import Rig

A, B = "a-000001", "b-000001"


@pytest.fixture
def rig(url: str, prefix: str) -> Iterator[Rig]:
    rig = Rig(url, prefix)
    yield rig
    rig.link.close()


def add(rig: Rig, number: int, jobs: Mapping[str, Counts], instance: str = A) -> Added:
    return rig.run(statistics.add(rig.keys, instance, number, jobs))


def read(rig: Rig, since: float = 3600, job: str | None = None, **options: Resolution) -> dict[str | None, Statistics]:
    return {one.job: one for one in read_statistics(rig.link, rig.keys, since, job=job, **options)}


def moved(rig: Rig, unit: str, back: int) -> None:
    """Make what was counted now look as if it had been so many hours or days ago."""
    (key,) = rig.link.execute("KEYS", f"{rig.keys.statistics}{unit}:*")  # a small server of the tests
    name, _, number = key.decode().rpartition(":")
    rig.link.execute("RENAME", key, f"{name}:{int(number) - back}")


class TestAdding:
    def test_of_two_hosts_adds_up(self, rig: Rig) -> None:
        assert add(rig, 1, {"render": {"completed": 2, "t0.1": 2, "t": 150_000}}) == (1, True)
        assert add(rig, 1, {"render": {"completed": 1, "retried": 4, "dead": 1, "t0.1": 6}}, B) == (1, True)
        assert add(rig, 2, {"scan": {"released": 5, "completed": 1}}) == (2, True)
        found = read(rig)
        render = found["render"]
        assert (render.processed, render.outcomes["completed"], render.failed) == (8, 3, 5)
        assert (render.duration.count, render.duration.total) == (8, 0.15)
        assert (found["scan"].processed, found["scan"].outcomes["released"]) == (1, 5)
        assert list(found) == [None, "render", "scan"]
        assert found[None].processed == 9
        assert sum(statistics.processed(point.outcomes) for point in found[None].points) == 9

    def test_a_batch_that_comes_again_changes_nothing(self, rig: Rig) -> None:
        counts = {"render": {"completed": 1}}
        assert add(rig, 1, counts) == (1, True)
        assert add(rig, 1, counts) == (1, False)
        assert add(rig, 7, counts) == (7, True)
        assert add(rig, 2, counts) == (7, False), "who has forgotten how far it was is told"
        assert read(rig)["render"].processed == 2

    def test_an_error_changes_nothing(self, rig: Rig) -> None:
        add(rig, 1, {"render": {"completed": 1}})
        (key,) = rig.link.execute("KEYS", f"{rig.keys.statistics}hours:*")
        kept = rig.link.execute("DUMP", key)
        rig.link.execute("SET", key, "no hash")
        with pytest.raises(Exception, match="WRONGTYPE"):
            add(rig, 2, {"render": {"completed": 1}})
        rig.link.execute("RESTORE", key, 3_600_000, kept, "REPLACE")
        assert read(rig)["render"].processed == 1
        assert add(rig, 2, {"render": {"completed": 1}}).new, "it is not noted as added"
        assert read(rig)["render"].processed == 2

    def test_garbage_in_a_place_is_replaced(self, rig: Rig) -> None:
        add(rig, 1, {"render": {"completed": 1}})
        for key in rig.link.execute("KEYS", f"{rig.keys.statistics}*s:*"):
            for name in rig.link.execute("HKEYS", key):
                rig.link.execute("HSET", key, name, "garbage")
        add(rig, 2, {"render": {"completed": 3}})
        assert read(rig)["render"].processed == 3

    def test_more_names_than_are_told_apart(self, rig: Rig) -> None:
        add(rig, 1, {f"job{number}": {"completed": 1} for number in range(700)})
        add(rig, 2, {"another": {"completed": 1}, "job1": {"completed": 1}, "(unknown)": {"dead": 1}})
        found = read(rig)
        assert len(found) == 1 + 500 + 1
        assert found[None].processed == 703
        assert found["(unknown)"].processed == 202
        known = next(name for name in found if name not in (None, "(unknown)"))
        assert rig.link.execute("HLEN", rig.keys.statistics + "names") == 500
        # A name that was not seen for a month makes room.
        rig.link.execute("HSET", rig.keys.statistics + "names", str(known), 1)
        add(rig, 3, {"newcomer": {"completed": 1}})
        assert read(rig)["newcomer"].processed == 1

    def test_everything_ends_by_itself(self, rig: Rig) -> None:
        add(rig, 1, {"render": {"completed": 1}})
        ends = {
            key.decode().removeprefix(rig.keys.statistics).partition(":")[0]: int(rig.link.execute("TTL", key))
            for key in rig.link.execute("KEYS", f"{rig.keys.statistics}*")
        }
        assert set(ends) == {"minutes", "hours", "names", "added"}
        assert 25 * 3600 < ends["minutes"] <= 26 * 3600
        assert all(31 * 86400 < ends[name] <= 32 * 86400 for name in ("hours", "names", "added"))


class TestReading:
    def test_one_job(self, rig: Rig) -> None:
        add(rig, 1, {"render": {"completed": 1}, "scan": {"completed": 2}})
        assert {name: one.processed for name, one in read(rig, job="scan").items()} == {"scan": 2}
        assert read(rig, job="scan", resolution=Resolution.HOURS)["scan"].processed == 2
        assert read(rig, job="nobody") == {}

    def test_a_day_by_minutes(self, rig: Rig) -> None:
        add(rig, 1, {"render": {"completed": 1}})
        moved(rig, "minutes", 23)
        add(rig, 2, {"render": {"completed": 10}})
        assert read(rig, 3600)["render"].processed == 10
        day = read(rig, 86400)["render"]
        assert day.processed == 11 and day.step == 60
        first, last = day.points
        assert 22.9 * 3600 < (last.at - first.at).total_seconds() < 23.1 * 3600

    def test_a_month_by_hours(self, rig: Rig) -> None:
        add(rig, 1, {"render": {"completed": 1}})
        moved(rig, "hours", 29)
        add(rig, 2, {"render": {"completed": 10}})
        assert read(rig, 2 * 86400)["render"].processed == 10
        month = read(rig, 30 * 86400)["render"]
        assert (month.processed, month.step) == (11, 3600)

    def test_what_is_older_is_left_out(self, rig: Rig) -> None:
        add(rig, 1, {"render": {"completed": 1}})
        moved(rig, "minutes", 1)
        assert read(rig, 3 * 3600)["render"].processed == 1
        assert read(rig, 50 * 60) == {}

    @pytest.mark.parametrize("since", [0, -1, 31 * 86400])
    def test_a_time_that_is_not_kept(self, rig: Rig, since: float) -> None:
        with pytest.raises(InvalidJob, match="cannot look back"):
            read(rig, since)

    def test_as_json(self, rig: Rig) -> None:
        add(rig, 1, {"render": {"completed": 3, "retried": 1, "t0.1": 4, "t": 300_000, "w0.005": 4, "w": 8_000}})
        row = read(rig)["render"].to_dict()
        assert (row["processed"], row["succeeded"], row["failed"], row["retried"], row["dead"]) == (4, 3, 1, 1, 0)
        assert row["duration"]["mean"] == 0.075 and 0.05 < row["duration"]["p50"] < 0.1
        assert row["wait"]["mean"] == 0.002
        (point,) = row["points"]
        assert point["at"].endswith(":00Z") and point["processed"] == 4


class TestSpread:
    def test_of_nothing(self) -> None:
        assert (Spread(DURATIONS).mean, Spread(DURATIONS).quantile(0.5)) == (None, None)

    def test_a_quantile_lies_in_the_bucket_of_the_true_one(self) -> None:
        durations = sorted((number % 97) ** 2 / 100 for number in range(1000))
        buckets: dict[float, int] = {}
        for duration in durations:
            upper = next(bound for bound in DURATIONS if duration <= bound)
            buckets[upper] = buckets.get(upper, 0) + 1
        spread = Spread(DURATIONS, buckets, sum(durations))
        assert spread.mean == pytest.approx(sum(durations) / 1000)
        for share in (0.01, 0.25, 0.5, 0.9, 0.99, 1.0):
            true, estimate = durations[int(share * 1000) - 1], spread.quantile(share)
            assert estimate is not None
            above = next(bound for bound in DURATIONS if true <= bound)
            below = max((bound for bound in DURATIONS if bound < above), default=0.0)
            assert below <= estimate <= above

    def test_longer_than_every_bucket(self) -> None:
        assert Spread(DURATIONS, {float("inf"): 1}, 9000.0).quantile(0.5) == 3600

    def test_bounds_of_another_version(self) -> None:
        assert Spread.of((1, 10), {"t1": 5, "t4": 5, "t+Inf": 0, "dead": 3, "t": 20_000_000}, "t").quantile(1.0) == 4
