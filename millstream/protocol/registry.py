"""Jobs: functions with a name, a queue and policies; and the registry that a worker looks names up in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from millstream.protocol.concurrency import KeyOf as ConcurrencyKey
from millstream.protocol.concurrency import Seat, Seating, checked_seating
from millstream.protocol.contract import contract_of, rebuilding
from millstream.protocol.errors import DuplicateJob, InvalidJob
from millstream.protocol.keys import band_of, checked_id, checked_name
from millstream.protocol.labels import checked_metadata, checked_tags
from millstream.protocol.policy import Duration, Policies, seconds
from millstream.protocol.unique import KeyOf, Lock, Unique, Until, checked_unique, overridden

if TYPE_CHECKING:
    from millstream.protocol.app import Millstream
    from millstream.protocol.handle import Handle
    from millstream.protocol.info import JobInfo

P = ParamSpec("P")
R = TypeVar("R")

DeadHook = Callable[["JobInfo"], object]
"""What is called with a job that is dead."""

NOTICE = "millstream.on_dead"
"""The name of the job that calls the hooks; the scripts that enqueue it know it, too."""

DEFAULT_TIMEOUT = 3600.0
DEFAULT_RESULT_TTL = 3600.0


@dataclass(frozen=True)
class Options:
    """What ``using()`` sets for one enqueue. ``delay`` and ``expires_in`` in seconds; None leaves the job's own."""

    queue: str | None = None
    priority: int | str | None = None
    delay: float | None = None
    at: datetime | None = None
    id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    result_ttl: float | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    unique: Unique | None = None
    expires_in: float | None = None
    deadline: datetime | None = None
    seating: Seating | None = None


def checked_options(
    *,
    queue: str | None = None,
    priority: int | str | None = None,
    delay: Duration | None = None,
    at: datetime | None = None,
    id: str | None = None,
    headers: Mapping[str, str] | None = None,
    result_ttl: Duration | None = None,
    tags: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    unique_for: Duration | None = None,
    unique_by: KeyOf | None = None,
    unique_until: Until | None = None,
    expires_in: Duration | None = None,
    deadline: datetime | None = None,
    concurrency_key: ConcurrencyKey | None = None,
    concurrency: int | None = None,
) -> Options:
    """Check the options of one enqueue. Raises :class:`InvalidJob`."""
    if queue is not None:
        checked_name("queue", queue)
    if priority is not None:
        band_of(priority)
    if id is not None:
        checked_id(id)
    _check_instant("at", at)
    _check_instant("deadline", deadline)
    if at is not None and delay is not None:
        raise InvalidJob("delay and at exclude each other: use one of them")
    if deadline is not None and expires_in is not None:
        raise InvalidJob("expires_in and deadline exclude each other: use one of them")
    wait = None if delay is None else seconds(delay, "delay")
    return Options(
        queue,
        priority,
        wait,
        at,
        id,
        checked_headers(headers) if headers else {},
        None if result_ttl is None else seconds(result_ttl, "result_ttl"),
        checked_tags(tags) if tags else (),
        checked_metadata(metadata) if metadata else {},
        checked_unique(unique_for, unique_by, unique_until),
        None if expires_in is None else seconds(expires_in, "expires_in"),
        deadline,
        checked_seating(concurrency_key, concurrency),
    )


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return *headers* if they are texts by name; raise :class:`InvalidJob` otherwise."""
    given: object = headers
    if not isinstance(given, Mapping) or not all(isinstance(part, str) for item in given.items() for part in item):
        raise InvalidJob("headers are not valid: use a dict of texts by name")
    return dict(headers)


def checked_hook(hook: DeadHook | None) -> DeadHook | None:
    """Return *hook* if it can be called with one argument; raise :class:`InvalidJob` otherwise."""
    if hook is None:
        return None
    try:
        inspect.signature(hook).bind(None)
    except (TypeError, ValueError) as error:
        raise InvalidJob(f"on_dead {hook!r} is not valid: use a function of a JobInfo ({error})") from None
    return hook


def _check_instant(what: str, instant: object) -> None:
    if instant is not None and (not isinstance(instant, datetime) or instant.utcoffset() is None):
        raise InvalidJob(f"{what} {instant!r} is not valid: use an aware datetime, for example datetime.now(UTC)")


@dataclass(frozen=True)
class Draft:
    """A job to be: a name, arguments and options, not enqueued yet. Made by ``job.job(...)``.

    ``lock`` is what it must hold to be enqueued, where it is to be unique; ``seat`` what it needs to run, where its key
    has a limit.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    queue: str
    priority: int | str
    options: Options
    job: Job[..., Any] | None = field(default=None, repr=False, compare=False)
    """The function, where the caller has it: by it a result is rebuilt."""
    lock: Lock | None = None
    seat: Seat | None = None


