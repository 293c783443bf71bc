"""The scoreboard: shared memory in which each process says what it is doing, and its parent what it should do.

A memfd holds a header and fixed-size records. A record belongs to one *incarnation* of a worker process; it is freed
only when maintenance has settled it, so a respawned worker takes another one. A process that runs several coroutines
has a *lane* for each, besides: a record of the same form that says what this coroutine does; lanes live and die with
their process's record. Every field has one writer (its section
says which) and is an aligned 8-byte word, stored and loaded whole. Text lies behind the words; its length, or another
word that is stored after it, makes it valid. Times are nanoseconds of CLOCK_MONOTONIC, the same in all processes.

A worker makes no system call for any of this, and whatever a dying worker leaves behind can be read by others.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from enum import IntEnum

MAGIC = 0x4D494C4C53545231  # "MILLSTR1"
LAYOUT = 3

HEADER_BYTES = 8192
RECORD_BYTES = 65536
WORDS = 64

ID_AT, ID_BYTES = 512, 256
NAME_AT, NAME_BYTES = 768, 256
HELD_AT, HELD_BYTES = 1024, 7168
STACK_AT, STACK_BYTES = 8192, 8192
OUTBOX_AT = 16384
OUTBOX_BYTES = RECORD_BYTES - OUTBOX_AT
OUTCOME_HEAD = 12
"""Bytes before each outcome: the number of its run, and its length."""

FIRST_LANE = 1 << 32
"""Where the lanes begin. What lies between is never written and takes no memory; the records can grow into it."""

MAX_GROUPS = 160
"""Groups of workers for which the header has room."""

_SEQ_SHIFT = 24
_USED_MASK = (1 << _SEQ_SHIFT) - 1


class Header(IntEnum):
    """Words of the header."""

    MAGIC = 0
    LAYOUT = 1
    RECORDS = 2
    LANES = 3
    # Written by the supervisor.
    SUPERVISOR_TICK = 8
    PHASE = 9
    EXECUTING = 10  # when it began to execute itself for a reload; 0 if it does not
    TARGETS = 32  # and the words behind it: how many workers each group should have
    DEGRADED = TARGETS + MAX_GROUPS  # likewise: 1 for a group whose workers keep dying
    RESTART_AT = DEGRADED + MAX_GROUPS  # likewise: when the last of its empty slots is filled again; 0 if none waits
    DOWN_SINCE = TARGETS + 5 * MAX_GROUPS  # likewise: since when no worker of the group is ready; 0 if one is
    # Written by maintenance.
    MAINTENANCE_TICK = 16
    NAME_LOST = 17  # another supervisor has taken our name
    NOTHING_LEFT = 18  # no job waits, runs or is due
    REDIS_SEEN = 19  # when a round of duties last went well
    UNCOUNTED = 20  # the number of the error for which maintenance cannot keep what it counts; 0 if it can
    BACKLOG_AT = 21  # when it was asked for the backlogs that the words below hold
    SWEPT = 22  # when it last looked for expired leases
    CLOCK = 23  # the server's wall clock minus our monotonic one, then (ns)
    RECOVER_FROM = 24  # before this moment owners get time to renew first
    BACKLOG = RESTART_AT + MAX_GROUPS  # for each group that may grow: how many jobs its workers could fetch now
    BACKLOG_AGE = BACKLOG + MAX_GROUPS  # likewise: for how long (ns) the oldest of them had waited


class Phase(IntEnum):
    """What the supervisor is waiting for."""

    STARTING = 0  # the first worker to be ready
    RUNNING = 1  # nothing: business as usual
    QUIET = 2  # CONT, before it fetches again
    DRAINING = 3  # running jobs to end
    STOPPING = 4  # killed children to be reaped and settled


class Word:
    """Words of a record. Plain integers: an enum's members cost twice as much, some twenty times per job."""

    # Written by the supervisor.
    STATE = 0
    INCARNATION = 1
    PID = 2
    GROUP = 3
    SLOT = 4
    SPAWNED = 5
    EXIT = 6  # the status of waitpid
    CAUSE = 7  # why the supervisor killed it: a Cause, 0 if it did not
    ORDER = 8
    REVOKED = 9  # the batch whose jobs that were not started are handed back
    INTERRUPT_RUN = 10  # the run that an interruption is meant for
    INTERRUPT = 11  # which one: an Interrupt
    STACK_LENGTH = 12  # of a lane the worker writes it, too: before its run, and when it interrupts it
    REAPED = 13
    CPU_USED = 14  # CPU (ns) that it and the subprocesses that it had waited for had used when it was dead
    PEAK_RSS = 15  # bytes; likewise
    # Written by the worker.
    READY = 16  # when it had become ready; 0 before
    RUN = 17  # the number of the current run in this incarnation; 0 between runs
    STARTED = 18
    SOFT = 19  # 0: none
    HARD = 20  # 0: none
    BATCH = 21
    BATCH_SIZE = 22
    INDEX = 23  # which entry of the batch is running, or was last
    HELD_LENGTH = 24
    ATTEMPT = 25  # counted runs before this one
    MAX_ATTEMPTS = 26
    CRASHES = 27  # crashes before this run
    IF_TIMEOUT = 28  # what becomes of the job if this run is killed for its timeout: a packed Fate
    OUTBOX = 29  # number of the last run with an outcome << 24 | bytes used
    DONE = 30  # jobs ended
    LAST_FETCH = 31  # when a round trip to Redis last succeeded
    IDLE = 32  # 1 while it waits for work
    QUEUE = 33  # which of its group's queues the batch is from
    ID_LENGTH = 34
    NAME_LENGTH = 35
    RUN_STARTED_AT = 36  # the server's clock when the run started, ms
    STALE = 37  # settles that were refused because the delivery had been taken
    RUN_TOKEN = 38  # the delivery's `run`
    LEFT = 39  # when it had settled its last job and began to end; 0 before
    COUNTED = 40  # the run up to which outcomes were settled by the worker itself, and counted
    UNCOUNTED = 41  # the number of the error for which it cannot keep what it counts; 0 if it can
    CPU_BEFORE = 42  # CPU (ns) that it had used when the run started
    CHILD_CPU = 43  # the same of subprocesses that it had waited for, as far as it was looked up
    WORN = 44  # 1: worn out, works on until it may leave; 2: leaves
    BUSY_LANES = 45  # how many of its coroutines run a job
    STEP = 46  # the lane whose coroutine has the CPU right now, counted from 1; 0: none has
    STEP_SINCE = 47  # since when
    # Written by maintenance.
    OUTBOX_SETTLED = 48  # the run number up to which the outbox is settled
    SETTLED = 49  # the incarnation whose remains are settled
    LOST_RUN = 50  # the run whose lease was lost
    CANCEL_RUN = 51  # the run that was cancelled
    HANDED_BACK = 52  # the batch that was handed back
    CANCEL_BATCH = 53  # a batch in which a job was cancelled that was not started yet
    RENEWED = 54  # when the leases of what it holds were last renewed
    LOST_BATCH = 55  # a batch of which something was taken that was not started yet
    # Written by the supervisor.
    MAY_LEAVE = 56  # 1 where it may end if it is worn out
    KILLED = 57  # when the supervisor killed it; 0 if it did not
    # Written by the worker.
    IF_MEMORY = 58  # what becomes of the job if this run is killed for its memory: a packed Fate
    CRASH_LIMIT = 59  # the job's own; 0 where its group's holds
    TELLS = 60  # 1 where its application wants to be told of its death
    # Written by the supervisor.
    LANES = 61  # of a process: the first of its lanes << 16 | how many it has
    INTERRUPTED = 62  # of a lane: when the interruption was written, which tells it from the one before
    SHARED = 63  # of a lane: 1 where its process died and nobody knows through which of several jobs


