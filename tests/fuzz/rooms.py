"""The rooms of the model: where jobs wait that may not run now, and the places of keys for which some of them wait."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.fuzz.jobs import HELD, LETTERS, Job

PARKED = "z"
PLACES = {"k1": 1, "k2": 2}
"""How many jobs of each concurrency key run at once."""


@dataclass
class Rooms:
    """Streams, what is held, and the rooms: everywhere where a job can stand that may run now or waits until it may.

    ``streams`` are the ids that were not delivered, ``held`` those of a pause with the stream they wait for, ``rooms``
    the ids in each room that was ever used, in their order. ``places`` are who has one among those of a key.
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=lambda: {letter: [] for letter in LETTERS})
    held: list[tuple[str, str]] = field(default_factory=list)
    rooms: dict[str, list[str]] = field(default_factory=dict)
    places: dict[str, set[str]] = field(default_factory=lambda: {key: set() for key in PLACES})
    parked: list[str] = field(default_factory=list)
    paused: str = ""
    gated: bool = False
    limit: int | None = None
    rate: bool = False
    paused_jobs: list[str] = field(default_factory=list)
    resuming_jobs: list[str] = field(default_factory=list)

    def put(self, job: Job, letter: str, *, resumed: bool = False, waited: bool = False) -> None:
        """To where a job belongs that is ready to run; *resumed*: its name counts as open, *waited*: for its key."""
        if job.name in self.paused_jobs and not resumed:
            self.set_aside(job, letter)
        elif job.key and not self._find_place(job, waited):
            self._park(job, letter, "key:" + job.key)
        elif self.paused:
            job.place, job.entry, job.room = HELD, None, None
            self.held.append((job.id, letter))
        elif self.gated:
            self._park(job, letter, "gate")
        else:
            self.enter(job, letter)

    def enter(self, job: Job, letter: str) -> None:
        """Into a stream, whatever the rules say."""
        job.place, job.entry, job.room = letter, None, None
        self.streams[letter].append(job.id)

    def set_aside(self, job: Job, letter: str) -> None:
        """Into the room of its name; it keeps nobody from the places of its key."""
        self._park(job, letter, "job:" + job.name)
        self.give_up_place(job)

    def walk_out(self, job: Job) -> None:
        """Out of the streams, of what is held, or of its room; a job that is due, or delivered, is in none."""
        for waiting in (*self.streams.values(), *self.rooms.values()):
            if job.id in waiting:
                waiting.remove(job.id)
        self.held = [(job_id, letter) for job_id, letter in self.held if job_id != job.id]
        job.place, job.room = "", None

    def give_up_place(self, job: Job) -> None:
        """Who waits first for the key of this job has its place now."""
        if not job.key or job.id not in self.places[job.key]:
            return
        self.places[job.key].remove(job.id)
        room = self.rooms.setdefault("key:" + job.key, [])
        while room and len(self.places[job.key]) < PLACES[job.key]:
            following = self.jobs[room.pop(0)]
            self.put(following, following.letter, waited=True)

    def crowded(self) -> dict[str, list[str]]:
        """The rooms in which somebody waits."""
        return {name: ids for name, ids in self.rooms.items() if ids}

    def _park(self, job: Job, letter: str, room: str) -> None:
        job.place, job.entry, job.room, job.letter = PARKED, PARKED, room, letter
        ids = self.rooms.setdefault(room, [])
        ranks = [LETTERS.index(self.jobs[name].letter) for name in ids]
        ids.insert(sum(rank <= LETTERS.index(letter) for rank in ranks), job.id)

    def _find_place(self, job: Job, waited: bool) -> bool:
        taken = self.places[job.key]
        if job.id in taken:
            return True
        if len(taken) >= PLACES[job.key] or (self.rooms.get("key:" + job.key) and not waited):
            return False
        taken.add(job.id)
        return True
