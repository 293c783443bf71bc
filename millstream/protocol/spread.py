"""How durations are spread: counts by bucket and their sum; the quantiles of them are estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Upper bounds of the buckets of how long runs take, in seconds."""

WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Upper bounds of the buckets of how long jobs wait, in seconds."""

QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Spread:
    """Durations by the upper bounds of their buckets, and their ``total``, in seconds.

    ``bounds`` are of all buckets that are used now, also of empty ones.
    """

    bounds: Sequence[float]
    buckets: Mapping[float, int] = field(default_factory=dict)
    total: float = 0.0

    @classmethod
    def of(cls, bounds: Sequence[float], counts: Mapping[str, int], letter: str) -> Spread:
        """Those that are counted under a letter; the sum is in microseconds."""
        found = ((name[1:], count) for name, count in counts.items() if name[:1] == letter)
        buckets = {float(bound): count for bound, count in found if bound and not bound.isalpha()}
        return cls(bounds, buckets, counts.get(letter, 0) / 1e6)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.buckets.values())

    @property
    def mean(self) -> float | None:
        """Their average, exactly; None where there were none."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """The duration that this share of them did not exceed; None where there were none.

        An estimate: it lies in the same bucket as the true one, at the place that it had if all in the bucket were
        evenly spread. Of the last bucket, which has no upper bound, it is the lower one: the true one is longer.
        """
        rank, below = share * self.count, 0
        lower = 0.0
        for upper in sorted({*self.bounds, *self.buckets, inf}):
            count = self.buckets.get(upper, 0)
            if count and below + count >= rank:
                return lower if upper == inf else lower + (upper - lower) * (rank - below) / count
            below, lower = below + count, upper
        return None

    def to_dict(self) -> dict[str, float | int | None]:
        """How many, their average and quantiles, in seconds."""
        quantiles = {f"p{round(share * 100)}": self.quantile(share) for share in QUANTILES}
        return {"count": self.count, "mean": _rounded(self.mean)} | {
            name: _rounded(value) for name, value in quantiles.items()
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
