"""The application: what a program's jobs are registered with and enqueued through."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from millstream.protocol import transitions
from millstream.protocol.client import Client
from millstream.protocol.concurrency import KeyOf as ConcurrencyKey
from millstream.protocol.concurrency import checked_seating
from millstream.protocol.drafts import chunks, new_job
from millstream.protocol.errors import InvalidJob, UnknownJob
from millstream.protocol.handle import Handle
from millstream.protocol.keys import Keys, QueueKeys, band_of, checked_name
from millstream.protocol.labels import checked_tags
from millstream.protocol.location import Location, configured_keyring, locate
from millstream.protocol.policy import Duration, Retry, policies, seconds
from millstream.protocol.registry import (
    DEFAULT_RESULT_TTL,
    DeadHook,
    Draft,
    Job,
    Options,
    Registry,
    checked_hook,
    checked_options,
)
from millstream.protocol.signing import Keyring
from millstream.protocol.transitions import NewJob, Placed
from millstream.protocol.unique import INCOMPLETE, KeyOf, Until, checked_unique

if TYPE_CHECKING:
    from millstream.protocol.aclient import AsyncClient

P = ParamSpec("P")
R = TypeVar("R")
Hook = Callable[[], Any]


class Decorator(Protocol):
    """What ``@app.job(...)`` with options is: it makes a job of a function."""

    def __call__(self, fn: Callable[P, R], /) -> Job[P, R]: ...


class Millstream:
    """Jobs, and the way to the queues.

    Without ``redis_url`` the server is found as the command line finds it: MILLSTREAM_REDIS_URL, REDIS_URL,
    millstream.toml, else the embedded server of the current project. ``include`` names modules that register jobs
    (``"shop.*"``: all modules of a package); workers import them. ``patience``: seconds that an unreachable Redis
    is tried before an enqueue raises :class:`Unavailable`. Jobs are signed where ``signing_keys`` are configured.
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
        self.dead_hooks: list[DeadHook] = []
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

    @cached_property
    def keyring(self) -> Keyring | None:
        """What jobs are signed with; None: they are not signed. Raises :class:`ConfigError`."""
        return configured_keyring(self.location.file)

    def connect_to(self, url: str, prefix: str, keyring: Keyring | None = None) -> None:
        """Use this server and these keys from now on: a supervisor tells its workers' applications what they are."""
        self._redis_url, self._prefix = url, prefix
        for name in ("location", "keys", "client", "aclient"):
            self.__dict__.pop(name, None)
        self.__dict__["keyring"] = keyring

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
        tags: Sequence[str] = (),
        on_dead: DeadHook | None = None,
        unique_for: Duration | None = None,
        unique_by: KeyOf | None = None,
        unique_until: Until | None = None,
        concurrency_key: ConcurrencyKey | None = None,
        concurrency: int | None = None,
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
        tags: Sequence[str] = (),
        on_dead: DeadHook | None = None,
        unique_for: Duration | None = None,
        unique_by: KeyOf | None = None,
        unique_until: Until | None = None,
        concurrency_key: ConcurrencyKey | None = None,
        concurrency: int | None = None,
    ) -> Any:
        """Register a function as a job.

        ``timeout`` (seconds, 0 for none) is the soft limit of a run: by default its group's, else 3600.
        ``result_ttl`` (seconds) is how long its result is kept, 0 for not at all; ``tags`` are what its jobs are found
        by. ``on_dead`` is called as those of :meth:`on_dead` are, for this job only. ``unique_for``, ``unique_by``,
        ``unique_until``, ``concurrency_key`` and ``concurrency`` are those of :meth:`Job.using`, for every enqueue that
        does not say otherwise.
        Raises :class:`DuplicateJob`, :class:`InvalidJob`.
        """

        unique = checked_unique(unique_for, unique_by, unique_until)
        if unique is not None and unique.lifetime is None:
            raise InvalidJob(INCOMPLETE)

        def register(function: Callable[P, R]) -> Job[P, R]:
            if isinstance(function, Job):
                raise InvalidJob(f"{function.name!r} is a job already: give its function")
            if not callable(function) or not (name or hasattr(function, "__name__")):
                raise InvalidJob(f"{function!r} cannot be a job: write options by name, and give a function or a name=")
            own_tags = checked_tags(tags)
            job = Job(
                app=self,
                fn=function,
                name=checked_name("job", name or function.__name__),
                queue=checked_name("queue", queue),
                timeout=None if timeout is None else seconds(timeout, "timeout"),
                retry=policies(retry),
                priority=band_of(priority),
                result_ttl=seconds(result_ttl, "result_ttl"),
                tags=own_tags,
                options=Options(tags=own_tags),
                on_dead=checked_hook(on_dead),
                unique=unique,
                seating=checked_seating(concurrency_key, concurrency),
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

    def on_dead(self, hook: DeadHook) -> DeadHook:
        """Call *hook* with the :class:`JobInfo` of each job that is dead: in some worker of its queue, at least once.

        It runs as a job of its own, ``millstream.on_dead``, and is retried like one. Raises :class:`InvalidJob`.
        """
        self.dead_hooks.append(checked_hook(hook) or hook)
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

        Where the job is registered here it is checked like a call, and its own queue is the default. The result of
        the handle is plain JSON.
        Raises :class:`UnknownJob` where it is not and no queue is given.
        """
        return self.enqueue_draft(self._named_draft(name, args, kwargs, queue))

    async def aenqueue(self, name: str, /, *args: Any, queue: str | None = None, **kwargs: Any) -> Handle[Any]:
        """The same for async code."""
        return await self.aenqueue_draft(self._named_draft(name, args, kwargs, queue))

    def enqueue_draft(self, draft: Draft) -> Handle[Any]:
        """Enqueue one draft."""
        keys = self.queue_keys(draft.queue)
        new = new_job(draft, self.keyring)
        self.client.register(keys)
        created = self.client.run(transitions.enqueue(keys, [new]))[0]
        return self._handle(draft, keys, new, created)

    async def aenqueue_draft(self, draft: Draft) -> Handle[Any]:
        """The same for async code."""
        keys = self.queue_keys(draft.queue)
        new = new_job(draft, self.keyring)
        await self.aclient.register(keys)
        created = (await self.aclient.run(transitions.enqueue(keys, [new])))[0]
        return self._handle(draft, keys, new, created)

    def enqueue_many(self, drafts: Iterable[Draft]) -> list[Handle[Any]]:
        """Enqueue many jobs with a round trip per few hundred.

        Each chunk is all or nothing; an error (:class:`Unavailable`, :class:`InvalidJob`) ends it after the chunks
        that went before.
        """
        handles: list[Handle[Any]] = []
        for chunk in chunks(drafts, self.keyring):
            placed: dict[int, Handle[Any]] = {}
            for queue in dict.fromkeys(draft.queue for draft, _ in chunk):
                keys = self.queue_keys(queue)
                self.client.register(keys)
                jobs = [(at, new) for at, (draft, new) in enumerate(chunk) if draft.queue == queue]
                created = self.client.run(transitions.enqueue(keys, [new for _, new in jobs]))
                for (at, new), is_new in zip(jobs, created, strict=True):
                    placed[at] = self._handle(chunk[at][0], keys, new, is_new)
            handles += [placed[at] for at in range(len(chunk))]
        return handles

    def _handle(self, draft: Draft, keys: QueueKeys, new: NewJob, placed: Placed) -> Handle[Any]:
        if isinstance(placed, str):
            return Handle(self, keys, placed, created=False, job=draft.job)  # of the job that holds the unique key
        # A generated id was taken by nobody else: where it existed, an earlier attempt of ours has made it.
        return Handle(self, keys, new.id, created=placed or not new.nonce, job=draft.job)

    def _named_draft(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], queue: str | None) -> Draft:
        job = self.registry.get(checked_name("job", name))
        if job is not None:
            draft = (job.using(queue=queue) if queue else job).job(*args, **kwargs)
            return replace(draft, job=None)  # whether a result is rebuilt must not depend on what is imported here
        if queue is None:
            raise UnknownJob(f"no job {name!r} is registered here: name its queue, as in enqueue({name!r}, queue=...)")
        return Draft(name, args, kwargs, checked_name("queue", queue), 0, checked_options())
