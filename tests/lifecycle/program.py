"""The application that the supervisors of these tests run; jobs note what they do in the file ``ran``."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from uuid import UUID

from millstream import CancelRequested, JobInterrupted, JobTimeout, Millstream, Retry, current_job

app = Millstream()


def note(*words: object) -> None:
    """Append a line in one write, so that lines of several processes never mix."""
    line = " ".join(map(str, words)) + "\n"
    descriptor = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def wait_for_file(name: str, limit: float = 60.0) -> None:
    """Wait until a file appears in our folder."""
    end = time.monotonic() + limit
    while not Path(name).exists() and time.monotonic() < end:
        time.sleep(0.01)


@app.job
def noop(number: int) -> None:
    note("noop", number)


@app.job
def add(a: int, b: int = 2) -> int:
    return a + b


@app.job(retry=Retry(attempts=3, delay=0.05, jitter=False))
def fail(message: str) -> None:
    note("fail", current_job().attempt, current_job().run)
    raise ValueError(message)


@app.job(retry=Retry(attempts=3, delay=0.05, jitter=False))
def fail_once() -> int:
    if current_job().attempt == 1:
        raise OSError("not yet")
    return current_job().attempt


@app.job(retry=Retry(attempts=3, delay=60, jitter=False))
def fail_slowly(message: str) -> None:
    note("fail_slowly", current_job().attempt)
    raise ValueError(message)


@app.job
def nap(name: str, seconds: float) -> str:
    """Start, sleep, end."""
    note("start", name, os.getpid(), current_job().run)
    time.sleep(seconds)
    note("end", name, os.getpid(), current_job().run)
    return name


@app.job
def span(name: str, seconds: float) -> None:
    """Note when it began and when it ended, on a clock that all processes share."""
    note("began", name, current_job().run, time.monotonic())
    time.sleep(seconds)
    note("ended", name, current_job().run, time.monotonic())


@app.job
def until(name: str, file: str) -> str:
    """Start, wait for a file in our folder, end."""
    note("start", name, os.getpid(), current_job().run)
    wait_for_file(file)
    note("end", name, os.getpid(), current_job().run)
    return name


@app.job
def until_with_the_gil(name: str, file: str) -> str:
    """The same in C code that holds the GIL, for half a second at a time."""
    note("start", name, os.getpid(), current_job().run)
    while not Path(file).exists():
        ctypes.PyDLL(None).usleep(500_000)
    note("end", name, os.getpid(), current_job().run)
    return name


@app.job
def leave(code: int) -> None:
    note("leave", os.getpid())
    os._exit(code)


@app.job
def crash() -> None:
    note("crash", os.getpid())
    os.kill(os.getpid(), signal.SIGSEGV)


@app.job
def read_nowhere() -> None:
    """A real segmentation fault in C code."""
    note("crash", os.getpid())
    ctypes.string_at(0)


@app.job(timeout=1, retry=1)
def hold_the_gil() -> int:
    """C code that holds the GIL and looks at no signal."""
    note("start", "gil", os.getpid(), time.monotonic())
    return sum(range(10**12))  # the line where it hangs


@app.job
def busy(name: str, count: int) -> None:
    """C code that holds the GIL for a while: about 1 s for 2 * 10**8."""
    note("start", name, os.getpid())
    sum(range(count))
    note("end", name, os.getpid())


@app.job(timeout=0.3, retry=1)
def clean_up() -> None:
    try:
        while True:
            time.sleep(0.01)
    except JobTimeout:
        note("cleaned")
        raise


@app.job(timeout=0.3)
def come_to_terms() -> str:
    """The soft limit can be caught, and a result returned all the same."""
    with contextlib.suppress(JobTimeout):
        time.sleep(30)
    return "partial"


@app.job
def with_child(name: str) -> None:
    """Run a subprocess that outlives us, if nobody stops it."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        note("start", name, os.getpid(), child.pid)


@app.job(retry=1)
def fork_and_return(how: str) -> int:
    """A process of ours comes out of this handler as well."""
    child = os.fork()
    if child == 0:
        if how == "returns":
            return 0
        raise SystemExit(3) if how == "exits" else OSError("in the child")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@app.job(retry=1)
def quit_by_exception(code: int) -> None:
    raise SystemExit(code)


