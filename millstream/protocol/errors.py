"""Every exception a user of Millstream may meet, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millstream.protocol.info import JobInfo


class MillstreamError(Exception):
    """The root of all errors that Millstream raises; the message says what is wrong and what to do.

    ``exit_code`` is what the command line exits with when the error ends a command.
    """

    exit_code = 1


class ConfigError(MillstreamError):
    """The configuration cannot be used; ``problems`` names every fault, each with its key."""

    exit_code = 78

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ImportFailed(ConfigError):
    """The application module is missing or raised while it was imported."""


class HookFailed(ConfigError):
    """An ``on_worker_start`` or ``on_worker_stop`` hook raised."""


class EmbeddedUnavailable(ConfigError):
    """No Redis URL is configured and the embedded server cannot be used."""


class Unavailable(MillstreamError):
    """Redis cannot be reached, or refuses every command (loading, read-only, full, wrong password)."""

    exit_code = 69


class Unsupported(MillstreamError):
    """The server is not a Redis or Valkey that Millstream can use, or holds keys of a newer format."""

    exit_code = 78


class NameTaken(MillstreamError):
    """Another live supervisor has this name."""

    exit_code = 75


class InvalidJob(MillstreamError, ValueError):
    """A job cannot be enqueued as asked: its name, options or arguments are at fault."""

    exit_code = 2


class NotJSON(InvalidJob):
    """An argument or result is not JSON; the message names its path."""


class PayloadTooLarge(InvalidJob):
    """The encoded job or result is larger than the limit (1 MiB)."""


class WrongArguments(MillstreamError, TypeError):
    """Stored arguments do not fit the handler: its hints have changed, or another producer has sent them."""

    exit_code = 2


class WrongResult(MillstreamError):
    """The result of a job does not fit the type that its handler declares to return."""


class UnknownJob(InvalidJob):
    """No job of this name is registered here, and no queue was given."""


class DuplicateJob(MillstreamError):
    """Two jobs of one application have the same name."""


class JobNotFound(MillstreamError):
    """There is no record of this job: it never existed, or its record has expired."""


class JobFailed(MillstreamError):
    """The job ended without a result; ``info`` is its :class:`JobInfo`."""

    def __init__(self, message: str, info: JobInfo) -> None:
        super().__init__(message)
        self.info = info


class JobCancelled(JobFailed):
    """The job was cancelled."""


class JobExpired(JobFailed):
    """The job was not started before its deadline."""


class ResultNotKept(MillstreamError):
    """The job completed, but its ``result_ttl`` is 0, so its result is gone; ``info`` is its :class:`JobInfo`."""

    def __init__(self, message: str, info: JobInfo) -> None:
        super().__init__(message)
        self.info = info


# What a handler raises to say how its run ends.


class RetryLater(Exception):
    """Run this job again after ``delay`` seconds; counts as an attempt.

    Also where no :class:`Retry` of the job speaks of it: then the first one says how often, and when without a delay.
    """

    def __init__(self, reason: str = "", *, delay: float | None = None) -> None:
        if not isinstance(reason, str):  # `Snooze(5)` takes seconds there: a delay must not be lost as a reason
            raise TypeError(f"RetryLater({reason!r}): the delay is named, as in RetryLater(delay={reason!r})")
        super().__init__(reason)
        self.delay = delay


class Snooze(Exception):
    """Run this job again after ``seconds``; costs no attempt."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"snoozed for {seconds} s")
        self.seconds = seconds


class Discard(Exception):
    """End this job quietly, for the given reason: state ``discarded``."""


class Fail(Exception):
    """End this job as dead at once, for the given reason, whatever attempts are left."""


# What reaches a handler from outside. BaseExceptions, so that ``except Exception`` does not swallow them.


class Interruption(BaseException):
    """The root of what interrupts a running handler; catch one by name to clean up, then re-raise."""


class JobTimeout(Interruption):
    """The soft time limit is over; the process is killed ``kill_after`` seconds later."""


class JobInterrupted(Interruption):
    """The drain is almost over; the job is given back uncounted."""


class CancelRequested(Interruption):
    """The job was cancelled while it ran."""


class LeaseLost(Interruption):
    """The job was given to another owner; whatever this run does will not be recorded."""
