"""The application: what a program's jobs are registered with and enqueued through."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from millstream.protocol import transitions
from millstream.protocol.client import Client
from millstream.protocol.envelope import encode_envelope
from millstream.protocol.errors import InvalidJob, UnknownJob
from millstream.protocol.handle import Handle
from millstream.protocol.ids import new_id
from millstream.protocol.keys import Keys, QueueKeys, band_of, checked_name
from millstream.protocol.location import Location, locate
from millstream.protocol.policy import LONGEST, Duration, Retry, policies, seconds
from millstream.protocol.registry import (
    DEFAULT_RESULT_TTL,
    Draft,
    Job,
    Registry,
    checked_options,
)
from millstream.protocol.transitions import NewJob

if TYPE_CHECKING:
    from millstream.protocol.aclient import AsyncClient

P = ParamSpec("P")
R = TypeVar("R")
Hook = Callable[[], Any]

CHUNK = 300
"""Jobs in one round trip of ``enqueue_many``."""

CHUNK_BYTES = 4 * 1024 * 1024
"""Bytes in one round trip of ``enqueue_many``, about."""

KEEP_CALLERS_ID = 86400
"""Seconds for which a caller's id stays taken after the job's end. A generated id: 300 s."""


class Decorator(Protocol):
    """What ``@app.job(...)`` with options is: it makes a job of a function."""

    def __call__(self, fn: Callable[P, R], /) -> Job[P, R]: ...


class Millstream:
    """Jobs, and the way to the queues.

    Without ``redis_url`` the server is found as the command line finds it: MILLSTREAM_REDIS_URL, REDIS_URL,
    millstream.toml, else the embedded server of the current project. ``include`` names modules that register jobs
    (``"shop.*"``: all modules of a package); workers import them. ``patience``: seconds that an unreachable Redis
    is tried before an enqueue raises :class:`Unavailable`.
    """

    def __init__(
        self,
        *,
        redis_url: str | None = None,
        prefix: str | None = None,
        include: Sequence[str] = (),
        patience: float = 2.0,
    ) -> None:
        self.registry = Registry()
        self.include = tuple(include)
        self.start_hooks: list[Hook] = []
        self.stop_hooks: list[Hook] = []
        self._redis_url = redis_url
        self._prefix = prefix
        self._patience = patience

    # Where the queues are.

    @cached_property
    def location(self) -> Location:
        """Where Redis is, and why there."""
        return locate(url=self._redis_url, prefix=self._prefix)

    @cached_property
    def keys(self) -> Keys:
        return Keys(self.location.prefix)

    @cached_property
    def client(self) -> Client:
        return Client(self.location.url, self.keys, patience=self._patience)

    @cached_property
    def aclient(self) -> AsyncClient:
        from millstream.protocol.aclient import AsyncClient

        return AsyncClient(self.location.url, self.keys, patience=self._patience)

    def connect_to(self, url: str, prefix: str) -> None:
        """Use this server from now on: a supervisor tells its workers' applications where they belong."""
        self._redis_url, self._prefix = url, prefix
        for name in ("location", "keys", "client", "aclient"):
            self.__dict__.pop(name, None)

    # Jobs and hooks.

    @overload
    def job(self, fn: Callable[P, R], /) -> Job[P, R]: ...

    @overload
    def job(
        self,
        *,
        name: str | None = None,
        queue: str = "default",
        timeout: Duration | None = None,
        retry: Retry | int | Sequence[Retry] | None = None,
        priority: int | str = 0,
        result_ttl: Duration = DEFAULT_RESULT_TTL,
    ) -> Decorator: ...

    def job(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        queue: str = "default",
        timeout: Duration | None = None,
        retry: Retry | int | Sequence[Retry] | None = None,
        priority: int | str = 0,
        result_ttl: Duration = DEFAULT_RESULT_TTL,
    ) -> Any:
        """Register a function as a job.

        ``timeout`` (seconds, 0 for none) is the soft limit of a run: by default its group's, else 3600.
        ``result_ttl`` (seconds) is how long its result is kept. Raises :class:`DuplicateJob`, :class:`InvalidJob`.
        """

        def register(function: Callable[P, R]) -> Job[P, R]:
            job = Job(
                app=self,
                fn=function,
                name=checked_name("job", name or function.__name__),
                queue=checked_name("queue", queue),
                timeout=None if timeout is None else seconds(timeout, "timeout"),
                retry=policies(retry),
                priority=band_of(priority),
                result_ttl=seconds(result_ttl, "result_ttl"),
            )
            self.registry.add(job)
            return job

        return register(fn) if fn is not None else register

    def on_worker_start(self, hook: Hook) -> Hook:
        """Call *hook* in each worker process after its fork, before its first job."""
        self.start_hooks.append(hook)
        return hook

    def on_worker_stop(self, hook: Hook) -> Hook:
        """Call *hook* in each worker process before it ends in good order."""
        self.stop_hooks.append(hook)
        return hook

    def import_jobs(self) -> None:
        """Import the modules named by ``include``; whatever they raise is raised."""
        for pattern in self.include:
            package = importlib.import_module(pattern.removesuffix(".*"))
            if pattern.endswith(".*"):
                for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
                    importlib.import_module(module.name)

    # Enqueueing.

    def queue_keys(self, queue: str) -> QueueKeys:
        return self.keys.queue(queue)

    def handle(self, job_id: str, queue: str) -> Handle[Any]:
        """A handle of a job that was enqueued elsewhere."""
        return Handle(self, self.queue_keys(queue), job_id)

    def enqueue(self, name: str, /, *args: Any, queue: str | None = None, **kwargs: Any) -> Handle[Any]:
        """Enqueue by name, from code that does not have the function.

        Where the job is registered here it is checked like a call, and its own queue is the default.
        Raises :class:`UnknownJob` where it is not and no queue is given.
        """
        return self.enqueue_draft(self._named_draft(name, args, kwargs, queue))

    async def aenqueue(self, name: str, /, *args: Any, queue: str | None = None, **kwargs: Any) -> Handle[Any]:
        """The same for async code."""
        return await self.aenqueue_draft(self._named_draft(name, args, kwargs, queue))

    def enqueue_draft(self, draft: Draft) -> Handle[Any]:
        """Enqueue one draft."""
        keys = self.queue_keys(draft.queue)
        new = new_job(draft)
        self.client.register(keys)
        created = self.client.run(transitions.enqueue(keys, [new]))[0]
        return Handle(self, keys, new.id, created=created or draft.options.id is None)

    async def aenqueue_draft(self, draft: Draft) -> Handle[Any]:
        """The same for async code."""
        keys = self.queue_keys(draft.queue)
        new = new_job(draft)
        await self.aclient.register(keys)
        created = (await self.aclient.run(transitions.enqueue(keys, [new])))[0]
        return Handle(self, keys, new.id, created=created or draft.options.id is None)

    def enqueue_many(self, drafts: Iterable[Draft]) -> list[Handle[Any]]:
        """Enqueue many jobs with a round trip per few hundred.

        Each chunk is all or nothing; an error (:class:`Unavailable`, :class:`InvalidJob`) ends it after the chunks
        that went before.
        """
        handles: list[Handle[Any]] = []
        for chunk in _chunks(iter(drafts)):
            by_queue: dict[str, list[tuple[int, NewJob, bool]]] = {}
            for position, (draft, new) in enumerate(chunk):
                by_queue.setdefault(draft.queue, []).append((position, new, draft.options.id is None))
            placed: list[Handle[Any] | None] = [None] * len(chunk)
            for queue, rows in by_queue.items():
                keys = self.queue_keys(queue)
                self.client.register(keys)
                created = self.client.run(transitions.enqueue(keys, [new for _, new, _ in rows]))
                for (position, new, generated), is_new in zip(rows, created, strict=True):
                    placed[position] = Handle(self, keys, new.id, created=is_new or generated)
            handles += [handle for handle in placed if handle is not None]
        return handles

    def _named_draft(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], queue: str | None) -> Draft:
        job = self.registry.get(checked_name("job", name))
        if job is not None:
            return (job.using(queue=queue) if queue else job).job(*args, **kwargs)
        if queue is None:
            raise UnknownJob(f"no job {name!r} is registered here: name its queue, as in enqueue({name!r}, queue=...)")
        return Draft(name, args, kwargs, checked_name("queue", queue), 0, checked_options())


