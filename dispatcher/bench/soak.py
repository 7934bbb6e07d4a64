"""``soak``: half the sustained rate for a long time; what must stay flat does, or the verdict says what did not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from dispatcher.bench.ground import Ground
from dispatcher.bench.latency import delays_of, percentile
from dispatcher.bench.load import PROBES_PER_S, sustained_rate
from dispatcher.bench.pipeline import Pipeline, open_pipeline
from dispatcher.bench.rounds import say
from dispatcher.bench.vitals import vitals

__all__ = ["soak", "verdicts"]

_PART = 0.5
_SAMPLES = 60
_GROWING = frozenset({"tasks", "task_events"})
"""They keep what is finished: a table's size per task must stay, not its size."""
_WARM_UP = 20_000


async def soak(ground: Ground, *, minutes: float, tasks: int, workers: int, concurrency: int) -> dict[str, Any]:
    """Bulk and single tasks together, samples all the way, and at the end the proof that nothing was lost."""
    seconds = minutes * 60
    async with open_pipeline(ground) as pipeline:
        await pipeline.start_processes(workers, concurrency)
        await sustained_rate(pipeline, _WARM_UP)
        rate = await sustained_rate(pipeline, tasks)
        await pipeline.until_calm()
        done, _, _ = await pipeline.done()
        say(f"soak: {rate * _PART:,.0f} of {rate:,.0f} tasks/s for {minutes:g} minutes")
        async with (
            pipeline.producer("steady", rate * _PART, seconds) as steady,
            pipeline.producer("paced", PROBES_PER_S, seconds) as probes,
        ):
            await steady.tell("go")
            await probes.tell("go")
            samples = await _sample(pipeline, seconds)
            told = json.loads(await steady.hear(seconds + 120.0))
            commits: dict[str, int] = json.loads(await probes.hear(seconds + 120.0))["commits"]
        await pipeline.until_done(done + told["created"] + len(commits))
        await pipeline.prove()
        windows = _windows(pipeline, samples, commits)
        return {
            "bench": "soak",
            **verdicts(samples, windows),
            "minutes": minutes,
            "rate": round(rate * _PART, 1),
            "created_per_s": told["per_s"],
            "workers": workers,
            "concurrency": concurrency,
            "table": [_row(sample, p99) for sample, p99 in zip(samples, windows, strict=True)][
                :: max(1, _SAMPLES // 12)
            ],
            "spread": 0.0,
            "rounds": [{"samples": [s | {"p99_ms": p99} for s, p99 in zip(samples, windows, strict=True)]}],
            **pipeline.facts,
        }


async def _sample(pipeline: Pipeline, seconds: float) -> list[dict[str, Any]]:
    begun, samples = time.monotonic(), []
    for number in range(1, _SAMPLES + 1):
        await asyncio.sleep(max(0.0, begun + number * seconds / _SAMPLES - time.monotonic()))
        pipeline.check()
        samples.append(await vitals(pipeline))
        say(f"soak: {number} of {_SAMPLES}: {samples[-1]['done']:,} tasks, {samples[-1]['memory_mb']} MB")
    return samples


def _windows(pipeline: Pipeline, samples: Sequence[dict[str, Any]], commits: dict[str, int]) -> list[float]:
    """The p99 of each stretch between two samples, by the moment of the commit."""
    found, since = [], 0
    for sample in samples:
        mine = {task: at for task, at in commits.items() if since <= at < sample["at_ns"]}
        found.append(percentile(delays_of(mine, pipeline.ground.folder), 0.99) if mine else 0.0)
        since = sample["at_ns"]
    return found


def verdicts(samples: Sequence[dict[str, Any]], p99: Sequence[float]) -> dict[str, Any]:
    """The last third against the second one; the first is for growing into the work."""
    third = len(samples) // 3
    before, after = slice(third, 2 * third), slice(2 * third, None)

    def grew(figure: Callable[[dict[str, Any]], float]) -> float:
        """Median of the last third over that of the second."""
        return median(map(figure, samples[after])) / max(1.0, median(map(figure, samples[before])))

    memory = {name: round(grew(lambda s, n=name: s["memory_mb"].get(n, 0.0)), 3) for name in samples[-1]["memory_mb"]}  # type: ignore[misc]
    side = [
        sum(sum((t["table"], t["indexes"])) for name, t in sample["tables"].items() if name not in _GROWING)
        for sample in samples
    ]
    per_task = [
        sum(sum((t["table"], t["indexes"])) for name, t in sample["tables"].items() if name in _GROWING)
        / max(1, sample["done"])
        for sample in samples
    ]
    dead = [sum(t["dead"] for t in sample["tables"].values()) for sample in samples]
    drift = median(p99[after]) / max(0.001, median(p99[before]))
    return {
        "memory_growth": memory,
        "memory_flat": max(memory.values(), default=1.0) <= 1.1,
        "bytes_per_task": round(per_task[-1], 1),
        "sizes_stable": max(side[after]) <= 1.25 * max(side[before]) and per_task[-1] <= 1.1 * median(per_task[before]),
        "dead_rows_at_most": max(dead),
        "dead_rows_bounded": max(dead[after]) <= 1.5 * max(dead[before]) + 10_000,
        "p99_drift": round(drift, 3),
        "p99_steady": drift <= 1.25,
    }


def _row(sample: dict[str, Any], p99: float) -> dict[str, Any]:
    sizes = sample["tables"].values()
    return {
        "done": sample["done"],
        **{f"{name} MB": value for name, value in sample["memory_mb"].items()},
        "tables MB": round(sum(size["table"] for size in sizes) / 1e6, 1),
        "indexes MB": round(sum(size["indexes"] for size in sizes) / 1e6, 1),
        "dead rows": sum(size["dead"] for size in sizes),
        "p99_ms": p99,
    }
