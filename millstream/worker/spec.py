"""What a worker process is told when it is forked."""

from __future__ import annotations

from dataclasses import dataclass, field

from millstream.protocol.keys import Keys, QueueKeys
from millstream.protocol.signing import Keyring


@dataclass(frozen=True)
class WorkerSpec:
    """One incarnation of one slot. Durations in seconds, sizes in bytes."""

    url: str = field(repr=False)
    prefix: str
    instance: str
    group: str
    slot: int
    incarnation: int
    app: str
    queues: tuple[str, ...]
    weights: dict[str, int] | None = None
    concurrency: int = 1  # coroutines that run at a time
    crash_limit: int = 3
    lease: float = 30.0
    timeout: float | None = None
    kill_after: float = 2.0
    unknown_grace: float = 600.0
    max_jobs: int | None = None
    max_age: float | None = None
    max_rss: int | None = None
    nice: int = 0  # added to the supervisor's own
    env: dict[str, str] = field(default_factory=dict)
    metrics: str = ""  # the folder of what is counted; "" where nothing shows it
    signing_keys: str = field(default="", repr=False)  # "" where jobs need no signature
    accept_unsigned: bool = False

    @property
    def consumer(self) -> str:
        """The name under which this incarnation reads; never used again."""
        return f"{self.instance}:{self.group}/{self.slot}:{self.incarnation}"

    @property
    def mark(self) -> str:
        """What the processes bear that this incarnation starts."""
        return f"{self.instance}:{self.incarnation}"

    @property
    def worker(self) -> str:
        """The name under which users see it."""
        return f"{self.instance.rpartition('-')[0]}:{self.group}/{self.slot}"

    @property
    def keyring(self) -> Keyring | None:
        """What jobs must be signed with; None where they need no signature."""
        return Keyring.parse(self.signing_keys, accept_unsigned=self.accept_unsigned) if self.signing_keys else None

    @property
    def queue_keys(self) -> list[QueueKeys]:
        keys = Keys(self.prefix)
        return [keys.queue(queue) for queue in self.queues]
