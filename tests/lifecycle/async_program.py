"""The application of an async group; jobs note what they do in the file ``ran``."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time

from millstream import CancelRequested, JobInfo, JobInterrupted, JobTimeout, LeaseLost, Millstream, Retry, current_job

app = Millstream()
opened: list[asyncio.AbstractEventLoop] = []


def note(*words: object) -> None:
    """Append a line in one write, so that lines of several processes never mix."""
    line = " ".join(map(str, words)) + "\n"
    descriptor = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


async def file_appears(name: str, every: float) -> None:
    """Wait until a file appears in our folder."""
    while not os.path.exists(name):  # noqa: ASYNC110, ASYNC240 - the test makes it
        await asyncio.sleep(every)


@app.on_worker_start
async def started() -> None:
    await asyncio.sleep(0)
    opened.append(asyncio.get_running_loop())
    note("worker_start", os.getpid())


@app.on_worker_stop
async def stopped() -> None:
    await asyncio.sleep(0)
    note("worker_stop", os.getpid(), opened == [asyncio.get_running_loop()])


@app.job
async def add(a: int, b: int = 2) -> int:
    await asyncio.sleep(0)
    return a + b


@app.job
async def instantly(number: int) -> int:
    return number


@app.job
async def until(name: str, file: str, every: float = 0.02) -> str:
    """Start, wait for a file, end; say how we were interrupted."""
    note("start", name, os.getpid(), current_job().run, current_job().id)
    try:
        await file_appears(file, every)
    except (CancelRequested, JobInterrupted, JobTimeout, LeaseLost) as interruption:
        await asyncio.sleep(0.05)  # to clean up takes its time
        note(type(interruption).__name__, name)
        raise
    note("end", name, os.getpid(), current_job().run, current_job().id)
    return name


@app.job(retry=Retry(attempts=2, delay=0.05, jitter=False))
async def fail_once() -> int:
    await asyncio.sleep(0)
    if current_job().attempt == 1:
        raise OSError("not yet")
    return current_job().attempt


@app.job(timeout=0.5, retry=1)
async def too_long(name: str) -> None:
    note("start", name)
    try:
        await asyncio.sleep(60)
    except JobTimeout:
        note("cleaned", name)
        raise


@app.job(timeout=0.5, retry=1)
async def deaf(name: str) -> None:
    """Go on whatever is thrown at us."""
    note("start", name, os.getpid())
    while True:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(60)  # the line where it waits


@app.job(timeout=0.5, retry=1)
async def hold_the_gil(name: str) -> None:
    """Keep all others waiting, for ever."""
    note("start", name, os.getpid())
    await asyncio.sleep(0)
    sum(range(10**12))


@app.job
async def compute(name: str) -> int:
    """The same without a limit of its own."""
    note("start", name, os.getpid())
    return sum(range(10**12))


@app.job
async def block(name: str, seconds: float) -> str:
    """Keep all others waiting for a while, in C code that holds the GIL."""
    note("start", name, os.getpid())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ctypes.PyDLL(None).usleep(100_000)
    note("end", name)
    return name


@app.job
async def crash(name: str) -> None:
    note("start", name, os.getpid())
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGSEGV)


@app.job(retry=1)
async def fill_memory(name: str, megabytes: int) -> None:
    note("start", name, os.getpid())
    kept = [bytearray(b"x" * 2**20) for _ in range(megabytes)]
    await asyncio.sleep(60)
    note("end", name, len(kept))


@app.job
async def repeat(size: int) -> str:
    await asyncio.sleep(0)
    return "x" * size


@app.job(retry=1)
async def quit_in_a_task() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    await asyncio.create_task(leave())


@app.on_dead
async def told(info: JobInfo) -> None:
    await asyncio.sleep(0)
    note("told", info.job)


@app.job(timeout=0.5, retry=1)
async def clean_slowly(name: str) -> None:
    note("start", name)
    try:
        await asyncio.sleep(60)
    except JobTimeout:
        try:
            await asyncio.sleep(0.6)
            note("cleaned", name)
        except JobTimeout:
            note("disturbed", name)
        raise
