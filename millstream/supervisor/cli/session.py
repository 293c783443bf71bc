"""What a command works with: location, connection, queues and application, each made when needed."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from millstream.protocol.errors import ConfigError, MillstreamError, Unavailable
from millstream.protocol.location import Location, configured_keyring, locate
from millstream.supervisor.cli.options import Globals

if TYPE_CHECKING:
    from millstream.protocol.app import Millstream
    from millstream.protocol.client import Client
    from millstream.protocol.info import JobInfo
    from millstream.protocol.keys import QueueKeys
    from millstream.protocol.signing import Keyring
    from millstream.supervisor.config import Settings


class UnknownQueue(MillstreamError):
    """No job was ever enqueued into a queue of this name."""


class Session:
    """One command's access to Redis and to the configuration."""

    def __init__(self, options: Globals) -> None:
        self.options = options
        self._overrides: dict[str, Any] = {}

    def override(self, values: dict[str, Any]) -> None:
        """Let flags of a command win over the configuration, by dotted key; it is read anew."""
        self._overrides |= values
        self.__dict__.pop("settings", None)

    @property
    def output(self) -> str:
        """table, json or ndjson."""
        return self.options.output

    @cached_property
    def location(self) -> Location:
        """Where Redis is. Raises :class:`ConfigError`."""
        return locate(url=self.options.redis_url, config=self.options.config, app=self.options.app)

    @cached_property
    def settings(self) -> Settings:
        """The whole configuration. Raises :class:`ConfigError` with all its problems."""
        from millstream.supervisor.config import load

        flags = {"redis_url": self.options.redis_url, "app": self.options.app, **self._overrides}
        return load(self.options.config, {key: value for key, value in flags.items() if value})

    @cached_property
    def app(self) -> Millstream:
        """The application. Raises :class:`ConfigError` where none is configured or it cannot be imported."""
        from millstream.protocol.importing import import_app

        location = self.location
        if not location.app:
            raise ConfigError("app: no application is configured: pass --app, or set app in millstream.toml")
        app = import_app(location.app)
        app.connect_to(location.url, location.prefix, self.keyring)
        return app

    @cached_property
    def keyring(self) -> Keyring | None:
        """What a job is signed with. Raises :class:`ConfigError`."""
        return configured_keyring(self.location.file)

    @cached_property
    def app_or_plain(self) -> Millstream:
        """The application, or one without jobs where none is configured. Raises :class:`ConfigError`."""
        from millstream.protocol.app import Millstream

        if self.location.app:
            return self.app
        plain = Millstream()
        plain.connect_to(self.location.url, self.location.prefix, self.keyring)
        return plain

    @cached_property
    def client(self) -> Client:
        """The connection to Redis; made at its first use."""
        from millstream.protocol.client import Client
        from millstream.protocol.keys import Keys

        if self.location.embedded and not self.location.socket.exists():
            raise Unavailable(
                f"no server runs for {self.location.data}: start one with `millstream up`, "
                "or name one with --redis-url or MILLSTREAM_REDIS_URL"
            )
        return Client(self.location.url, Keys(self.location.prefix))

    def queues(self, name: str | None = None) -> list[QueueKeys]:
        """All known queues, or the one of this name. Raises :class:`UnknownQueue`, :class:`Unavailable`."""
        from millstream.protocol.inspect import known_queues

        known = known_queues(self.client, self.client.keys)
        if name is None:
            return known
        found = [keys for keys in known if keys.queue == name]
        if not found:
            names = ", ".join(keys.queue for keys in known) or "none yet"
            raise UnknownQueue(f"there is no queue {name!r}; queues in use: {names}")
        return found

    def queue(self, name: str) -> QueueKeys:
        """The queue of this name. Raises :class:`UnknownQueue`, :class:`Unavailable`."""
        return self.queues(name)[0]

    def server_time(self) -> int:
        """The server's clock in milliseconds. Raises :class:`Unavailable`."""
        seconds, micros = self.client.execute("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def find_job(self, job_id: str, queue: str | None) -> tuple[QueueKeys, JobInfo]:
        """The job of this id, wherever it is. Raises :class:`JobNotFound`, :class:`Unavailable`."""
        from millstream.protocol.listing import find_job

        return find_job(self.client, self.queues(queue), job_id)
