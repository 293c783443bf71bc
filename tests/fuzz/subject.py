"""What all rules share: a queue on a real server, the model beside it, and the comparison after every step."""

from __future__ import annotations

import secrets
from typing import Any, ClassVar, TypeVar

import orjson
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from millstream.protocol import transitions
from millstream.protocol.call import Call
from millstream.protocol.envelope import encode_envelope
from millstream.protocol.info import job_info
from millstream.protocol.inspect import Survey, survey
from millstream.protocol.keys import Keys
from millstream.protocol.link import Link
from millstream.protocol.states import FINAL, TABLE, State, Transition
from millstream.protocol.transitions import Inspected
from tests.fuzz.coverage import Coverage
from tests.fuzz.jobs import DAY, HELD, LETTERS, Job
from tests.fuzz.model import Model
from tests.fuzz.rooms import PARKED, PLACES

CONSUMERS = ("a-000001:g/0:1", "a-000001:g/1:2", "b-000001:g/0:1")
"""Two processes of one instance, and one of another."""

NAMES = ("j0", "j1", "j2", "j3")
IDS = st.sampled_from(NAMES)
JOBS = {"j0": "work", "j1": "work", "j2": "play", "j3": "play"}
"""The name of each job."""

UNIQUES = ("u1", "u2")
BY = st.sampled_from(("its holder", "its holder", *CONSUMERS))
OLD = st.sampled_from([0, 0, 0, 1, 2, 3])
"""Which delivery of a job: 0 its last one, 1 the one before, and so on."""

LEASE = DAY
SLACK = 600_000  # milliseconds that a step may take, on a machine that is busy with other things
NOWHERE = "n1-1"
APART = ("timeouts", "memory")

T = TypeVar("T")


