"""A connection that knows how long it has waited for Redis."""

from __future__ import annotations

import time
from collections.abc import Sequence

from millstream.protocol.call import Argument
from millstream.protocol.link import Link, Reply


class TimedLink(Link):
    """Adds up what its round trips take that are answered."""

    _spent = 0.0

    def execute_many(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        began = time.perf_counter()
        replies = super().execute_many(commands)
        self._spent += time.perf_counter() - began
        return replies

    def take_spent(self) -> float:
        """Seconds since the last call of this; 0 where Redis was not asked."""
        spent, self._spent = self._spent, 0.0
        return spent
