"""Figures of several rounds: medians, ratios, a table, JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

RATE = "1/s"
TIME = "µs"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass
class Figure:
    """One measured quantity, a value a round."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.values)


class Figures:
    """All quantities of a run, in the order of their first measurement."""

    def __init__(self) -> None:
        self._by_name: dict[str, Figure] = {}

    def add(self, name: str, unit: str, value: float) -> None:
        """Record one round's value."""
        self._by_name.setdefault(name, Figure(name, unit)).values.append(value)

    def extend(self, values: dict[str, tuple[str, float]]) -> None:
        """Record a round that was measured elsewhere: name -> unit and value."""
        for name, (unit, value) in values.items():
            self.add(name, unit, value)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def ratio(self, name: str, reference: str) -> float:
        """Median of the ratios of the same round; both were measured moments apart."""
        pairs = zip(self._by_name[name].values, self._by_name[reference].values, strict=True)
        return statistics.median(value / other for value, other in pairs)

    def median(self, name: str) -> float:
        """Median of one figure's rounds."""
        return self._by_name[name].median

    def ratios_to(self, other: Figures, name: str) -> tuple[float, list[float]]:
        """One figure's ratios to that of another run, round by round: their median, and all of them."""
        pairs = zip(self._by_name[name].values, other._by_name[name].values, strict=True)
        ratios = [value / reference for value, reference in pairs]
        return statistics.median(ratios), ratios

    def show(self, console: Console, title: str, ratios: dict[str, tuple[str, str]]) -> None:
        """Print the figures and the ratios that can be formed."""
        table = Table(title=title, title_justify="left")
        for heading, justify in (("figure", "left"), ("median", "right"), ("rounds", "right")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for figure in self._by_name.values():
            rounds = "  ".join(f"{value:,.0f}" for value in figure.values)
            table.add_row(figure.name, f"{figure.median:,.0f} {figure.unit}", rounds)
        table.add_section()
        for name, value in self.ratios(ratios).items():
            table.add_row(name, f"{value:.3f}", "")
        console.print(table)

    def ratios(self, wanted: dict[str, tuple[str, str]]) -> dict[str, float]:
        """The ratios whose two figures were measured."""
        present = {name: pair for name, pair in wanted.items() if all(part in self for part in pair)}
        return {name: self.ratio(*pair) for name, pair in present.items()}

    def to_dict(self) -> dict[str, dict[str, object]]:
        """For JSON: name -> unit, median, values."""
        return {
            figure.name: {"unit": figure.unit, "median": figure.median, "values": figure.values}
            for figure in self._by_name.values()
        }
