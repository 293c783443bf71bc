"""What operators do to jobs that have ended: enqueue them again, delete them.

The first half makes calls, one function per script; the second half runs them for any number of jobs.
"""

from __future__ import annotations

from collections.abc import Sequence

from millstream.protocol import control
from millstream.protocol.call import Call
from millstream.protocol.keys import QueueKeys
from millstream.protocol.runner import Runner
from millstream.protocol.scripts import script
from millstream.protocol.transitions import all_keys


def retry(keys: QueueKeys, ids: Sequence[str]) -> Call[list[str]]:
    """Enqueue up to :data:`control.STEP` cancelled or expired jobs again; what became of each."""
    return Call(script("retry"), all_keys(keys), ids, _words)


def delete(keys: QueueKeys, ids: Sequence[str]) -> Call[list[str]]:
    """Delete the records of up to :data:`control.STEP` jobs that have ended; what became of each."""
    return Call(script("delete"), all_keys(keys), ids, _words)


def _words(reply: list[bytes]) -> list[str]:
    return [word.decode() for word in reply]


def retry_all(runner: Runner, keys: QueueKeys, ids: Sequence[str]) -> dict[str, str]:
    """Enqueue ended jobs again, however many; what became of each, by id. Raises :class:`Unavailable`.

    The word is ``queued``, or why not: ``absent``, ``no payload``, ``malformed``, ``held by <id>`` (that job has its
    unique key), or the state in which the job is.
    """
    done: dict[str, str] = {}
    for step in control.steps(ids):
        codes = runner.run(retry(keys, step))
        words = dict(zip(step, codes, strict=True))
        dead = [job_id for job_id, word in words.items() if word == "dead"]
        done |= words | {job_id: str(code) for job_id, code in control.retry_dead(runner, keys, dead).items()}
    return done


def delete_all(runner: Runner, keys: QueueKeys, ids: Sequence[str]) -> dict[str, str]:
    """Delete the records of ended jobs, however many; what became of each, by id. Raises :class:`Unavailable`.

    The word is ``deleted``, or why not: ``absent``, or the state in which the job is.
    """
    done: dict[str, str] = {}
    for step in control.steps(ids):
        codes = runner.run(delete(keys, step))
        done.update(zip(step, codes, strict=True))
    return done
