"""Which moves of the table were made, and which that are not in it were tried and refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.table import Table

from millstream.protocol.states import TABLE, State, Transition

Place = State | None
"""The state of a job; None where there is no job."""

PLACES: tuple[Place, ...] = (None, *State)


@dataclass
class Coverage:
    """Counts by (state, transition): *made* are of the table, *refused* are not in it.

    *seen* counts by name what else is worth to be met: refusals, deadlines, rooms.
    """

    made: Counter[tuple[Place, Transition]] = field(default_factory=Counter)
    refused: Counter[tuple[Place, Transition]] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    steps: int = 0

    def missing(self) -> list[str]:
        """The pairs that were neither made nor refused yet."""
        pairs = [(place, transition) for place in PLACES for transition in Transition]
        return [
            f"{place or 'no job'} {transition}" for place, transition in pairs if not self._count(place, transition)
        ]

    def _count(self, place: Place, transition: Transition) -> int:
        return self.made[place, transition] or self.refused[place, transition]

    def table(self) -> Table:
        """A row for each transition, a column for each state; what was refused is in brackets."""
        table = Table("", *(str(place or "no job") for place in PLACES), title="made, (refused)", title_justify="left")
        for transition in Transition:
            table.add_row(transition, *(self._cell(place, transition) for place in PLACES))
        return table

    def _cell(self, place: Place, transition: Transition) -> str:
        count = self._count(place, transition)
        if not count:
            return "[red]-[/]"
        return str(count) if (place, transition) in TABLE else f"[dim]({count})[/]"

    def to_dict(self) -> dict[str, object]:
        """For JSON: ``made`` and ``refused`` by state and transition, ``missing``, ``steps``."""
        return {
            "steps": self.steps,
            "made": {f"{place or 'no job'} {name}": count for (place, name), count in self.made.items()},
            "refused": {f"{place or 'no job'} {name}": count for (place, name), count in self.refused.items()},
            "seen": dict(self.seen),
            "missing": self.missing(),
        }