class Subject(RuleBasedStateMachine):
    """Rules are methods of classes below this one; see `machine.py` for all of them.

    A rule says what it tries (`tries`), makes the call, moves the model, and compares the reply.
    """

    link: ClassVar[Link]
    coverage: ClassVar[Coverage]

    def __init__(self) -> None:
        super().__init__()
        self.keys = Keys(f"f{secrets.token_hex(4)}:").queue("q")
        self.model = Model(coverage=self.coverage)
        self.refs: dict[str, list[str]] = {name: [] for name in NAMES}
        self.join()

    def teardown(self) -> None:
        self.link.execute("DEL", *self.link.execute("KEYS", self.keys.prefix + "*"))

    def run(self, call: Call[T]) -> T:
        """Run one script."""
        return self.link.run(call)

    def join(self) -> None:
        """Make the groups and the owners' leases."""
        for instance in {consumer.partition(":")[0] for consumer in CONSUMERS}:
            self.run(transitions.join(self.keys, instance, LEASE / 1000))

    def tries(self, job_id: str, transition: Transition) -> Job | None:
        """A rule tries this on a job; returns the job, None where there is none."""
        state = self.model.state(job_id)
        if (state, transition) not in TABLE:
            self.coverage.refused[state, transition] += 1
        return self.model.jobs.get(job_id)

    def who(self, job_id: str, by: str) -> str:
        """The consumer that a rule means."""
        job = self.model.jobs.get(job_id)
        return ((job and job.holder) or CONSUMERS[0]) if by not in CONSUMERS else by

    def ref(self, job_id: str, old: int) -> str:
        """One of a job's deliveries, or one that never was."""
        refs = self.refs[job_id]
        return refs[-1 - old] if old < len(refs) else NOWHERE

    def envelope(self, job_id: str, band: str, key: str = "") -> bytes:
        """What a producer sends."""
        options = {"key": key} if key else None
        return encode_envelope(
            JOBS[job_id], [job_id], {}, queue="q", enqueued_at=1_700_000_000_000, priority=band, options=options
        )

    @invariant()
    def compare(self) -> None:
        """Everything that can be seen is as the model has it."""
        self.coverage.steps += 1
        replies = self.link.run_many(
            [survey(self.keys), *(transitions.inspect(self.keys, name) for name in NAMES)],
        )
        raw = self.link.execute_many(
            [
                ("ZRANGE", self.keys.due, 0, -1, "WITHSCORES"),
                ("ZRANGE", self.keys.dead, 0, -1),
                ("LRANGE", self.keys.history, 0, -1),
                ("HGETALL", self.keys.enqueued),
                ("HGETALL", self.keys.waiting),
                ("MGET", *(self.keys.uniques + unique for unique in UNIQUES)),
                ("ZRANGE", self.keys.parked, 0, -1),
                ("SMEMBERS", self.keys.crowded),
                ("KEYS", self.keys.rooms + "*"),
                *(("XLEN", name) for name in self.keys.streams),
                *(("PTTL", self.keys.job(name)) for name in NAMES),
            ]
        )
        scores = {name.decode(): float(score) for name, score in _pairs(raw[0])}
        seen = {name: fact for name, fact in zip(NAMES, replies[1:], strict=True) if fact.record}
        ttls: dict[str, Any] = dict(zip(NAMES, raw[9 + len(LETTERS) :], strict=True))
        self._learn(seen, scores)
        same("jobs that exist", set(seen), set(self.model.jobs))
        for name, fact in seen.items():
            same(name, _seen_job(name, fact, scores), _expected_job(self.model.jobs[name]))
        self._compare_times(seen, ttls)
        self._compare_queue(replies[0], raw)
        self._compare_rooms(replies[0], raw)

    def _learn(self, seen: dict[str, Inspected], scores: dict[str, float]) -> None:
        """What only the server can know: entries that are new, and instants."""
        known = {ref for refs in self.refs.values() for ref in refs}
        for name, job in self.model.jobs.items():
            entry = seen[name].record.get("entry", b"").decode() if name in seen else ""
            if job.place and job.entry is None and entry not in known:
                job.entry = entry
                if job.place not in (HELD, PARKED):
                    self.refs[name].append(entry)
            if job.life is not None and job.expires is None and name in seen:
                job.expires = int(seen[name].record.get("expires", -1))
            if self.model.is_due(job) and job.due is None:
                job.due = scores.get(name)

    def _compare_times(self, seen: dict[str, Inspected], ttls: dict[str, Any]) -> None:
        for name, job in self.model.jobs.items():
            if job.ttl is None:
                assert ttls[name] == -1, f"the record of {name} ({job.state}) goes after {ttls[name]} ms"
                self.tries(name, Transition.FORGET)
            else:
                assert job.ttl - SLACK < ttls[name] <= job.ttl, f"the record of {name} goes after {ttls[name]} ms"
            if job.life:
                left = (job.expires or 0) - seen[name].now
                assert job.life - SLACK < left <= job.life, f"{name} ends in {left} ms"
            if job.due is not None:
                ahead = job.due - seen[name].now
                assert job.delay - SLACK < ahead <= job.delay or (not job.delay and ahead <= 0), f"{name} in {ahead} ms"

    def _compare_queue(self, facts: Survey, raw: list[Any]) -> None:
        model = self.model
        running = [job.place for job in model.held_by(None)]
        waits = {letter: len(ids) for letter, ids in model.streams.items()}
        same("undelivered", {name[0]: count for name, count in facts.streams.items()}, waits)
        lengths = [waits[letter] + running.count(letter) for letter in LETTERS]
        same("lengths of the streams", raw[9 : 9 + len(LETTERS)], lengths)
        counts = (len(running), len(model.held), sum(map(model.is_due, model.jobs.values())), len(model.dead))
        same("running, held, due, dead", (facts.running, facts.held, facts.due, facts.dead), counts)
        same("paused, resuming", (facts.paused, facts.resuming), (bool(model.paused), model.paused == "resuming"))
        names = {"retry": "retried", "crash": "crashed", "release": "released"}
        counters = {names.get(name, name): count for name, count in model.stats.items() if count}
        same("counters", facts.counters, counters)
        same("dead letters", {name.decode() for name in raw[1]}, model.dead)
        same("history", [name.decode() for name in raw[2]], model.history)
        same("enqueued", {name.decode(): int(count) for name, count in _pairs(raw[3])}, dict(model.came))
        same("waiting for an end", {name.decode(): int(count) for name, count in _pairs(raw[4])}, dict(model.waiting))
        same(
            "unique keys",
            dict(zip(UNIQUES, raw[5], strict=True)),
            {key: _text(model.locks.get(key)) for key in UNIQUES},
        )

    def _compare_rooms(self, facts: Survey, raw: list[Any]) -> None:
        """A job is in one place only; its key's place is held by who may run, and by nobody else."""
        model = self.model
        crowded = model.crowded()
        self.model.parked = [name.decode() for name in raw[6]]
        same("parked", sorted(model.parked), sorted(name for ids in crowded.values() for name in ids))
        same("crowded", {name.decode() for name in raw[7]}, set(crowded))
        rooms = [key.decode().removeprefix(self.keys.rooms) for key in raw[8]]
        same("rooms", set(rooms), set(crowded))
        names = sorted(crowded)
        sets = self.link.execute_many(
            [("ZRANGE", self.keys.room(name), 0, -1) for name in names]
            + [("SMEMBERS", self.keys.places + key) for key in PLACES]
        )
        same("in rooms", [_texts(ids) for ids in sets[: len(names)]], [crowded[name] for name in names])
        same("have a place", [set(_texts(ids)) for ids in sets[len(names) :]], [model.places[key] for key in PLACES])
        for key, ids in model.places.items():
            about = {
                job.id
                for job in model.jobs.values()
                if job.key == key
                and (job.room == "gate" or (job.entry and job.state in (State.QUEUED, State.RUNNING) and not job.room))
            }
            same(f"may have a place of {key}", ids, about)
        gate = len(crowded.get("gate", ()))
        same("parked, at the gate", (facts.parked, facts.gated), (len(model.parked), gate))
        same("limit", (facts.limit.concurrency, facts.limit.rate is not None), (model.limit, model.rate))
        same("paused names", facts.paused_jobs, tuple(sorted(model.paused_jobs)))
        self.coverage.seen["parked"] += len(model.parked)


