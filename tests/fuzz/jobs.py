"""One job as it should be."""

from __future__ import annotations

from dataclasses import dataclass

from millstream.protocol.keys import STREAMS
from millstream.protocol.states import FINAL, State

LETTERS = tuple(name[0] for name in STREAMS)
HOUR = 3_600_000  # milliseconds, as all times here
DAY = 24 * HOUR
HELD = "x"


@dataclass
class Job:
    """One job's record. `place` is its stream's letter, HELD, PARKED, or "".

    One that is PARKED is in `room`, to go on to the stream `letter`.

    What only the server knows is learnt after each step: `entry`, `due`.
    """

    id: str
    band: str
    name: str = "work"
    state: State | None = None
    place: str = ""
    run: int = 1
    attempt: int = 0
    crashes: int = 0
    timeouts: int = 0
    memory: int = 0
    alone: bool = False
    entry: str | None = None
    holder: str | None = None
    started: str | None = None
    settled: tuple[str, ...] = ()
    cancel: bool = False
    lease_over: bool = False
    due: float | None = None
    delay: int = 0
    ttl: int | None = None
    payload: bool = True
    nonce: str = ""
    unique: str = ""
    started_frees: bool = False
    life: int | None = None
    expires: int | None = None
    key: str = ""
    room: str | None = None
    letter: str = ""

    @property
    def counted(self) -> bool:
        """Whether its run number, attempts and crashes are still kept."""
        return self.state not in FINAL or self.state is State.DEAD

    def fresh(self) -> None:
        """Somebody retries it after its end."""
        self.run, self.attempt, self.crashes, self.timeouts, self.memory = self.run + 1, 0, 0, 0, 0
        self.alone, self.cancel, self.started, self.life, self.expires = False, False, None, None, None
