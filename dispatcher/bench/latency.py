"""``latency``: from the return of commit in the producer to the first line of the handler."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from dispatcher.bench.errors import BenchError
from dispatcher.bench.ground import Ground
from dispatcher.bench.pipeline import Pipeline, open_pipeline
from dispatcher.bench.rounds import medians, say, spread

__all__ = ["delays_of", "latency", "look_once", "percentile"]

_WARM_UP_SECONDS = 3.0
_SETTLE_SECONDS = 1.5
"""After VACUUM (ANALYZE), which makes every session plan anew: that is no part of a steady state."""


async def latency(
    ground: Ground, *, by: str, rate: float, seconds: float, workers: int, concurrency: int, rounds: int
) -> dict[str, Any]:
    """Single transactions at a low rate.  Commit times stay with the producer, start times with the handler: the clock
    is that of the machine, shared by its processes, and the two are brought together afterwards."""
    async with open_pipeline(ground) as pipeline:
        await pipeline.start_processes(workers, concurrency)
        kind = "paced-sql" if by == "sql" else "paced"
        await look_once(pipeline, kind, rate, min(seconds, _WARM_UP_SECONDS))
        measured = []
        for number in range(rounds):
            await pipeline.tidy()
            await look_once(pipeline, kind, rate, min(seconds, _SETTLE_SECONDS))
            figures = await look_once(pipeline, kind, rate, seconds)
            await pipeline.prove()
            measured.append(figures)
            say(f"latency: round {number + 1} of {rounds}: {figures}")
        return {
            "bench": "latency",
            "by": by,
            "p50_ms": medians(measured, "p50_ms"),
            "p99_ms": medians(measured, "p99_ms"),
            "max_ms": max(item["max_ms"] for item in measured),
            "samples": sum(item["samples"] for item in measured),
            "rate": rate,
            "seconds": seconds,
            "workers": workers,
            "concurrency": concurrency,
            "spread": spread(measured, "p99_ms"),
            "rounds": measured,
            **pipeline.facts,
        }


async def look_once(pipeline: Pipeline, kind: str, rate: float, seconds: float, load: float = 0.0) -> dict[str, Any]:
    """Commit to start of ``rate`` tasks a second, with ``load`` other tasks a second beside them if it is above 0."""
    done, _, _ = await pipeline.done()
    async with AsyncExitStack() as stack:
        beside = await stack.enter_async_context(pipeline.producer("steady", load, seconds + 1)) if load > 0 else None
        producer = await stack.enter_async_context(pipeline.producer(kind, rate, seconds))
        if beside:
            await beside.tell("go")
        await producer.tell("go")
        commits = json.loads(await producer.hear(seconds * 2 + 60.0))["commits"]
        told: dict[str, Any] = {"created": 0}
        if beside:
            told = json.loads(await beside.hear(seconds * 2 + 60.0))
    await pipeline.until_done(done + len(commits) + told["created"])
    delays = delays_of(commits, pipeline.ground.folder)
    figures = {
        "p50_ms": percentile(delays, 0.5),
        "p99_ms": percentile(delays, 0.99),
        "max_ms": round(delays[-1], 3),
        "samples": len(delays),
    }
    return figures | ({"p999_ms": percentile(delays, 0.999), "created_per_s": told["per_s"]} if beside else {})


def delays_of(commits: dict[str, int], folder: Path) -> list[float]:
    """Milliseconds from each commit to the start of its task, sorted.  Raises ``BenchError`` when a note is missing."""
    starts = _starts(folder)
    missing = commits.keys() - starts.keys()
    if missing:
        raise BenchError(f"{len(missing)} of {len(commits)} handlers left no note of their start")
    return sorted((starts[task] - committed) / 1e6 for task, committed in commits.items())


def percentile(values: list[float], part: float) -> float:
    """The nearest-rank percentile of sorted values: one that was really seen."""
    return round(values[max(0, min(len(values) - 1, -int(-part * len(values) // 1) - 1))], 3)


def _starts(folder: Path) -> dict[str, int]:
    """The first start of each task, by its id."""
    starts: dict[str, int] = {}
    for file in folder.glob("*.marks"):
        for line in file.read_text().splitlines():
            task, _, at = line.partition(" ")
            starts[task] = min(int(at), starts.get(task, int(at)))
    return starts
