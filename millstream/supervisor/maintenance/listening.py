"""What operators and producers publish in the control streams: wake up, cancel, pause."""

from __future__ import annotations

import time
from collections.abc import Callable

from millstream.protocol.keys import QueueKeys
from millstream.protocol.link import Link
from millstream.protocol.scoreboard import RecordState, Scoreboard, Word
from millstream.supervisor.plan import Plan

LISTEN = 1.0
"""Seconds for which the control streams are listened to at a time; what is to be done sooner shortens it."""

CANCEL_AGAIN = 10.0
"""Seconds for which the run of a cancelled entry is looked for."""


class Listening:
    """Blocks on the control streams, on a connection of its own. *wake* is called with a queue's name."""

    def __init__(self, plan: Plan, board: Scoreboard, wake: Callable[[str], None]) -> None:
        self._plan = plan
        self._board = board
        self._wake = wake
        self._link = Link(plan.url, timeout=LISTEN + 5.0)
        self._streams = {keys.control: keys for keys in plan.queue_keys}
        # From their beginning: what was said while no maintenance was here still holds. They are short, and to obey
        # twice is to obey once: a cancellation names the entry that it is meant for.
        self._heard = dict.fromkeys(self._streams, "0-0")
        self._cancelled: dict[str, float] = {}  # entry -> until when it is looked for, monotonic

    def listen(self, until: float) -> None:
        """Wait for messages, at most until this moment (monotonic), or for a second. Raises :class:`Unavailable`."""
        wait = min(0.1 if self._cancelled else LISTEN, until - time.monotonic())
        if wait < 0.001 or not self._streams:
            return
        head = ("XREAD", "COUNT", 100, "BLOCK", max(1, int(wait * 1000)), "STREAMS")
        for name, messages in self._link.execute(*head, *self._streams, *self._heard.values()) or ():
            keys = self._streams[name.decode()]
            for message_id, fields in messages:
                self._heard[keys.control] = message_id.decode()
                self._obey(keys, dict(zip(fields[::2], fields[1::2], strict=True)))

    def _obey(self, keys: QueueKeys, message: dict[bytes, bytes]) -> None:
        match message.get(b"kind"):
            case b"wake":
                self._wake(keys.queue)
            case b"pause":
                self._let_go(keys)
            case b"cancel":
                self._cancelled[message.get(b"entry", b"").decode(errors="replace")] = time.monotonic() + CANCEL_AGAIN

    def _let_go(self, keys: QueueKeys) -> None:
        """Have what workers hold of a queue, and have not started, handed back: it may be paused."""
        for record in self._board.in_state(RecordState.ALIVE):
            batch, queues = record.words[Word.BATCH], self._plan.group_of(record).queues
            queue = record.words[Word.QUEUE]
            if queue < len(queues) and queues[queue] == keys.queue and len(record.held) > 1:
                record.words[Word.CANCEL_BATCH] = batch

    def pass_on(self) -> None:
        """Pass on the cancellations of the last seconds: a job may stand in no record yet when its own arrives."""
        now = time.monotonic()
        self._cancelled = {ref: until for ref, until in self._cancelled.items() if until > now}
        for ref in self._cancelled:
            self._cancel(ref)

    def _cancel(self, ref: str) -> None:
        """Mark the run of this very entry as cancelled; the supervisor does the rest."""
        for process in self._board.in_state(RecordState.ALIVE):
            for record in self._board.holders(process):
                batch = record.words[Word.BATCH]
                run, refs, index = record.running, record.held, record.words[Word.INDEX]
                if run and index < len(refs) and refs[index] == ref and record.running == run:
                    record.words[Word.CANCEL_RUN] = run
                elif ref in (refs[index + 1 :] if record is process else refs):
                    record.words[Word.CANCEL_BATCH] = batch  # the cancelled job ends when it is handed back
