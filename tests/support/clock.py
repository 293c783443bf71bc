"""A wall clock of one's own for a process and its children: it can be stepped, and nobody else's moves."""

from __future__ import annotations

import mmap
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


def permitted() -> bool:
    """Whether there is a C compiler."""
    return shutil.which("cc") is not None


class Clock:
    """Steps the wall clock of the processes that are started with its environment, at once and for all of them.

    Their monotonic clocks go on, as with a step of the machine's own clock.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ms-clock-"))
        self._library, file = self._folder / "clock.so", self._folder / "offset"
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._mapped = mmap.mmap(opened.fileno(), 8)
        self._word = memoryview(self._mapped).cast("q")
        self.environment = {"LD_PRELOAD": str(self._library), "MILLSTREAM_TEST_CLOCK": str(file)}

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._word.release()
        self._mapped.close()
        shutil.rmtree(self._folder)

    @property
    def offset(self) -> float:
        """Seconds by which it is ahead of the machine's clock."""
        return self._word[0] / 1e9

    def step(self, seconds: float) -> None:
        """Step it by so many seconds; backwards if negative."""
        self._word[0] += int(seconds * 1e9)