@app.job
def deaf(name: str) -> None:
    """Undo what lets the worker hear that it is to drain."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    note("start", name)
    time.sleep(60)


@app.job
def interrupted(name: str) -> None:
    note("start", name, os.getpid(), current_job().run)
    try:
        wait_for_file("go")
    except JobInterrupted:
        note("interrupted", name)
        raise
    note("end", name, os.getpid(), current_job().run)


@app.job(retry=Retry(attempts=5, delay=0.05))
def stubborn() -> None:
    """Answer a cancellation with a failure that would be retried."""
    note("start", "stubborn")
    try:
        wait_for_file("go")
    except CancelRequested:
        raise ValueError("no") from None


class Kind(Enum):
    OPEN = "open"
    PAID = "paid"


@dataclass
class Line:
    text: str
    price: Decimal
    seal: bytes


@dataclass
class Invoice:
    id: UUID
    due: datetime
    lines: list[Line]


@dataclass
class Receipt:
    invoice: UUID
    total: Decimal
    kind: Kind
    term: timedelta
    path: Path


@app.job(retry=Retry(attempts=2, delay=0.05))
def settle(invoice: Invoice, path: Path, kind: Kind = Kind.OPEN) -> Receipt:
    total = sum((line.price for line in invoice.lines), Decimal(0))
    return Receipt(invoice.id, total, kind, timedelta(days=30), path)


@app.job(retry=1)
async def settle_async(invoice: Invoice) -> Invoice:
    assert isinstance(invoice.due, datetime)
    return invoice


@app.job
def boom_result() -> set[int]:
    """A result that is not JSON."""
    return {1}


@app.job
async def sleep_async(seconds: float) -> str:
    import asyncio

    await asyncio.sleep(seconds)
    return "slept"


@app.on_worker_start
def started() -> None:
    note("worker_start", os.getpid())


@app.on_worker_stop
def stopped() -> None:
    note("worker_stop", os.getpid())


@app.job(timeout=0.3, retry=1)
async def sleep_too_long() -> None:
    import asyncio

    try:
        await asyncio.sleep(30)
    finally:
        note("cleaned")


@app.job(retry=1)
def fill_memory(megabytes: int) -> None:
    note("start", "memory", os.getpid())
    kept = [bytearray(b"x" * 2**20) for _ in range(megabytes)]
    time.sleep(30)
    note("end", len(kept))


@app.job(retry=Retry(attempts=2, delay=0.1))
def measure(text: str) -> int:
    """Fail once, so that it needs room in Redis to be retried."""
    if current_job().attempt == 1:
        note("measured")
        raise OSError("again")
    return len(text)


@app.job
def repeat(size: int) -> str:
    note("repeat", size)
    return "x" * size


@app.job(timeout=1e12, retry=Retry(attempts=2, delay=1e17, max_delay=1e18, jitter=False))
def beyond_all_clocks(fails: bool) -> int:
    if fails:
        raise ValueError("see you")
    return 1


@app.job(retry=1)
def use_cpu(seconds: float, then: str) -> None:
    """Use the CPU, half of it in a subprocess, then die or hang."""
    code = f"import time\nwhile time.process_time() < {seconds / 2}: pass"
    subprocess.run([sys.executable, "-Sc", code], check=True)
    begin = time.process_time()
    while time.process_time() - begin < seconds / 2:
        pass
    note("start", "cpu", os.getpid())
    if then == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    while then == "hang":
        with contextlib.suppress(BaseException):
            time.sleep(1)


@app.job(timeout=0.5, retry=1)
def hang(kind: str) -> None:
    """Go on beyond every limit, with a subprocess that would outlive us."""
    child = subprocess.Popen([sys.executable, "-Sc", "import time; time.sleep(120)"])
    note("start", "hang", os.getpid(), child.pid)
    while kind == "python":
        with contextlib.suppress(BaseException):
            sum(range(10**5))
    sum(range(10**12))


SLEEP = ("sleep", "3599")


def become_daemon(name: str, *, execute: bool) -> None:
    """A classic daemon: two forks, a session of its own, no descriptor of ours."""
    if (child := os.fork()) != 0:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            note("stray", name, os.getpid())
            os.closerange(0, 1024)
            os.execvp(SLEEP[0], SLEEP) if execute else time.sleep(3599)
    finally:
        os._exit(0)


@app.job(retry=1)
def stray(name: str, then: str) -> None:
    """Start processes that leave our process group, each in another way; then end as told."""
    note("start", name, os.getpid())
    note("stray", name, subprocess.Popen(SLEEP, start_new_session=True).pid)
    shell = f"setsid {' '.join(SLEEP)} >/dev/null & echo $!"
    note("stray", name, subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, check=True).stdout.decode().strip())
    become_daemon(name, execute=True)
    become_daemon(name, execute=False)
    while then == "hang":
        with contextlib.suppress(BaseException):
            time.sleep(1)
    wait_for_file("go")
    if then == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if then == "memory":
        kept = [bytearray(b"x" * 2**20) for _ in range(300)]
        time.sleep(30)
        note("end", len(kept))


@app.job(retry=1)
def unmarked() -> None:
    """Start a process that nothing connects with us any more."""
    child = subprocess.Popen(SLEEP, start_new_session=True, env={"PATH": os.environ["PATH"]})
    note("unmarked", os.getpid(), child.pid)
