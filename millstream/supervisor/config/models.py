"""What can be configured, and the defaults."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from millstream.protocol.location import DEFAULT_PREFIX, Location
from millstream.supervisor.config.layers import Layers
from millstream.supervisor.config.values import (
    AppPath,
    BacklogAges,
    Bind,
    Concurrency,
    Count,
    DrainSeconds,
    EnvValue,
    Lease,
    Name,
    Niceness,
    PositiveSeconds,
    Prefix,
    Processes,
    Queues,
    RedisURL,
    Seconds,
    SigningKeys,
    Size,
)


class Section(BaseModel):
    """A table of the configuration: frozen, and every unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Group(Section):
    """One group of workers. Durations are seconds, sizes bytes; None is "no limit" or "the job's own"."""

    name: Name
    queues: Queues  # (): those of all registered jobs
    weights: dict[str, Count] | None = None  # None: strict order of `queues`
    processes: Processes = "auto"
    concurrency: Concurrency = 1
    max_jobs: Count | None = None
    max_age: PositiveSeconds | None = None
    max_rss: Size | None = None
    memory_limit: Size | None = None
    timeout: Seconds | None = None  # 0: none
    kill_after: PositiveSeconds = 2.0
    drain_timeout: DrainSeconds | None = None  # None: the supervisor's
    env: dict[str, EnvValue] = Field(default_factory=dict, repr=False)
    nice: Niceness = 10
    crash_limit: Count = 3
    crash_delay: Seconds = 10.0


class SupervisorSettings(Section):
    """The supervisor's own settings; durations are seconds."""

    name: Name = Field(default_factory=lambda: re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:100])
    lease: Lease = 30.0
    drain_timeout: DrainSeconds = 25.0
    preload: bool = False
    unknown_grace: Seconds = 600.0
    restart_backoff: PositiveSeconds = 0.1
    restart_backoff_max: PositiveSeconds = 30.0
    restart_intensity: Count = 10
    restart_period: PositiveSeconds = 60.0


class DeadLetters(Section):
    """How long dead jobs are kept (seconds), and how many of a queue."""

    ttl: PositiveSeconds = 604800.0
    cap: Count = 10_000


class Web(Section):
    """Where metrics and health checks are served, and what they judge. Durations are seconds."""

    bind: Bind = "127.0.0.1:7070"
    token: SecretStr | None = None
    max_backlog_age: BacklogAges | None = None  # by queue, "*" for the others; None: any age is fine


class Settings(Section):
    """Everything that can be configured. `redis_url` is None where the embedded server is used."""

    app: AppPath | None = None
    redis_url: RedisURL | None = Field(default=None, repr=False)
    prefix: Prefix = DEFAULT_PREFIX
    env: Literal["production", "development"] | None = None
    signing_keys: SigningKeys | None = None
    accept_unsigned: bool = False
    workers: dict[str, Group]
    supervisor: SupervisorSettings = SupervisorSettings()
    web: Web = Web()
    dead: DeadLetters = DeadLetters()
    _location: Location = PrivateAttr()
    _layers: Layers = PrivateAttr()

    @property
    def location(self) -> Location:
        """The resolved URL (also of the embedded server), prefix and data folder."""
        return self._location

    @property
    def file(self) -> Path | None:
        """The configuration file, if there is one."""
        return self._location.file

    @property
    def production(self) -> bool:
        """Whether MILLSTREAM_ENV says so."""
        return self.env == "production"
