"""Outcomes that are not settled yet: in this process, and in the scoreboard for those who outlive it."""

from __future__ import annotations

from millstream.protocol.scoreboard import Record, Word
from millstream.protocol.transitions import Outcome


class Outbox:
    """Holds the outcomes of one batch until they are settled."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._outcomes: list[tuple[int, Outcome]] = []

    def post(self, run: int, outcome: Outcome) -> bool:
        """Keep an outcome; False where the scoreboard has no room, so that it must be settled before the next run."""
        self._outcomes.append((run, outcome))
        return self._record.post(run, outcome.pack())

    def unsettled(self) -> list[Outcome]:
        """What maintenance has not settled for us meanwhile."""
        settled = self._record.words[Word.OUTBOX_SETTLED]
        return [outcome for run, outcome in self._outcomes if run > settled]

    def clear(self) -> None:
        """All is settled."""
        self._outcomes.clear()
        self._record.empty_outbox()

    def __bool__(self) -> bool:
        return bool(self._outcomes)