class RecordState(IntEnum):
    """Where a record is in its life."""

    FREE = 0
    ALIVE = 1  # its process was forked
    DEAD = 2  # its process was reaped; maintenance has to settle it


class Order(IntEnum):
    """What the supervisor wants of a worker."""

    WORK = 0
    QUIET = 1
    DRAIN = 2
    HALT = 3  # start nothing, for a moment: something is about to be done to the run that is on


class Interrupt(IntEnum):
    """Which interruption is meant for a run."""

    NONE = 0
    TIMEOUT = 1
    DRAIN = 2
    CANCEL = 3
    LEASE_LOST = 4


class Cause(IntEnum):
    """Why the supervisor killed a worker."""

    NONE = 0  # it did not: the worker died by itself
    TIMEOUT = 1
    MEMORY = 2
    DRAIN = 3
    CANCELLED = 4
    LEASE_EXPIRED = 5
    HOOK = 6  # it did not get ready, or did not end, in time
    OOM = 7  # not the supervisor, but the kernel, for want of memory


ACTIVITIES = ("starting", "idle", "busy", "draining")
"""What a worker may be doing."""


class Record:
    """One worker process's part of the scoreboard."""

    def __init__(self, index: int, view: memoryview) -> None:
        self.index = index
        self.words = view[: WORDS * 8].cast("Q")
        self._bytes = view

    def text(self, at: int, length: int) -> bytes:
        return bytes(self._bytes[at : at + length])

    def clear(self) -> None:
        """Make a free record ready for a new incarnation."""
        for word in range(WORDS):
            self.words[word] = 0

    # What the worker writes.

    def hold(self, batch: int, queue: int, refs: list[str]) -> None:
        """Say which entries the worker holds, in the order in which it will run them."""
        words, text = self.words, " ".join(refs).encode()
        assert len(text) <= HELD_BYTES, "a batch is smaller than the room for its entries"
        words[Word.HELD_LENGTH] = 0
        self._bytes[HELD_AT : HELD_AT + len(text)] = text
        words[Word.QUEUE] = queue
        words[Word.INDEX] = 0
        words[Word.BATCH_SIZE] = len(refs)
        words[Word.BATCH] = batch
        words[Word.HELD_LENGTH] = len(text)

    def name_job(self, job_id: bytes, name: bytes) -> None:
        """Say which job is about to run."""
        self._bytes[ID_AT : ID_AT + len(job_id)] = job_id
        self._bytes[NAME_AT : NAME_AT + len(name)] = name
        self.words[Word.ID_LENGTH] = len(job_id)
        self.words[Word.NAME_LENGTH] = len(name)

    def post(self, run: int, outcome: bytes) -> bool:
        """Add the outcome of a run to the outbox; False where it does not fit."""
        words = self.words
        used = words[Word.OUTBOX] & _USED_MASK
        end = used + OUTCOME_HEAD + len(outcome)
        if end > OUTBOX_BYTES:
            return False
        start = OUTBOX_AT + used
        self._bytes[start : start + OUTCOME_HEAD] = (len(outcome) << 64 | run).to_bytes(OUTCOME_HEAD, "little")
        self._bytes[start + OUTCOME_HEAD : OUTBOX_AT + end] = outcome
        words[Word.OUTBOX] = run << _SEQ_SHIFT | end
        return True

    def empty_outbox(self) -> None:
        """Forget the outcomes: they are settled. The number of the last run stays."""
        self.words[Word.OUTBOX] &= ~_USED_MASK

    # What others read.

    @property
    def last_outcome(self) -> int:
        """The number of the last run that has an outcome."""
        return self.words[Word.OUTBOX] >> _SEQ_SHIFT

    @property
    def running(self) -> int:
        """The number of the run that is on and has no outcome yet, or 0."""
        run = self.words[Word.RUN]
        return 0 if run <= self.last_outcome else run

    @property
    def stuck(self) -> int:
        """How many fetched jobs wait behind the run that is on; 0 where they are about to be handed back."""
        words = self.words
        if not self.running or words[Word.REVOKED] == words[Word.BATCH]:
            return 0
        return max(0, words[Word.BATCH_SIZE] - words[Word.INDEX] - 1)

    @property
    def lanes(self) -> tuple[int, int]:
        """The first of its lanes, and how many it has."""
        return self.words[Word.LANES] >> 16, self.words[Word.LANES] & 0xFFFF

    @property
    def activity(self) -> str:
        """What the worker is doing: one of :data:`ACTIVITIES`."""
        if self.words[Word.ORDER] == Order.DRAIN:
            return "draining"
        if not self.words[Word.READY]:
            return "starting"
        return "busy" if self.running or self.words[Word.BUSY_LANES] else "idle"

    @property
    def held(self) -> list[str]:
        """The entries of the current batch, in order."""
        text = self.text(HELD_AT, self.words[Word.HELD_LENGTH])
        return text.decode().split(" ") if text else []

    @property
    def job_id(self) -> str:
        return self.text(ID_AT, self.words[Word.ID_LENGTH]).decode(errors="replace")

    @property
    def job_name(self) -> str:
        return self.text(NAME_AT, self.words[Word.NAME_LENGTH]).decode(errors="replace")

    def outbox(self) -> tuple[int, list[tuple[int, bytes]]]:
        """A consistent copy of the outbox: the number of the last run in it, and each run with its outcome."""
        while True:
            before = self.words[Word.OUTBOX]
            copy = self.text(OUTBOX_AT, before & _USED_MASK)
            if self.words[Word.OUTBOX] == before:
                break
        outcomes, at = [], 0
        while at < len(copy):
            head = int.from_bytes(copy[at : at + OUTCOME_HEAD], "little")
            at, size = at + OUTCOME_HEAD, head >> 64
            outcomes.append((head & (1 << 64) - 1, copy[at : at + size]))
            at += size
        return before >> _SEQ_SHIFT, outcomes

    # What the supervisor writes.

    def keep_stack(self, stack: bytes) -> None:
        """Keep the stack of a process that is about to be killed, or has crashed."""
        stack = stack[:STACK_BYTES]
        self._bytes[STACK_AT : STACK_AT + len(stack)] = stack
        self.words[Word.STACK_LENGTH] = len(stack)

    @property
    def stack(self) -> str:
        return self.text(STACK_AT, self.words[Word.STACK_LENGTH]).decode(errors="replace")


