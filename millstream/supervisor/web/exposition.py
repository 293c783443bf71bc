"""All of /metrics, in the text format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from millstream.protocol.scoreboard import RecordState, Scoreboard
from millstream.supervisor.plan import Plan
from millstream.supervisor.web.exposition_format import CONTENT_TYPE, family
from millstream.supervisor.web.facts import Facts
from millstream.supervisor.web.gauges import GAUGES, View
from millstream.supervisor.web.ledger import Ledger
from millstream.supervisor.web.resident import Resident

__all__ = ["CONTENT_TYPE", "Exposition"]

log = structlog.get_logger("millstream.web")


class Exposition:
    """Puts together what processes count, the scoreboard, the facts, and the gauges that handlers define."""

    def __init__(self, plan: Plan, board: Scoreboard, facts: Facts) -> None:
        self._plan = plan
        self._board = board
        self._facts = facts
        self._ledger = Ledger(plan.metrics)
        self._resident = Resident()

    def text(self) -> str:
        """What a scrape is answered."""
        view = View(self._plan, self._board, self._facts.read(), self._resident)
        own = [family(gauge.kind, gauge.name, gauge.help, gauge.samples(view)) for gauge in GAUGES]
        return "".join((*own, self._ledger.text(), self._handlers_gauges()))

    def _handlers_gauges(self) -> str:
        """The gauges of the application; live ones only of processes that live."""
        from prometheus_client import generate_latest, multiprocess

        merge: Any = multiprocess.MultiProcessCollector.merge
        try:
            files = [path for path in sorted(Path(self._plan.metrics).glob("gauge_*.db")) if self._counts(path)]
            if not files:
                return ""
            metrics = list(merge([str(path) for path in files]))
        except (OSError, ValueError, RuntimeError) as error:
            log.warning("web.gauges_unreadable", error=str(error))
            return ""
        return generate_latest(_Collected(metrics)).decode()

    def _counts(self, path: Path) -> bool:
        """Whether a file of gauges is to be shown: a live one is of the process that has its record.

        One that is empty has just been made, or nothing fits on its disk. Raises :class:`OSError`.
        """
        if not path.stat().st_size:
            return False
        _, mode, owner = path.stem.split("_", 2)
        if not mode.startswith("live") or not owner.isdecimal():
            return True
        record = self._board.records[int(owner)] if int(owner) < len(self._board.records) else None
        return record is not None and record in self._board.in_state(RecordState.ALIVE)


class _Collected:
    """What prometheus_client writes out: metrics that were collected before."""

    def __init__(self, metrics: list[Any]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Any]:
        """The metrics."""
        return self._metrics
