"""The caller's end of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from millstream.protocol import transitions
from millstream.protocol.contract import contract_of
from millstream.protocol.errors import JobCancelled, JobExpired, JobFailed, JobNotFound, ResultNotKept
from millstream.protocol.info import JobInfo, State, job_info, keeps_result

if TYPE_CHECKING:
    from millstream.protocol.app import Millstream
    from millstream.protocol.keys import QueueKeys
    from millstream.protocol.registry import Job

R = TypeVar("R")


class Handle(Generic[R]):
    """A job that was enqueued: where it is, how it goes, what came of it.

    ``created`` is False where a job with this id existed already, or one that holds its unique key: then this is the
    handle of that one.
    """

    def __init__(
        self,
        app: Millstream,
        keys: QueueKeys,
        job_id: str,
        *,
        created: bool = True,
        job: Job[..., R] | None = None,
    ) -> None:
        self.id = job_id
        self.queue = keys.queue
        self.created = created
        self._app = app
        self._keys = keys
        self._job = job

    def __repr__(self) -> str:
        return f"Handle(id={self.id!r}, queue={self.queue!r}, created={self.created})"

    def info(self) -> JobInfo:
        """All that is known of the job. Raises :class:`JobNotFound`, :class:`Unavailable`."""
        facts = self._app.client.run(transitions.inspect(self._keys, self.id))
        return job_info(self.queue, self.id, facts)

    async def ainfo(self) -> JobInfo:
        facts = await self._app.aclient.run(transitions.inspect(self._keys, self.id))
        return job_info(self.queue, self.id, facts)

    def status(self) -> State:
        """The job's state. Raises :class:`JobNotFound`, :class:`Unavailable`."""
        return self.info().state

    async def astatus(self) -> State:
        return (await self.ainfo()).state

    def progress(self) -> tuple[float | None, str | None]:
        """Percent and message that the job reported last."""
        info = self.info()
        return info.progress, info.message

    def result(self, timeout: float | None = None) -> R:
        """Wait for the job to end, without polling, and return what it returned.

        Where it was enqueued by its function this is of the declared type, else as JSON has it.
        Raises :class:`JobFailed` (also :class:`JobCancelled`, :class:`JobExpired`), :class:`JobNotFound`,
        :class:`ResultNotKept` where it completed but its ``result_ttl`` is 0, :class:`WrongResult`,
        :class:`TimeoutError` after *timeout* seconds, :class:`Unavailable`.
        """
        if self._app.client.wait_for_end(self._keys, self.id, timeout) is None:
            raise JobNotFound(f"there is no job {self.id!r} in queue {self.queue!r}")
        return self._result_of(self._app.client.run(transitions.inspect(self._keys, self.id)))

    async def aresult(self, timeout: float | None = None) -> R:
        """The same for async code."""
        if await self._app.aclient.wait_for_end(self._keys, self.id, timeout) is None:
            raise JobNotFound(f"there is no job {self.id!r} in queue {self.queue!r}")
        return self._result_of(await self._app.aclient.run(transitions.inspect(self._keys, self.id)))

    def _result_of(self, facts: transitions.Inspected) -> R:
        info = job_info(self.queue, self.id, facts)
        if info.state is State.COMPLETED and not keeps_result(facts):
            raise ResultNotKept(
                f"job {self.id} ({info.job}) completed, but its result_ttl is 0: no result is kept", info
            )
        value = result_of(info)
        return cast(R, value if self._job is None else contract_of(self._job.fn).result(self._job.name, value))

    def cancel(self) -> bool:
        """Cancel the job; True where it will not run (any further): it waited, or a stop was requested.

        Raises :class:`JobNotFound`, :class:`Unavailable`.
        """
        return self._cancelled(self._app.client.run(transitions.cancel(self._keys, self.id))[0])

    async def acancel(self) -> bool:
        """The same for async code."""
        return self._cancelled((await self._app.aclient.run(transitions.cancel(self._keys, self.id)))[0])

    def _cancelled(self, code: str) -> bool:
        if code == "absent":
            raise JobNotFound(f"there is no job {self.id!r} in queue {self.queue!r}")
        return code in ("ok", "running")


def result_of(info: JobInfo) -> Any:
    """The result of a job that has ended; raises what says why there is none."""
    if info.state is State.COMPLETED:
        return info.result
    if info.state is State.CANCELLED:
        raise JobCancelled(f"job {info.id} ({info.job}) was cancelled", info)
    if info.state is State.EXPIRED:
        raise JobExpired(f"job {info.id} ({info.job}) was not started before its deadline", info)
    reason = f"{info.error.type}: {info.error.message}" if info.error else f"it is {info.state}"
    raise JobFailed(f"job {info.id} ({info.job}) has no result: {reason}", info)