def new_job(draft: Draft) -> NewJob:
    """Encode a draft. Raises :class:`NotJSON`, :class:`PayloadTooLarge`."""
    options = draft.options
    band = band_of(draft.priority)
    envelope = encode_envelope(
        draft.name,
        draft.args,
        draft.kwargs,
        queue=draft.queue,
        enqueued_at=time.time_ns() // 1_000_000,
        priority=band,
        options={"keep": KEEP_CALLERS_ID} if options.id else None,
        headers=options.headers,
    )
    if options.id is None:
        return NewJob(new_id(), band, envelope, _delay(draft), "")
    return NewJob(options.id, band, envelope, _delay(draft), new_id())


def _delay(draft: Draft) -> int | None:
    """Milliseconds until the job is due; None for now. An instant is taken by this host's clock."""
    if draft.options.at is not None:
        wait = (draft.options.at - datetime.now(UTC)).total_seconds()
        return max(0, int(min(wait, LONGEST) * 1000)) or None
    if draft.options.delay:
        return max(1, int(min(draft.options.delay, LONGEST) * 1000))
    return None


def _chunks(drafts: Iterator[Draft]) -> Iterator[list[tuple[Draft, NewJob]]]:
    """Encoded drafts in lists that are small enough for one round trip."""
    chunk: list[tuple[Draft, NewJob]] = []
    size = 0
    for draft in drafts:
        if not isinstance(draft, Draft):
            raise InvalidJob(f"enqueue_many takes drafts, as made by a_job.job(...), not {type(draft).__name__}")
        new = new_job(draft)
        chunk.append((draft, new))
        size += len(new.envelope)
        if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
