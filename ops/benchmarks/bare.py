"""What redis-py itself can do on a stream: the reference for every figure of ours."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import cast

import redis

GROUP = "bare"
PIPELINE = 300  # commands a round trip, like a bulk enqueue
BODY = b'{"v":1,"n":"noop","a":[123456],"t":1732230000000,"q":"bench"}'

_fork = multiprocessing.get_context("fork")
Entries = list[tuple[bytes, dict[bytes, bytes]]]


def connect(url: str) -> redis.Redis:
    """A client with one connection and the fast parser."""
    return redis.Redis.from_url(url, socket_timeout=30, protocol=2)


def add_single(url: str, key: str, jobs: int) -> float:
    """XADD one by one; entries a second."""
    with connect(url) as client:
        begin = time.monotonic()
        for number in range(jobs):
            client.xadd(key, {"id": number, "env": BODY})
        return jobs / (time.monotonic() - begin)


def add_pipelined(url: str, key: str, jobs: int) -> float:
    """XADD in pipelines of PIPELINE; entries a second."""
    with connect(url) as client:
        begin = time.monotonic()
        for start in range(0, jobs, PIPELINE):
            pipe = client.pipeline(transaction=False)
            for number in range(start, min(start + PIPELINE, jobs)):
                pipe.xadd(key, {"id": number, "env": BODY})
            pipe.execute()
        return jobs / (time.monotonic() - begin)


def consume(url: str, key: str, count: int, consumers: int = 2) -> tuple[float, int, int]:
    """Empty the stream with XREADGROUP COUNT `count`, one XACK and one XDEL per batch.

    Returns entries a second over all consumers, how many entries were read, and how many distinct ones.
    """
    with connect(url) as client:
        client.xgroup_create(key, GROUP, id="0", mkstream=True)
    barrier = _fork.Barrier(consumers)
    pipes = [_fork.Pipe(duplex=False) for _ in range(consumers)]
    processes = [
        _fork.Process(target=_consumer, args=(url, key, count, f"c{index}", barrier, sender))
        for index, (_, sender) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    reports = [cast("tuple[float, float, list[int]]", receiver.recv()) for receiver, _ in pipes]
    for process in processes:
        process.join()
    numbers = [number for _, _, seen in reports for number in seen]
    span = max(end for _, end, _ in reports) - min(begin for begin, _, _ in reports)
    return len(numbers) / span, len(numbers), len(set(numbers))


def _consumer(url: str, key: str, count: int, name: str, barrier: object, report: Connection) -> None:
    seen: list[int] = []
    with connect(url) as client:
        client.ping()
        barrier.wait()  # type: ignore[attr-defined]
        begin = end = time.monotonic()
        while True:
            reply = client.xreadgroup(GROUP, name, {key: ">"}, count=count)
            if not reply:
                break
            entries = cast("list[tuple[bytes, Entries]]", reply)[0][1]
            seen += [int(fields[b"id"]) for _, fields in entries]
            ids = [entry for entry, _ in entries]
            client.xack(key, GROUP, *ids)
            client.xdel(key, *ids)
            end = time.monotonic()
    report.send((begin, end, seen))


def idle_latency(url: str, key: str, samples: int) -> list[float]:
    """From just before XADD to the return of a blocked XREADGROUP in another process; µs each."""
    with connect(url) as client:
        client.xgroup_create(key, GROUP, id="0", mkstream=True)
        receiver, sender = _fork.Pipe(duplex=False)
        process = _fork.Process(target=_blocked_reader, args=(url, key, samples, sender))
        process.start()
        for _ in range(samples):
            receiver.recv()  # the reader is about to block
            time.sleep(0.003)  # the reader is to be idle: that is what is measured
            client.xadd(key, {"t": time.monotonic_ns()})
        latencies = cast("list[float]", receiver.recv())
        process.join()
        return latencies


def _blocked_reader(url: str, key: str, samples: int, report: Connection) -> None:
    latencies: list[float] = []
    with connect(url) as client:
        client.ping()
        for _ in range(samples):
            report.send(None)
            reply = client.xreadgroup(GROUP, "idle", {key: ">"}, count=1, block=5000)
            now = time.monotonic_ns()
            entry, fields = cast("list[tuple[bytes, Entries]]", reply)[0][1][0]
            latencies.append((now - int(fields[b"t"])) / 1000)
            client.xack(key, GROUP, entry)
            client.xdel(key, entry)
    report.send(latencies)
