"""The worker: fetch a batch, run each job, settle the batch together with the next fetch."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from dataclasses import dataclass

import psutil
import structlog

from millstream.protocol.app import Millstream
from millstream.protocol.envelope import Entry, Malformed, TooNew, parse_entry
from millstream.protocol.errors import MillstreamError
from millstream.protocol.fate import attempts_of, fates_of_kills
from millstream.protocol.policy import LONGEST, crash_limit
from millstream.protocol.registry import DEFAULT_TIMEOUT, Job
from millstream.protocol.scoreboard import Record, Word
from millstream.protocol.signing import BadSignature
from millstream.protocol.transitions import Outcome
from millstream.worker import on_dead
from millstream.worker.coroutines import Coroutines
from millstream.worker.execution import Execution, Run
from millstream.worker.fetcher import Delivery, Fetcher
from millstream.worker.outbox import Outbox
from millstream.worker.refusals import expired, forged, malformed, unknown_job
from millstream.worker.reporting import Reporter, install
from millstream.worker.signals import Signals
from millstream.worker.spec import WorkerSpec
from millstream.worker.tally import Uncounted

log = structlog.get_logger("millstream.worker")

RSS_INTERVAL = 1.0
"""Seconds between two looks at our own memory."""


FORESEEN_LIMIT = 1000
"""Jobs with different counters of which is remembered what a kill makes of them: anybody may send any counters."""

Foresight = tuple[str, int, int, int, int]
"""What decides it: the job's name, its attempts, timeouts and memory kills so far, and how many attempts it has."""


@dataclass(slots=True)
class Batch:
    """A delivery being worked through: ``next`` is the index of the first entry that was not started."""

    number: int
    delivery: Delivery
    refs: list[str]
    next: int = 0
    seconds: float = 0.0