def same(what: str, seen: object, expected: object) -> None:
    """Raise AssertionError where the server has it otherwise than the model."""
    assert seen == expected, f"{what}: {seen}; by the model: {expected}"


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _expected_job(job: Job) -> dict[str, Any]:
    return {
        "state": str(job.state),
        "entry": job.entry,
        "holder": job.holder or "",
        "due": job.due,
        "cancel": job.cancel if job.state not in FINAL else None,
        "name": job.name,
        **({name: getattr(job, name) for name in ("run", "attempt", "crashes")} if job.counted else {}),
        **({name: getattr(job, name) for name in APART} if job.state not in FINAL else {}),
        "expires": job.expires,
        "alone": job.alone if job.place else None,
        "room": job.room,
    }


def _seen_job(name: str, fact: Inspected, scores: dict[str, float]) -> dict[str, Any]:
    info, record = job_info("q", name, fact), fact.record
    counters = record if "attempt" in record else fact.entry
    numbers = {key: int(counters.get(key, key == "run")) for key in ("run", "attempt", "crashes")}
    apart = {key: int(counters.get(key, 0)) for key in APART}
    entry, state = record.get("entry"), info.state
    return {
        "state": str(info.state),
        "entry": entry.decode() if entry else None,
        "holder": fact.consumer,
        "due": scores.get(name),
        "cancel": "cancel" in record if info.state not in FINAL else None,
        "name": info.job,
        **(numbers if state not in FINAL or state is State.DEAD else {}),
        **(apart if state not in FINAL else {}),
        "expires": int(record["expires"]) if "expires" in record else None,
        "alone": b"1" in (fact.entry.get("alone"), record.get("alone")) if record["state"] == b"queued" else None,
        "room": record["room"].decode() if "room" in record else None,
    }


def _texts(values: list[bytes]) -> list[str]:
    return [value.decode() for value in values]


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def row(job_id: str, **members: Any) -> bytes:
    """What a worker keeps of a run."""
    return orjson.dumps({"n": JOBS[job_id], "a": 1, "w": "w", "s": 1_700_000_000_000, "d": 0.1, **members})