class Scoreboard:
    """The header, all records, and the lanes."""

    def __init__(self, descriptor: int, records: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, HEADER_BYTES + records * RECORD_BYTES)
        view = memoryview(self._memory)
        self.header = view[:HEADER_BYTES].cast("Q")
        starts = range(HEADER_BYTES, HEADER_BYTES + records * RECORD_BYTES, RECORD_BYTES)
        self.records = [Record(index, view[at : at + RECORD_BYTES]) for index, at in enumerate(starts)]
        self._lanes = self._map_lanes()
        self._made: dict[tuple[int, int], list[Record]] = {}

    @classmethod
    def create(cls, records: int, lanes: int = 0) -> Scoreboard:
        """Make a new scoreboard in anonymous shared memory; pages that are never written cost nothing."""
        descriptor = anonymous_file("millstream-scoreboard")
        os.ftruncate(descriptor, _size(records, lanes))
        board = cls(descriptor, records)
        board.header[Header.MAGIC] = MAGIC
        board.header[Header.LAYOUT] = LAYOUT
        board.header[Header.RECORDS] = records
        board.header[Header.LANES] = lanes
        board._lanes = board._map_lanes()
        return board

    @classmethod
    def extend(cls, descriptor: int, records: int, lanes: int = 0) -> Scoreboard:
        """Make room for more in a scoreboard that is in use; who has mapped less of it sees less."""
        os.ftruncate(descriptor, _size(records, lanes))
        board = cls(descriptor, records)
        board.header[Header.RECORDS] = records
        board.header[Header.LANES] = lanes
        board._lanes = board._map_lanes()
        return board

    def _map_lanes(self) -> memoryview:
        lanes = self.header[Header.LANES]
        if not lanes:
            return memoryview(b"")
        return memoryview(mmap.mmap(self.descriptor, lanes * RECORD_BYTES, offset=FIRST_LANE))

    def lanes_of(self, record: Record) -> list[Record]:
        """The lanes of a process, one for each of its coroutines; none where it runs one job at a time."""
        at, count = record.lanes
        if not count:
            return []
        if (made := self._made.get((at, count))) is None:
            starts = (lane * RECORD_BYTES for lane in range(at, at + count))
            views = [self._lanes[start : start + RECORD_BYTES] for start in starts]
            made = self._made[at, count] = [Record(at + number, view) for number, view in enumerate(views)]
        return made

    def holders(self, record: Record) -> list[Record]:
        """The records that say which jobs a process holds and runs: its lanes, or its own."""
        return self.lanes_of(record) or [record]

    @property
    def lanes_end(self) -> int:
        """How many lanes must stay: up to the last one in use."""
        return max((end for _, end in self._lanes_in_use()), default=0)

    def give_lanes(self, record: Record, count: int) -> bool:
        """Give a record lanes that no other one has, cleared; False where there is no room for so many."""
        at = 0
        for begin, end in self._lanes_in_use():
            if begin - at >= count:
                break
            at = max(at, end)
        if at + count > self.header[Header.LANES]:
            return False
        record.words[Word.LANES] = at << 16 | count
        for lane in self.lanes_of(record):
            lane.clear()
        return True

    def _lanes_in_use(self) -> list[tuple[int, int]]:
        used = (one.lanes for one in self.records if one.words[Word.STATE] != RecordState.FREE)
        return sorted((at, at + count) for at, count in used if count)

    def in_state(self, state: RecordState) -> Iterator[Record]:
        """The records in this state."""
        return (record for record in self.records if record.words[Word.STATE] == state)

    def free_record(self) -> Record | None:
        """A record that no incarnation uses, cleared; None where all are taken."""
        record = next(self.in_state(RecordState.FREE), None)
        if record is not None:
            record.clear()
        return record


def _size(records: int, lanes: int) -> int:
    return FIRST_LANE + lanes * RECORD_BYTES if lanes else HEADER_BYTES + records * RECORD_BYTES


def anonymous_file(name: str) -> int:
    """A file without a name: a memfd on Linux, an unlinked temporary file elsewhere."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix=name)
    os.unlink(path)
    return descriptor