class Worker:
    """One incarnation of one slot."""

    def __init__(
        self,
        app: Millstream,
        spec: WorkerSpec,
        record: Record,
        signals: Signals,
        tally: Uncounted,
        *,
        coroutines: Coroutines | None = None,
        fetcher: Fetcher | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self._app = app
        self._spec = spec
        self._keyring = spec.keyring
        self._words = record.words
        self._record = record
        self._signals = signals
        self._tally = tally
        self._fetcher = fetcher or Fetcher(spec, record, signals, tally)
        self._execution = Execution(spec.worker, signals, record.words, coroutines)
        self._outbox = Outbox(record)
        self._reporter = reporter or Reporter(spec.url, spec.prefix)
        install(self._reporter)
        self._queue = 0
        self._run = 0
        self._batch = 0
        self._born = time.monotonic()
        self._rss_checked = 0.0
        self._foreseen: dict[Foresight, tuple[int, ...]] = {}
        self._foresight: Foresight | None = None
        self._jitter = random.uniform(0.9, 1.0)
        self._outage = False

    def work(self) -> None:
        """Work until told to stop, or worn out."""
        while not self._signals.draining and not self._leaves():
            try:
                delivery = self._exchange()
                if delivery is None and not self._signals.stopping:
                    delivery = self._fetcher.wait_for_work()
                self._back_in_touch()
                if delivery is not None:
                    self._run_batch(delivery)
                elif self._signals.quiet:
                    self._signals.sleep(1.0)
            except MillstreamError as error:
                self._out_of_touch(error)
        self._finish()

    def _exchange(self) -> Delivery | None:
        """Settle the last batch and fetch the next one, in one round trip."""
        self._reporter.flush()
        outcomes = self._outbox.unsettled()
        delivery = self._fetcher.exchange(self._queue, outcomes, fetch=not self._signals.stopping)
        self._outbox.clear()
        self._tally.forget()
        self._words[Word.HELD_LENGTH] = 0
        return delivery

    def _run_batch(self, delivery: Delivery) -> None:
        self._batch += 1
        refs = [letter + entry_id.decode() for letter, entry_id, _ in delivery.entries]
        batch = Batch(self._batch, delivery, refs)
        self._queue = delivery.queue
        self._record.hold(batch.number, delivery.queue, refs)
        while batch.next < len(refs) and not self._signals.stopping:
            if self._lease_is_over(batch):
                # We were stopped, or out of touch, for long: what is still ours is read anew before any of it starts.
                return self._fetcher.doubt()
            if not self._run_next(batch):
                break
        show_prints()
        self._fetcher.learn(delivery.queue, batch.next, batch.seconds)
        if batch.next < len(refs):
            # What was revoked goes back from here too: maintenance may not have come to it before we move on.
            self._fetcher.give_back(delivery.queue, refs[batch.next :])

    def _run_next(self, batch: Batch) -> bool:
        """Run the next entry of the batch; False where the rest of it is no longer ours."""
        run = self._take_next(batch)
        if isinstance(run, bool):
            return run
        outcome = self._execution.run(run)
        batch.seconds += run.duration
        self._post(outcome, run)
        return True

    def _take_next(self, batch: Batch) -> Run | bool:
        """Announce the next entry's run; True where there is nothing to run of it, False where the rest is not ours."""
        letter, entry_id, fields = batch.delivery.entries[batch.next]
        queue = batch.delivery.queue
        try:
            entry = parse_entry(letter, entry_id, fields, self._spec.queues[queue], self._keyring)
        except (Malformed, TooNew, BadSignature) as error:
            notice = on_dead.unsigned_notice(letter, entry_id, fields, self._spec.queues[queue], error)
            if notice is None:
                batch.next += 1
                self._post(self._refuse(batch, fields, error))
                return True
            entry = notice
        job = self._app.registry.get(entry.name) or on_dead.job_of(entry, self._app)
        if job is None:
            batch.next += 1
            tell = bool(self._app.dead_hooks)
            self._post(unknown_job(entry, self._spec.worker, self._server_time(batch), tell=tell))
            return True
        if entry.guarded and not self._may_start(batch, entry, job):
            batch.next += 1
            return True
        run = Run(self._run + 1, entry, job, self._server_time(batch), attempts_of(job.retry[0], entry))
        self._announce(run, batch)
        if self._words[Word.REVOKED] == batch.number:
            self._words[Word.RUN] = 0
            return False
        batch.next += 1
        return run

    def _may_start(self, batch: Batch, entry: Entry, job: Job[..., object]) -> bool:
        """Ask for a guarded job; where its time is over, it ends here."""
        begun = self._fetcher.begin(batch.delivery.queue, entry, job)
        if begun.word == "expired":
            late = Run(self._run + 1, entry, job, self._server_time(batch), attempts_of(job.retry[0], entry))
            self._post(expired(late, self._spec.worker), late)
        entry.expires = begun.expires
        return begun.word == "ok"

    def _announce(self, run: Run, batch: Batch) -> None:
        """Write our record: from the last store on, this run is the one that a deadline or a cancellation means."""
        words, entry, job = self._words, run.entry, run.job
        now = time.monotonic_ns()
        limit = self._time_limit(job)
        self._record.name_job(entry.id.encode(), entry.name.encode())
        words[Word.INDEX] = batch.next
        words[Word.STARTED] = now
        words[Word.SOFT] = now + int(limit * 1e9) if limit else 0
        words[Word.HARD] = now + int((limit + self._spec.kill_after) * 1e9) if limit else 0
        words[Word.ATTEMPT] = entry.attempt
        words[Word.MAX_ATTEMPTS] = run.max_attempts
        words[Word.CRASHES] = entry.crashes
        self._foresee(run)
        words[Word.RUN_STARTED_AT] = run.started_at
        words[Word.RUN_TOKEN] = entry.run
        self._run = run.number
        words[Word.RUN] = run.number

    def _post(self, outcome: Outcome | None, run: Run | None = None) -> None:
        """Keep the outcome of a run, or of a refusal, where it outlives us, before the next job starts."""
        if outcome is not None:
            if self._words[Word.RUN] == 0:
                self._run += 1  # a refusal is no run, but its outcome needs a number of its own
            self._tally.note(self._run, outcome, run)
            fits = self._outbox.post(self._run, outcome)
            if not fits:
                self._words[Word.HARD] = self._words[Word.SOFT] = 0  # the run is over, however long this takes
                self._settle_now()
        self._words[Word.DONE] += 1
        self._words[Word.RUN] = 0

    def _settle_now(self) -> None:
        """The outbox is full: settle it before the next job. While Redis is away, no next job starts."""
        while True:
            try:
                self._reporter.flush()
                self._fetcher.exchange(self._queue, self._outbox.unsettled(), fetch=False)
                self._outbox.clear()
                return self._back_in_touch()
            except MillstreamError as error:
                self._out_of_touch(error)
                if self._signals.draining:
                    return None

    def _refuse(self, batch: Batch, fields: list[bytes], error: MillstreamError) -> Outcome:
        """What becomes of an entry that cannot be read."""
        ref = batch.refs[batch.next - 1]
        started_at = self._server_time(batch)
        if isinstance(error, TooNew):
            entry = Entry(ref, fields[1].decode(), "", "", [], {}, "normal", started_at)
            tell = bool(self._app.dead_hooks)
            return unknown_job(entry, self._spec.worker, started_at, str(error), tell=tell)
        refuse = forged if isinstance(error, BadSignature) else malformed
        return refuse(ref, fields, str(error), self._spec.worker, started_at)

    def _foresee(self, run: Run) -> None:
        """Say what becomes of the job, should this run be killed: worked out once per job and counters."""
        entry = run.entry
        sight = (entry.name, entry.attempt, entry.timeouts, entry.memory, run.max_attempts)
        if sight == self._foresight:
            return  # as it stands there from the run before
        found = self._foreseen.get(sight)
        if found is None:
            if len(self._foreseen) >= FORESEEN_LIMIT:
                self._foreseen.clear()
            timeout, memory = fates_of_kills(run.job.retry, entry)
            found = (timeout.pack(), memory.pack(), crash_limit(run.job.retry) or 0, int(run.job.tells))
            self._foreseen[sight] = found
        words = self._words
        words[Word.IF_TIMEOUT], words[Word.IF_MEMORY], words[Word.CRASH_LIMIT], words[Word.TELLS] = found
        self._foresight = sight

    def _time_limit(self, job: Job[..., object]) -> float:
        """Seconds of the soft limit; 0 for none. The job's own wins over its group's."""
        limit = job.timeout
        if limit is None:
            limit = DEFAULT_TIMEOUT if self._spec.timeout is None else self._spec.timeout
        return min(limit, LONGEST)

    def _lease_is_over(self, batch: Batch) -> bool:
        """Whether what we have not started may be others' by now: some was taken, or the lease may have run out."""
        if self._words[Word.LOST_BATCH] == batch.number:
            return True
        renewed = max(batch.delivery.received, self._words[Word.RENEWED] / 1e9)
        return time.monotonic() - renewed > self._spec.lease

    def _server_time(self, batch: Batch) -> int:
        """The server's clock, in ms, as far as we can tell without asking."""
        return batch.delivery.now + int((time.monotonic() - batch.delivery.received) * 1000)

    def _leaves(self) -> bool:
        """Whether this process is worn out and may go: where many are, the others work on until some are replaced."""
        words = self._words
        if not self._worn_out():
            return False
        words[Word.WORN] = 2  # before the look: what is taken back in this very moment is seen by one of us
        if words[Word.MAY_LEAVE] or self._spec.max_jobs == 1:
            return True
        words[Word.WORN] = 1
        return False

    def _worn_out(self) -> bool:
        """Whether this process has done enough and should be replaced."""
        spec, now = self._spec, time.monotonic()
        if spec.max_jobs is not None and self._words[Word.DONE] >= spec.max_jobs * self._jitter:
            return True
        if spec.max_age is not None and now - self._born >= spec.max_age * self._jitter:
            return True
        if spec.max_rss is None or not self._words[Word.DONE] or now - self._rss_checked < RSS_INTERVAL:
            return False
        self._rss_checked = now
        return bool(psutil.Process().memory_info().rss >= spec.max_rss * self._jitter)

    def _out_of_touch(self, error: MillstreamError) -> None:
        """Redis is away: say so once, and try again later."""
        if not self._outage:
            log.warning("redis.lost", error=str(error))
            self._outage = True
        self._tally.redis_failed()
        self._fetcher.back_off()

    def _back_in_touch(self) -> None:
        if self._outage:
            log.info("redis.back")
            self._outage = False

    def _finish(self) -> None:
        """Settle what ended; if Redis is away for longer than a moment, maintenance does it from the outbox."""
        self._reporter.flush()
        deadline = time.monotonic() + 1.0
        while self._outbox:
            try:
                self._fetcher.exchange(self._queue, self._outbox.unsettled(), fetch=False)
                self._outbox.clear()
            except MillstreamError:
                if time.monotonic() > deadline:
                    return
                self._fetcher.back_off()
        self._fetcher.close()


def show_prints() -> None:
    """Show what handlers printed without an end of line. Where nobody takes it any more, that is no fault of a job."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full or broken, closed, or never there
        sys.stdout.flush()