@dataclass(frozen=True)
class Job(Generic[P, R]):
    """A registered function. Calling it runs it here and now; ``enqueue`` sends it to the workers."""

    app: Millstream
    fn: Callable[P, R]
    name: str
    queue: str
    timeout: float | None
    retry: Policies
    priority: str
    result_ttl: float
    tags: tuple[str, ...] = ()
    on_dead: DeadHook | None = None
    options: Options = field(default_factory=Options)
    unique: Unique | None = None
    seating: Seating | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.fn(*args, **kwargs)

    def using(
        self,
        *,
        queue: str | None = None,
        priority: int | str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        result_ttl: Duration | None = None,
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        unique_for: Duration | None = None,
        unique_by: str | Callable[P, str] | None = None,
        unique_until: Until | None = None,
        expires_in: Duration | None = None,
        deadline: datetime | None = None,
        concurrency_key: str | Callable[P, str] | None = None,
        concurrency: int | None = None,
    ) -> Job[P, R]:
        """This job with options for its next enqueues: they never mix with the function's arguments.

        ``delay`` in seconds or a timedelta; ``at`` an aware datetime; ``priority`` an integer or a band's name;
        ``id`` makes the enqueue idempotent. ``result_ttl`` (seconds) is how long the result is kept, 0 for not at all.
        ``tags`` are added to the job's own; they and ``metadata`` (JSON) are what jobs are found by.
        ``unique_for`` (seconds, 0 for a job that is not unique after all): nothing is enqueued where a living job of
        the queue holds the key already; it is held for so long at most, after the delay. The key is that of the name
        and the arguments, or ``unique_by``: a text, or what makes one of the arguments. It is held until the job's
        end, or with ``unique_until="started"`` until its start.
        ``expires_in`` (seconds) or ``deadline`` (an aware datetime): the job is not started after that.
        ``concurrency_key`` (a text, or what makes one of the arguments): of the jobs of the queue with the same key no
        more than ``concurrency`` (1) run at once, on all hosts; the others wait without keeping anybody else waiting.
        Raises :class:`InvalidJob`.
        """
        options = checked_options(
            queue=queue,
            priority=priority,
            delay=delay,
            at=at,
            id=id,
            headers=headers,
            result_ttl=result_ttl,
            tags=(*self.tags, *checked_tags(tags)),
            metadata=metadata,
            unique_for=unique_for,
            unique_by=unique_by,
            unique_until=unique_until,
            expires_in=expires_in,
            deadline=deadline,
            concurrency_key=concurrency_key,
            concurrency=concurrency,
        )
        return replace(self, options=options)

    def job(self, *args: P.args, **kwargs: P.kwargs) -> Draft:
        """A draft of this call for ``enqueue_many``. Raises :class:`InvalidJob` for a wrong call."""
        contract_of(self.fn).check(self.name, args, kwargs)
        options = self.options
        priority = self.priority if options.priority is None else options.priority
        lock = None
        if unique := overridden(self.unique, options.unique):
            lock = unique.lock(self.name, args, kwargs, self.signature)
        seating = options.seating or self.seating
        seat = seating.of(self.name, args, kwargs) if seating else None
        return Draft(self.name, args, kwargs, options.queue or self.queue, priority, options, self, lock, seat)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Enqueue a call. Raises :class:`InvalidJob` (for what is asked) or :class:`Unavailable` (Redis)."""
        return self.app.enqueue_draft(self.job(*args, **kwargs))

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """The same for async code."""
        return await self.app.aenqueue_draft(self.job(*args, **kwargs))

    @property
    def signature(self) -> inspect.Signature:
        return contract_of(self.fn).signature

    @cached_property
    def handler(self) -> Callable[..., Any]:
        """What a worker calls: the function, behind the rebuilding of arguments where its hints ask for that."""
        return rebuilding(self.name, self.fn)

    @property
    def tells(self) -> bool:
        """Whether somebody wants to be told when such a job is dead."""
        return self.on_dead is not None or bool(self.app.dead_hooks)

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.fn)


class Registry:
    """The jobs of one application by name."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job[..., Any]] = {}

    def add(self, job: Job[..., Any]) -> None:
        """Register a job. Raises :class:`DuplicateJob` where another function has the name, :class:`InvalidJob`."""
        if job.name == NOTICE:
            raise InvalidJob(f"job name {NOTICE!r} is taken: it is the job that calls on_dead hooks")
        known = self._jobs.get(job.name)
        if known is not None:
            raise DuplicateJob(
                f"there are two jobs {job.name!r}: {known.fn.__module__}.{known.fn.__qualname__} and "
                f"{job.fn.__module__}.{job.fn.__qualname__}; give one of them another name="
            )
        self._jobs[job.name] = job

    def get(self, name: str) -> Job[..., Any] | None:
        return self._jobs.get(name)

    @property
    def names(self) -> list[str]:
        return sorted(self._jobs)

    @property
    def queues(self) -> list[str]:
        """The queues of the registered jobs, sorted."""
        return sorted({job.queue for job in self._jobs.values()})
