"""The application under chaos: every handler leaves evidence of each of its runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from millstream import Millstream, Retry, current_job
from tests.chaos import evidence
from tests.chaos.evidence import Mark

QUEUE = "chaos"
ATTEMPTS = 3
KILLED_ATTEMPTS = 2
STUCK_AFTER = 0.5  # s: the time limit of `stuck`
KEPT = 30 * 86400  # s: the checker looks for records at the end, and days may pass by the server's clock
CHILD = ("sleep", "3599")

if Path(os.environ.get("MILLSTREAM_CHAOS_TRAP", "/nonexistent")).exists():
    os._exit(3)  # as an application that crashes while it is imported

app = Millstream()


@contextlib.contextmanager
def witnessed() -> Iterator[None]:
    """Note the begin and the end of the current run."""
    job = current_job()
    evidence.note(Mark.BEGIN, job.id, job.run)
    try:
        yield
    except Exception:
        evidence.note(Mark.FAILED, job.id, job.run)
        raise
    except BaseException:
        evidence.note(Mark.INTERRUPTED, job.id, job.run)
        raise
    evidence.note(Mark.END, job.id, job.run)


@app.job(queue=QUEUE, result_ttl=KEPT)
def quick() -> None:
    """Nothing."""
    with witnessed():
        pass


@app.job(queue=QUEUE, result_ttl=KEPT)
def slow(seconds: float) -> None:
    """Wait, as a handler does that waits for something else."""
    with witnessed():
        time.sleep(seconds)


@app.job(queue=QUEUE, result_ttl=KEPT)
def busy(seconds: float) -> None:
    """Use the CPU for so long."""
    with witnessed():
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            sum(range(1000))


@app.job(queue=QUEUE, result_ttl=KEPT, retry=Retry(attempts=ATTEMPTS, backoff="constant", delay=0.1, jitter=False))
def flaky(failures: int) -> None:
    """Fail in the first attempts; for ever where there are not enough attempts."""
    with witnessed():
        if current_job().attempt <= failures:
            raise OSError("as planned")


@app.job(queue=QUEUE, result_ttl=KEPT)
def poison(how: str) -> None:
    """Kill the process that runs it, each time."""
    with witnessed():
        if how == "exit":
            os._exit(3)
        if how == "oom":  # as the kernel does it
            os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(10)


BRIEFLY = Retry(attempts=KILLED_ATTEMPTS, backoff="constant", delay=0.1, jitter=False)


@app.job(queue=QUEUE, result_ttl=KEPT, timeout=STUCK_AFTER, retry=BRIEFLY)
def stuck(children: bool = True) -> None:
    """Ignore every interruption, with processes of its own that have left the handler's sight."""
    with witnessed():
        if children:
            sleep = " ".join(CHILD)
            subprocess.Popen(["sh", "-c", f"{sleep} & setsid {sleep} & {sleep}"])
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(10)


@app.job(queue=QUEUE, result_ttl=KEPT, retry=BRIEFLY)
def glutton() -> None:
    """Take more memory than there is for it, and keep it."""
    with witnessed():
        hoard = bytearray(400 << 20)
        time.sleep(10)
        del hoard


if os.environ.get("MILLSTREAM_CHAOS_NEWER"):

    @app.job(queue=QUEUE, result_ttl=KEPT)
    def newcomer() -> None:
        """A job that only the newer version of the application has."""
        with witnessed():
            pass
