"""Whose fault a death is, where the process ran several jobs: only that one counts, the others go back uncounted."""

from __future__ import annotations

from millstream.protocol.scoreboard import Cause, Word
from millstream.supervisor.slot import Process

_OF_ONE_RUN = (Cause.TIMEOUT, Cause.CANCELLED, Cause.LEASE_EXPIRED)
"""Causes of a kill that was meant for one coroutine's run."""

_OF_THE_PROCESS = (Cause.DRAIN, Cause.HOOK)

_COPIED = (Word.EXIT, Word.REAPED, Word.PEAK_RSS, Word.KILLED)


def blame(process: Process) -> None:
    """Write into the lanes of a dead process why their runs ended. Nothing to do for one that runs one job at a time.

    A crash is blamed on the coroutine that had the CPU. Where none had (somebody killed the process, a thread
    crashed), or memory ran out, nobody knows: then each run counts one crash, but that buries no job (``SHARED``).
    """
    words = process.record.words
    cause = Cause(words[Word.CAUSE])
    running = {number: lane.record for number, lane in enumerate(process.lanes, 1) if lane.record.running}
    culprit = words[Word.STEP] if cause is Cause.NONE and words[Word.STEP] in running else 0
    for number, lane in running.items():
        own = lane.words
        for word in _COPIED:
            own[word] = words[word]
        if own[Word.CAUSE]:
            pass  # it was killed for its run
        elif cause in _OF_ONE_RUN or (culprit and number != culprit):
            own[Word.CAUSE] = Cause.DRAIN
        else:
            own[Word.CAUSE] = cause
            own[Word.SHARED] = int(len(running) > 1 and not culprit and cause not in _OF_THE_PROCESS)
        # Where it waited the worker has kept when it interrupted it; where it had the CPU faulthandler has.
        if own[Word.CAUSE] != Cause.DRAIN and (number == words[Word.STEP] or not own[Word.STACK_LENGTH]):
            lane.keep_stack(process.record.stack.encode())
